"""A network of one's own behind the API: served from a file, its gates found, its Grad-CAM captum's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from captum.attr import LayerGradCam
from torch import nn

from service.app import create_app
from service.config import Settings
from tests.support import encoded

LABELS = ["cat", "dog", "rat"]
PIXELS = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
FILES = {"images": ("noise.png", encoded(PIXELS))}

T = TypeVar("T")


def checkpoint(folder: Path, architecture: str, net: nn.Module, **preprocess: Any) -> Settings:
    """Settings that serve ``net`` from a file."""
    path = folder / "pets.safetensors"
    safetensors.torch.save_file(net.state_dict(), path)
    text = f'architecture = "{architecture}"\nlabels = {LABELS}\n[preprocess]\n'
    path.with_suffix(".toml").write_text(text + "".join(f"{key} = {value}\n" for key, value in preprocess.items()))
    return Settings(model=f"file:{path}", max_batch=1, threads=1, precision="fp32")


def ask(settings: Settings, ask_it: Callable[[httpx.AsyncClient], Awaitable[T]]) -> T:
    """What a client of the service gets from it."""

    async def served() -> T:
        app = create_app(settings)
        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://pellucid", timeout=200) as client,
        ):
            return await ask_it(client)

    return asyncio.run(served())


def test_a_checkpoint_of_mobilenet_is_served_with_its_gates_and_captums_grad_cam(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = torchvision.models.mobilenet_v3_small(num_classes=3).eval()
    settings = checkpoint(tmp_path, "torchvision:mobilenet_v3_small", net, size=224, resize=224)

    async def ask_it(client: httpx.AsyncClient) -> tuple[Any, Any]:
        model = await client.get("/v1/models/pets")
        answer = await client.post("/v1/explain", params={"target": "rat", "include": PARTS}, files=FILES)
        assert answer.status_code == 200, answer.text
        return model.json(), answer.json()["results"][0]

    model, result = ask(settings, ask_it)
    assert model["labels"] == LABELS
    assert model["default_layer"]["name"] == "features"
    assert [gate["type"] for gate in result["attention"]["gates"]] == ["SqueezeExcitation"] * 9

    pixels = (torch.from_numpy(PIXELS).permute(2, 0, 1)[None] / 255 - MEAN) / STD
    kinks: list[torch.Tensor] = []
    (hardswish,) = (module for module in net.classifier if isinstance(module, nn.Hardswish))
    hardswish.register_forward_pre_hook(lambda _, inputs: kinks.append((inputs[0].abs() - 3).abs()))
    with torch.no_grad():
        logits = net(pixels)[0]
    # Its gradient jumps at -3 and 3. All values stay so far from there that no runtime's rounding reaches them.
    assert kinks[0].min() > 0.01
    found = sorted(result["predictions"], key=lambda entry: entry["index"])
    np.testing.assert_allclose([entry["logit"] for entry in found], logits, atol=1e-4)
    (cam,) = result["grad_cam"]
    expected = LayerGradCam(net, net.features).attribute(pixels, target=2)[0, 0].detach().numpy()
    np.testing.assert_allclose(cam["raw"]["values"], expected, atol=1e-3 * np.abs(expected).max())


PARTS = "predictions,attention,grad_cam"
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def test_a_vision_transformer_has_heat_maps_of_its_token_grid(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", num_classes=3)
    nn.init.normal_(net.get_parameter("head.weight"))
    settings = checkpoint(tmp_path, "timm:vit_tiny_patch16_224", net)

    async def ask_it(client: httpx.AsyncClient) -> Any:
        answer = await client.post("/v1/grad-cam", params={"target": ["cat", "rat"]}, files=FILES)
        assert answer.status_code == 200, answer.text
        return answer.json()["results"][0]["grad_cam"]

    cat, rat = ask(settings, ask_it)
    assert cat["layer"] == "blocks.10"
    assert cat["raw"]["shape"] == [14, 14]
    assert not np.allclose(cat["raw"]["values"], rat["raw"]["values"])
    assert np.ptp(cat["raw"]["values"]) > 0


def test_what_a_network_cant_do_is_said_and_answered_with_422(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = torchvision.models.MobileNetV3.forward
    monkeypatch.setattr(
        torchvision.models.MobileNetV3, "forward", lambda net, x: forward(net, x) if x.sum() > -1e9 else x
    )
    net = torchvision.models.mobilenet_v3_small(num_classes=3)
    settings = checkpoint(tmp_path, "torchvision:mobilenet_v3_small", net)

    async def ask_it(client: httpx.AsyncClient) -> tuple[httpx.Response, ...]:
        return (
            await client.get("/v1/models/pets"),
            await client.post("/v1/predict", files=FILES),
            await client.post("/v1/grad-cam", files=FILES),
            await client.post("/v1/grad-cam", params={"layer": "features"}, files=FILES),
            await client.post("/v1/feature-maps", files=FILES),
            await client.post("/v1/attention", files=FILES),
        )

    model, prediction, *others = ask(settings, ask_it)
    why = model.json()["default_layer"]["why"]
    assert why.startswith("only predictions are served: MobileNetV3 can't be traced")
    assert prediction.status_code == 200
    for refused in others:
        assert refused.status_code == 422, refused.text
        assert refused.json()["detail"] == why
        assert refused.json()["type"] == "urn:pellucid:problem:unexplainable"
