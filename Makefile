# `make serve` and `make test` are the two commands; each installs what it needs into .venv first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: serve test demo install check examples screenshots lock clean help

serve: .venv/.serve  ## install and serve on 127.0.0.1:8000
	$(BIN)/python -m service

demo: .venv/.serve  ## explain a shipped photograph once, into demo/
	$(BIN)/python -m service explain service/web/samples/cat.jpg --out demo

test: .venv/.dev  ## install and pass all the tests
	$(BIN)/python -m pytest

check: .venv/.dev  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: .venv/.dev  ## prepare .venv with everything

examples: .venv/.serve  ## record the API docs' examples and the README's pictures anew
	$(BIN)/python docs/record_examples.py

screenshots: .venv/.dev  ## take the README's pictures of the playground anew
	$(BIN)/python docs/record_screenshots.py

lock:  ## write constraints.txt anew from pyproject.toml
	rm -rf .venv.lock
	$(PYTHON) -m venv .venv.lock
	.venv.lock/bin/python -m pip install --quiet -e '.[cpu,dev]'
	.venv.lock/bin/python -m pip freeze --exclude-editable > constraints.txt
	rm -rf .venv.lock

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

clean:  ## remove all that these commands made
	rm -rf .venv .venv.lock demo .mypy_cache .ruff_cache .pytest_cache *.egg-info

.venv/.serve: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP_INSTALL) -e '.[cpu]'
	touch $@

.venv/.dev: .venv/.serve
	$(PIP_INSTALL) -e '.[cpu,dev]'
	touch $@
