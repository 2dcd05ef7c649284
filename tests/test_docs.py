"""README and docs hold: their commands run as pasted, their settings and routes are the service's."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import runpy
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import playwright
import pytest

from tests import reference
from tests.commands.invoke import pellucid
from tests.support import REPOSITORY, ROUTES, SAMPLES, compiled

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md")), REPOSITORY / "docs" / "llms.txt"]
BLOCK = re.compile(r"^```(console|python|javascript)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# A block of nothing but commands of ours, and no word of the shell's.
COMMANDS = re.compile(r"(\.venv/bin/pellucid ([^|&;<>$`\n\\]|\\\n)+\n)+")
# Before a block that needs what the one before it has left.
CONTINUES = "<!-- continues -->\n"
# Playwright brings a Node.js along, so that no machine need have one.
NODE = Path(playwright.__file__).parent / "driver" / "node"
INTERPRETER = {
    "console": ["bash", "-euo", "pipefail", "-c"],
    "javascript": [str(NODE), "--input-type=module", "-e"],
}


def examples() -> list[tuple[str, list[tuple[str, str]]]]:
    """(page, its blocks as (language, code)) of every example that a server can answer. Most are of one block. What
    builds the service is not run in a test.
    """
    found: list[tuple[str, list[tuple[str, str]]]] = []
    builds = ("make ", "docker ", "kubectl ")
    for page in PAGES:
        text = page.read_text("utf-8")
        for match in BLOCK.finditer(text):
            language, code = match.groups()
            if text.endswith(CONTINUES, 0, match.start()):
                found[-1][1].append((language, code))
            elif not code.startswith(builds):
                found.append((page.name, [(language, code)]))
    return found


@pytest.mark.parametrize(("source", "example"), examples())
def test_every_example_runs_as_pasted(
    source: str,
    example: list[tuple[str, str]],
    server: str,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples = tmp_path / SAMPLES.relative_to(REPOSITORY)
    samples.parent.mkdir(parents=True)
    samples.symlink_to(SAMPLES)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "pellucid").symlink_to(cache)  # where a process without settings looks
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PELLUCID_CACHE_DIR", str(cache))
    monkeypatch.setattr(sys, "path", [*sys.path])
    for language, code in example:
        runs(language, code, server, tmp_path)


def runs(language: str, code: str, server: str, folder: Path) -> None:
    """Run one block as its page says. A first line that names a file is where the page has it saved."""
    # curl exits with 0 after an error, unless told otherwise
    pasted = code.replace("http://127.0.0.1:8000", server).replace(
        "curl ", "curl --silent --show-error --fail-with-body "
    )
    pasted = pasted.replace("127.0.0.1:8000", server.removeprefix("http://"))  # clients that add the scheme themselves
    pasted = pasted.replace("8001", str(free_port()))  # of a service that the example starts itself
    if language == "python":  # here, where torch is imported already
        named = re.match(r"# (\w+\.py)\n", pasted)
        script = folder / (named[1] if named else "pasted.py")
        script.write_text(pasted, "utf-8")
        with contextlib.redirect_stdout(io.StringIO()):
            runpy.run_path(str(script), run_name="__main__")
        return
    if COMMANDS.fullmatch(pasted):  # here, too
        for command in pasted.replace("\\\n", "").splitlines():
            done = pellucid(*shlex.split(command)[1:])
            assert done.exit_code == 0, done.output
        sys.modules.pop("pets", None)
        return
    status, said, errors = run([*INTERPRETER[language], pasted], folder)
    if "layer=haed" in code:  # the guide's example of an error
        assert status != 0
        assert "Did you mean 'head'" in said
        assert json.loads(said)["detail"] in (REPOSITORY / "docs" / "how-to" / "api.md").read_text("utf-8")
    else:
        assert status == 0, errors
        if code.startswith("curl ") and "-o " not in code:
            assert '"results"' in said or '"layers"' in said or '"Egyptian cat"' in said
        if "echo 'no picture'" in code:  # the guide's example of a picture that fails
            assert "exit code 1" in said


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_says_what_runs_its_python(page: Path) -> None:
    before, *examples = page.read_text("utf-8").split("```python\n")
    assert not examples or "`.venv/bin/python`" in before


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a service keeps, with the networks of the catalogue: compiling them for each example would take minutes."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "networks").mkdir()
    for path in map(compiled, ("lite0", "lite0-plain")):
        (folder / "networks" / path.name).symlink_to(path)
    return folder


def run(command: list[str], folder: Path) -> tuple[int, str, str]:
    """Exit status, output and errors of a command in a shell of no virtual environment; nothing that it started
    outlives it.
    """
    activated = Path(sys.prefix, "bin").resolve()
    path = [entry for entry in os.environ["PATH"].split(os.pathsep) if Path(entry).resolve() != activated]
    environment = {
        **{name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"},
        "HOME": str(folder),
        "PATH": os.pathsep.join(path),
        "PYTHONPATH": str(REPOSITORY),  # where .venv was installed from another checkout
    }
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, errors = process.communicate(timeout=200)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, said, errors


def test_the_generated_tables_are_fresh() -> None:
    for page, text, fresh in reference.pages():
        assert text == fresh, f"docs/reference/{page}: run `make reference`"


@pytest.mark.parametrize("route", ROUTES)
def test_the_api_guide_asks_every_route_in_every_language(route: str) -> None:
    guide = (REPOSITORY / "docs" / "how-to" / "api.md").read_text("utf-8")
    method = route.removeprefix("/v1/").replace("-", "_")
    asks = {"console": route, "javascript": route, "python": f".{method}("}
    for language, asked in asks.items():
        assert any(asked in code for written, code in BLOCK.findall(guide) if written == language), language


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*PAGES, REPOSITORY / "CHANGELOG.md"]:
        for target, heading in re.findall(r"\]\((?!https?://)([^)#]*)#?([^)]*)\)", page.read_text("utf-8")):
            linked = page.parent / target if target else page
            assert linked.exists(), f"{page.name} links to {target}"
            assert not heading or heading in headings(linked), f"{page.name} links to {target}#{heading}"


def test_the_site_builds_with_every_page_in_its_navigation(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(
        build, cwd=REPOSITORY, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    assert "https://" not in "".join(
        re.findall(r"<(?:script|link|img)[^>]*>", (tmp_path / "how-to" / "api.html").read_text("utf-8"))
    )


def headings(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
