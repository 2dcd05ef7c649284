"""Which pictures are scored: those of the maps, and of their rivals, which know nothing of the picture."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from pellucid.render.compose import positive
from pellucid.resampling import upsample
from pellucid.trust import imputation
from pellucid.types import Floats, Pixels

Kind = Literal["original", "blank", "blurred", "deletion", "insertion", "road", "masked"]

# Shares of the pixels that are imputed: after the paper's 10 to 90 %, of which each costs a system of equations.
ROAD_FRACTIONS: Final = (0.2, 0.4, 0.6, 0.8)
# Of the side, the blur's standard deviation. RISE's own, 5 pixels of 224 cut off at 5, leaves many a class to be seen.
_BLUR: Final = 10 / 224


@dataclass(frozen=True, slots=True)
class Design:
    """How much is tried. ``steps`` on the way from the whole picture to nothing, ``random_maps`` as rivals."""

    steps: int = 8
    random_maps: int = 8

    @property
    def fractions(self) -> tuple[float, ...]:
        """Shares of the pixels after each step, those of no step and of the last left out."""
        return tuple(step / self.steps for step in range(1, self.steps))

    def passes(self, targets: int) -> int:
        """Pictures that go through the network for one image: 3, and for each map and rival two curves, ROAD, a mask.

        One pass scores all targets, so their rivals are the same.
        """
        return 3 + (targets + 1 + self.random_maps) * (2 * (self.steps - 1) + len(ROAD_FRACTIONS) + 1)


@dataclass(frozen=True, slots=True)
class Trial:
    """One picture: what was done with which share of the pixels, in the order of the map of that number."""

    kind: Kind
    map: int = -1
    fraction: float = 0.0


class Trials:
    """The trials of one image: ``pixels`` ``[H, W, 3]``, with one map ``[h, w]`` for each target.

    ``mean`` is the colour that the network takes for nothing, in levels. All that is by chance is seeded by the pixels.
    ``maps``: a Gaussian in the middle, normal noise as coarse as the maps, ``random_maps`` times, and the maps given.
    """

    def __init__(self, pixels: Pixels, maps: Sequence[Floats], mean: Sequence[float], design: Design) -> None:
        self._pixels = pixels
        self._seed = int.from_bytes(hashlib.sha256(pixels.tobytes()).digest()[:8])
        self._mean = np.rint(np.asarray(mean, np.float32)).astype(np.uint8)
        self.design = design
        self.targets = len(maps)
        generator = np.random.default_rng((self._seed, 0))
        shape = maps[0].shape
        rivals = generator.standard_normal((design.random_maps, *shape)).astype(np.float32)
        # The rivals first: what chance does to them does not depend on how many targets there are.
        self.maps: tuple[Floats, ...] = (centred_gaussian(*pixels.shape[:2]), *rivals, *maps)
        self._orders: list[NDArray[np.int32] | None] = [None] * len(self.maps)
        self.plan = self._plan()

    def __len__(self) -> int:
        return len(self.plan)

    def _plan(self) -> tuple[Trial, ...]:
        found = [Trial("original"), Trial("blank"), Trial("blurred")]
        for number in range(len(self.maps)):
            found.append(Trial("masked", number))
            found += [Trial("deletion", number, fraction) for fraction in self.design.fractions]
            found += [Trial("insertion", number, fraction) for fraction in self.design.fractions]
            found += [Trial("road", number, fraction) for fraction in ROAD_FRACTIONS]
        return tuple(found)

    def picture(self, number: int) -> Pixels:
        """The pixels of a trial. From several threads at once."""
        trial = self.plan[number]
        match trial.kind:
            case "original":
                return self._pixels
            case "blank":
                return self._blank
            case "blurred":
                return self._blurred
            case "masked":
                height, width = self._pixels.shape[:2]
                mask = positive(self.maps[trial.map], width, height)[:, :, None]
                return np.rint(self._mean + mask * (self._pixels - self._mean.astype(np.float32))).astype(np.uint8)
            case "deletion":
                return np.where(self._first(trial), self._blank, self._pixels)
            case "insertion":
                return np.where(self._first(trial), self._pixels, self._blurred)
            case "road":
                noise = np.random.default_rng((self._seed, 1 + number))
                return imputation.imputed(self._pixels, self._first(trial)[:, :, 0], noise)

    def _first(self, trial: Trial) -> NDArray[np.bool_]:
        """Whether a pixel is among the trial's share of those that its map marks most: ``[H, W, 1]``."""
        order = self._orders[trial.map]
        if order is None:
            order = self._orders[trial.map] = self._order(trial.map)
        return (order < round(trial.fraction * order.size))[:, :, None]

    def _order(self, number: int) -> NDArray[np.int32]:
        """The place ``[H, W]`` of each pixel, the one that the map marks most at 0; chance breaks ties."""
        height, width = self._pixels.shape[:2]
        values = upsample(self.maps[number], width, height).ravel()
        chance = np.random.default_rng((self._seed, 0, number)).random(values.size, np.float32)
        places = np.empty(values.size, np.int32)
        places[np.lexsort((chance, -values))] = np.arange(values.size, dtype=np.int32)
        return places.reshape(height, width)

    @cached_property
    def _blank(self) -> Pixels:
        return np.broadcast_to(self._mean, self._pixels.shape)

    @cached_property
    def _blurred(self) -> Pixels:
        height, width = self._pixels.shape[:2]
        down, across = _blur(height), _blur(width)
        channels = [down @ self._pixels[:, :, channel].astype(np.float32) @ across.T for channel in range(3)]
        return np.rint(np.stack(channels, 2)).astype(np.uint8)


def centred_gaussian(height: int, width: int) -> Floats:
    """A spot in the middle ``[height, width]``, its standard deviation a quarter of each side."""
    down, across = ((np.arange(size) + 0.5) / size - 0.5 for size in (height, width))
    spot: Floats = np.exp(-8 * (down[:, None] ** 2 + across[None] ** 2)).astype(np.float32)
    return spot


def _blur(size: int) -> Floats:
    """The matrix ``[size, size]`` that blurs along one side by a Gaussian; at the edges what is there weighs more."""
    distance = np.subtract.outer(np.arange(size), np.arange(size)) / (_BLUR * size)
    weights = np.exp(-(distance**2) / 2)
    matrix: Floats = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return matrix
