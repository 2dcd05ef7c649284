"""Pictures in which the place of an object is known by construction, composed of the shipped photographs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations, product

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.photographs import SAMPLES
from benchmarks.quality.scores import inside
from pellucid.network.spec import ModelSpec
from pellucid.types import Box, InputPixels


@dataclass(frozen=True)
class Scene:
    """A picture as the network takes it ``[H, W, 3]``, a class, and the boxes of all that is of it, in these pixels.

    ``picture`` names the picture, which several scenes may share: they are no independent witnesses.
    """

    picture: str
    pixels: InputPixels
    target: int
    boxes: tuple[Box, ...]

    @property
    def within(self) -> NDArray[np.bool_]:
        """Whether a pixel lies in a box: ``[H, W]``."""
        return inside(self.boxes, *self.pixels.shape[:2])


@dataclass(frozen=True)
class Thing:
    """An object in a shipped photograph: the network's own first class, which is right, and the box by sight."""

    file: str
    label: str
    box: Box


THINGS = (
    Thing("cat.jpg", "Egyptian cat", (20, 0, 375, 300)),
    Thing("coffee.jpg", "espresso", (70, 10, 485, 392)),
    Thing("rocket.jpg", "missile", (296, 120, 352, 427)),
)
# Of half a picture, how much of its photograph is shown: as much as fits, or a part of that.
_ZOOMS = (1.0, 0.8)


def composed(spec: ModelSpec) -> list[Scene]:
    """All scenes of two objects side by side or one above the other, in a seeded order.

    Raises KeyError if the network has no such class.
    """
    scenes: list[Scene] = []
    for first, second in combinations(THINGS, 2):
        for things, upright, zoom in product(permutations((first, second)), (False, True), _ZOOMS):
            scenes += _beside(things, upright, zoom, spec)
    return [scenes[number] for number in np.random.default_rng(0).permutation(len(scenes))]


def recognised(
    scenes: Sequence[Scene], best: Callable[[Sequence[InputPixels]], Sequence[Sequence[int]]]
) -> list[Scene]:
    """Those whose class is among the network's ``best`` few: what it doesn't see, no map can show."""
    found = best([scene.pixels for scene in scenes])
    return [scene for scene, classes in zip(scenes, found, strict=True) if scene.target in classes]


def _beside(things: Sequence[Thing], upright: bool, zoom: float, spec: ModelSpec) -> list[Scene]:
    """One picture, halved, and a scene for each of its two objects."""
    height, width = spec.preprocess.size
    size = (width, height // 2) if upright else (width // 2, height)
    canvas = np.zeros((height, width, 3), np.uint8)
    boxes = []
    for number, thing in enumerate(things):
        left, top = (0, number * size[1]) if upright else (number * size[0], 0)
        with Image.open(SAMPLES / thing.file) as photograph:
            window = _window(photograph.size, thing.box, size, zoom)
            part = photograph.convert("RGB").resize(size, Image.Resampling.BICUBIC, window)
        canvas[top : top + size[1], left : left + size[0]] = np.asarray(part)
        boxes.append(_moved(thing.box, window, (left, top, left + size[0], top + size[1])))
    picture = f"{' over ' if upright else ' beside '}".join(thing.file for thing in things) + f" x{zoom}"
    targets = [spec.indices[thing.label.casefold()][0] for thing in things]
    return [Scene(picture, canvas, target, (box,)) for target, box in zip(targets, boxes, strict=True)]


def _window(whole: tuple[int, int], box: Box, size: tuple[int, int], zoom: float) -> tuple[float, float, float, float]:
    """The part of a photograph, of the shape of ``size``, that has the box's middle in its own if it can."""
    scale = zoom * min(whole[0] / size[0], whole[1] / size[1])
    sides = size[0] * scale, size[1] * scale
    middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    left, top = (min(max(m - s / 2, 0), w - s) for m, s, w in zip(middle, sides, whole, strict=True))
    return left, top, left + sides[0], top + sides[1]


def _moved(box: Box, window: tuple[float, float, float, float], onto: Box) -> Box:
    """A box of a photograph whose ``window`` was drawn into ``onto``, cut off there."""
    scale_x, scale_y = (onto[2] - onto[0]) / (window[2] - window[0]), (onto[3] - onto[1]) / (window[3] - window[1])
    x0, x1 = (min(max(onto[0] + (x - window[0]) * scale_x, onto[0]), onto[2]) for x in (box[0], box[2]))
    y0, y1 = (min(max(onto[1] + (y - window[1]) * scale_y, onto[1]), onto[3]) for y in (box[1], box[3]))
    return round(x0), round(y0), round(x1), round(y1)
