"""On a CUDA device the same answers as on the CPU. Needs such a device."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from service.engine.torch_engine import TorchEngine

from pellucid.network.spec import ModelSpec, PreprocessSpec
from pellucid.types import Batch, Plan, Tap
from tests.networks import SIZE, network

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")

PREPROCESS = PreprocessSpec(SIZE, 64, "bilinear", (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
SPEC = ModelSpec("tiny", "Tiny", tuple("abcde"), PREPROCESS, "a seed")
LANES = {
    "default layer": Plan(top_k=5, gates=True, layer="head", targets=(2, 0), taps=(Tap("stem", count=3),)),
    "deeper layer": Plan(top_k=5, layer="stem", targets=(1,)),
}


@pytest.mark.parametrize("plan", LANES.values(), ids=LANES)
def test_a_cuda_device_answers_as_the_cpu_does(plan: Plan) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, *SIZE, 3), np.uint8)
    devices = (torch.device("cpu"), torch.device("cuda"))
    of_cpu, of_cuda = (
        TorchEngine(network("tiny"), SPEC, device).run(Batch(pixels, (plan,) * len(pixels))) for device in devices
    )
    for expected, found in zip(of_cpu, of_cuda, strict=True):
        assert [p.index for p in found.predictions] == [p.index for p in expected.predictions]
        for kind in ("explanations", "gates", "maps"):
            for one, other in zip(getattr(expected, kind), getattr(found, kind), strict=True):
                for field in dataclasses.fields(one):
                    if isinstance(getattr(one, field.name), np.ndarray):
                        np.testing.assert_allclose(
                            getattr(other, field.name), getattr(one, field.name), rtol=1e-3, atol=1e-4
                        )
