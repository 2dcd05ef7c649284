"""The perturbed pictures that are scored: by each map, and by baselines that do not know the picture."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from pellucid.render.compose import positive
from pellucid.resampling import upsample
from pellucid.trust import imputation
from pellucid.types import Floats, InputPixels

Kind = Literal["original", "blank", "blurred", "deletion", "insertion", "road", "masked"]

# Shares of the pixels that are imputed. The paper has nine, 10 to 90 %; each costs a system of equations.
ROAD_FRACTIONS: Final = (0.2, 0.4, 0.6, 0.8)
# The blur's standard deviation, as a share of the side. With RISE's, 5 pixels of 224, many classes stay recognisable.
_BLUR: Final = 10 / 224


# A map that is moved and still has such a correlation with itself is in nearly the same place.
# docs/explanation/trust.md has what this does to the errors of the test.
_NEAR: Final = 0.5
# Moves that are tried for each place.
_TRIES: Final = 16


@dataclass(frozen=True, slots=True)
class Design:
    """How many perturbations: ``steps`` from the whole picture to nothing, and ``random_maps`` as baselines."""

    steps: int = 8
    random_maps: int = 8

    @property
    def fractions(self) -> tuple[float, ...]:
        """Shares of the pixels after each step, without 0 and 1."""
        return tuple(step / self.steps for step in range(1, self.steps))

    def passes(self, targets: int) -> int:
        """The forward passes for one image: 3, and two curves, ROAD and a mask for each map and baseline.

        Targets share the Gaussian. The random maps of a target are its own.
        """
        return 3 + (targets * (1 + self.random_maps) + 1) * (2 * (self.steps - 1) + len(ROAD_FRACTIONS) + 1)


@dataclass(frozen=True, slots=True)
class Perturbation:
    """One picture: the kind of change, the number of the map that orders the pixels, and the share that is changed."""

    kind: Kind
    map: int = -1
    fraction: float = 0.0


class Perturbations:
    """The perturbations of one image: ``pixels`` ``[H, W, C]``, with one map ``[h, w]`` for each target.

    ``mean`` is the colour of a blank picture, in levels from 0 to 255. For pixels of float32 these stand for ``low`` to
    ``high`` of each channel, and are not rounded. Random numbers are seeded by the pixels. ``maps`` are a Gaussian in
    the middle, ``random_maps`` maps of normal noise in the targets' resolution, and the targets' maps.
    """

    def __init__(
        self,
        pixels: InputPixels,
        maps: Sequence[Floats],
        mean: Sequence[float],
        design: Design,
        low: Sequence[float] = (),
        high: Sequence[float] = (),
    ) -> None:
        self._original: InputPixels = pixels
        self._dtype = pixels.dtype
        self._seed = int.from_bytes(hashlib.sha256(pixels.tobytes()).digest()[:8])
        self._low = np.asarray(low, np.float32)
        self._step = (np.asarray(high, np.float32) - self._low) / 255  # of one level
        self._pixels = pixels
        if pixels.dtype != np.uint8:
            self._pixels = ((pixels - self._low) / self._step).astype(np.float32, copy=False)
        self._mean = self._rounded(np.asarray(mean, np.float32))
        self.design = design
        self.targets = len(maps)
        # Each target's maps follow the last one's, so that its random numbers do not depend on how many follow.
        groups = [(heat, *moved(heat, design.random_maps, self._seed)) for heat in maps]
        self.maps: tuple[Floats, ...] = (centred_gaussian(*pixels.shape[:2]), *chain.from_iterable(groups))
        self._orders: list[NDArray[np.int32] | None] = [None] * len(self.maps)
        self.plan = self._plan()

    def __len__(self) -> int:
        return len(self.plan)

    def rows(self, target: int) -> list[int]:
        """The numbers of the maps of a target: its own, the Gaussian's, those of its random maps."""
        size = 1 + self.design.random_maps
        own = 1 + target * size
        return [own, 0, *range(own + 1, own + size)]

    def _plan(self) -> tuple[Perturbation, ...]:
        found = [Perturbation("original"), Perturbation("blank"), Perturbation("blurred")]
        for number in range(len(self.maps)):
            found.append(Perturbation("masked", number))
            found += [Perturbation("deletion", number, fraction) for fraction in self.design.fractions]
            found += [Perturbation("insertion", number, fraction) for fraction in self.design.fractions]
            found += [Perturbation("road", number, fraction) for fraction in ROAD_FRACTIONS]
        return tuple(found)

    def picture(self, number: int) -> InputPixels:
        """The pixels of a perturbation. Thread-safe."""
        if self.plan[number].kind == "original":
            return self._original
        levels = self._levels(number)
        return levels if levels.dtype == np.uint8 else (levels * self._step + self._low).astype(np.float32, copy=False)

    def _rounded(self, levels: Floats) -> InputPixels:
        """The levels in the dtype of the pixels."""
        return np.rint(levels).astype(np.uint8) if self._dtype == np.uint8 else levels

    def _levels(self, number: int) -> InputPixels:
        perturbation = self.plan[number]
        match perturbation.kind:
            case "original":
                return self._pixels
            case "blank":
                return self._blank
            case "blurred":
                return self._blurred
            case "masked":
                height, width = self._pixels.shape[:2]
                mask = positive(self.maps[perturbation.map], width, height)[:, :, None]
                return self._rounded(self._mean + mask * (self._pixels - self._mean.astype(np.float32)))
            case "deletion":
                return np.where(self._first(perturbation), self._blank, self._pixels)
            case "insertion":
                return np.where(self._first(perturbation), self._pixels, self._blurred)
            case "road":
                noise = np.random.default_rng((self._seed, 1 + number))
                return imputation.imputed(self._pixels, self._first(perturbation)[:, :, 0], noise)

    def _first(self, perturbation: Perturbation) -> NDArray[np.bool_]:
        """Whether a pixel is in the share that the map marks most: ``[H, W, 1]``."""
        order = self._orders[perturbation.map]
        if order is None:
            order = self._orders[perturbation.map] = self._order(perturbation.map)
        return (order < round(perturbation.fraction * order.size))[:, :, None]

    def _order(self, number: int) -> NDArray[np.int32]:
        """The rank ``[H, W]`` of each pixel, 0 for the one that the map marks most. Ties are broken at random."""
        height, width = self._pixels.shape[:2]
        values = upsample(self.maps[number], width, height).ravel()
        chance = np.random.default_rng((self._seed, 0, number)).random(values.size, np.float32)
        places = np.empty(values.size, np.int32)
        places[np.lexsort((chance, -values))] = np.arange(values.size, dtype=np.int32)
        return places.reshape(height, width)

    @cached_property
    def _blank(self) -> InputPixels:
        return np.broadcast_to(self._mean, self._pixels.shape)

    @cached_property
    def _blurred(self) -> InputPixels:
        height, width = self._pixels.shape[:2]
        down, across = _blur(height), _blur(width)
        channels = np.moveaxis(self._pixels, 2, 0).astype(np.float32, order="C")
        return self._rounded(np.stack([down @ channel @ across.T for channel in channels], 2))


