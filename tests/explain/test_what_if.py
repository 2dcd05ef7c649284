"""What if: the answers are those of a network whose weights were edited, and nobody else's answers change."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.attention import ChannelAttention
from pellucid.network.spec import ModelSpec, PreprocessSpec
from pellucid.trust.ranks import spearman
from pellucid.types import Batch, Edit, Outcome, Plan, WhatIf
from service.engine.torch_engine import TorchEngine
from tests.networks import SIZE, network

PREPROCESS = PreprocessSpec(SIZE, 64, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
PIXELS = np.random.default_rng(3).integers(0, 256, (2, *SIZE, 3), np.uint8)


def engine(net: nn.Module) -> TorchEngine:
    return TorchEngine(
        net, ModelSpec("net", "net", tuple(map(str, range(10))), PREPROCESS, "a seed"), torch.device("cpu")
    )


def run(name: str, *plans: Plan) -> list[Outcome]:
    return engine(network(name)).run(Batch(PIXELS[: len(plans)], plans))


def asked(name: str, plan: Plan) -> WhatIf:
    (outcome,) = run(name, plan)
    assert outcome.what_if is not None
    return outcome.what_if


def logits_of(net: nn.Module, image: int = 0) -> Tensor:
    with torch.no_grad():
        logits: Tensor = net(torch.from_numpy(PIXELS[image : image + 1]).permute(0, 3, 1, 2) / 255)[0]
        return logits


def scores(found: WhatIf) -> Tensor:
    return torch.tensor([each.logit for each in sorted(found.after, key=lambda each: each.index)])


@pytest.mark.parametrize(("name", "layer"), [("tiny", "stem"), ("tiny", "head"), ("efficientnet_b0", "features.5")])
def test_keeping_all_channels_changes_nothing(name: str, layer: str) -> None:
    edit = Edit(tuple((channel, 1.0) for channel in range(engine(network(name)).network.by_name[layer].shape[0])), 0.0)
    found = asked(name, Plan(top_k=10, layer=layer, edit=edit))
    assert [each.index for each in found.before] == [each.index for each in found.after]
    # Near, not equal: the place in a batch may decide in which order a sum is taken.
    before, after = ([each.logit for each in side] for side in (found.before, found.after))
    np.testing.assert_allclose(before, after, rtol=1e-4, atol=1e-6)
    for one, other in found.targets:
        np.testing.assert_allclose(one.heat, other.heat, rtol=1e-4, atol=1e-5 * np.abs(other.heat).max())
    torch.testing.assert_close(scores(found), logits_of(network(name))[: len(found.after)], rtol=1e-4, atol=1e-4)


def test_muting_all_channels_leaves_the_heads_bias() -> None:
    found = asked("tiny", Plan(top_k=5, layer="head", edit=Edit(others=0.0)))
    classifier = network("tiny").get_submodule("classifier")
    assert isinstance(classifier, nn.Linear)
    torch.testing.assert_close(scores(found), classifier.bias.detach())
    assert (found.targets[0][1].heat == 0).all()


@pytest.mark.parametrize("factor", [0.0, 0.3, 2.0])
def test_a_scaled_channel_is_that_of_a_network_with_edited_weights(factor: float) -> None:
    """The convolution behind the gate reads channel 3: scaling what it reads is scaling its weights for it."""
    found = asked("tiny", Plan(top_k=5, layer="gate", edit=Edit(((3, factor),))))
    edited = copy.deepcopy(network("tiny"))
    with torch.no_grad():
        edited.get_submodule("head.0").weight[:, 3] *= factor  # type: ignore[operator, index]
    torch.testing.assert_close(scores(found), logits_of(edited), rtol=1e-4, atol=1e-5)


def test_scaling_a_gates_weight_is_scaling_the_gate() -> None:
    plan = Plan(top_k=5, layer="gate", gates=True, edit=Edit(((5, 0.25),), gate="gate"))
    edited = copy.deepcopy(network("tiny"))
    gate = edited.get_submodule("gate")
    assert isinstance(gate, ChannelAttention)
    factors = torch.ones(8, 1, 1)
    factors[5] = 0.25
    gate.register_forward_hook(lambda _, __, output: output * factors)
    torch.testing.assert_close(scores(asked("tiny", plan)), logits_of(edited), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "layer"), [("tiny", "gate"), ("tiny", "head"), ("resnet18", "layer3")])
def test_the_ranking_is_what_muting_each_channel_alone_does(name: str, layer: str) -> None:
    plan = Plan(top_k=5, layer=layer, targets=(2,), edit=Edit(ranked=True))
    ranking = asked(name, plan).ranking
    assert ranking is not None
    eng = engine(network(name))
    for channel in (0, 3, 7):
        (outcome,) = eng.run(Batch(PIXELS[:1], (Plan(layer=layer, targets=(2,), edit=Edit(((channel, 0.0),))),)))
        assert outcome.what_if is not None
        ((before, after),) = outcome.what_if.targets
        assert ranking.muted[channel] == pytest.approx(after.target.logit - before.target.logit, abs=1e-4)
    if layer == "head":  # linear behind it: first order is all there is
        np.testing.assert_allclose(-ranking.muted, ranking.gradient_activation, rtol=1e-4, atol=1e-6)
        assert spearman(-ranking.muted, ranking.gradient_activation) == pytest.approx(1)


def test_a_ranking_that_nobody_waits_for_ends() -> None:
    plan = Plan(layer="gate", edit=Edit(ranked=True))
    (outcome,) = engine(network("tiny")).run(Batch(PIXELS[:1], (plan,), (lambda: True,)))
    assert outcome.given_up


def test_edits_have_lanes_of_their_own_and_leave_neighbours_alone() -> None:
    eng = engine(network("tiny"))
    plain, edited = Plan(layer="head"), Plan(layer="head", edit=Edit(((0, 0.0),)))
    assert eng.lane(plain) != eng.lane(edited)
    assert eng.lane(edited) != eng.lane(Plan(layer="head", edit=Edit(ranked=True)))
    alone, beside = run("tiny", plain), run("tiny", plain, edited)
    assert alone[0].predictions[0].index == beside[0].predictions[0].index
    np.testing.assert_allclose(alone[0].explanations[0].heat, beside[0].explanations[0].heat, atol=1e-5)
