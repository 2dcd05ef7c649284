"""Who speaks the Open Inference Protocol, as Triton's client does, gets the answers of /v1 in its words."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from numpy.typing import NDArray

from models.lite0 import PREPROCESS
from pellucid.types import Pixels
from tests.support import encoded, explained

MODEL = "lite0"


@pytest.fixture(scope="module")
def client_of_triton(server: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.removeprefix("http://"), network_timeout=200) as client:
        yield client


def as_files(*images: bytes) -> triton.InferInput:
    tensor = triton.InferInput("image", [len(images)], "BYTES")
    tensor.set_data_from_numpy(np.array(images, dtype=object))
    return tensor


def as_tensor(name: str, values: NDArray[Any], *, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput(name, list(values.shape), {"u": "UINT8", "f": "FP32"}[values.dtype.kind])
    tensor.set_data_from_numpy(values, binary_data=binary)
    return tensor


def normalised(pixels: Pixels) -> NDArray[np.float32]:
    """As torchvision's transforms leave an 8-bit picture."""
    mean, std = np.array(PREPROCESS.mean, np.float32), np.array(PREPROCESS.std, np.float32)
    values = (pixels.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2), np.float32)


@pytest.fixture(scope="module")
def noise() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (2, *PREPROCESS.size, 3), np.uint8)


def test_tritons_client_finds_the_service_well(client_of_triton: triton.InferenceServerClient) -> None:
    assert client_of_triton.is_server_live()
    assert client_of_triton.is_server_ready()
    assert client_of_triton.is_model_ready(MODEL)
    assert not client_of_triton.is_model_ready("lite1")
    assert client_of_triton.get_server_metadata()["name"] == "pellucid"


def test_tritons_client_gets_the_classes_of_predict(
    client_of_triton: triton.InferenceServerClient, cat: bytes, predicted: list[Any]
) -> None:
    result = client_of_triton.infer(MODEL, [as_files(cat)], request_id="mine")
    assert result.get_response()["id"] == "mine"
    assert result.as_numpy("classes").tolist() == [[each.index for each in predicted]]
    assert [label.decode() for label in result.as_numpy("labels")[0]] == [each.label for each in predicted]
    probabilities, logits = result.as_numpy("probabilities"), result.as_numpy("logits")
    assert probabilities.shape == logits.shape == (1, 1000)
    assert probabilities.sum() == pytest.approx(1, abs=1e-4)
    for each in predicted:
        assert probabilities[0, each.index] == pytest.approx(each.probability, rel=1e-3)
        assert logits[0, each.index] == pytest.approx(each.logit, rel=1e-3)


def test_several_images_are_the_rows_of_one_tensor(
    client_of_triton: triton.InferenceServerClient, cat: bytes, coffee: bytes
) -> None:
    rows = client_of_triton.infer(MODEL, [as_files(cat, coffee)], parameters={"top_k": 1}).as_numpy("labels")
    assert rows.tolist() == [[b"Egyptian cat"], [b"espresso"]]


def test_tritons_classification_gives_classes_as_text(
    client_of_triton: triton.InferenceServerClient, cat: bytes, predicted: list[Any]
) -> None:
    outputs = [triton.InferRequestedOutput("logits", class_count=2)]
    (row,) = client_of_triton.infer(MODEL, [as_files(cat)], outputs=outputs).as_numpy("logits")
    found = [text.decode().split(":") for text in row]
    assert [(int(index), label) for _, index, label in found] == [(each.index, each.label) for each in predicted[:2]]
    assert [float(value) for value, _, _ in found] == pytest.approx([each.logit for each in predicted[:2]], rel=1e-3)


