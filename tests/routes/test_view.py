"""What the network sees of a picture, on every route."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import pellucid
from pellucid.schemas import ModelDetail
from tests.support import PARTS, ROUTES, SAMPLES, decoded, encoded, envelope, explained, parsed, post, problem

ROCKET = SAMPLES / "rocket.jpg"


@pytest.fixture(scope="module")
def portrait() -> bytes:
    """The rocket, 300 x 427 pixels of it."""
    with Image.open(ROCKET) as image:
        return encoded(np.asarray(image.convert("RGB").crop((170, 0, 470, 427))))


def test_the_map_covers_the_whole_picture(client: httpx.Client, portrait: bytes) -> None:
    (cam,) = explained(client, "/v1/grad-cam", portrait, view="whole").grad_cam or []
    assert cam.box == [0, 0, 300, 427]
    assert decoded(cam.mask).shape == (427, 300)
    assert cam.raw.shape == [11, 8]
    (finer,) = explained(client, "/v1/grad-cam", portrait, view="whole", detail=384).grad_cam or []
    assert finer.raw.shape == [16, 12]
    (squashed,) = explained(client, "/v1/grad-cam", portrait, view="squash").grad_cam or []
    assert (squashed.box, squashed.raw.shape) == ([0, 0, 300, 427], [7, 7])


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_sees_the_whole_picture(client: httpx.Client, portrait: bytes, route: str) -> None:
    reply = envelope(post(client, route, portrait, view="whole", provenance=True))
    (result,) = reply.results
    frame = result.model_dump()["frame"]
    assert frame["box"] == [0, 0, 300, 427]
    assert frame["scale"] == pytest.approx([256 / 300, 352 / 427])
    assert set(result.model_fields_set) == {"image", "frame", *PARTS[route]}
    assert reply.provenance is not None
    assert (reply.provenance.options["view"], reply.provenance.options["detail"]) == ("whole", 256)
    again = envelope(post(client, route, portrait, **{**reply.provenance.options, "provenance": True}))
    assert again.results == reply.results


def test_the_library_answers_the_same(client: httpx.Client, portrait: bytes, lite0: pellucid.Network) -> None:
    here = lite0.grad_cam(portrait, view="whole", layer=["blocks.10", "head"])
    there = explained(client, "/v1/grad-cam", portrait, view="whole", layer=["blocks.10", "head"]).grad_cam or []
    for one, other in zip(here, there, strict=True):
        assert one.box == other.box
        np.testing.assert_allclose(one.raw.values, other.raw.values, rtol=1e-3, atol=1e-4 * abs(other.raw.max))


def test_trials_perturb_the_whole_picture(client: httpx.Client, portrait: bytes) -> None:
    options = {"trust_steps": 2, "trust_maps": 4}
    (cam,) = explained(client, "/v1/grad-cam", portrait, view="whole", trust=True, **options).grad_cam or []
    assert cam.trust is not None
    start = cam.trust.curves[0].map[0]
    assert start == pytest.approx(cam.target.probability, rel=1e-3) or cam.trust.curves[0].test == "insertion"


def test_a_comparison_sees_both_pictures_whole(client: httpx.Client, portrait: bytes, coffee: bytes) -> None:
    files = [("images", ("a", portrait)), ("images", ("b", coffee))]
    found = client.post("/v1/compare", params={"view": "squash"}, files=files).json()["compare"]
    assert found["first"]["box"] == [0, 0, 300, 427]
    assert found["second"]["box"] == [0, 0, 600, 400]
    refused = client.post("/v1/compare", params={"view": "whole"}, files=files)
    assert (refused.status_code, "view=squash" in refused.json()["detail"]) == (422, True)
    networks = client.post(
        "/v1/compare",
        params={"view": "whole", "against_model": "lite0-plain"},
        files={"images": portrait},
    ).json()["compare"]
    assert networks["maps"]["box"] == [0, 0, 300, 427]


def test_images_of_several_shapes_have_answers_of_their_own(client: httpx.Client, portrait: bytes, cat: bytes) -> None:
    both = client.post("/v1/predict?view=whole", files=[("images", portrait), ("images", cat), ("images", portrait)])
    first, second, third = both.json()["results"]
    assert first["predictions"] == third["predictions"]
    alone = explained(client, "/v1/predict", cat, view="whole").predictions
    assert [each["label"] for each in second["predictions"]] == [each.label for each in alone or []]


def test_protocols_take_the_view(client: httpx.Client, portrait: bytes) -> None:
    body: dict[str, Any] = {
        "instances": [{"b64": b64encode(portrait).decode()}],
        "parameters": {"view": "whole", "include": ["grad_cam"]},
    }
    (found,) = client.post("/v1/models/lite0:explain", json=body).json()["explanations"]
    assert found["grad_cam"][0]["box"] == [0, 0, 300, 427]
    reply = client.post("/predictions/lite0", params={"view": "whole"}, content=portrait)
    expected = explained(client, "/v1/predict", portrait, view="whole").predictions or []
    assert max(reply.json(), key=reply.json().get) == expected[0].label


def test_tensors_have_one_shape(client: httpx.Client, portrait: bytes) -> None:
    def sent(**parameters: Any) -> httpx.Response:
        data = b64encode(portrait).decode()
        image = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [data]}
        outputs = [{"name": "heat_map"}]
        return client.post(
            "/v2/models/lite0/infer", json={"inputs": [image], "outputs": outputs, "parameters": parameters}
        )

    assert sent(view="squash").json()["outputs"][0]["shape"] == [1, 1, 7, 7]
    refused = sent(view="whole")
    assert refused.status_code == 422
    assert "view: The images of a tensor" in refused.text


def test_a_panorama_is_seen_in_tiles_and_an_endless_one_is_refused_beside_others(
    client: httpx.Client, cat: bytes
) -> None:
    long = np.random.default_rng(0).integers(0, 256, (60, 2400, 3), np.uint8)
    (cam,) = explained(client, "/v1/grad-cam", encoded(long[:, :240]), view="whole", detail=64).grad_cam or []
    assert (cam.box, cam.raw.shape) == ([0, 0, 240, 60], [2, 8])
    told = problem(post(client, "/v1/predict", encoded(long[:50]), view="whole"), 422, "invalid-option")
    assert "too long for 16 tiles of 768 x 256" in told.detail
    reply = client.post("/v1/predict?view=whole", files=[("images", encoded(long[:50])), ("images", cat)]).json()
    assert "too long for 16 tiles" in reply["results"][0]["error"]["detail"]
    assert reply["results"][1]["predictions"]


@pytest.mark.parametrize(
    ("options", "detail"),
    [
        ({"detail": 256}, "detail: It needs view=whole"),
        ({"view": "squash", "detail": 256}, "detail: It needs view=whole"),
        ({"view": "whole", "detail": 32}, "detail: Input should be greater than or equal to 64"),
        ({"view": "tiles"}, "view: Input should be 'centre', 'whole' or 'squash'"),
    ],
)
def test_a_wrong_view_is_refused(client: httpx.Client, cat: bytes, options: dict[str, Any], detail: str) -> None:
    assert detail in problem(post(client, "/v1/predict", cat, **options), 422, "invalid-option").detail


def test_the_catalogue_says_who_sees_whole_pictures(client: httpx.Client) -> None:
    detail = parsed(client.get("/v1/models/lite0"), ModelDetail)
    assert detail.whole.model_dump(exclude_none=True) == {"multiple": 32, "detail": 256}
