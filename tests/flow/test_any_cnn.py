"""A network of one's own behind the API: served from a file, its gates found, its Grad-CAM captum's."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest
import timm
import torch
import torchvision
from captum.attr import LayerGradCam
from torch import nn

import pellucid
from service.app import create_app
from service.config import Settings
from tests.support import encoded

LABELS = ["cat", "dog", "rat"]
PIXELS = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
FILES = {"images": ("noise.png", encoded(PIXELS))}

T = TypeVar("T")


def compiled(folder: Path, net: nn.Module, max_batch: int = 1, **preprocess: Any) -> Settings:
    """Settings that serve ``net`` from a file."""
    path = folder / "pets.pellucid"
    pellucid.compile(net, path, labels=LABELS, output="softmax", progress=False, **preprocess)
    return Settings(model=str(path), max_batch=max_batch, threads=1, precision="fp32", cache_dir=str(folder))


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


def test_a_mobilenet_is_served_with_its_gates_and_captums_grad_cam(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = torchvision.models.mobilenet_v3_small(num_classes=3).eval()
    settings = compiled(tmp_path, net, size=224, resize=224)

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


TRANSFORMERS = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "cait_xxs24_224")  # with a class token


class Grid(nn.Module):
    """Returns tokens ``[B, N, C]`` unchanged. Its ``map`` sees the last of them, a grid, as ``[B, C, h, w]``."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape, self.map = shape[1:], nn.Identity()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        others = tokens.shape[1] - math.prod(self.shape)
        places = self.map(tokens[:, others:].mT.reshape(len(tokens), -1, *self.shape))  # B C h w
        return torch.cat((tokens[:, :others], places.flatten(2).mT), 1)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_vision_transformer_starts_and_answers_on_every_route(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    side = 64
    net = timm.create_model(name, num_classes=3, img_size=side, depth=3).eval()
    for parameter in net.parameters():  # what is initialised with zeros would make all classes and maps alike
        if not parameter.any() and parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.1)
    pixel: dict[str, Any] = {"size": side, "resize": side, "mean": [0.5] * 3, "std": [0.25] * 3}
    settings = compiled(tmp_path, net, max_batch=4, **pixel)  # the warm-up runs batches of 1 to 4
    images = np.random.default_rng(1).integers(0, 256, (4, side, side, 3), np.uint8)
    files = [("images", (f"{number}.png", encoded(image))) for number, image in enumerate(images)]

    async def ask_it(client: httpx.AsyncClient) -> tuple[Any, list[Any]]:
        async def answer(route: str, some: list[Any], **options: Any) -> Any:
            response = await client.post(route, params=options, files=some)
            assert response.status_code == 200, response.text
            return response.json()["results"]

        model = (await client.get("/v1/models/pets")).json()
        everything = {"target": LABELS, "include": PARTS}
        (attention,) = await answer("/v1/attention", files[:1])
        assert attention["attention"]["gates"] == []
        assert "spatial_gates" not in attention["attention"]
        # In CaiT, the last attention is of the class token alone.
        methods = ["attention-rollout", "legrad"] if name != "cait_xxs24_224" else []
        assert [each for each in model["methods"] if each in ("attention-rollout", "legrad")] == methods
        for method in methods:
            (told,) = await answer("/v1/grad-cam", files[:1], method=method, max_side=64)
            (cam,) = told["grad_cam"]
            assert (cam["layer"], cam["raw"]["shape"], cam["raw"]["min"] >= 0) == ("pixels", [4, 4], True)
            assert (cam["mask"]["width"], cam["mask"]["height"]) == (64, 64)
            mixed = {"method": [method, "integrated-gradients"], "samples": 1}
            as_arrays: Any = {"params": mixed, "files": files[:1], "headers": {"accept": "application/x-npz"}}
            assert "have another size" in (await client.post("/v1/grad-cam", **as_arrays)).json()["detail"]
            refused = await client.post("/v1/grad-cam", params={"method": method, "layer": "blocks.0"}, files=files[:1])
            assert "makes one map from all layers" in refused.json()["detail"]
        (edited,) = await answer("/v1/what-if", files[:1], mute=[0, 1])
        assert edited["what_if"]["targets"][0]["change"] != 0
        (maps,) = await answer("/v1/feature-maps", files[:1])
        assert len(maps["feature_maps"]) == len(model["feature_layers"])
        assert (await answer("/v1/predict", files[:1]))[0]["predictions"]
        compared = await client.post("/v1/compare", params={"target": LABELS[:2]}, files=files[:1])
        assert compared.status_code == 200, compared.text
        batches = [await answer("/v1/explain", files[:count], **everything) for count in (1, 2, 3, 4)]
        (layer,) = (each for each in model["layers"] if each["name"] == model["default_layer"]["name"])
        return layer, batches

    layer, batches = ask(settings, ask_it)
    pixels = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    with torch.no_grad():
        logits = net(pixels)
    grid = Grid(layer["shape"])
    net.get_submodule(layer["name"]).register_forward_hook(lambda _, __, tokens: grid(tokens))
    for index in range(len(LABELS)):
        maps = LayerGradCam(net, grid.map).attribute(pixels, target=index)[:, 0].detach()
        for results in batches:
            for image, result in enumerate(results):
                cam = result["grad_cam"][index]
                expected = maps[image].numpy()
                np.testing.assert_allclose(cam["raw"]["values"], expected, atol=1e-3 * np.abs(expected).max())
                (found,) = (each["logit"] for each in result["predictions"] if each["index"] == index)
                assert found == pytest.approx(float(logits[image, index]), abs=1e-3 * float(logits.abs().max()))


