"""Pictures of shapes, and one network for each kind of output, trained on them.

The networks share a trunk, which learns all four tasks at once: which shapes there are (independent labels), how many
(a quantity), the class of each position (a segmentation), and which pictures show the same shape (an embedding).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE: Final = 48
SHAPES: Final = ("disc", "square", "triangle")
CLASSES: Final = ("background", *SHAPES)
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
# Shapes stand in the cells of a grid, so none hides another.
_CELLS, _CELL = 3, SIDE // 3
_STEPS: Final = 260


@dataclass(frozen=True)
class Pictures:
    """``pixels`` uint8 ``[B, SIDE, SIDE, 3]``, and the class of each pixel ``[B, SIDE, SIDE]``, 0 for the background.

    ``counts`` ``[B, 3]`` has the number of each shape. ``density`` ``[B, SIDE, SIDE]`` is the same for all pixels of a
    shape; its mean is the number of shapes.
    """

    pixels: Tensor
    classes: Tensor
    counts: Tensor
    density: Tensor

    @property
    def present(self) -> Tensor:
        """Whether each shape is there: ``[B, 3]``."""
        return self.counts > 0


def pictures(count: int, seed: int, *, alone: bool = False) -> Pictures:
    """Seeded pictures of one to four shapes on grey noise, or of one shape ``alone``, the kinds in turn."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(30, 90, (count, SIDE, SIDE, 1), generator=generator).expand(-1, -1, -1, 3).clone()
    classes, counts = torch.zeros(count, SIDE, SIDE, dtype=torch.long), torch.zeros(count, len(SHAPES))
    density = torch.zeros(count, SIDE, SIDE)
    for number in range(count):
        shapes = 1 if alone else int(torch.randint(1, 5, (), generator=generator))
        for cell in torch.randperm(_CELLS**2, generator=generator)[:shapes].tolist():
            kind = number % 3 if alone else int(torch.randint(0, 3, (), generator=generator))
            size = int(torch.randint(11, 15, (), generator=generator))
            top, left = torch.randint(0, _CELL - size + 1, (2,), generator=generator).tolist()
            top, left = top + cell // _CELLS * _CELL, left + cell % _CELLS * _CELL
            inside = _drawn(kind, size)
            colour = torch.randint(120, 256, (3,), generator=generator)
            where = slice(top, top + size), slice(left, left + size)
            pixels[number][where][inside] = colour
            classes[number][where][inside] = kind + 1
            density[number][where][inside] = SIDE**2 / int(inside.sum())
            counts[number, kind] += 1
    return Pictures(pixels.to(torch.uint8), classes, counts, density)


@cache
def _drawn(kind: int, size: int) -> Tensor:
    """The positions ``[size, size]`` inside of a shape."""
    middle = (torch.arange(size) + 0.5) / size * 2 - 1  # -1 to 1
    down, across = middle[:, None], middle[None]
    if kind == 0:
        return down**2 + across**2 <= 1
    if kind == 1:
        return torch.ones(size, size, dtype=torch.bool)
    return across.abs() <= (down + 1) / 2


def normalised(pixels: Tensor) -> Tensor:
    """The network's input ``[B, 3, SIDE, SIDE]``."""
    return (pixels.permute(0, 3, 1, 2) / 255 - MEAN[0]) / STD[0]


def _block(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


class Trunk(nn.Sequential):
    """Pictures -> maps ``[B, 32, 12, 12]``. Each position sees 31 pixels."""

    def __init__(self) -> None:
        super().__init__(_block(3, 16, 2), _block(16, 32, 2), _block(32, 32, 1), _block(32, 32, 1))


class Pooled(nn.Module):
    """The mean or the largest value over positions, and a linear layer: labels, a quantity, or an embedding."""

    def __init__(self, trunk: Trunk, outputs: int, *, largest: bool = False) -> None:
        super().__init__()
        self.trunk, self.head, self.largest = trunk, nn.Linear(32, outputs), largest

    def of_maps(self, maps: Tensor) -> Tensor:
        found: Tensor = self.head(maps.amax((2, 3)) if self.largest else maps.mean((2, 3)))
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.of_maps(self.trunk(x))


class Segmentation(nn.Module):
    """The classes' logits ``[B, 4, 24, 24]``."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk, self.head = trunk, nn.Conv2d(32, len(CLASSES), 1)

    def of_maps(self, maps: Tensor) -> Tensor:
        return F.interpolate(self.head(maps), scale_factor=2, mode="bilinear", align_corners=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.of_maps(self.trunk(x))


@dataclass(frozen=True)
class Networks:
    """A trained network for each kind of output."""

    labels: Pooled
    count: Pooled
    segmentation: Segmentation
    likeness: Pooled


def trained() -> Networks:
    """Train all networks at once. Takes some seconds on one core."""
    torch.manual_seed(0)
    trunk = Trunk()
    labels, likeness = Pooled(trunk, 3, largest=True), Pooled(trunk, 8, largest=True)
    found = Networks(labels, Pooled(trunk, 1), Segmentation(trunk), likeness)
    every = nn.ModuleList([found.labels, found.count, found.segmentation, found.likeness]).train()
    optimiser = torch.optim.AdamW(every.parameters(), 0.01, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.01, total_steps=_STEPS, pct_start=0.15)
    many, single = pictures(1024, 1), pictures(384, 2, alone=True)
    generator = torch.Generator().manual_seed(3)
    for _ in range(_STEPS):
        rows = torch.randint(len(many.pixels), (40,), generator=generator)
        alone = torch.randint(len(single.pixels), (24,), generator=generator)
        maps = trunk(normalised(torch.cat((many.pixels[rows], single.pixels[alone]))))
        counts, classes, density = (
            torch.cat((getattr(many, name)[rows], getattr(single, name)[alone]))
            for name in ("counts", "classes", "density")
        )
        loss = (
            F.binary_cross_entropy_with_logits(labels.of_maps(maps), (counts > 0).float())
            + 0.3 * F.mse_loss(found.count.of_maps(maps)[:, 0], counts.sum(1))
            + 0.01 * F.mse_loss(found.count.head(maps.movedim(1, 3))[..., 0], F.avg_pool2d(density, 4))
            + F.cross_entropy(found.segmentation.of_maps(maps), classes[:, ::2, ::2])
            + _apart(F.normalize(likeness.of_maps(maps[40:])), single.counts[alone].argmax(1))
        )
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        rate.step()
    every.eval()
    return found


def _apart(vectors: Tensor, kinds: Tensor) -> Tensor:
    """A metric loss: cosines of pictures of one shape towards 1, of two shapes towards 0 or less."""
    cosines, alike = vectors @ vectors.T, kinds[:, None] == kinds
    return torch.where(alike, 1 - cosines, cosines.clamp(min=0)).mean()