def centred_gaussian(height: int, width: int) -> Floats:
    """A Gaussian ``[height, width]`` in the middle, with a standard deviation of a quarter of each side."""
    down, across = ((np.arange(size) + 0.5) / size - 0.5 for size in (height, width))
    spot: Floats = np.exp(-8 * (down[:, None] ** 2 + across[None] ** 2)).astype(np.float32)
    return spot


def moved(heat: Floats, count: int, seed: int) -> list[Floats]:
    """The map ``[h, w]`` at ``count`` random places: turned, mirrored, and shifted around the edges.

    If the place of a map did not matter to the network, the map would be one of these like any other, however smooth or
    peaked it is: a randomisation test (Lehmann and Romano, Testing Statistical Hypotheses, section 15.2). Places that
    correlate with the map by ``_NEAR`` or more are taken only where there are too few others.
    """
    height, width = heat.shape
    turns = 4 if height == width else 2  # a map that is not square keeps its shape
    moves = 2 * turns * heat.size - 1  # all but none
    centred = heat - heat.mean(dtype=np.float64)
    far: list[Floats] = []
    near: list[Floats] = []
    tried = min(moves, _TRIES * count)
    for move in 1 + np.random.default_rng((seed, 0)).choice(moves, tried, replace=False):
        way, place = divmod(int(move), heat.size)
        mirror, turn = divmod(way, turns)
        turned = np.rot90(heat[:, ::-1] if mirror else heat, turn * 4 // turns)
        found = np.roll(turned, divmod(place, width), (0, 1))
        alike = float((centred * found).sum()) >= _NEAR * float((centred**2).sum())
        (near if alike else far).append(found)
        if len(far) == count:
            break
    return [*far, *near, *[heat] * count][:count]


def _blur(size: int) -> Floats:
    """The matrix ``[size, size]`` of a Gaussian blur along one side, normalised at the edges."""
    distance = np.subtract.outer(np.arange(size), np.arange(size)) / (_BLUR * size)
    weights = np.exp(-(distance**2) / 2)
    matrix: Floats = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return matrix
