"""POST /v1/attention: the weight of every channel, gates and importance named apart."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

from pellucid.schemas import Attention, Importance, ModelDetail
from tests.support import decoded_bytes, encoded, explained, parsed, post, present, problem


def _attention(client: httpx.Client, image: bytes, **options: Any) -> Attention:
    attention = explained(client, "/v1/attention", image, **options).attention
    assert attention is not None
    return attention


def _importance(client: httpx.Client, image: bytes, **options: Any) -> Importance:
    return present(_attention(client, image, **options).importance)


@pytest.fixture(scope="module")
def model(client: httpx.Client) -> ModelDetail:
    return parsed(client.get("/v1/models/lite0"), ModelDetail)


def test_a_network_without_gates_has_none_and_still_answers(client: httpx.Client, cat: bytes) -> None:
    attention = _attention(client, cat, model="lite0-plain")
    assert attention.gates == []
    assert attention.importance is not None
    assert attention.importance.weights


def test_every_gate_of_the_network_is_read_out(client: httpx.Client, cat: bytes, model: ModelDetail) -> None:
    gates = _attention(client, cat).gates
    assert [(gate.layer, gate.type, gate.channels) for gate in gates] == [
        (gate.layer, gate.type, gate.shape[0]) for gate in model.gates
    ]
    assert len(gates) == 7
    assert {gate.squash for gate in model.gates} == {"sigmoid"}
    for gate in gates:
        assert len(gate.weights) == gate.channels
        assert gate.mean == pytest.approx(sum(gate.weights) / gate.channels, rel=1e-4)
        ranked = sorted(gate.weights)
        assert [named.weight for named in gate.strongest] == pytest.approx(ranked[::-1][:5])
        assert [named.weight for named in gate.weakest] == pytest.approx(ranked[:5])
        assert all(gate.weights[named.channel] == pytest.approx(named.weight) for named in gate.strongest)


def test_a_dark_and_noisy_copy_of_the_picture_moves_the_gates(client: httpx.Client, cat: bytes) -> None:
    pixels = decoded_bytes(cat, "image/jpeg").astype(int)
    noise = np.random.default_rng(0).normal(0, 40, pixels.shape)
    damaged = encoded((pixels * 0.4 + noise).clip(0, 255).astype(np.uint8))
    moved = [
        np.abs(np.subtract(one.weights, other.weights)).mean()
        for one, other in zip(_attention(client, cat).gates, _attention(client, damaged).gates, strict=True)
    ]
    assert max(moved) > 0.05


def test_gates_say_what_their_channels_did_unless_told_not_to(client: httpx.Client, cat: bytes) -> None:
    with_effects, without = _attention(client, cat).gates, _attention(client, cat, effects=False).gates
    assert all(gate.effects is not None and len(gate.effects) == gate.channels for gate in with_effects)
    assert all(gate.effects is None for gate in without)


def test_only_the_gates_named_are_measured(client: httpx.Client, cat: bytes) -> None:
    gates = _attention(client, cat, restore="blocks.15.gate", effects=False).gates
    assert [gate.layer for gate in gates if gate.restored is not None] == ["blocks.15.gate"]
    assert gates[-1].restored is not None
    assert any(gates[-1].restored)


def test_an_unknown_gate_is_refused_with_those_that_there_are(client: httpx.Client, cat: bytes) -> None:
    found = problem(post(client, "/v1/attention", cat, restore="blocks.15"), 422, "unknown-name")
    assert found.allowed is not None
    assert "blocks.15.gate" in found.allowed


def test_by_default_the_top_class_is_meant_at_the_default_layer(
    client: httpx.Client, cat: bytes, model: ModelDetail
) -> None:
    best = explained(client, "/v1/predict", cat).predictions
    assert best is not None
    importance = _importance(client, cat)
    assert importance.layer == model.default_layer.name
    assert importance.target.index == best[0].index
    assert importance.target.label == best[0].label


@pytest.mark.parametrize("layer", ["stem", "blocks.4", "blocks.10", "head"])
def test_every_channel_of_the_layer_has_a_weight(
    client: httpx.Client, cat: bytes, model: ModelDetail, layer: str
) -> None:
    importance = _importance(client, cat, layer=layer)
    (channels,) = [entry.shape[0] for entry in model.layers if entry.name == layer]
    assert importance.layer == layer
    assert len(importance.weights) == channels
    assert len(set(importance.weights)) > 1


def test_another_class_has_other_weights(client: httpx.Client, cat: bytes) -> None:
    tabby, espresso = (_importance(client, cat, target=name) for name in ("tabby", "espresso"))
    assert (tabby.target.label, espresso.target.label) == ("tabby", "espresso")
    assert tabby.weights != espresso.weights


def test_weights_and_activation_make_the_grad_cam_map(client: httpx.Client, cat: bytes, model: ModelDetail) -> None:
    """The mean of the raw map is the sum over channels of weight times mean activation."""
    layer = "blocks.15"
    (channels,) = [entry.shape[0] for entry in model.layers if entry.name == layer]
    weights = _importance(client, cat, layer=layer).weights
    cams = explained(client, "/v1/grad-cam", cat, layer=layer).grad_cam
    assert cams is not None
    means: list[float] = []
    for first in range(0, channels, 160):
        shown = ",".join(map(str, range(first, first + 160)))
        maps = explained(client, "/v1/feature-maps", cat, layers=layer, channels=shown, tile=7).feature_maps
        assert maps is not None
        means += maps[0].stats.mean
    positions = [value for row in cams[0].raw.values for value in row]
    expected = sum(weight * mean for weight, mean in zip(weights, means, strict=True))
    assert sum(positions) / len(positions) == pytest.approx(expected, rel=1e-3)
