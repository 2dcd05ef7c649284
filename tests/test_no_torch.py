"""Whoever serves, or opens, a compiled network needs no torch: here importing it is an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from pellucid.network.file import save
from tests import networks
from tests.everything import ask_everything
from tests.support import REPOSITORY, SAMPLES, serving

# Python runs a module of this name at its start, wherever its path leads to one.
FORBIDDING = """
import sys

class Hiding:
    def __init__(self, finder):
        self._finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {names} else self._finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self._finder, name)

sys.meta_path[:] = map(Hiding, sys.meta_path)
"""
LIBRARY = """
import json, sys
import numpy as np
import pellucid

network, cat, coffee = sys.argv[1:]
net = pellucid.open(network, precision="fp32", threads=1)
gate, layer = net.network.gates[-1].layer, net.network.default_layer
net.predict(cat)
net.attention(cat)
net.attention(np.zeros((300, 300, 3), np.uint8), restore=gate)
net.feature_maps(cat, gates=gate)
for method in net.methods:
    narrow = method.needs in ("forwards", "network forwards")  # a pass for each channel
    place = ("stem" if narrow else layer) if method.at_layers else "pixels"
    net.grad_cam(cat, method=method.name, layer=None if method.stands_for else place, samples=2, overlay=True)
net.explain(cat, trust=True, trust_steps=2, trust_maps=4)
net.what_if(cat, gate=gate, mute=0)
net.what_if(cat, layer="stem", mute=0, rank=True)
net.heat_maps(cat, target=[0, 1])
net.compare(cat, target=[0, 1])
net.compare(cat, coffee)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def forbidding(folder: Path, *names: str) -> dict[str, str]:
    """An environment in which these packages can't be imported."""
    (folder / "sitecustomize.py").write_text(FORBIDDING.format(names=names))
    return {"PYTHONPATH": os.pathsep.join((str(folder), str(REPOSITORY)))}


def run(code: str, *arguments: str, environment: dict[str, str] | None = None) -> str:
    """The last line that Python code of a process of its own puts out."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().rpartition("\n")[2]


def tiny(folder: Path) -> Path:
    """The file of a small network: whether torch is needed does not depend on its size."""
    network, file = networks.compiled("tiny"), folder / "tiny.pellucid"
    save(file, network.manifest, network.graph, network.weights)
    return file


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Of a server of a compiled network where torch can't be imported."""
    folder = tmp_path_factory.mktemp("without")
    forbidden = forbidding(folder, "torch", "torchvision", "timm", "models")
    settings = {"PELLUCID_MODEL": str(tiny(folder)), "PELLUCID_PRECISION": "fp32", "PELLUCID_TIMEOUT_MS": "200000"}
    with serving(**settings, **forbidden) as server, httpx.Client(base_url=server.url, timeout=200) as client:
        yield client


def test_a_server_without_torch_answers_on_every_route(client: httpx.Client, cat: bytes, coffee: bytes) -> None:
    detail, found = ask_everything(client, cat, coffee)
    assert detail.gates
    assert detail.engine.startswith("OpenVINO")
    assert found.predictions


def test_the_library_without_torch_answers_by_every_method(tmp_path: Path) -> None:
    photographs = [str(SAMPLES / f"{name}.jpg") for name in ("cat", "coffee")]
    forbidden = forbidding(tmp_path, "torch", "torchvision", "timm", "models", "fastapi", "service")
    loaded = json.loads(run(LIBRARY, str(tiny(tmp_path)), *photographs, environment=forbidden))
    assert "openvino" in loaded
    assert not {"torch", "fastapi", "service"} & {*loaded}


def test_what_is_forbidden_can_not_be_imported(tmp_path: Path) -> None:
    """Else the tests above would prove nothing."""
    environment = forbidding(tmp_path, "torch")
    code = "try:\n import torch\nexcept ImportError as error:\n print(error)"
    assert run(code, environment=environment) == "No module named 'torch'"


def test_a_name_that_is_not_compiled_yet_says_what_is_needed(tmp_path: Path) -> None:
    environment = {**os.environ, **forbidding(tmp_path, "torch"), "PELLUCID_MODEL": "lite0"}
    environment |= {"PELLUCID_CACHE_DIR": str(tmp_path), "PELLUCID_PORT": "0"}
    command = [sys.executable, "-m", "service"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 1
    assert "pip install 'pellucid[compile]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_importing_the_package_its_client_and_the_library_loads_nothing_heavy() -> None:
    code = "import json, sys, pellucid.client, pellucid.library\n"
    code += "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    assert not {"torch", "torchvision", "openvino", "fastapi", "service", "models"} & {*json.loads(run(code))}
