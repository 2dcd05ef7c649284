"""A network of five channels behind a real server: arrays over HTTP, in every kind of body and protocol."""

from __future__ import annotations

import hashlib
import io
import re
from base64 import b64decode, b64encode
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from numpy.typing import NDArray
from PIL import Image

import pellucid
from pellucid.client import ApiError, Client
from pellucid.network.spec import PreprocessSpec
from tests.library.test_channels import BANDS, HOSTILE, LABELS, SIDE, USUAL, Net, by_torch, noise, npy, pages
from tests.support import encoded, problem, serving

NPY = {"Content-Type": "application/x-npy"}
VALUES = noise(5, -1, 4)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("five")
    path = folder / "five.pellucid"
    declared: dict[str, Any] = {"mean": [0.5] * 5, "std": [0.25] * 5, "low": -1, "high": [1, 2, 3, 4, 5]}
    pellucid.compile(Net(5), path, labels=LABELS, size=SIDE, output="softmax", channels=BANDS, **USUAL, **declared)
    settings = {"PELLUCID_MODEL": str(path), "PELLUCID_CACHE_DIR": str(folder), "PELLUCID_MAX_BODY_MIB": "1"}
    with serving(**settings) as server:
        yield server.url


@pytest.fixture(scope="module")
def five(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=200) as client:
        yield client


@pytest.fixture(scope="module")
def expected(five: httpx.Client) -> NDArray[Any]:
    """torch's logits of VALUES."""
    stated = five.get("/v1/models/five").json()["preprocess"]
    mean, std, low, high = (tuple(stated[name]) for name in ("mean", "std", "low", "high"))
    spec = PreprocessSpec((SIDE, SIDE), SIDE, "bilinear", mean, std, False, BANDS, low, high, "float32")
    return by_torch(5, VALUES, spec)


def logits(response: httpx.Response) -> list[NDArray[Any]]:
    assert response.status_code == 200, response.text
    found = [sorted(each["predictions"], key=lambda entry: entry["index"]) for each in response.json()["results"]]
    return [np.array([entry["logit"] for entry in entries]) for entries in found]


def test_the_catalogue_describes_channels_and_ranges(five: httpx.Client) -> None:
    model = five.get("/v1/models/five").json()
    assert model["input"] == [5, SIDE, SIDE]
    stated = model["preprocess"]
    assert stated["channels"] == [*BANDS]
    assert (stated["low"], stated["high"]) == ([-1] * 5, [1, 2, 3, 4, 5])
    assert (stated["depth"], stated["shown"]) == ("float32", ["red", "green", "blue"])


def test_an_array_is_answered_in_every_kind_of_body(five: httpx.Client, expected: NDArray[Any]) -> None:
    data = npy(VALUES)
    forms: list[dict[str, Any]] = [
        {"content": data, "headers": NPY},
        {"content": npy(VALUES.transpose(2, 0, 1)), "headers": NPY},
        {"content": data, "headers": {"Content-Type": "application/octet-stream"}},
        {"files": [("images", ("one.npy", data)), ("images", ("two.tiff", pages(*VALUES.transpose(2, 0, 1))))]},
        {"json": {"images": [{"data": b64encode(data).decode()}]}},
    ]
    for form in forms:
        response = five.post("/v1/predict", params={"top_k": 3}, **form)
        for found in logits(response):
            np.testing.assert_allclose(found, expected, atol=1e-5)
    assert response.json()["results"][0]["image"]["format"] == "NPY"
    (served,) = five.post("/v1/models/five:predict", json={"instances": [{"b64": b64encode(data).decode()}]}).json()[
        "predictions"
    ]
    assert served["predictions"]
    assert five.post("/predictions/five", content=data).status_code == 200


def test_the_client_takes_arrays(url: str, expected: NDArray[Any]) -> None:
    with Client(url, timeout_s=200) as client:
        found = sorted(client.predict(VALUES, top_k=3), key=lambda each: each.index)
        assert client.model("five").preprocess.channels == [*BANDS]
        with pytest.raises(ApiError, match="takes 5 channels"):
            client.predict(np.zeros((9, 9, 3), np.uint8))
    np.testing.assert_allclose(np.array([each.logit for each in found], float), expected, atol=1e-5)


