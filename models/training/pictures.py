"""A folder of labelled pictures: ``[source/]CCCC/name.jpg``, where CCCC is the index of the class."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pellucid.network.spec import PreprocessSpec

from .corruptions import Picture

Part = Literal["all", "fit", "dev"]
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
# One in ten pictures is held out for choosing hyperparameters.
DEV_SHARE = 10


@dataclass(frozen=True, slots=True)
class Labelled:
    """A picture's file, its class, and its source: the folder above the class folder, or ""."""

    path: Path
    label: int
    source: str

    @property
    def dev(self) -> bool:
        """Whether it is held out. The name alone decides, so order and other files don't matter."""
        name = f"{self.label}/{self.path.name}"
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) % DEV_SHARE == 0


def find_pictures(folder: Path, part: Part = "all") -> list[Labelled]:
    """Every labelled picture below ``folder``, sorted. Raises ValueError if there is none."""
    found = [
        Labelled(path, int(path.parent.name), "/".join(path.relative_to(folder).parts[:-2]))
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES and path.parent.name.isdecimal()
    ]
    chosen = [picture for picture in found if part == "all" or picture.dev == (part == "dev")]
    if not chosen:
        raise ValueError(
            f"no pictures for part {part!r}: the folder must hold [source/]CCCC/name.jpg, with CCCC the class's index"
        )
    return chosen


class Sampler:
    """Draws training pictures: first a source by its share, then one of the source's pictures."""

    def __init__(self, pictures: Iterable[Labelled], shares: dict[str, float]) -> None:
        self._by_source: dict[str, list[Labelled]] = {}
        for picture in pictures:
            self._by_source.setdefault(picture.source, []).append(picture)
        unknown = shares.keys() - self._by_source.keys()
        if unknown:
            raise ValueError(f"no such source: {', '.join(sorted(unknown))}; known: {', '.join(self._by_source)}")
        self._sources = sorted(shares or self._by_source)
        weights = np.array([shares.get(source, 1.0) for source in self._sources])
        self._weights = weights / weights.sum()

    def draw(self, chance: np.random.Generator) -> Labelled:
        pictures = self._by_source[self._sources[chance.choice(len(self._sources), p=self._weights)]]
        return pictures[chance.integers(len(pictures))]


def random_crop(path: Path, side: int, chance: np.random.Generator) -> Picture:
    """A random square of 55 to 100 % of the short side, randomly mirrored, as ``side`` x ``side`` RGB bytes."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    square = min(image.size) * chance.uniform(0.55, 1)
    left = chance.uniform(0, image.width - square)
    top = chance.uniform(0, image.height - square)
    crop = image.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + square, top + square))
    if chance.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(crop)


def centre_crop(path: Path, preprocess: PreprocessSpec) -> Picture:
    """The resized and centre-cropped picture as RGB bytes, before normalisation."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    scale = preprocess.resize / min(image.size)
    resized = image.resize(
        (round(image.width * scale), round(image.height * scale)),
        Image.Resampling[preprocess.interpolation.upper()],
    )
    height, width = preprocess.size
    left, top = (resized.width - width) // 2, (resized.height - height) // 2
    return np.asarray(resized.crop((left, top, left + width, top + height)))


def to_pixels(pictures: list[Picture], preprocess: PreprocessSpec) -> Tensor:
    """Normalise RGB bytes to the network's input ``[B, 3, H, W]``, in channels-last memory format."""
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255  # B 3 H W
    mean = torch.tensor(preprocess.mean)[:, None, None]
    std = torch.tensor(preprocess.std)[:, None, None]
    return ((stacked - mean) / std).contiguous(memory_format=torch.channels_last)
