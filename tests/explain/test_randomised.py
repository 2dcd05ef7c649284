"""The maps of random heads differ from the network's, and are the same for every run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pellucid.explain.heat_maps import random_maps
from pellucid.explain.methods.gradient import grad_cam
from pellucid.explain.probe import GivenUpError
from pellucid.trust.measures import sanity
from pellucid.types import Contrast, MapSpec, Plan
from tests.explain.passes import pictures, probe, probe_at, run
from tests.networks import compiled


@pytest.mark.parametrize(("name", "layer"), [("tiny", "head"), ("tiny", "stem"), ("resnet18", "layer4")])
def test_random_heads_give_other_maps_and_are_reproducible(name: str, layer: str) -> None:
    plan = Plan(targets=(1, 3), heat_maps=(MapSpec("grad-cam", (layer,)),), random_heads=4)
    (outcome,), (again,) = run(name, plan), run(name, plan)
    for explanation, same in zip(outcome.explanations, again.explanations, strict=True):
        found = explanation.randomised
        assert found is not None
        assert found.shape == (4, *explanation.heat.shape)
        np.testing.assert_array_equal(found, same.randomised)
        likeness = sanity(explanation.heat, found)
        assert all(each is None or abs(each) < 0.999 for each in likeness)
        assert len({None if each is None else round(each, 6) for each in likeness}) > 1


def test_random_heads_stop_between_draws_once_the_caller_left() -> None:
    calls: list[int] = []

    def void() -> bool:
        calls.append(1)
        return len(calls) > 2

    with pytest.raises(GivenUpError):
        random_maps(replace(probe("tiny", "stem"), void=void), grad_cam, 9)
    assert len(calls) == 3


@pytest.mark.parametrize("layer", ["stem", "head"])
def test_a_class_against_itself_gives_a_zero_map_at_a_random_head(layer: str) -> None:
    plan = Plan(targets=(3,), heat_maps=(MapSpec("grad-cam", (layer,)),), random_heads=2)
    for contrast, nonzero in ((Contrast((3,)), False), (Contrast((1,)), True)):
        (outcome,) = run("tiny", replace(plan, contrast=contrast))
        found = outcome.explanations[0].randomised
        assert found is not None
        assert found.any() == nonzero


def test_maps_at_several_layers_are_fused_for_each_draw() -> None:
    plan = Plan(targets=(3,), heat_maps=(MapSpec("layercam", ("stem", "head"), "max"),), random_heads=3)
    (outcome,) = run("tiny", plan)
    found, heat = outcome.explanations[0].randomised, outcome.explanations[0].heat
    assert found is not None
    assert found.shape == (3, *heat.shape)
    assert 0 <= found.min() < found.max() <= 1


def test_an_edge_detector_fails_the_sanity_check() -> None:
    """The mean over channels does not depend on the head's weights, so random heads give the same map."""
    of_image = probe_at(compiled("tiny", torch.float64), "head", pictures(1), [1])
    found = random_maps(of_image, lambda evidence: evidence.activation.mean(0)[None], 3)
    assert sanity(of_image.activation.mean(0), found[:, 0]) == pytest.approx((1, 1, 1))
