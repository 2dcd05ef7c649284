"""What shares a batch: plans whose passes are the same, and nothing that one plan alone would pay for."""

from __future__ import annotations

import pytest
import torch
from service.engine.torch_engine import TorchEngine

from pellucid.explain.methods import METHODS
from pellucid.types import Edit, Heat, Plan
from tests.engine.test_torch_engine import SPEC
from tests.networks import network


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    return TorchEngine(network("tiny"), SPEC, torch.device("cpu"))


def plan(*names: str, layer: str) -> Plan:
    return Plan(targets=(3, 1), heats=tuple(Heat(name, (layer,)) for name in names), samples=4)


def test_methods_that_share_a_gradient_share_a_lane(engine: TorchEngine) -> None:
    names = [name for name, method in METHODS.items() if method.spec.needs == "gradient"]
    assert engine.lane(plan(*names, layer="stem")) == engine.lane(Plan(layer="stem", targets=(3, 1)))


def test_what_has_passes_of_its_own_has_a_lane_of_its_own(engine: TorchEngine) -> None:
    for name, method in METHODS.items():
        assert (engine.lane(plan(name, layer="head")) == "") == (method.spec.needs == "gradient")  # in closed form
    lanes = {engine.lane(plan(name, layer="head")) for name in METHODS}
    assert len(lanes) == 1 + sum(method.spec.needs != "gradient" for method in METHODS.values())


def test_edits_have_lanes_of_their_own(engine: TorchEngine) -> None:
    plain, edited = Plan(layer="head"), Plan(layer="head", edit=Edit(((0, 0.0),)))
    assert engine.lane(plain) != engine.lane(edited)
    assert engine.lane(edited) != engine.lane(Plan(layer="head", edit=Edit(ranked=True)))
