"""Pictures in which the place of an object is known by construction, composed of the shipped photographs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations, product

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from benchmarks.photographs import SAMPLES
from benchmarks.quality.scores import inside
from pellucid.network.spec import ModelSpec
from pellucid.types import Box, InputPixels, Pixels


@dataclass(frozen=True)
class Scene:
    """A picture as the network takes it ``[H, W, 3]``, a class, and the boxes of all that is of it, in these pixels.

    ``picture`` names the picture, which several scenes may share: they are no independent witnesses.
    """

    picture: str
    kind: str
    pixels: InputPixels
    target: int
    boxes: tuple[Box, ...]

    @property
    def within(self) -> NDArray[np.bool_]:
        """Whether a pixel lies in a box: ``[H, W]``."""
        return inside(self.boxes, *self.pixels.shape[:2])


@dataclass(frozen=True)
class Thing:
    """An object in a shipped photograph: the network's own first class, which is right, and the box by sight.

    ``cut``: what is cut out with it where it is pasted. A rocket without its sky is no longer recognised.
    """

    file: str
    label: str
    box: Box
    cut: Box


THINGS = (
    Thing("cat.jpg", "Egyptian cat", (20, 0, 375, 300), (20, 0, 375, 300)),
    Thing("coffee.jpg", "espresso", (70, 10, 485, 392), (70, 10, 485, 392)),
    Thing("rocket.jpg", "missile", (296, 120, 352, 427), (230, 100, 420, 427)),
)
# What lies behind a pasted object: parts of photographs with nothing of any class in them. None: a plain texture.
GROUNDS: tuple[tuple[str, Box] | None, ...] = (
    ("coffee.jpg", (490, 150, 600, 260)),  # a table's wood
    ("rocket.jpg", (215, 140, 300, 225)),  # the evening sky
    None,
)
# Of what is pasted, its longer side as a share of the picture's; and where in what is left over it lies.
_SHARES = (0.5, 0.8)
_PLACES = ((0.05, 0.05), (0.95, 0.1), (0.1, 0.95), (0.9, 0.9))
# Of half a picture, how much of its photograph is shown: as much as fits, or a part of that.
_ZOOMS = (1.0, 0.8)


def composed(spec: ModelSpec) -> list[Scene]:
    """All scenes: two objects side by side or one above the other, and single ones pasted on other grounds.

    Raises KeyError if the network has no such class.
    """
    scenes: list[Scene] = []
    for first, second in combinations(THINGS, 2):
        for things, upright, zoom in product(permutations((first, second)), (False, True), _ZOOMS):
            scenes += _beside(things, upright, zoom, spec)
    for thing, ground in product(THINGS, GROUNDS):
        if ground is None or ground[0] != thing.file:
            for number, (share, place) in enumerate(product(_SHARES, _PLACES)):
                scenes.append(_pasted(thing, ground, share, place, bool(number % 2), spec))
    return scenes


def spread(scenes: Sequence[Scene]) -> list[Scene]:
    """The same in an order of which every beginning is of all kinds and classes."""
    groups: dict[tuple[str, int], list[Scene]] = defaultdict(list)
    for scene in scenes:
        groups[scene.kind, scene.target].append(scene)
    chance = np.random.default_rng(0)
    places = {}
    for group in groups.values():
        for place, number in enumerate(chance.permutation(len(group))):
            places[id(group[number])] = (place + 0.5) / len(group)
    return sorted(scenes, key=lambda scene: places[id(scene)])


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
        photograph = _photograph(thing.file)
        window = _window(photograph.size, thing.box, size, zoom)
        part = photograph.resize(size, Image.Resampling.BICUBIC, window)
        canvas[top : top + size[1], left : left + size[0]] = np.asarray(part)
        boxes.append(_moved(thing.box, window, (left, top, left + size[0], top + size[1])))
    picture = f"{' over ' if upright else ' beside '}".join(thing.file for thing in things) + f" x{zoom}"
    return [
        Scene(picture, "side by side", canvas, _index(thing, spec), (box,))
        for thing, box in zip(things, boxes, strict=True)
    ]


def _pasted(
    thing: Thing,
    ground: tuple[str, Box] | None,
    share: float,
    place: tuple[float, float],
    mirror: bool,
    spec: ModelSpec,
) -> Scene:
    height, width = spec.preprocess.size
    if ground is None:
        canvas = _texture(height, width)
    else:
        behind = _photograph(ground[0]).resize((width, height), Image.Resampling.BICUBIC, ground[1])
        canvas = np.array(behind)
    x0, y0, x1, y1 = thing.cut
    scale = share * min(width, height) / max(x1 - x0, y1 - y0)
    size = (round(scale * (x1 - x0)), round(scale * (y1 - y0)))
    part = _photograph(thing.file).resize(size, Image.Resampling.BICUBIC, thing.cut)
    left, top = (round(at * (whole - own)) for at, whole, own in zip(place, (width, height), size, strict=True))
    onto = (left, top, left + size[0], top + size[1])
    canvas[top : onto[3], left : onto[2]] = np.asarray(ImageOps.mirror(part) if mirror else part)
    box = _moved(thing.box, thing.cut, onto)
    if mirror:
        box = (onto[0] + onto[2] - box[2], box[1], onto[0] + onto[2] - box[0], box[3])
    picture = f"{thing.file} on {ground[0] if ground else 'texture'} x{share} at {place}"
    return Scene(picture, "pasted", canvas, _index(thing, spec), (box,))


def _photograph(file: str) -> Image.Image:
    with Image.open(SAMPLES / file) as image:
        return image.convert("RGB")


def _texture(height: int, width: int) -> Pixels:
    """Soft seeded spots of grey."""
    spots = np.random.default_rng(0).normal(120, 10, (12, 12, 3)).clip(0, 255).astype(np.uint8)
    return np.array(Image.fromarray(spots).resize((width, height), Image.Resampling.BICUBIC))


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


def _index(thing: Thing, spec: ModelSpec) -> int:
    return spec.indices[thing.label.casefold()][0]
