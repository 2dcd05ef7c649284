"""Who speaks KServe's first protocol or TorchServe's API gets the answers of /v1; what holds for every protocol."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from typing import Any

import httpx
import numpy as np
import pytest

from models.lite0 import PREPROCESS
from pellucid.network.spec import ModelSpec
from service.protocols.torchserve import scores
from tests.flow.stub import BLACK, POISON, Stub, running
from tests.support import explained

MODEL = "lite0"
ASKED = (
    ("POST", "/v1/models/stub:predict"),
    ("POST", "/v1/models/stub:explain"),
    ("POST", "/v2/models/stub/infer"),
    ("POST", "/predictions/stub"),
    ("PUT", "/explanations/stub"),
)


@pytest.mark.parametrize("shape", ["alone", "b64", "data", "image", "image_bytes"])
def test_kserve_v1_predicts_what_predict_does(client: httpx.Client, cat: bytes, coffee: bytes, shape: str) -> None:
    def instance(data: bytes) -> Any:
        text = b64encode(data).decode()
        return {"alone": text, "b64": {"b64": text}, "data": {"data": text}}.get(shape, {shape: {"b64": text}})

    response = client.post(
        f"/v1/models/{MODEL}:predict",
        json={"instances": [instance(cat), instance(coffee)], "parameters": {"top_k": 2}},
    )
    assert response.status_code == 200, response.text
    alike = [explained(client, "/v1/predict", image, top_k=2) for image in (cat, coffee)]
    expected = [[each.index for each in result.predictions or []] for result in alike]
    found = [[each["index"] for each in entry["predictions"]] for entry in response.json()["predictions"]]
    assert found == expected


def test_kserve_v1_explains_what_explain_does(client: httpx.Client, cat: bytes) -> None:
    body = {"instances": [{"b64": b64encode(cat).decode()}], "parameters": {"include": "grad_cam", "target": "tabby"}}
    (entry,) = client.post(f"/v1/models/{MODEL}:explain", json=body).json()["explanations"]
    cam = (explained(client, "/v1/explain", cat, include="grad_cam", target="tabby").grad_cam or [])[0]
    np.testing.assert_allclose(entry["grad_cam"][0]["raw"]["values"], cam.raw.values, atol=1e-3)


@pytest.mark.parametrize("path", [f"/v1/models/{MODEL}:explain", f"/explanations/{MODEL}"])
def test_several_layers_and_methods_have_a_map_each(client: httpx.Client, cat: bytes, path: str) -> None:
    asked = {"include": "grad_cam", "layer": "blocks.10,head", "method": "grad-cam,hirescam"}
    if path.startswith("/v1"):
        body = {"instances": [{"b64": b64encode(cat).decode()}]}
        (entry,) = client.post(path, json=body, params=asked).json()["explanations"]
    else:
        entry = client.post(path, content=cat, params=asked).json()
    assert [(cam["layer"], cam["method"]) for cam in entry["grad_cam"]] == [
        ("blocks.10", "grad-cam"),
        ("head", "grad-cam"),
        ("blocks.10", "hirescam"),
        ("head", "hirescam"),
    ]


@pytest.mark.parametrize("verb", ["predict", "explain"])
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "instances"),
        ({"instances": {}}, "instances"),
        ({"instances": []}, "no image"),
        ({"instances": [1]}, "instances[0]"),
        ({"instances": [{"b64": "?"}]}, "not base64"),
        ({"instances": ["AA=="] * 33}, "At most 32 images"),
        ({"instances": ["AA=="], "parameters": 3}, "parameters"),
        ({"instances": ["AA=="], "parameters": {"topk": 3}}, "'top_k'"),
        ({"instances": ["AA=="], "signature_name": "serving_default"}, "parameters"),
    ],
)
def test_a_wrong_request_of_v1_is_answered_as_that_protocol_has_errors(
    client: httpx.Client, verb: str, body: Any, said: str
) -> None:
    response = client.post(f"/v1/models/{MODEL}:{verb}", json=body)
    assert 400 <= response.status_code < 500
    assert said in response.json()["error"]


def test_one_bad_instance_is_named_and_fails_the_request(client: httpx.Client, cat: bytes) -> None:
    images = [b64encode(data).decode() for data in (cat, b"no picture", cat)]
    response = client.post(f"/v1/models/{MODEL}:predict", json={"instances": images})
    assert response.status_code == 415
    assert response.json()["error"].startswith("Image 1: The bytes are not an image")


@pytest.mark.parametrize("sent", ["post", "put", "form"])
def test_torchserve_predicts_labels_with_probabilities(
    client: httpx.Client, cat: bytes, predicted: list[Any], sent: str
) -> None:
    body: dict[str, Any] = {"files": {"data": ("cat.jpg", cat)}} if sent == "form" else {"content": cat}
    response = client.request("PUT" if sent == "put" else "POST", f"/predictions/{MODEL}", **body)
    assert response.status_code == 200, response.text
    assert [*response.json()] == [each.label for each in predicted]
    assert [*response.json().values()] == pytest.approx([each.probability for each in predicted], rel=1e-3)


def test_labels_that_classes_share_are_told_apart() -> None:
    spec = ModelSpec("birds", "", ("crane", "cat", "crane"), PREPROCESS, "")
    entry = {"predictions": [{"index": index, "label": spec.labels[index], "probability": 0.1} for index in range(3)]}
    assert [*scores(entry, spec)] == ["crane (0)", "cat", "crane (2)"]


def test_torchserve_explains_what_explain_does(client: httpx.Client, cat: bytes) -> None:
    query = {"include": "predictions,grad_cam", "target": "tabby"}
    entry = client.post(f"/explanations/{MODEL}", content=cat, params=query).json()
    assert set(entry) == {"image", "predictions", "grad_cam"}
    assert entry["grad_cam"][0]["target"]["label"] == "tabby"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"files": [("data", ("a", b"x")), ("data", ("b", b"x"))]}),
        (400, {"files": {"image": ("a", b"x")}}),
        (400, {"content": b""}),
        (415, {"content": b"no picture"}),
        (415, {"content": b"x", "headers": {"Content-Encoding": "gzip"}}),
        (422, {"content": b"x", "params": {"topk": 3}}),
    ],
)
def test_a_wrong_request_of_torchserve_is_answered_as_that_has_errors(
    client: httpx.Client, status: int, body: dict[str, Any]
) -> None:
    response = client.post(f"/predictions/{MODEL}", **body)
    assert response.status_code == response.json()["code"] == status, response.text
    assert response.json()["message"]
    assert response.json()["type"]


@pytest.mark.parametrize(("method", "path"), ASKED)
def test_an_unknown_model_is_not_found_and_the_served_ones_are_told(
    client: httpx.Client, method: str, path: str
) -> None:
    response = client.request(method, path, content=b"{}")
    assert response.status_code == 404
    assert response.json()["allowed"] == ["lite0", "lite0-plain"]
    assert "type" not in response.json() or response.json()["type"] == "unknown-model"


@pytest.mark.parametrize("path", [f"/predictions/{MODEL}", f"/explanations/{MODEL}"])
def test_a_route_names_all_its_methods(client: httpx.Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == response.json()["code"] == 405
    assert {*response.headers["allow"].split(", ")} == {"POST", "PUT"}


def _body(path: str, *images: bytes) -> dict[str, Any]:
    texts = [b64encode(image).decode() for image in images]
    if path.startswith("/v1/"):
        return {"json": {"instances": texts}}
    if path.startswith("/v2/"):
        image = {"name": "image", "shape": [len(texts)], "datatype": "BYTES", "data": texts}
        return {"json": {"inputs": [image], "outputs": [{"name": "classes"}]}}
    return {"content": images[0]}


@pytest.mark.parametrize(("method", "path"), ASKED)
def test_key_rate_body_options_drain_and_queue_hold_for_every_protocol(method: str, path: str) -> None:
    key = {"X-API-Key": "a-key-that-is-long-enough"}

    async def scene() -> list[httpx.Response]:
        found = []
        async with running(api_keys=key["X-API-Key"], rate_limit="4/minute", max_body_mib=1) as stub:
            stub.engine.gate.set()
            found.append(await _ask(stub, method, path))
            found.append(await _ask(stub, method, path, bytes(2**21), headers=key))
            found.append(await _ask(stub, method, path, headers=key, timeout_ms=0))
            stub.service.ready = False
            found.append(await _ask(stub, method, path, headers=key))
            stub.service.ready = True
            found += [await _ask(stub, method, path, headers=key) for _ in range(2)]
        async with running(max_in_flight=1) as stub:
            first = stub.predict()
            await stub.until(in_flight=1)
            found.append(await _ask(stub, method, path))
            stub.engine.gate.set()
            assert (await first).status_code == 200
        return found

    *refused, full = asyncio.run(scene())
    answered = refused.pop(4)
    assert answered.status_code == 200, answered.text
    assert [response.status_code for response in (*refused, full)] == [401, 413, 422, 503, 429, 429]
    form = {"error"} if ":" in path or "v2" in path else {"code", "type", "message"}
    for response in (*refused, full):
        assert set(response.json()) == form
    assert refused[0].headers["www-authenticate"]
    assert full.headers["retry-after"]


async def _ask(
    stub: Stub, method: str, path: str, image: bytes = BLACK, headers: dict[str, str] | None = None, **query: Any
) -> httpx.Response:
    if "expla" in path:
        query["include"] = "predictions"  # the stub knows no more
    return await stub.client.request(method, path, params=query, headers=headers, **_body(path, image))


def test_a_request_is_counted_by_its_routes_template_and_its_images() -> None:
    async def page() -> str:
        async with running() as stub:
            stub.engine.gate.set()
            for method, path in ASKED:
                assert (await _ask(stub, method, path)).status_code == 200
            return (await stub.client.get("/metrics")).text

    counted = asyncio.run(page())
    for _, path in ASKED:
        assert f'pellucid_requests_total{{route="{path.replace("stub", "{name}")}",status="200"}} 1.0' in counted
    assert f'pellucid_stage_seconds_count{{model="stub",stage="infer"}} {len(ASKED)}.0' in counted
    assert "/stub" not in counted


def test_one_images_failure_in_the_network_fails_the_request_and_names_it() -> None:
    async def scene() -> httpx.Response:
        async with running() as stub:
            stub.engine.gate.set()
            images = _body("/v2/", BLACK, POISON, BLACK)
            return await stub.client.post("/v2/models/stub/infer", **images)

    response = asyncio.run(scene())
    assert response.status_code == 500
    assert response.json()["error"].startswith("Image 1: ")