def test_cbams_spatial_gates_are_maps_over_the_picture(tmp_path: Path) -> None:
    torch.manual_seed(0)
    narrow: dict[str, Any] = {"channels": [8, 16, 16, 16], "stem_width": 8, "block_args": {"attn_layer": "cbam"}}
    net = timm.create_model("resnet10t", num_classes=3, **narrow).eval()
    for module in net.modules():  # timm initialises the last norm of each block with zeros, which a gate would scale
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1)
    settings = compiled(tmp_path, net, size=64, resize=64)

    async def ask_it(client: httpx.AsyncClient) -> tuple[Any, Any]:
        answer = await client.post("/v1/attention", files=FILES)
        assert answer.status_code == 200, answer.text
        return (await client.get("/v1/models/pets")).json(), answer.json()["results"][0]["attention"]

    model, attention = ask(settings, ask_it)
    assert len(attention["gates"]) == len(model["gates"]) == 4
    for gate, listed in zip(attention["spatial_gates"], model["spatial_gates"], strict=True):
        assert (gate["layer"], gate["type"]) == (listed["layer"], "SpatialAttn")
        weights = np.array(gate["weights"])
        assert weights.shape == (*listed["shape"][1:],)
        assert (gate["min"], gate["max"]) == pytest.approx((weights.min(), weights.max()))
        assert 0 <= gate["min"] < gate["max"] <= 1
        assert gate["box"] == [0, 0, 224, 224]
        assert (gate["mask"]["width"], gate["mask"]["height"]) == (224, 224)
    found: list[torch.Tensor] = []
    net.get_submodule("layer1.0.se.spatial.conv").register_forward_hook(
        lambda _, __, output: found.append(output.sigmoid())
    )
    pixels = nn.functional.interpolate(torch.from_numpy(PIXELS).permute(2, 0, 1)[None] / 255, (64, 64), mode="area")
    with torch.no_grad():
        net((pixels - MEAN) / STD)
    # The service resizes with another filter, so the maps are alike, not equal.
    assert np.corrcoef(np.ravel(attention["spatial_gates"][0]["weights"]), found[0].flatten())[0, 1] > 0.8
