"""A reply with provenance says what computed it, and no bit of it depends on what else is asked at the time."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any

import httpx
import pytest
from PIL import Image

from pellucid.schemas import Provenance, Reply
from tests.support import PARTS, ROUTES, envelope, explained, post, problem


def carried(reply: Reply) -> Provenance:
    assert reply.provenance is not None
    return reply.provenance


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_says_what_computed_its_reply(client: httpx.Client, cat: bytes, route: str) -> None:
    reply = envelope(post(client, route, cat, provenance=True))
    origin, detail = carried(reply), client.get("/v1/models/lite0").json()
    assert origin.route == route
    assert origin.network.model_dump() == {
        name: detail[name] for name in ("name", "source", "weights_sha256", "parameters_sha256")
    }
    assert len(origin.network.parameters_sha256 or "") == 64
    assert origin.preprocess.model_dump() == detail["preprocess"]
    assert (origin.engine.device, origin.engine.precision) == ("cpu", "fp32")
    assert origin.engine.threads >= 1
    assert {"pellucid", "python", "torch", "numpy", "pillow"} <= set(origin.versions)
    (result,) = reply.results
    frame = result.model_dump()["frame"]
    assert frame["box"] == [94, 19, 357, 281]
    assert frame["scale"] == pytest.approx([224 / 263, 224 / 262])
    assert set(result.model_fields_set) == {"image", "frame", *PARTS[route]}


def test_without_being_asked_nothing_is_said(client: httpx.Client, cat: bytes) -> None:
    reply = post(client, "/v1/explain", cat).json()
    assert "provenance" not in reply
    assert "frame" not in reply["results"][0]


def test_defaults_and_names_are_resolved_and_asking_so_again_gives_the_same(client: httpx.Client, cat: bytes) -> None:
    reply = envelope(post(client, "/v1/explain", cat, target="tabby", gates="blocks.4.gate", provenance=True))
    options = carried(reply).options
    assert (options["model"], options["layer"], options["target"]) == ("lite0", ["head"], ["281"])
    assert options["include"] == ["predictions", "attention", "feature_maps", "grad_cam"]
    assert (options["method"], options["max_side"], options["effects"]) == (["grad-cam"], 1024, False)
    assert "timeout_ms" not in options
    again = envelope(post(client, "/v1/explain", cat, **options))
    assert again.results == reply.results
    assert carried(again) == carried(reply)
    maps = carried(envelope(post(client, "/v1/feature-maps", cat, provenance=True))).options
    assert maps["layers"] == client.get("/v1/models/lite0").json()["feature_layers"]


def test_neither_neighbours_nor_load_change_a_bit(client: httpx.Client, cat: bytes, coffee: bytes) -> None:
    asked: dict[str, Any] = {"layer": "blocks.4", "target": ["281", "285"], "effects": True, "provenance": True}
    include = "predictions,attention,grad_cam"
    quiet = post(client, "/v1/explain", cat, include=include, **asked).json()["results"]
    with ThreadPoolExecutor(8) as callers:
        # Another batch of the same kind, batches of another, and a request of several images.
        beside = [callers.submit(post, client, "/v1/grad-cam", coffee, layer="blocks.4") for _ in range(12)]
        several = callers.submit(post, client, "/v1/explain", coffee, cat, coffee, include=include, **asked)
        busy = [callers.submit(post, client, "/v1/explain", cat, include=include, **asked) for _ in range(3)]
        results = [answer.result().json()["results"][0] for answer in busy] + [several.result().json()["results"][1]]
        assert all(answer.result().status_code == 200 for answer in beside)
    for result in results:
        assert {**result, "image": None} == {**quiet[0], "image": None}


def test_the_digest_is_of_the_pixels_that_the_network_was_given(client: httpx.Client) -> None:
    picture = Image.linear_gradient("L").resize((224, 224)).convert("RGB")
    buffer = io.BytesIO()
    picture.resize((256, 256), Image.Resampling.NEAREST).save(buffer, "PNG")
    small = io.BytesIO()
    picture.save(small, "PNG")
    one, other = (explained(client, "/v1/predict", data.getvalue(), provenance=True).frame for data in (buffer, small))
    assert one is not None
    assert other is not None
    assert one.pixels_sha256 != other.pixels_sha256
    whole = explained(client, "/v1/predict", small.getvalue(), provenance=True).frame
    assert whole == other


def test_a_png_carries_it_in_a_text_chunk_and_a_webp_can_not(client: httpx.Client, cat: bytes) -> None:
    response = post(client, "/v1/grad-cam", cat, accept="image/png", provenance=True)
    with Image.open(io.BytesIO(response.content)) as picture:
        said = json.loads(picture.text["pellucid-provenance"])  # type: ignore[attr-defined]
    assert said["route"] == "/v1/grad-cam"
    assert said["image_sha256"] == sha256(cat).hexdigest()
    assert said["frame"]["box"] == [94, 19, 357, 281]
    refused = post(client, "/v1/grad-cam", cat, accept="image/webp", provenance=True)
    assert "image/png" in problem(refused, 422, "invalid-option").detail


def test_other_protocols_have_no_place_for_it(client: httpx.Client, cat: bytes) -> None:
    response = client.post("/predictions/lite0?provenance=true", content=cat)
    assert response.status_code == 422
    assert "routes under /v1" in response.text
