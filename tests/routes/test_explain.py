"""POST /v1/explain: any mix of the parts, the same as from their own routes."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import httpx
import pytest

from tests.support import PARTS, difference, envelope, explained, post, problem

ALL = sorted(PARTS["/v1/explain"])
MIXES = [mix for count in range(1, 5) for mix in combinations(ALL, count)]


def _parts(client: httpx.Client, route: str, image: bytes, **options: Any) -> dict[str, Any]:
    response = post(client, route, image, **options)
    envelope(response)
    (result,) = response.json()["results"]
    assert result.pop("image")
    return dict(result)


@pytest.mark.parametrize("route", PARTS)
def test_a_route_fills_its_own_part_and_leaves_the_others_out(client: httpx.Client, cat: bytes, route: str) -> None:
    assert set(_parts(client, route, cat)) == PARTS[route]


def test_all_four_parts_are_those_of_their_own_routes(client: httpx.Client, cat: bytes) -> None:
    expected: dict[str, Any] = {}
    for route in ("/v1/predict", "/v1/feature-maps", "/v1/grad-cam"):
        expected |= _parts(client, route, cat)
    # what costs a backward pass is not in the mix unless it is asked for
    expected |= _parts(client, "/v1/attention", cat, effects=False)
    assert difference(_parts(client, "/v1/explain", cat), expected) is None
    with_effects = _parts(client, "/v1/explain", cat, include="attention", effects=True)
    assert difference(with_effects, _parts(client, "/v1/attention", cat)) is None


@pytest.mark.parametrize("mix", MIXES, ids="+".join)
def test_any_mix_of_parts_can_be_asked_for(client: httpx.Client, cat: bytes, mix: tuple[str, ...]) -> None:
    assert set(_parts(client, "/v1/explain", cat, include=",".join(mix))) == set(mix)


def test_include_may_be_repeated(client: httpx.Client, cat: bytes) -> None:
    assert set(_parts(client, "/v1/explain", cat, include=["grad_cam", "predictions"])) == {"grad_cam", "predictions"}


@pytest.mark.parametrize("include", ["gradcam", "", "predictions,masks"])
def test_an_unknown_part_is_refused(client: httpx.Client, cat: bytes, include: str) -> None:
    detail = problem(post(client, "/v1/explain", cat, include=include), 422, "invalid-option").detail
    assert "include" in detail


def test_options_reach_the_parts_that_they_are_for(client: httpx.Client, cat: bytes) -> None:
    result = explained(
        client, "/v1/explain", cat, top_k=3, target="tabby", layer="blocks.10", layers="stem", count=2, overlay=True
    )
    assert result.predictions is not None
    assert result.attention is not None
    assert result.feature_maps is not None
    assert result.grad_cam is not None
    assert len(result.predictions) == 3
    assert result.attention.importance is not None
    assert result.attention.importance.layer == result.grad_cam[0].layer == "blocks.10"
    assert result.attention.importance.target.label == result.grad_cam[0].target.label == "tabby"
    assert [len(shown.channels) for shown in result.feature_maps] == [2]
    assert result.grad_cam[0].overlay is not None
