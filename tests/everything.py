"""Every route of a server asked once, of any network: no reply is an error, and all are what their schemas say."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import httpx

from pellucid.client.heat_maps import NPZ, read_npz
from pellucid.schemas import CompareReply, ModelDetail, ModelList, Result
from tests.support import PARTS, envelope, explained, parsed, post


def ask_everything(client: httpx.Client, image: bytes, other: bytes) -> tuple[ModelDetail, Result]:
    """What the catalogue says of the default network, and an explanation, after every path of the API document has
    answered.
    """
    asked: set[tuple[str, str]] = set()

    def note(response: httpx.Response) -> httpx.Response:
        assert response.is_success, (response.request.url, response.text)
        asked.add((response.request.method.lower(), response.request.url.path))
        return response

    (name,) = (each.name for each in parsed(note(client.get("/v1/models")), ModelList).models if each.default)
    detail = parsed(note(client.get(f"/v1/models/{name}")), ModelDetail)
    for path in ("/livez", "/readyz", "/metrics", "/v2", "/v2/health/live", "/v2/health/ready"):
        note(client.get(path))
    for path in (f"/v2/models/{name}", f"/v2/models/{name}/ready"):
        note(client.get(path))
    for route, parts in PARTS.items():
        options: dict[str, Any] = {"mute": 0, "rank": True} if route == "/v1/what-if" else {}
        reply = envelope(note(post(client, route, image, provenance=True, **options)))
        (found,) = reply.results
        assert isinstance(found, Result)
        assert parts <= found.model_fields_set
        assert reply.provenance is not None
    layers = [detail.default_layer.name, detail.feature_layers[0]]
    found = explained(client, "/v1/explain", image, overlay=True, trust=True, trust_steps=2, trust_maps=4, effects=True)
    assert all(cam.trust is not None for cam in found.grad_cam or [])
    _ask_for_maps(client, image, detail, layers)
    for gate in detail.gates[-1:]:
        assert explained(client, "/v1/attention", image, restore=gate.layer).attention is not None
        assert explained(client, "/v1/what-if", image, gate=gate.layer, mute=0).what_if is not None
        assert explained(client, "/v1/feature-maps", image, gates=gate.layer).feature_maps
    classes = [each.index for each in (found.predictions or [])[:2]]
    parsed(note(post(client, "/v1/compare", image, target=classes)), CompareReply)
    parsed(note(post(client, "/v1/compare", image, other)), CompareReply)
    _ask_in_other_words(client, note, name, image)
    paths = client.get("/openapi.json").json()["paths"]
    # Without an atlas there is nothing at the addresses of channels.
    served = {path: item for path, item in paths.items() if "{layer}" not in path}
    assert asked == {(method, path.replace("{name}", name)) for path, item in served.items() for method in item}
    return detail, found


def _ask_for_maps(client: httpx.Client, image: bytes, detail: ModelDetail, layers: list[str]) -> None:
    """By each method at each place where it is offered, of several targets and layers, and as a file of numbers."""
    for method in (each for each in detail.method_details if each.at):
        narrow = min(detail.layers, key=lambda layer: layer.shape[0]).name
        few = min(detail.layers, key=lambda layer: layer.shape[1] * layer.shape[2]).name
        cheapest = {"forwards": narrow, "network forwards": narrow, "position forwards": few}  # a pass for each
        layer = cheapest.get(method.needs, layers[0])
        places = [layer if place == "layers" else place for place in method.at]
        cams = explained(client, "/v1/grad-cam", image, method=method.name, layer=places, samples=2).grad_cam or []
        assert [(cam.layer, cam.method) for cam in cams] == [(place, method.name) for place in places]
    fused = explained(client, "/v1/grad-cam", image, layer=layers, fuse="mean", target=[0, 1]).grad_cam or []
    assert [cam.target.index for cam in fused] == [0, 1]
    against = explained(client, "/v1/grad-cam", image, layer=layers, against=0).grad_cam or []
    assert [cam.layer for cam in against] == layers
    response = post(client, "/v1/grad-cam", image, accept=NPZ, layer=layers[0])
    assert response.status_code == 200, response.text
    assert read_npz(response.content).heat.size
    for route in ("/v1/attention", "/v1/grad-cam", "/v1/explain"):
        assert post(client, route, image, accept="image/png").headers["content-type"] == "image/png"


def _ask_in_other_words(client: httpx.Client, note: Any, name: str, image: bytes) -> None:
    """By the protocols of KServe and TorchServe."""
    text = b64encode(image).decode()
    for verb, key in (("predict", "predictions"), ("explain", "explanations")):
        response = note(client.post(f"/v1/models/{name}:{verb}", json={"instances": [{"b64": text}]}))
        assert len(response.json()[key]) == 1
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [text]}
    outputs = note(client.post(f"/v2/models/{name}/infer", json={"inputs": [tensor]})).json()["outputs"]
    assert "probabilities" in {output["name"] for output in outputs}
    for path in (f"/predictions/{name}", f"/explanations/{name}"):
        assert note(client.post(path, content=image)).json()