@pytest.mark.parametrize("binary", [True, False])
def test_heat_map_activation_and_gates_come_on_request(
    client: httpx.Client, client_of_triton: triton.InferenceServerClient, cat: bytes, binary: bool
) -> None:
    names = ("heat_map", "heat_map_classes", "activation", "gate:blocks.15.gate")
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in names]
    result = client_of_triton.infer(MODEL, [as_files(cat)], outputs=outputs, parameters={"target": "tabby"})
    assert [output["name"] for output in result.get_response()["outputs"]] == [*names]

    cam = (explained(client, "/v1/grad-cam", cat, target="tabby").grad_cam or [])[0]
    np.testing.assert_allclose(result.as_numpy("heat_map")[0, 0], cam.raw.values, atol=1e-3)
    assert result.as_numpy("heat_map_classes").tolist() == [[cam.target.index]]

    (maps,) = explained(client, "/v1/feature-maps", cat, layers="head", channels="7,3").feature_maps or []
    activation = result.as_numpy("activation")
    assert activation.shape == (1, *maps.shape)
    np.testing.assert_allclose(activation[0, [7, 3]].mean((1, 2)), maps.stats.mean, atol=1e-3)

    attention = explained(client, "/v1/attention", cat).attention
    assert attention is not None
    np.testing.assert_allclose(result.as_numpy(names[-1])[0], attention.gates[-1].weights, atol=1e-3)


def test_metadata_name_every_output_with_the_shape_that_it_has(
    client_of_triton: triton.InferenceServerClient, cat: bytes
) -> None:
    stated = {each["name"]: each for each in client_of_triton.get_model_metadata(MODEL)["outputs"]}
    outputs = [triton.InferRequestedOutput(name) for name in stated]
    sent = client_of_triton.infer(MODEL, [as_files(cat)], outputs=outputs).get_response()["outputs"]
    assert [each["name"] for each in sent] == [*stated]
    for each in sent:
        shape = stated[each["name"]]["shape"]
        assert each["datatype"] == stated[each["name"]]["datatype"]
        assert len(shape) == len(each["shape"])
        assert all(size in (-1, is_) for size, is_ in zip(shape, each["shape"], strict=True))


