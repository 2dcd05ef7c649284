"""Makes the pictures to score: variants of one picture, whose pixels are removed or restored in the order of a map.

A map is compared with baselines that do not depend on the picture: a centred Gaussian, and random maps.
"""

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

# Shares of the pixels that ROAD imputes. The paper takes 10 to 90 %; each share costs the solution of linear equations.
ROAD_FRACTIONS: Final = (0.2, 0.4, 0.6, 0.8)
# Standard deviation of the blur as a share of the side. That of RISE, 5 of 224 pixels, leaves many classes visible.
_BLUR: Final = 10 / 224


@dataclass(frozen=True, slots=True)
class Design:
    """The size of the experiment: ``steps`` of a deletion or insertion curve, and the number of ``random_maps``."""

    steps: int = 8
    random_maps: int = 8

    @property
    def fractions(self) -> tuple[float, ...]:
        """The share of pixels after each step, without 0 and 1."""
        return tuple(step / self.steps for step in range(1, self.steps))

    def passes(self, targets: int) -> int:
        """The number of pictures to score for one image with this many targets.

        3 pictures are common. Each map and each baseline adds two curves, ROAD, and one masked picture. A picture is
        scored for all targets at once, so targets share the baselines.
        """
        return 3 + (targets + 1 + self.random_maps) * (2 * (self.steps - 1) + len(ROAD_FRACTIONS) + 1)


@dataclass(frozen=True, slots=True)
class Trial:
    """One picture to score: the operation, the index of the map that orders the pixels, and the share of pixels."""

    kind: Kind
    map: int = -1
    fraction: float = 0.0


class Trials:
    """The pictures to score for one image: ``pixels`` ``[H, W, 3]`` with one map ``[h, w]`` for each target.

    ``mean`` is the colour of removed pixels in 8-bit levels: the mean of the network's normalisation. All random
    numbers are seeded by the pixels. The attribute ``maps`` has a centred Gaussian, ``random_maps`` maps of normal
    noise with the shape of the first given map, and then the given maps.
    """

    def __init__(self, pixels: Pixels, maps: Sequence[Floats], mean: Sequence[float], design: Design) -> None:
        self._pixels = pixels
        self._seed = int.from_bytes(hashlib.sha256(pixels.tobytes()).digest()[:8])
        self._mean = np.rint(np.asarray(mean, np.float32)).astype(np.uint8)
        self.design = design
        self.targets = len(maps)
        generator = np.random.default_rng((self._seed, 0))
        shape = maps[0].shape
        random = generator.standard_normal((design.random_maps, *shape)).astype(np.float32)
        # Baselines come first, so that their indices, which seed their noise, do not depend on the number of targets.
        self.maps: tuple[Floats, ...] = (centred_gaussian(*pixels.shape[:2]), *random, *maps)
        self._orders: list[NDArray[np.int32] | None] = [None] * len(self.maps)
        self.plan = self._plan()

    def __len__(self) -> int:
        return len(self.plan)

    def _plan(self) -> tuple[Trial, ...]:
        trials = [Trial("original"), Trial("blank"), Trial("blurred")]
        for number in range(len(self.maps)):
            trials.append(Trial("masked", number))
            trials += [Trial("deletion", number, fraction) for fraction in self.design.fractions]
            trials += [Trial("insertion", number, fraction) for fraction in self.design.fractions]
            trials += [Trial("road", number, fraction) for fraction in ROAD_FRACTIONS]
        return tuple(trials)

    def picture(self, number: int) -> Pixels:
        """The pixels ``[H, W, 3]`` of a trial. Thread-safe."""
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
        """Whether a pixel is in the trial's share of highest values of its map: ``[H, W, 1]``."""
        order = self._orders[trial.map]
        if order is None:
            order = self._orders[trial.map] = self._order(trial.map)
        return (order < round(trial.fraction * order.size))[:, :, None]

    def _order(self, number: int) -> NDArray[np.int32]:
        """The rank ``[H, W]`` of each pixel. The pixel with the map's highest value has rank 0. Ties are random."""
        height, width = self._pixels.shape[:2]
        values = upsample(self.maps[number], width, height).ravel()
        ties = np.random.default_rng((self._seed, 0, number)).random(values.size, np.float32)
        ranks = np.empty(values.size, np.int32)
        ranks[np.lexsort((ties, -values))] = np.arange(values.size, dtype=np.int32)
        return ranks.reshape(height, width)

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
    """A Gaussian ``[height, width]`` in the middle. Its standard deviation is a quarter of each side."""
    down, across = ((np.arange(size) + 0.5) / size - 0.5 for size in (height, width))
    spot: Floats = np.exp(-8 * (down[:, None] ** 2 + across[None] ** 2)).astype(np.float32)
    return spot


def _blur(size: int) -> Floats:
    """The matrix ``[size, size]`` of a Gaussian blur along one side. Its rows sum to 1, also at the edges."""
    distance = np.subtract.outer(np.arange(size), np.arange(size)) / (_BLUR * size)
    weights = np.exp(-(distance**2) / 2)
    matrix: Floats = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return matrix
