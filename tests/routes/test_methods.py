"""Heat maps by every method, at several layers, fused, and of one class against another, in one request."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Any

import httpx
import numpy as np
import pytest

from pellucid.schemas import GradCam, MethodCostHere, ModelDetail
from tests.support import decoded, envelope, explained, parsed, post, present, problem

SMALL: dict[str, Any] = {"max_side": 8}


@pytest.fixture(scope="module")
def model(client: httpx.Client) -> ModelDetail:
    return parsed(client.get("/v1/models/lite0"), ModelDetail)


def _cams(client: httpx.Client, image: bytes, **options: Any) -> list[GradCam]:
    cams = explained(client, "/v1/grad-cam", image, **{**SMALL, **options}).grad_cam
    assert cams is not None
    return cams


def _values(cam: GradCam) -> Any:
    return np.array(cam.raw.values)


def test_every_method_answers_at_a_layer_in_one_request(client: httpx.Client, cat: bytes, model: ModelDetail) -> None:
    # Few positions, because some methods run the network for each of them.
    options = {"layer": "blocks.10", "samples": 4, "target": ["tabby", "espresso"]}
    details = [detail for detail in model.method_details if "layers" in detail.at]
    assert [detail.name for detail in details] == model.methods[:-1]
    cams = _cams(client, cat, method=[detail.name for detail in details], **options)
    assert [(cam.method, cam.target.index) for cam in cams] == [
        (detail.name, index) for detail in details for index in (281, 967)
    ]
    for cam in cams:
        assert (cam.layer, cam.raw.shape) == ("blocks.10", [112, 14, 14][1:])
        assert cam.raw.min < cam.raw.max
        assert cam.fused is None
        assert cam.against is None
    for one, other, detail in zip(cams[::2], cams[1::2], details, strict=True):
        assert (one.raw.values != other.raw.values) == detail.of_class


def test_a_method_is_taken_where_it_says_unless_a_layer_is_named(
    client: httpx.Client, cat: bytes, model: ModelDetail
) -> None:
    quick = [detail for detail in model.method_details if detail.needs != "network forwards"]
    cams = _cams(client, cat, method=[detail.name for detail in quick], samples=2)
    assert [cam.layer for cam in cams] == [detail.default_layer for detail in quick]
    for cam in cams:
        assert cam.raw.shape == ([224, 224] if cam.layer == "pixels" else [28, 28] if cam.fused else [7, 7])
        assert decoded(cam.mask).shape == (8, 8)


def test_what_a_method_is_stands_in_the_catalogue(client: httpx.Client, model: ModelDetail) -> None:
    assert [detail.name for detail in model.method_details] == model.methods
    for detail in model.method_details:
        assert detail.cost is not None, "run `make methods`"
        assert detail.cost.default_layer > 0
        # Whose figure it is: this server may run another engine, precision or processor.
        assert re.fullmatch(r"\w+ [\d.]+ on \w+, (fp32|bf16)", detail.cost.engine)
        assert re.fullmatch(r"\d+ cores of .+", detail.cost.machine)
        assert date.fromisoformat(detail.cost.date) <= datetime.now(UTC).date()
        assert ("layers" in detail.at) == (detail.name != "best")
    plain = parsed(client.get("/v1/models/lite0-plain"), ModelDetail)
    assert plain.methods == model.methods
    assert all(detail.cost is None for detail in plain.method_details)


def test_the_catalogue_has_the_costs_that_this_process_measured(client: httpx.Client, cat: bytes) -> None:
    def here() -> dict[str, MethodCostHere | None]:
        found = parsed(client.get("/v1/models/lite0-plain"), ModelDetail).method_details
        return {detail.name: detail.cost_here for detail in found}

    at_start = here()["grad-cam"]
    assert at_start is not None
    assert at_start.times > 0
    assert here()["smoothgrad"] is None, "what has not run was not measured"
    post(client, "/v1/grad-cam", cat, model="lite0-plain", method="smoothgrad", samples=8)
    assert here()["smoothgrad"] is None, "nor was less of it"
    post(client, "/v1/grad-cam", cat, model="lite0-plain", method="smoothgrad")
    served = here()["smoothgrad"]
    assert served is not None
    assert served.times > at_start.times, "32 gradients cost more than one"


def test_each_layer_has_maps_of_its_own(client: httpx.Client, cat: bytes) -> None:
    cams = _cams(client, cat, method=["grad-cam", "layercam"], layer=["head", "blocks.10"], target=["281", "285"])
    assert [(cam.method, cam.layer, cam.target.index) for cam in cams] == [
        (method, layer, index)
        for method in ("grad-cam", "layercam")
        for layer in ("head", "blocks.10")
        for index in (281, 285)
    ]
    for cam in cams[::2]:
        (alone,) = _cams(client, cat, method=cam.method, layer=cam.layer, target="281")
        np.testing.assert_allclose(_values(cam), _values(alone), rtol=1e-3, atol=1e-3 * np.abs(_values(alone)).max())


@pytest.mark.parametrize("how", ["mean", "max", "product"])
def test_layers_are_fused_on_request(client: httpx.Client, cat: bytes, how: str) -> None:
    (cam,) = _cams(client, cat, layer="head,blocks.4", fuse=how)
    assert (cam.layer, cam.fused, cam.raw.shape) == ("head + blocks.4", how, [28, 28])
    assert 0 <= cam.raw.min < cam.raw.max <= 1


@pytest.mark.parametrize("route", ["/v1/grad-cam", "/v1/explain"])
def test_best_is_what_its_reply_and_its_provenance_name(client: httpx.Client, cat: bytes, route: str) -> None:
    def reply(**options: Any) -> dict[str, Any]:
        found = post(client, route, cat, **{**options, "provenance": True}).json()
        return {name: found[name] for name in ("results", "provenance")}

    found = reply(method="best", **SMALL)
    (cam,) = found["results"][0]["grad_cam"]
    assert (cam["method"], cam["layer"], cam["fused"]) == ("elementwise", "head + blocks.10 + blocks.4", "mean")
    assert found == reply(method="elementwise", layer="head,blocks.10,blocks.4", fuse="mean", **SMALL)
    assert found == reply(**found["provenance"]["options"])
    if route == "/v1/explain":
        assert found["results"][0]["attention"]["importance"]["layer"] == "head"


def test_best_beside_another_method_is_named_as_it_was(client: httpx.Client, cat: bytes) -> None:
    asked = envelope(post(client, "/v1/grad-cam", cat, method=["grad-cam", "best"], provenance=True, **SMALL))
    again = envelope(post(client, "/v1/grad-cam", cat, **present(asked.provenance).options))
    assert again.results == asked.results


def test_best_compares_nothing(client: httpx.Client, cat: bytes) -> None:
    """Its maps are stretched: a class without evidence would look as strong as the right one."""
    refused = post(client, "/v1/compare", cat, method="best", target=["tabby", "espresso"])
    assert "`elementwise` or `grad-cam`" in problem(refused, 422, "invalid-option").detail


def test_a_class_against_another_says_so_and_is_the_difference(client: httpx.Client, cat: bytes) -> None:
    (cam,) = _cams(client, cat, target="tabby", against="tiger cat", against_weight=0.6)
    tabby, tiger = _cams(client, cat, target=["tabby", "tiger cat"])
    assert cam.target.label == "tabby"
    assert [each.label for each in cam.against or []] == ["tiger cat"]
    np.testing.assert_allclose(_values(cam), _values(tabby) - 0.6 * _values(tiger), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target": "tabby", "against": "281"}, "against: The class 281 (tabby) is the target itself"),
        ({"fuse": "mean"}, "fuse: It combines the maps"),
        ({"fuse": "mean", "layer": "head"}, "fuse: It combines the maps"),
        ({"fuse": "sum", "layer": "head,stem"}, "'mean', 'max' or 'product'"),
        ({"method": "layercam", "layer": "pixels"}, "at the pixels: smoothgrad, integrated-gradients."),
        ({"method": "best", "layer": "head"}, "method: 'best' chooses its layers"),
        ({"method": "grad-cam,best", "fuse": "mean"}, "'best' chooses its layers"),
        ({"method": "legrad"}, "reads the attention between the tokens of a vision transformer"),
        ({"samples": 0}, "samples"),
        ({"against_weight": -1}, "against_weight"),
        ({"layer": [f"blocks.{number}" for number in range(9)]}, "layer"),
    ],
)
def test_what_does_not_go_together_is_refused(
    client: httpx.Client, cat: bytes, options: dict[str, Any], said: str
) -> None:
    assert said in problem(post(client, "/v1/grad-cam", cat, **options), 422, "invalid-option").detail


@pytest.mark.parametrize("against", ["tabbyy", "1000"])
def test_an_unknown_class_to_be_explained_against_is_named(client: httpx.Client, cat: bytes, against: str) -> None:
    assert against in problem(post(client, "/v1/grad-cam", cat, against=against), 422, "unknown-name").detail


def test_the_importance_of_channels_is_told_beside_any_method(client: httpx.Client, cat: bytes) -> None:
    include = "attention,grad_cam"
    plain = present(explained(client, "/v1/attention", cat).attention).importance
    result = explained(client, "/v1/explain", cat, include=include, method="integrated-gradients", samples=2, **SMALL)
    importance = present(result.attention).importance
    assert plain is not None
    assert importance is not None
    assert importance.layer == plain.layer
    assert importance.weights == pytest.approx(plain.weights, rel=1e-3, abs=1e-5)


def test_several_maps_are_no_one_picture(client: httpx.Client, cat: bytes) -> None:
    response = post(client, "/v1/grad-cam", cat, accept="image/png", method=["grad-cam", "hirescam"])
    assert "2 pictures" in problem(response, 406, "not-acceptable").detail
    one = post(client, "/v1/grad-cam", cat, accept="image/png", layer="head,stem", fuse="mean")
    assert one.headers["pellucid-layer"] == "head + stem"


def test_what_takes_too_long_ends_at_its_deadline(client: httpx.Client, cat: bytes) -> None:
    slow = post(client, "/v1/grad-cam", cat, method="score-cam", timeout_ms=500)
    problem(slow, 504, "deadline-exceeded")
    assert _cams(client, cat)


def test_without_a_target_the_best_of_the_other_classes_is_explained(client: httpx.Client, cat: bytes) -> None:
    best, second = [each.index for each in (explained(client, "/v1/predict", cat).predictions or [])[:2]]
    (cam,) = explained(client, "/v1/grad-cam", cat, against=str(best)).grad_cam or []
    assert cam.target.index == second
    assert not cam.raw.all_negative


def test_the_importance_of_channels_is_the_class_s_own_whatever_it_is_explained_against(
    client: httpx.Client, cat: bytes
) -> None:
    options = {"include": "attention,grad_cam", "target": "tabby"}
    contrasted = explained(client, "/v1/explain", cat, **options, against="tiger cat").attention
    alone = explained(client, "/v1/explain", cat, **options).attention
    assert contrasted is not None
    assert alone is not None
    assert contrasted.importance == alone.importance