def test_pixels_are_seen_as_the_same_picture_in_a_file_is(
    client_of_triton: triton.InferenceServerClient, noise: Pixels
) -> None:
    # A file of the network's size is still resized and cropped; one as large as the resize asks is only cropped.
    whole = np.random.default_rng(1).integers(0, 256, (PREPROCESS.resize, PREPROCESS.resize, 3), np.uint8)
    edge = (PREPROCESS.resize - PREPROCESS.size[0]) // 2
    seen = np.ascontiguousarray(whole[edge : edge + PREPROCESS.size[0], edge : edge + PREPROCESS.size[1]])[None]
    as_file = client_of_triton.infer(MODEL, [as_files(encoded(whole))]).as_numpy("logits")
    for tensor in (
        as_tensor("pixels", seen),
        as_tensor("pixels", seen, binary=False),
        as_tensor("normalized", normalised(seen)),
        as_tensor("normalized", normalised(seen), binary=False),
    ):
        logits = client_of_triton.infer(MODEL, [tensor]).as_numpy("logits")
        np.testing.assert_allclose(logits, as_file, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("pixels", np.zeros((1, 8, 8, 3), np.uint8), "[N, 224, 224, 3], not [1, 8, 8, 3]"),
        ("pixels", np.zeros((224, 224, 3), np.uint8), "[N, 224, 224, 3]"),
        ("normalized", np.zeros((1, 224, 224, 3), np.float32), "[N, 3, 224, 224]"),
        ("normalized", np.linspace(0, 1, 150528, dtype=np.float32).reshape(1, 3, 224, 224), "mean [0.498039"),
        ("normalized", np.full((1, 3, 224, 224), 200, np.float32), "mean [0.498039"),
        ("normalized", np.full((1, 3, 224, 224), np.nan, np.float32), "mean [0.498039"),
        ("pixels", np.zeros((1, 3, 224, 224), np.float32), "is UINT8"),
        ("picture", np.zeros((1, 224, 224, 3), np.uint8), "Unknown input 'picture'"),
        ("pixels", np.zeros((33, 224, 224, 3), np.uint8), "At most 32 images"),
        ("pixels", np.zeros((0, 224, 224, 3), np.uint8), "no image"),
    ],
)
def test_tensors_that_are_no_picture_are_refused_in_words(
    client_of_triton: triton.InferenceServerClient, name: str, values: NDArray[Any], said: str
) -> None:
    with pytest.raises(triton.InferenceServerException) as refused:
        client_of_triton.infer(MODEL, [as_tensor(name, values)])
    assert said in refused.value.message()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"inputs": []}, "inputs"),
        ({"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES"}]}, "binary_data_size"),
        ({"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["?"]}]}, "base64"),
        ({"inputs": [{"name": "image", "shape": [2], "datatype": "BYTES", "data": ["AA=="]}]}, "the shape [1]"),
        ({"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [[["AA=="]]]}]}, "base64"),
        ({"inputs": [{"name": "pixels", "shape": [1, 2], "datatype": "UINT8", "data": [1, 2, 3]}]}, "3 values"),
        ({"inputs": [{"name": "pixels", "shape": [1, 2], "datatype": "UINT8", "data": [[1], [2, 3]]}]}, "regular"),
        ({"inputs": [{"name": "pixels", "shape": [1], "datatype": "UINT8", "data": ["a"]}]}, "not numbers"),
        ({"outputs": [{"name": "clases"}]}, "Did you mean 'classes'"),
        ({"outputs": [{"name": "labels", "parameters": {"classification": 3}}]}, "classification"),
        ({"parameters": {"topk": 3}}, "Did you mean 'top_k'?"),
        ({"parameters": {"model": "lite0-plain"}}, "The path names 'lite0'"),
        ({"parameters": {"timeout": 0}}, "microseconds"),
        ({"parameters": {"layer": "blocks.10,head"}, "outputs": [{"name": "heat_map"}]}, "layer: Should be one name"),
        ({"parameters": {"layer": "blocks.10,head"}, "outputs": [{"name": "activation"}]}, "layer: Should be one name"),
        ({"parameters": {"method": "grad-cam,hirescam"}, "outputs": [{"name": "heat_map"}]}, "method: Should be one"),
        ({"parameters": {"method": " "}}, "method: Should be one name"),
        ({"parameters": {"layer": "stem"}, "outputs": [{"name": "activation"}], "times": 12}, "at most 4000000"),
    ],
)
def test_a_wrong_request_of_v2_is_answered_as_that_protocol_has_errors(
    client: httpx.Client, cat: bytes, change: dict[str, Any], said: str
) -> None:
    times = change.pop("times", 1)
    image = {"name": "image", "shape": [times], "datatype": "BYTES", "data": [b64encode(cat).decode()] * times}
    response = client.post(f"/v2/models/{MODEL}/infer", json={"inputs": [image], **change})
    assert response.status_code in (400, 422), response.text
    assert said in response.json()["error"]
    assert set(response.json()) <= {"error", "allowed"}


@pytest.mark.parametrize("query", ["layer=blocks.10,head", "method=grad-cam,layercam", "method=", "layer=,"])
def test_the_query_of_v2_takes_one_layer_and_one_method(client: httpx.Client, cat: bytes, query: str) -> None:
    image = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [b64encode(cat).decode()]}
    body = {"inputs": [image], "outputs": [{"name": "heat_map"}]}
    response = client.post(f"/v2/models/{MODEL}/infer?{query}", json=body)
    assert response.status_code == 422, response.text
    assert f"{query.partition('=')[0]}: Should be one name" in response.json()["error"]


@pytest.mark.parametrize("length", ["x", "-1", "9999999", "²"])
def test_a_length_of_the_json_that_can_not_be_is_refused(client: httpx.Client, length: str) -> None:
    headers = {b"Inference-Header-Content-Length": length.encode("latin-1")}
    response = client.post(f"/v2/models/{MODEL}/infer", content=b"{}", headers=headers)
    assert response.status_code == 400
    assert "Inference-Header-Content-Length" in response.json()["error"]


@pytest.mark.parametrize("behind", [b"", b"\x01", b"\xff\xff\xff\xff", b"\x05\0\0\0abcd"])
def test_binary_elements_that_end_too_early_are_refused(client: httpx.Client, behind: bytes) -> None:
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(behind)}}
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    response = client.post(f"/v2/models/{MODEL}/infer", content=head + behind, headers=headers)
    assert response.status_code == 400, response.text
    assert "image: " in response.json()["error"]
