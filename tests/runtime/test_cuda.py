"""A CUDA device gives the same answers as the CPU. Needs a CUDA device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pellucid.engine import Engine
from pellucid.runtime.torch_runtime import TorchRuntime
from pellucid.types import Batch, Contrast, Edit, MapSpec, Plan, Tap
from tests.networks import compiled
from tests.runtime.test_runtimes import PICTURES
from tests.test_engine import leaves

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")

PLANS = {
    "default layer": Plan(top_k=5, gates=True, layer="head", targets=(2, 0), taps=(Tap("stem", count=3),)),
    "deeper layer": Plan(top_k=5, gates=True, effects=True, layer="stem", targets=(1, 4)),
    "contrast": Plan(layer="stem", contrast=Contrast((1,))),
    "many passes": Plan(
        targets=(1,), heat_maps=(MapSpec("score-cam", ("gate",)), MapSpec("smoothgrad", ("stem",))), samples=4
    ),
    "what if": Plan(layer="block", edit=Edit(((0, 0.5),), ranked=True)),
    "random heads": Plan(layer="stem", random_heads=2),
    "reproducible": Plan(top_k=5, gates=True, layer="stem", reproducible=True),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize(("bf16", "within"), [(False, 1e-3), (True, 0.1)])
def test_a_cuda_device_answers_as_the_cpu_does(plan: Plan, bf16: bool, within: float) -> None:
    batch = Batch(PICTURES, (plan,) * len(PICTURES))
    of_cpu = Engine(compiled("tiny"), TorchRuntime(compiled("tiny"), torch.device("cpu"))).run(batch)
    cuda = Engine(compiled("tiny"), TorchRuntime(compiled("tiny"), torch.device("cuda"), bf16=bf16))
    for expected, found in zip(of_cpu, cuda.run(batch), strict=True):
        if not bf16:  # in bfloat16, close classes and channels can swap places
            assert_near([*leaves(expected)], [*leaves(found)], within)
        for one, other in zip(expected.explanations, found.explanations, strict=True):
            scale = float(abs(one.heat).max())
            assert abs(one.heat - other.heat).max() <= within * scale or one.target.index != other.target.index


def assert_near(expected: list[Any], found: list[Any], within: float) -> None:
    for one, other in zip(expected, found, strict=True):
        if isinstance(one, (float, np.ndarray)):
            np.testing.assert_allclose(other, one, rtol=within, atol=1e-4)
        else:
            assert one == other
