"""README and docs hold: their commands run as pasted, their settings and routes are the service's."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from service.config import Settings
from tests.support import REPOSITORY, SAMPLES

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(console|python|javascript)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INTERPRETER = {"console": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}


def blocks() -> list[tuple[str, str, str]]:
    """(page, language, code) of every block that a server can answer; what builds the service is not run in a test."""
    found = [(page.name, *match.groups()) for page in PAGES for match in BLOCK.finditer(page.read_text("utf-8"))]
    return [(page, language, code) for page, language, code in found if not code.startswith(("make ", "docker "))]


@pytest.mark.parametrize(("source", "language", "code"), blocks())
def test_every_example_runs_as_pasted(source: str, language: str, code: str, server: str, tmp_path: Path) -> None:
    if language == "javascript":
        node = shutil.which("node")
        if node is None:
            pytest.skip("there is no node here to run JavaScript with")
        command = [node, "--input-type=module", "-e"]
    else:
        command = INTERPRETER[language]
    samples = tmp_path / SAMPLES.relative_to(REPOSITORY)
    samples.parent.mkdir(parents=True)
    samples.symlink_to(SAMPLES)
    # curl exits with 0 after an error, unless told otherwise
    pasted = code.replace("http://127.0.0.1:8000", server).replace(
        "curl ", "curl --silent --show-error --fail-with-body "
    )
    done = subprocess.run(
        [*command, pasted], cwd=tmp_path, env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, timeout=120
    )
    if "layer=haed" in code:  # the guide's example of an error
        assert done.returncode != 0
        assert b"Did you mean 'head'" in done.stdout
        assert json.loads(done.stdout)["detail"] in (REPOSITORY / "docs" / "api.md").read_text("utf-8")
    else:
        assert done.returncode == 0, done.stderr.decode()
        if language == "console" and "-o " not in code:
            assert b'"results"' in done.stdout or b'"layers"' in done.stdout


@pytest.mark.parametrize("setting", Settings.model_fields)
def test_every_setting_is_documented_with_its_default(setting: str) -> None:
    operations = (REPOSITORY / "docs" / "operations.md").read_text("utf-8")
    default = Settings.model_fields[setting].default
    assert f"| `PELLUCID_{setting.upper()}` | `{default}` |" in operations


def test_every_route_is_documented(client: httpx.Client) -> None:
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    for path in client.get("/openapi.json").json()["paths"]:
        assert f"{path}`" in readme, path


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