def test_tensors_of_float_reach_the_network(url: str, five: httpx.Client, expected: NDArray[Any]) -> None:
    metadata = five.get("/v2/models/five").json()
    inputs = {each["name"]: (each["datatype"], each["shape"]) for each in metadata["inputs"]}
    assert inputs["pixels"] == ("FP32", [-1, SIDE, SIDE, 5])
    assert inputs["normalized"] == ("FP32", [-1, 5, SIDE, SIDE])
    high = np.arange(1, 6, dtype=np.float32)
    normalised = (((VALUES + 1) / (high + 1) - 0.5) / 0.25).transpose(2, 0, 1)
    with triton.InferenceServerClient(url.removeprefix("http://"), network_timeout=200) as client:
        for name, values in (("pixels", VALUES), ("normalized", normalised)):
            for binary in (True, False):
                tensor = triton.InferInput(name, [2, *values.shape], "FP32")
                tensor.set_data_from_numpy(np.stack([np.ascontiguousarray(values)] * 2), binary_data=binary)
                found = client.infer("five", [tensor]).as_numpy("logits")
                np.testing.assert_allclose(found, np.stack([expected] * 2), atol=1e-4)
        files = triton.InferInput("image", [1], "BYTES")
        files.set_data_from_numpy(np.array([npy(VALUES)], object))
        np.testing.assert_allclose(client.infer("five", [files]).as_numpy("logits")[0], expected, atol=1e-5)
        wrong = triton.InferInput("pixels", [1, *VALUES.shape], "FP32")
        for number in (np.nan, 3e38):
            wrong.set_data_from_numpy(np.full((1, *VALUES.shape), number, np.float32))
            with pytest.raises(
                triton.InferenceServerException, match="must be finite numbers, at most a million times"
            ):
                client.infer("five", [wrong])
        levels = triton.InferInput("pixels", [1, *VALUES.shape], "UINT8")
        levels.set_data_from_numpy(np.zeros((1, *VALUES.shape), np.uint8))
        with pytest.raises(triton.InferenceServerException, match="datatype of 'pixels' is FP32, not 'UINT8'"):
            client.infer("five", [levels])


def test_an_array_is_explained_on_every_route(five: httpx.Client) -> None:
    options: dict[str, Any] = {"overlay": "true", "trust": "true", "trust_steps": 2, "trust_maps": 4}
    response = five.post("/v1/explain", params=options, content=npy(VALUES), headers=NPY)
    assert response.status_code == 200, response.text
    (cam,) = response.json()["results"][0]["grad_cam"]
    assert cam["trust"]["curves"]
    overlay = Image.open(io.BytesIO(b64decode(cam["overlay"]["data"])))
    assert (overlay.size, overlay.mode) == ((SIDE, SIDE), "RGB")
    files = [("images", ("one.npy", npy(VALUES))), ("images", ("two.npy", npy(VALUES[::-1].copy())))]
    compared = five.post("/v1/compare", files=files)
    assert compared.status_code == 200, compared.text
    assert compared.json()["compare"]["kind"] == "pictures"
    edited = five.post("/v1/what-if", params={"layer": "first", "mute": "1"}, content=npy(VALUES), headers=NPY)
    assert edited.status_code == 200, edited.text
    again = five.post("/v1/grad-cam", params={"provenance": "true"}, content=npy(VALUES), headers=NPY).json()
    digest = hashlib.sha256(VALUES.astype("<f4").tobytes()).hexdigest()
    assert again["results"][0]["frame"]["pixels_sha256"] == digest
    assert again["provenance"]["preprocess"]["depth"] == "float32"


def test_strangers_arrays_are_problems_and_leave_the_service_well(five: httpx.Client, expected: NDArray[Any]) -> None:
    for data, message in HOSTILE.values():
        response = five.post("/v1/predict", content=data, headers=NPY)
        assert re.search(message, problem(response, 422, "undecodable-image").detail)
    picture = encoded(np.zeros((9, 9, 3), np.uint8))
    told = problem(five.post("/v1/predict", files={"images": picture}), 422, "undecodable-image").detail
    assert "takes 5 channels (blue, green, red, nir, swir), and the picture has 3" in told
    large = npy(np.zeros((300, 300, 5), np.float32))
    problem(five.post("/v1/predict", content=large, headers=NPY), 413, "content-too-large")
    assert five.get("/livez").status_code == 200
    (found,) = logits(five.post("/v1/predict", params={"top_k": 3}, content=npy(VALUES), headers=NPY))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_network_of_8_bit_rgb_takes_arrays_of_bytes(client: httpx.Client, cat: bytes) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(cat)).convert("RGB"))
    png, array, floats = (
        client.post("/v1/predict", content=content, headers=headers).json()["results"][0]["predictions"]
        for content, headers in (
            (encoded(pixels), {"Content-Type": "image/png"}),
            (npy(pixels), NPY),
            (npy(pixels / 255), NPY),
        )
    )
    assert png == array == floats
    for wrong, told in (
        (pixels.astype(float), "numbers of float64 from 0 to 218"),
        (pixels.astype(int), "the dtype int64"),
        (np.full_like(pixels, np.nan, np.float32), "numbers of float32 from nan to nan"),
    ):
        refused = client.post("/v1/predict", content=npy(wrong), headers=NPY)
        expected = f"The array has {told}, and the network takes 8-bit values: send uint8, or floats from 0 to 1"
        assert problem(refused, 422, "undecodable-image").detail.startswith(expected)
