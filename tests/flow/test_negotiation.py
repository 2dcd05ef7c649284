"""What a reply comes as: JSON, or the one picture asked for."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

from tests.support import ROUTES, decoded, decoded_bytes, envelope, explained, post, problem

PICTURES = ["image/png", "image/webp"]


@pytest.mark.parametrize("media_type", PICTURES)
def test_a_mask_comes_as_the_bytes_themselves(client: httpx.Client, cat: bytes, media_type: str) -> None:
    response = post(client, "/v1/grad-cam", cat, accept=media_type)
    assert response.status_code == 200
    assert response.headers["content-type"] == media_type
    cams = explained(client, "/v1/grad-cam", cat).grad_cam
    assert cams is not None
    shown = decoded_bytes(response.content, media_type, (263, 262)).astype(int)
    levels = shown if shown.ndim == 2 else shown[:, :, 0]
    assert np.abs(levels - decoded(cams[0].mask)).max() <= 2
    assert response.headers["pellucid-box"] == "94,19,357,281"
    assert response.headers["pellucid-target"] == "285"
    assert response.headers["pellucid-layer"] == "head"


@pytest.mark.parametrize("media_type", PICTURES)
def test_an_overlay_takes_the_place_of_the_mask(client: httpx.Client, cat: bytes, media_type: str) -> None:
    response = post(client, "/v1/grad-cam", cat, accept=media_type, overlay=True)
    assert response.headers["content-type"] == media_type
    assert decoded_bytes(response.content, media_type, (451, 300)).shape == (300, 451, 3)


@pytest.mark.parametrize("media_type", PICTURES)
def test_a_grid_comes_as_the_bytes_themselves(client: httpx.Client, cat: bytes, media_type: str) -> None:
    response = post(client, "/v1/feature-maps", cat, accept=media_type, layers="stem", channels="3,1")
    assert response.status_code == 200
    assert response.headers["content-type"] == media_type
    assert response.headers["pellucid-layer"] == "stem"
    assert response.headers["pellucid-channels"] == "3,1"
    maps = explained(client, "/v1/feature-maps", cat, layers="stem", channels="3,1", labels=True).feature_maps
    assert maps is not None
    assert np.array_equal(decoded_bytes(response.content, media_type), decoded(maps[0].grid))


@pytest.mark.parametrize(
    ("accept", "given"),
    [
        ("*/*", "application/json"),
        ("application/json, image/png", "application/json"),
        ("application/*", "application/json"),
        ("image/png, application/json;q=0.5", "image/png"),
        ("image/*", "image/png"),
        ("text/html, */*;q=0.1", "application/json"),
        ("image/webp;q=0.9, image/png;q=0.1", "image/webp"),
    ],
)
def test_the_accept_header_decides(client: httpx.Client, cat: bytes, accept: str, given: str) -> None:
    assert post(client, "/v1/grad-cam", cat, accept=accept).headers["content-type"] == given


def test_without_an_accept_header_the_reply_is_json(client: httpx.Client, cat: bytes) -> None:
    request = client.build_request("POST", "/v1/grad-cam", files={"images": cat})
    del request.headers["accept"]
    envelope(client.send(request))


@pytest.mark.parametrize(
    ("route", "images", "options"),
    [
        ("/v1/grad-cam", 2, {}),
        ("/v1/grad-cam", 1, {"target": ["tabby", "espresso"]}),
        ("/v1/feature-maps", 1, {}),
        ("/v1/feature-maps", 1, {"layers": "stem,head"}),
        ("/v1/explain", 2, {}),
    ],
)
def test_no_or_several_pictures_are_not_one(
    client: httpx.Client, cat: bytes, route: str, images: int, options: dict[str, Any]
) -> None:
    response = post(client, route, *[cat] * images, accept="image/png", **options)
    assert problem(response, 406, "not-acceptable").allowed == ["application/json"]


def test_channel_weights_come_as_a_plot_of_strips(client: httpx.Client, cat: bytes) -> None:
    response = post(client, "/v1/attention", cat, accept="image/png", layer="blocks.10")
    assert response.headers["pellucid-layer"] == "blocks.10"
    plot = decoded_bytes(response.content, "image/png").reshape(-1, 3)
    orange, blue = ((plot == colour).all(1).sum() for colour in ((208, 84, 32), (44, 104, 176)))
    assert orange > 500  # some channels speak for the class, some against it
    assert blue > 500


def test_a_route_without_pictures_gives_json_alone(client: httpx.Client, cat: bytes) -> None:
    found = problem(post(client, "/v1/predict", cat, accept="image/png"), 406, "not-acceptable")
    assert found.allowed == ["application/json"]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("accept", ["text/html", "image/avif", "nonsense", "a/b," * 256 + "*/*"])
def test_other_types_are_not_acceptable(client: httpx.Client, cat: bytes, route: str, accept: str) -> None:
    allowed = problem(post(client, route, cat, accept=accept), 406, "not-acceptable").allowed
    assert allowed is not None
    assert "application/json" in allowed


def test_several_accept_headers_are_one_list(client: httpx.Client, cat: bytes) -> None:
    headers = [("Accept", "application/json;q=0.1"), ("Accept", "image/webp"), ("Accept", "image/png;q=0.2")]
    response = client.post("/v1/grad-cam", files={"images": cat}, headers=headers)
    assert response.headers["content-type"] == "image/webp"


@pytest.mark.parametrize("accept", ["image/png", "image/webp"])
def test_an_error_is_a_problem_whatever_was_asked_for(client: httpx.Client, accept: str) -> None:
    problem(post(client, "/v1/grad-cam", b"text", accept=accept), 415, "unsupported-media-type")
