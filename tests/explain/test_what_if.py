"""A what-if edit gives the answers of a network with edited weights, and does not change other images' answers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from models.attention import ChannelAttention
from pellucid.ranks import spearman
from pellucid.types import Edit, Floats, Plan, WhatIf
from tests.explain.passes import exact, pictures, run
from tests.networks import compiled


def what_if_of(name: str, plan: Plan) -> WhatIf:
    (outcome,) = run(name, plan)
    assert outcome.what_if is not None
    return outcome.what_if


def logits_of(net: nn.Module) -> Floats:
    with torch.no_grad():
        logits: Floats = net(pictures(1))[0].numpy()
        return logits


def scores(found: WhatIf) -> Floats:
    return np.array([each.logit for each in sorted(found.after, key=lambda each: each.index)])


def same(one: Floats, other: Floats) -> None:
    np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9 * np.abs(other).max())


@pytest.mark.parametrize(("name", "layer"), [("tiny", "stem"), ("tiny", "head"), ("efficientnet_b0", "features.5")])
def test_keeping_all_channels_changes_nothing(name: str, layer: str) -> None:
    channels = compiled(name, torch.float64).spec.by_name[layer].shape[0]
    edit = Edit(tuple((channel, 1.0) for channel in range(channels)), 0.0)
    found = what_if_of(name, Plan(top_k=10, layer=layer, edit=edit))
    assert [each.index for each in found.before] == [each.index for each in found.after]
    for one, other in found.targets:
        same(one.heat, other.heat)
    same(scores(found), logits_of(exact(name)))


def test_muting_all_channels_leaves_the_heads_bias() -> None:
    found = what_if_of("tiny", Plan(top_k=5, layer="head", edit=Edit(others=0.0)))
    classifier = exact("tiny").get_submodule("classifier")
    assert isinstance(classifier, nn.Linear)
    same(scores(found), classifier.bias.detach().numpy())
    assert (found.targets[0][1].heat == 0).all()


@pytest.mark.parametrize("factor", [0.0, 0.3, 2.0])
def test_scaling_a_channel_equals_scaling_the_weights_that_read_it(factor: float) -> None:
    """The convolution behind the gate reads channel 3. Scaling that channel equals scaling the weights that read it."""
    found = what_if_of("tiny", Plan(top_k=5, layer="gate", edit=Edit(((3, factor),))))
    edited = copy.deepcopy(exact("tiny"))
    with torch.no_grad():
        edited.get_submodule("head.0").weight[:, 3] *= factor  # type: ignore[operator, index]
    same(scores(found), logits_of(edited))


def test_scaling_at_a_gate_equals_scaling_the_gates_output() -> None:
    plan = Plan(top_k=5, layer="gate", gates=True, edit=Edit(((5, 0.25),), gate="gate"))
    edited = copy.deepcopy(exact("tiny"))
    gate = edited.get_submodule("gate")
    assert isinstance(gate, ChannelAttention)
    factors = torch.ones(8, 1, 1)
    factors[5] = 0.25
    gate.register_forward_hook(lambda _, __, output: output * factors)
    same(scores(what_if_of("tiny", plan)), logits_of(edited))


@pytest.mark.parametrize(("name", "layer"), [("tiny", "gate"), ("tiny", "head"), ("resnet18", "layer3")])
def test_the_ranking_equals_muting_each_channel_alone(name: str, layer: str) -> None:
    plan = Plan(top_k=5, layer=layer, targets=(2,), edit=Edit(ranked=True))
    ranking = what_if_of(name, plan).ranking
    assert ranking is not None
    for channel in (0, 3, 7):
        ((before, after),) = what_if_of(name, Plan(layer=layer, targets=(2,), edit=Edit(((channel, 0.0),)))).targets
        assert ranking.muted[channel] == pytest.approx(after.target.logit - before.target.logit, rel=1e-6, abs=1e-9)
    if layer == "head":  # the rest is linear, so the gradient is exact
        same(-ranking.muted, ranking.gradient_activation)
        assert spearman(-ranking.muted, ranking.gradient_activation) == pytest.approx(1)


def test_a_ranking_stops_once_the_caller_left() -> None:
    plan = Plan(layer="gate", edit=Edit(ranked=True))
    (outcome,) = run("tiny", plan, void=(lambda: True,))
    assert outcome.given_up


def test_an_edit_does_not_change_other_images() -> None:
    plain, edited = Plan(layer="head"), Plan(layer="head", edit=Edit(((0, 0.0),)))
    alone, beside = run("tiny", plain), run("tiny", plain, edited)
    assert alone[0].predictions[0].index == beside[0].predictions[0].index
    same(alone[0].explanations[0].heat, beside[0].explanations[0].heat)
