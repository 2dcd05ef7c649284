"""A network of one's own class: compiled, served by a real process, and every route answers of it."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn

import pellucid
from tests.everything import ask_everything
from tests.support import encoded, explained, present, serving

LABELS = ("red", "green", "blue")


class ChannelAttention(nn.Module):
    """CBAM's (Woo et al. 2018): one MLP over the mean and the maximum of each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(channels, channels // 2), nn.ReLU(), nn.Linear(channels // 2, channels))

    def forward(self, x: Tensor) -> Tensor:
        weights = (self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3)))).sigmoid()
        gated: Tensor = x * weights[:, :, None, None]
        return gated


class SpatialAttention(nn.Module):
    """CBAM's: a convolution over the mean and the maximum of each position."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)
        gated: Tensor = x * self.conv(pooled).sigmoid()
        return gated


class Colours(nn.Module):
    """Two convolutions, each with CBAM behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.first = nn.Sequential(ChannelAttention(8), SpatialAttention())
        self.body = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.second = nn.Sequential(ChannelAttention(16), SpatialAttention())
        self.classifier = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.body(self.first(self.stem(x))))
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits


def spots(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Grey noise with a spot of one colour somewhere: uint8 ``[count, 32, 32, 3]``, and which colour it is."""
    classes = torch.arange(count) % 3
    pictures = torch.randint(60, 120, (count, 32, 32, 1), generator=generator).expand(-1, -1, -1, 3).clone()
    for picture, colour in zip(pictures, classes, strict=True):
        y, x = torch.randint(0, 20, (2,), generator=generator).tolist()
        picture[y : y + 12, x : x + 12] = 30
        picture[y : y + 12, x : x + 12, colour] = 220
    return pictures.to(torch.uint8), classes


@pytest.fixture(scope="module")
def trained() -> Colours:
    """The network after some steps."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    net = Colours().train()
    optimiser = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(40):
        pictures, classes = spots(48, generator)
        loss = nn.functional.cross_entropy(net((pictures.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25), classes)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return net.eval()


def test_a_class_with_cbam_is_served_whole(trained: Colours, tmp_path: Path) -> None:
    path = tmp_path / "colours.pellucid"
    pellucid.compile(
        trained,
        path,
        labels=LABELS,
        size=32,
        resize=32,
        output="softmax",
        mean=[0.5] * 3,
        std=[0.25] * 3,
        progress=False,
    )
    pictures, classes = spots(6, torch.Generator().manual_seed(1))
    files = [encoded(picture.numpy()) for picture in pictures]
    with (
        serving(PELLUCID_MODEL=str(path), PELLUCID_PRECISION="fp32", PELLUCID_TIMEOUT_MS="200000") as server,
        httpx.Client(base_url=server.url, timeout=200) as client,
    ):
        detail, _ = ask_everything(client, files[0], files[1])
        assert detail.name == "colours"
        assert [gate.type for gate in detail.gates] == ["ChannelAttention"] * 2
        assert [gate.shape[0] for gate in detail.gates] == [8, 16]
        with torch.no_grad():
            x = trained.stem((pictures[:1].permute(0, 3, 1, 2) / 255 - 0.5) / 0.25)
            logits = trained((pictures.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25)
            gate = trained.first[0](x) / x.clamp(min=1e-9)
        found = explained(client, "/v1/attention", files[0]).attention
        assert found is not None
        seen = x[0].amax((1, 2)) > 1e-3  # of a channel that is 0 everywhere the weight can't be had back
        weights = np.array(found.gates[0].weights)[seen.numpy()]
        np.testing.assert_allclose(weights, gate[0].amax((1, 2))[seen], atol=1e-4)
        for file, expected, picture, colour in zip(files, logits, pictures, classes, strict=True):
            result = explained(client, "/v1/explain", file, include="predictions,grad_cam")
            assert result.predictions is not None
            assert result.predictions[0].label == LABELS[int(colour)]
            scores = [present(each.logit) for each in sorted(result.predictions, key=lambda each: each.index)]
            np.testing.assert_allclose(scores, expected, atol=1e-4 * float(expected.abs().max()))
            (cam,) = result.grad_cam or []
            maps = LayerGradCam(trained, trained.second).attribute(
                (picture[None].permute(0, 3, 1, 2) / 255 - 0.5) / 0.25, target=int(colour)
            )
            expected = maps[0, 0].detach()
            np.testing.assert_allclose(cam.raw.values, expected, atol=1e-4 * float(expected.abs().max()))
