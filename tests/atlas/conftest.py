"""A network with planted channels, and its atlas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pellucid.atlas.build import Settings, build
from pellucid.atlas.file import Atlas, read
from pellucid.engine import Engine
from pellucid.network.file import CompiledNetwork
from pellucid.network.spec import PreprocessSpec
from pellucid.runtime import choose
from tests import networks

SIDE = 64
COLOURS = {"red": (230, 20, 20), "green": (20, 230, 20), "blue": (20, 20, 230)}


class Planted(nn.Module):
    """Channel k of ``colours`` responds to the colour k alone. Class k is the colour with the largest mean."""

    def __init__(self) -> None:
        super().__init__()
        self.colours = nn.Conv2d(3, 3, 3, 2, 1)
        self.act = nn.ReLU()
        self.gate = networks.trained_gate(3)
        self.mix = nn.Conv2d(3, 3, 1, bias=False)
        self.classifier = nn.Linear(3, 3)
        with torch.no_grad():
            self.colours.weight.copy_((1.5 * torch.eye(3) - 0.5)[:, :, None, None].expand(3, 3, 3, 3) / 9)
            assert self.colours.bias is not None
            self.colours.bias.fill_(-0.05)  # so that gray is exactly 0 behind the ReLU
            self.mix.weight.copy_(torch.eye(3)[:, :, None, None])
            self.classifier.weight.copy_(torch.eye(3))
            self.classifier.bias.zero_()
            self.gate.excite.weight.mul_(0.1)
            assert self.gate.excite.bias is not None
            self.gate.excite.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.colours(x))
        logits: Tensor = self.classifier(self.mix(self.gate(x)).mean((2, 3)))
        return logits


@pytest.fixture(scope="module")
def network() -> CompiledNetwork:
    torch.manual_seed(0)
    spec = PreprocessSpec((SIDE, SIDE), SIDE, "bilinear", (0.5,) * 3, (0.5,) * 3)
    return networks.in_memory(Planted(), spec)


@pytest.fixture(scope="module")
def engine(network: CompiledNetwork) -> Engine:
    return Engine(network, choose.create(network, precision="fp32", threads=1))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Path]]:
    """45 gray pictures with one coloured square each, and copies, near-copies and files that are no pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    chance = np.random.default_rng(0)
    for number in range(45):
        pixels = chance.integers(90, 160, (8, 8, 1), np.uint8).repeat(3, 2).repeat(8, 0).repeat(8, 1)
        y, x = chance.integers(0, SIDE - 16, 2)
        pixels[y : y + 16, x : x + 16] = [*COLOURS.values()][number % 3]
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    strong = Image.open(folder / "00.png")
    strong.save(folder / "x near.jpg", quality=92)
    (folder / "y copy.png").write_bytes((folder / "00.png").read_bytes())
    (folder / "z broken.png").write_bytes((folder / "01.png").read_bytes()[:60])
    named = [(path.name, path) for path in sorted(folder.iterdir())]
    return [*named[:20], ("<script>\x1b[2J\n" + "n" * 300, named[20][1]), *named[21:]]


@pytest.fixture(scope="module")
def path(
    network: CompiledNetwork, engine: Engine, files: list[tuple[str, Path]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("atlas") / "planted.atlas"
    build(network, engine, files, out, Settings(("act", "mix"), names=True))
    assert [each.name for each in out.parent.iterdir()] == [out.name]
    return out


@pytest.fixture(scope="module")
def atlas(path: Path, network: CompiledNetwork) -> Iterator[Atlas]:
    found = read(path, network)
    yield found
    found.close()
