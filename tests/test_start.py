"""What a start takes along."""

from __future__ import annotations

import json
import subprocess
import sys

from torchvision.models import EfficientNet_B0_Weights

from models.catalog import IMAGENET_LABELS
from tests.support import REPOSITORY, compiled

# Torch takes seconds, and some hundred MiB; a network that has been compiled needs none of it.
HEAVY = ("torch", "torchvision", "timm", "sympy", "triton", "models")

ANSWERED = """
import json, sys
from pathlib import Path
from fastapi.testclient import TestClient
from service.app import create_app
from service.config import Settings

with TestClient(create_app(Settings(model="lite0-plain", precision="fp32"))) as client:
    photograph = Path("service/web/samples/cat.jpg").read_bytes()
    kinds = [
        "",
        "?target=tabby&target=espresso&layer=blocks.10",
        "?method=smoothgrad&samples=2&layer=blocks.10",
    ]
    statuses = [
        client.post("/v1/explain" + kind, content=photograph, headers={"Content-Type": "image/jpeg"}).status_code
        for kind in kinds
    ]
print(json.dumps([statuses, sorted(sys.modules), sys.modules["openvino_telemetry"] is None]))
"""


def test_neither_the_start_nor_a_request_loads_torch_or_reports_to_openvinos_authors() -> None:
    compiled("lite0-plain")
    done = subprocess.run(
        [sys.executable, "-c", ANSWERED], cwd=REPOSITORY, capture_output=True, text=True, timeout=200, check=True
    )
    statuses, modules, silent = json.loads(done.stdout.splitlines()[-1])
    assert statuses == [200] * 3
    assert not {*HEAVY} & {*modules}
    assert "openvino" in modules
    assert silent


def test_the_labels_are_those_that_torchvision_publishes() -> None:
    published = EfficientNet_B0_Weights.IMAGENET1K_V1.meta["categories"]
    assert IMAGENET_LABELS.read_text("utf-8").splitlines() == published
