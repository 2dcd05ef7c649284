# `make serve` and `make test` are the two commands; each installs what it needs into .venv first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: serve test ray-test image-test demo bench bench-compare methods precision quality soak fuzz install check client reference examples docs screenshots lock clean help

serve: .venv/.serve  ## install and serve on 127.0.0.1:8000
	$(BIN)/python -m service

demo: .venv/.serve  ## explain a shipped photograph once, into demo/
	$(BIN)/python -m service explain service/web/samples/cat.jpg --out demo

test: .venv/.dev  ## install and pass all the tests, JOBS files at a time
	$(BIN)/python -m pytest --numprocesses $(or $(JOBS),3) --no-loadscope-reorder

ray-test: .venv/.dev  ## pass the tests on a Ray cluster of two nodes
	$(BIN)/python -m pytest tests/scale

image-test: .venv/.dev  ## build the image by buildah and try it: root, ten minutes, 20 GB of disk
	$(BIN)/python -m pytest tests/image/checks.py

soak: .venv/.dev  ## good and bad traffic for MINUTES: nothing may grow
	$(BIN)/python -m tests.load.soak $(or $(MINUTES),3)

fuzz: .venv/.dev  ## broken and hostile pictures and requests for MINUTES: no answer is a 500
	$(BIN)/python -m tests.fuzz $(or $(MINUTES),3)

check: .venv/.dev  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/.bench .venv-xai/.bench  ## measure beside the ceiling and rivals, a quarter of an hour (PARTS=cost,start for some, QUICK=1 to try)
	$(BIN)/python -m benchmarks $(if $(PARTS),--parts $(PARTS)) $(if $(QUICK),--quick)

bench-compare: .venv/.bench  ## measure BASE=commit beside HEAD=commit in turn, some five minutes: which figures differ by more than noise
	$(BIN)/python -m benchmarks compare $(BASE) $(if $(HEAD),--head $(HEAD))

methods: .venv/.bench  ## measure agreement and cost of every method of heat maps, some minutes, into docs/reference/methods.md
	$(BIN)/python -m benchmarks.methods

quality: .venv/.bench  ## measure what maps are worth into docs/explanation/quality.md and trust.md, half an hour (BOXES=folder of photographs with boxes, PICTURES=folder of photographs, PARTS=scenes,damage for some, REPORT=1 to measure nothing, QUICK=1 to try)
	$(BIN)/python -m benchmarks.quality $(if $(BOXES),--boxes $(BOXES)) $(if $(PICTURES),--pictures $(PICTURES)) $(if $(PARTS),--parts $(PARTS)) $(if $(REPORT),--from-results) $(if $(QUICK),--quick)

precision: .venv/.bench  ## measure what bfloat16 does to maps, into docs/reference/numerics.md (PICTURES=folder or tar for more)
	$(BIN)/python -m benchmarks.precision $(PICTURES)

install: .venv/.dev  ## prepare .venv with everything

client: .venv/.dev  ## generate the client's files that follow from others
	$(BIN)/python -m tests.client.generate

reference: .venv/.dev  ## generate the tables of options, errors, settings, commands and methods in docs/reference
	$(BIN)/python -m tests.reference

examples: .venv/.serve  ## record the API docs' examples and the README's pictures anew
	$(BIN)/python docs/record_examples.py

docs: .venv/.dev  ## build the site of docs/ into site/ (see it by `python3 -m http.server --directory site`)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

screenshots: .venv/.dev  ## take the pages' pictures of the playground anew
	$(BIN)/python docs/record_screenshots.py

lock:  ## write constraints.txt anew from pyproject.toml
	rm -rf .venv.lock
	$(PYTHON) -m venv .venv.lock
	.venv.lock/bin/python -m pip install --quiet -e '.[bench,compile,dev,serve]'
	.venv.lock/bin/python -m pip freeze --exclude-editable > constraints.txt
	rm -rf .venv.lock

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

clean:  ## remove all that these commands made
	rm -rf .venv .venv.lock .venv-xai demo site .mypy_cache .ruff_cache .pytest_cache *.egg-info

.venv/.serve: pyproject.toml constraints.txt
	@echo "Installing torch and the rest into .venv: some GB, a few minutes."
	$(PYTHON) -m venv .venv
	$(PIP_INSTALL) -e '.[compile,serve]'
	touch $@

.venv/.dev: .venv/.serve
	$(PIP_INSTALL) -e '.[compile,dev,serve]'
	touch $@

.venv/.bench: .venv/.serve
	$(PIP_INSTALL) -e '.[bench,compile,serve]'
	touch $@

# The rival that needs another OpenVINO than the service.
.venv-xai/.bench: benchmarks/rivals/openvino_xai.txt
	$(PYTHON) -m venv .venv-xai
	.venv-xai/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	touch $@
