"""A wrong call gets problem+json with a status that fits, and is told what is allowed."""

from __future__ import annotations

import io
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from pellucid.schemas import ModelDetail
from tests.support import ROUTES, encoded, parsed, post, problem

EXPLAINING = ["/v1/attention", "/v1/grad-cam", "/v1/explain"]


@pytest.fixture(scope="module")
def model(client: httpx.Client) -> ModelDetail:
    return parsed(client.get("/v1/models/lite0"), ModelDetail)


@pytest.mark.parametrize("route", EXPLAINING)
def test_an_unknown_class_is_answered_with_close_ones_and_all(
    client: httpx.Client, cat: bytes, model: ModelDetail, route: str
) -> None:
    found = problem(post(client, route, cat, target="egiptian cat"), 422, "unknown-name")
    assert "'Egyptian cat'" in found.detail
    assert found.allowed == model.labels


@pytest.mark.parametrize("target", ["1000", "-1", "99999999999999999999"])
def test_an_index_that_no_class_has_is_answered_with_the_range(client: httpx.Client, cat: bytes, target: str) -> None:
    detail = problem(post(client, "/v1/grad-cam", cat, target=target), 422, "unknown-name").detail
    assert target in detail
    assert "0 to 999" in detail


def test_a_label_of_two_classes_is_answered_with_their_indices(client: httpx.Client, cat: bytes) -> None:
    found = problem(post(client, "/v1/grad-cam", cat, target="CARDIGAN"), 422, "unknown-name")
    assert found.allowed == ["264", "474"]


@pytest.mark.parametrize(("label", "index"), [("Cardigan", 264), ("cardigan", 474), ("264", 264)])
def test_labels_that_differ_in_case_alone_are_told_apart_by_it(
    client: httpx.Client, cat: bytes, label: str, index: int
) -> None:
    response = post(client, "/v1/attention", cat, target=label)
    assert response.json()["results"][0]["attention"]["importance"]["target"]["index"] == index


@pytest.mark.parametrize("route", EXPLAINING)
def test_an_unknown_layer_is_answered_with_close_ones_and_all(
    client: httpx.Client, cat: bytes, model: ModelDetail, route: str
) -> None:
    found = problem(post(client, route, cat, layer="haed"), 422, "unknown-name")
    assert "'head'" in found.detail
    assert found.allowed == [layer.name for layer in model.layers]


def test_an_unknown_layer_of_feature_maps_is_answered_alike(
    client: httpx.Client, cat: bytes, model: ModelDetail
) -> None:
    found = problem(post(client, "/v1/feature-maps", cat, layers="stem,blocks.99"), 422, "unknown-name")
    assert "'blocks.99'" in found.detail
    assert found.allowed == [layer.name for layer in model.layers]


@pytest.mark.parametrize("channel", [32, -1])
def test_a_channel_that_a_layer_lacks_is_answered_with_the_range(
    client: httpx.Client, cat: bytes, channel: int
) -> None:
    response = post(client, "/v1/feature-maps", cat, layers="stem", channels=channel)
    assert "0 to 31" in problem(response, 422, "unknown-name").detail


def test_an_unknown_method_is_answered_with_the_known_ones(
    client: httpx.Client, cat: bytes, model: ModelDetail
) -> None:
    found = problem(post(client, "/v1/grad-cam", cat, method="gradcam"), 422, "unknown-name")
    assert found.allowed == model.methods


@pytest.mark.parametrize("route", ROUTES)
def test_an_unknown_option_is_answered_with_the_closest_and_all(client: httpx.Client, cat: bytes, route: str) -> None:
    detail = problem(post(client, route, cat, timeout=5), 422, "invalid-option").detail
    assert "'timeout'" in detail
    assert "Did you mean 'timeout_ms'?" in detail


def test_an_option_of_another_route_is_unknown(client: httpx.Client, cat: bytes) -> None:
    assert "top_k" in problem(post(client, "/v1/predict", cat, overlay=True), 422, "invalid-option").detail


def test_an_unknown_option_in_json_is_answered_alike(client: httpx.Client) -> None:
    response = client.post("/v1/predict", json={"images": ["/9j/"], "topk": 3})
    assert "Did you mean 'top_k'?" in problem(response, 422, "invalid-option").detail


