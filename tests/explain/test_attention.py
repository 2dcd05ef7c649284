"""The effect of a gate's channels on the logit: by gradient, and measured by setting their weights to 1."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pellucid.types import Contrast, Plan, Tap
from tests.explain.passes import Passes, exact, pictures, run
from tests.networks import compiled

NETWORKS = ["tiny", "efficientnet_b0"]


def gated_logit(name: str, layer: str, image: int, target: int, scale: Tensor | None) -> tuple[float, Tensor, Tensor]:
    """(logit, gated activation, its gradient) of the plain torch network, with the gate's output times ``scale``."""
    kept: list[Tensor] = []

    def replaced(_: nn.Module, __: tuple[Tensor], output: Tensor) -> Tensor:
        output = (output if scale is None else output * scale).detach().requires_grad_()
        kept.append(output)
        return output.clone()

    handle = exact(name).get_submodule(layer).register_forward_hook(replaced)
    logit = exact(name)(pictures(3)[image : image + 1])[0, target]
    handle.remove()
    (gradient,) = torch.autograd.grad(logit, kept[0])
    return float(logit.detach()), kept[0].detach(), gradient


@pytest.mark.parametrize("name", NETWORKS)
def test_effects_are_gradient_times_activation_behind_each_gate(name: str) -> None:
    plans = [
        Plan(gates=True, effects=True, layer="stem" if name == "tiny" else "features.0", targets=(t,)) for t in (2, 0)
    ]
    for image, outcome in enumerate(run(name, *plans)):
        assert len(outcome.gates) == len(compiled(name, torch.float64).spec.gates)
        for reading in outcome.gates[::5]:
            _, activation, gradient = gated_logit(name, reading.layer, image, plans[image].targets[0], None)
            expected = (activation * gradient).sum((0, 2, 3)).numpy()
            assert reading.effects is not None
            np.testing.assert_allclose(reading.effects, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_restored_is_the_change_of_the_logit_with_the_weight_set_to_one(name: str) -> None:
    spec = compiled(name, torch.float64).spec
    gate = spec.gates[-1]
    (outcome,) = run(name, Plan(gates=True, restore=(gate.layer,), layer=spec.default_layer, targets=(1,)))
    reading = outcome.gates[-1]
    assert reading.restored is not None
    assert reading.restored.shape == reading.weights.shape
    unchanged, _, _ = gated_logit(name, gate.layer, 0, 1, None)
    for channel in range(0, len(reading.weights), max(1, len(reading.weights) // 5)):
        scale = torch.ones(1, len(reading.weights), 1, 1, dtype=torch.float64)
        scale[0, channel] = 1 / float(reading.weights[channel])
        changed, _, _ = gated_logit(name, gate.layer, 0, 1, scale)
        assert reading.restored[channel] == pytest.approx(changed - unchanged, rel=1e-6, abs=1e-12)
    assert all(other.restored is None for other in outcome.gates[:-1])


def test_effects_are_computed_only_on_request() -> None:
    requested, plain = run("tiny", Plan(gates=True, effects=True, targets=(1,)), Plan(gates=True))
    assert requested.gates[0].effects is not None
    assert plain.gates[0].effects is None
    np.testing.assert_allclose(plain.gates[0].weights, run("tiny", Plan(), Plan(gates=True))[1].gates[0].weights)


def test_maps_of_a_gate_show_the_same_channels_before_after_and_their_difference() -> None:
    (outcome,) = run("tiny", Plan(gates=True, taps=(Tap("gate", count=3, gate=True),)))
    before, after, difference = outcome.maps
    assert [maps.side for maps in outcome.maps] == ["before", "after", "difference"]
    assert before.channels == after.channels == difference.channels
    weights = outcome.gates[0].weights[list(before.channels)][:, None, None]
    np.testing.assert_allclose(after.values, before.values * weights, rtol=1e-9)
    np.testing.assert_allclose(difference.values, after.values - before.values, rtol=1e-9)
    changed = np.abs(difference.values).mean((1, 2))
    assert (np.diff(changed) <= 0).all()  # most changed first


def test_a_gates_sides_are_layers_of_the_network() -> None:
    passes = Passes(compiled("mobilenet_v3_small", torch.float64), pictures(1))
    for gate in passes.net.spec.gates:
        weights = passes.value(passes.net.manifest.gate_values[gate.layer].node)
        gated = passes.map(gate.before) * weights.reshape(1, -1, 1, 1)
        np.testing.assert_allclose(passes.map(gate.after), gated, rtol=1e-9)


def test_measuring_stops_only_for_the_image_whose_caller_left() -> None:
    gate = compiled("mobilenet_v3_small", torch.float64).spec.gates[-1]
    assert gate.shape[0] == 576  # 32 of them are measured in one pass
    plan = Plan(gates=True, restore=(gate.layer,), targets=(1,))
    calls: list[int] = []

    def left() -> bool:
        calls.append(1)
        return len(calls) > 3

    given_up, stays = run("mobilenet_v3_small", plan, plan, void=(left, lambda: False))
    assert given_up.given_up
    assert len(calls) == 4
    assert not stays.given_up
    passes = Passes(compiled("mobilenet_v3_small", torch.float64), pictures(2)[1:])
    (alone,) = passes.run(plan)
    measured, expected = stays.gates[-1].restored, alone.gates[-1].restored
    assert measured is not None
    assert expected is not None
    np.testing.assert_allclose(measured, expected, rtol=1e-6, atol=1e-12)


def test_effects_and_importance_ignore_a_contrast() -> None:
    alone = Plan(gates=True, effects=True, layer="stem", targets=(1, 3))
    own, against = run("tiny", alone)[0], run("tiny", replace(alone, contrast=Contrast((0, 2))))[0]
    assert (own.explanations[0].heat != against.explanations[0].heat).any()
    assert own.importance is not None
    assert against.importance is not None
    np.testing.assert_allclose(against.importance.weights, own.importance.weights, rtol=1e-9)
    for one, other in zip(own.gates, against.gates, strict=True):
        assert one.effects is not None
        assert other.effects is not None
        np.testing.assert_allclose(other.effects, one.effects, rtol=1e-9)
