"""POST /v1/attention: the weight of every channel, gates and importance named apart."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from service.api.schemas import Attention, ModelDetail
from tests.support import explained, parsed


def _attention(client: httpx.Client, image: bytes, **options: Any) -> Attention:
    attention = explained(client, "/v1/attention", image, **options).attention
    assert attention is not None
    return attention


@pytest.fixture(scope="module")
def model(client: httpx.Client) -> ModelDetail:
    return parsed(client.get("/v1/models/lite0"), ModelDetail)


def test_a_network_without_gates_has_none_and_still_answers(client: httpx.Client, cat: bytes) -> None:
    attention = _attention(client, cat)
    assert attention.gates == []
    assert attention.importance.weights


def test_by_default_the_top_class_is_meant_at_the_default_layer(
    client: httpx.Client, cat: bytes, model: ModelDetail
) -> None:
    best = explained(client, "/v1/predict", cat).predictions
    assert best is not None
    importance = _attention(client, cat).importance
    assert importance.layer == model.default_layer.name
    assert importance.target.index == best[0].index
    assert importance.target.label == best[0].label


@pytest.mark.parametrize("layer", ["stem", "blocks.4", "blocks.10", "head"])
def test_every_channel_of_the_layer_has_a_weight(
    client: httpx.Client, cat: bytes, model: ModelDetail, layer: str
) -> None:
    importance = _attention(client, cat, layer=layer).importance
    (channels,) = [entry.shape[0] for entry in model.layers if entry.name == layer]
    assert importance.layer == layer
    assert len(importance.weights) == channels
    assert len(set(importance.weights)) > 1


def test_another_class_has_other_weights(client: httpx.Client, cat: bytes) -> None:
    tabby, espresso = (_attention(client, cat, target=name).importance for name in ("tabby", "espresso"))
    assert (tabby.target.label, espresso.target.label) == ("tabby", "espresso")
    assert tabby.weights != espresso.weights


def test_weights_and_activation_make_the_grad_cam_map(client: httpx.Client, cat: bytes, model: ModelDetail) -> None:
    """The mean of the raw map is the sum over channels of weight times mean activation."""
    layer = "blocks.15"
    (channels,) = [entry.shape[0] for entry in model.layers if entry.name == layer]
    weights = _attention(client, cat, layer=layer).importance.weights
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
