"""The wheel, in a project whose own folders are called ``models`` and ``service``, as many are."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support import REPOSITORY, SAMPLES, compiled
from tests.test_no_torch import FORBIDDING

# What none of the packages that `pip install pellucid` brings needs.
EXTRAS = {"cmap", "cykooz_resizer", "fastapi", "isal", "limits", "mimeparse", "openvino", "orjson", "prometheus_client"}
EXTRAS |= {"pybase64", "pydantic_settings", "safetensors", "simplejpeg", "starlette", "torch", "tqdm", "typer"}
EXTRAS |= {"uvicorn"}
NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
"""
SCRIPT = """
import json, sys
import pellucid
from pellucid import Client
from models import labels
from service import app

network, cat = sys.argv[1:]
seen = pellucid.open(network, threads=1).predict(cat, top_k=1)[0].label
from pellucid.compiler.sources import SourceError, named
try:
    named("nothing")
except SourceError as error:
    refused = str(error)
found = {name: module.__file__ for name, module in sys.modules.items() if getattr(module, "__file__", None)}
print(json.dumps([labels.MINE, app.MINE, seen, refused, Client.__name__, found]))
"""
SERVED = """
import sys
from fastapi.testclient import TestClient
from pellucid.service.app import create_app
from pellucid.service.config import Settings

network, cat = sys.argv[1:]
with TestClient(create_app(Settings(model=network, threads=1))) as client:
    assert client.post("/v1/predict", content=open(cat, "rb").read(), headers={"Content-Type": "image/jpeg"}).is_success
    for path in ("/", "/docs", "/redoc", "/openapi.json", "/assets/samples/cat.jpg", "/v1/models/lite0-plain"):
        print(path, client.get(path).status_code)
"""
COMMAND = "from pellucid.service.__main__ import main; main()"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which the wheel is unpacked, as pip would."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    for name in ("pellucid", "models", "service"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        ".",
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "-w",
        str(folder),
    ]
    subprocess.run(build, cwd=source, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder)
    wheel.unlink()
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's folder: ``models`` is a package, ``service`` a folder without ``__init__.py``."""
    for name, text in {
        "models/__init__.py": "",
        "models/labels.py": "MINE = 'my labels'",
        "models/net.py": NET,
        "service/app.py": "MINE = 'my app'",
        "script.py": SCRIPT,
        "served.py": SERVED,
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def run(project: Path, site: Path, *arguments: str | Path, hidden: set[str] | None = None) -> tuple[int, str, str]:
    """The exit code of a process in the project that has the wheel, what it printed, and its errors."""
    path = [site]
    if hidden:
        (project / "hiding").mkdir()
        (project / "hiding" / "sitecustomize.py").write_text(FORBIDDING.format(names=hidden))
        path.append(project / "hiding")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_the_wheel_has_all_that_runs_and_nothing_that_trains(site: Path) -> None:
    expected = set()
    for folder, place in (("pellucid", "."), ("models", "pellucid"), ("service", "pellucid")):
        files = {path for path in (REPOSITORY / folder).rglob("*") if path.is_file() and path.suffix != ".pyc"}
        expected |= {(Path(place) / path.relative_to(REPOSITORY)).as_posix() for path in files}
    expected = {path for path in expected if not path.startswith("pellucid/models/training/")}
    packed = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert {path for path in packed if ".dist-info/" not in path} == expected


def test_a_users_folders_of_the_same_names_shadow_nothing_and_are_not_shadowed(project: Path, site: Path) -> None:
    code, said, errors = run(project, site, "script.py", compiled("lite0"), SAMPLES / "cat.jpg")
    assert code == 0, errors
    labels, app, seen, refused, client, files = json.loads(said)
    assert (labels, app, seen, client) == ("my labels", "my app", "Egyptian cat", "Client")
    assert refused.startswith("unknown model 'nothing'; known: lite0")
    ours = {name: Path(file) for name, file in files.items() if name.partition(".")[0] == "pellucid"}
    assert "pellucid.models.catalog" in ours
    assert all(file.is_relative_to(site) for file in ours.values())
    theirs = {name: Path(file) for name, file in files.items() if name.partition(".")[0] in {"models", "service"}}
    assert {*theirs} == {"models", "models.labels", "service.app"}
    assert all(file.is_relative_to(project) for file in theirs.values())


def test_the_command_compiles_a_class_of_the_users_models(project: Path, site: Path) -> None:
    given = ("compile", "models.net:Net", "--size", "32", "--labels", "cat,dog", "--output", "softmax")
    code, said, errors = run(project, site, "-c", COMMAND, *given, "--out", "mine.pellucid")
    assert code == 0, errors
    assert said.startswith("mine.pellucid: ")


def test_the_service_is_whole(project: Path, site: Path) -> None:
    code, said, errors = run(project, site, "served.py", compiled("lite0-plain"), SAMPLES / "cat.jpg")
    assert code == 0, errors
    assert {line.split()[1] for line in said.splitlines()} == {"200"}, said


def test_the_client_needs_no_extra(project: Path, site: Path) -> None:
    (project / "client.py").write_text("from pellucid import Client\nwith Client('http://127.0.0.1:1') as c: print(c)")
    code, _, errors = run(project, site, "client.py", hidden=EXTRAS)
    assert code == 0, errors


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (COMMAND, r"pellucid: the command needs \w+: pip install 'pellucid\[serve\]'\n"),
        ("import pellucid; pellucid.open", r"pellucid.open needs \w+: pip install 'pellucid\[cpu\]'\n"),
        ("from pellucid import compile", r"pellucid.compile needs torch: pip install 'pellucid\[compile\]'\n"),
    ],
)
def test_what_needs_an_extra_names_it(project: Path, site: Path, code: str, said: str) -> None:
    found, _, errors = run(project, site, "-c", code, hidden=EXTRAS)
    assert found == 1
    assert re.search(said + "$", errors)
    assert (code == COMMAND) == ("Traceback" not in errors)