@pytest.mark.parametrize(
    ("route", "options", "said"),
    [
        ("/v1/predict", {"top_k": 0}, "top_k"),
        ("/v1/predict", {"top_k": "many"}, "top_k"),
        ("/v1/predict", {"timeout_ms": 0}, "timeout_ms"),
        ("/v1/feature-maps", {"count": 0}, "count"),
        ("/v1/feature-maps", {"count": 1000}, "count"),
        ("/v1/feature-maps", {"tile": 100000}, "tile"),
        ("/v1/feature-maps", {"scale": "picture"}, "'channel', 'layer' or 'percentile'"),
        ("/v1/feature-maps", {"channels": "1,two"}, "channels.1"),
        ("/v1/feature-maps", {"colormap": "rainbow"}, "viridis"),
        ("/v1/grad-cam", {"colormap": "rainbow"}, "turbo"),
        ("/v1/grad-cam", {"alpha": 1.5}, "alpha"),
        ("/v1/grad-cam", {"alpha": "nan"}, "alpha"),
        ("/v1/grad-cam", {"max_side": 4}, "max_side"),
        ("/v1/grad-cam", {"signed": "perhaps"}, "signed"),
        ("/v1/grad-cam", {"target": [str(index) for index in range(21)]}, "target"),
    ],
)
def test_a_value_outside_its_range_is_named(
    client: httpx.Client, cat: bytes, route: str, options: dict[str, Any], said: str
) -> None:
    assert said in problem(post(client, route, cat, **options), 422, "invalid-option").detail


@pytest.mark.parametrize("route", ["/v1/grad-cam", "/v1/attention"])
@pytest.mark.parametrize("target", [None, [None], True, {}, [[]]])
def test_what_is_neither_text_nor_a_number_is_no_name(client: httpx.Client, route: str, target: Any) -> None:
    response = client.post(route, json={"images": ["/9j/"], "target": target})
    assert "target: Should be text" in problem(response, 422, "invalid-option").detail


@pytest.mark.parametrize("name", ["target", "layer", "method", "restore", "model", "layers", "gates", "n" * 300])
def test_a_name_longer_than_any_is_refused_before_it_is_looked_for(client: httpx.Client, name: str) -> None:
    found = problem(client.post("/v1/explain", json={"images": ["/9j/"], name: "x" * 300}), 422, "invalid-option")
    assert len(found.detail) < 1000


@pytest.mark.parametrize("route", ROUTES)
def test_text_sent_as_an_image_is_answered_with_the_served_types(client: httpx.Client, route: str) -> None:
    found = problem(post(client, route, b"Dear service,\nthis is a letter.\n"), 415, "unsupported-media-type")
    assert found.allowed is not None
    assert {"JPEG", "PNG", "WEBP"} <= set(found.allowed)


@pytest.mark.parametrize(
    "data", [b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b"%!PS-Adobe-3.0 EPSF-3.0"]
)
def test_formats_that_are_programs_are_not_served(client: httpx.Client, data: bytes) -> None:
    problem(post(client, "/v1/predict", data), 415, "unsupported-media-type")


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_truncated_photograph_is_undecodable(client: httpx.Client, cat: bytes, share: float) -> None:
    torn = cat[: int(len(cat) * share)]
    assert "JPEG" in problem(post(client, "/v1/predict", torn), 422, "undecodable-image").detail


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_a_torn_file_of_any_format_is_a_problem_of_the_caller(client: httpx.Client, file_format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    whole = encoded(noise, file_format)
    assert post(client, "/v1/predict", whole).status_code == 200
    for share in (0.1, 0.4, 0.8):
        response = post(client, "/v1/predict", whole[: int(len(whole) * share)])
        assert response.status_code in (415, 422), response.text


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_a_picture_of_any_mode_is_served(client: httpx.Client, mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    picture = Image.fromarray(noise[:, :, 0].astype(np.uint16) * 256 if mode == "I;16" else noise)
    assert picture.mode == mode or mode != "I;16"
    response = post(client, "/v1/predict", _saved(picture if mode == "I;16" else picture.convert(mode), "TIFF"))
    assert response.status_code == 200, response.text


def _saved(image: Image.Image, file_format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    return buffer.getvalue()


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_a_post_route_takes_no_other_method(client: httpx.Client, route: str, method: str) -> None:
    response = client.request(method, route)
    problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/v1/predictions", "/v3/predict", "/nothing"])
def test_an_unknown_path_is_not_found(client: httpx.Client, path: str) -> None:
    problem(client.get(path), 404, "not-found")


def test_an_unknown_model_is_answered_with_the_served_ones(client: httpx.Client) -> None:
    assert problem(client.get("/v1/models/lite1"), 404, "unknown-model").allowed == ["lite0", "lite0-plain"]
