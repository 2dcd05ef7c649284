"""How well a map marks a place that is known, and how sure the mean of a few pictures is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pellucid.render.compose import positive
from pellucid.resampling import upsample
from pellucid.types import Box, Floats

_RESAMPLES: Final = 2000


def inside(boxes: Sequence[Box], height: int, width: int) -> NDArray[np.bool_]:
    """Whether a pixel lies in one of the boxes: ``[height, width]``."""
    within = np.zeros((height, width), bool)
    for x0, y0, x1, y1 in boxes:
        within[y0:y1, x0:x1] = True
    return within


def hit(heat: Floats, over: Box, boxes: Sequence[Box], tolerance: float) -> bool:
    """Pointing game: whether the largest value of a map ``[h, w]`` of the box ``over`` lies in one of the ``boxes``, or
    near it by ``tolerance``. All in pixels of one picture.

    Zhang et al., "Top-down Neural Attention by Excitation Backprop", arXiv 1608.00507, section 4.1. A flat map points
    nowhere, which is a miss.
    """
    if np.ptp(heat) == 0:
        return False
    width, height = over[2] - over[0], over[3] - over[1]
    row, column = divmod(int(upsample(heat, width, height).argmax()), width)
    x, y = over[0] + column + 0.5, over[1] + row + 0.5
    return any(np.hypot(max(x0 - x, x - x1, 0), max(y0 - y, y - y1, 0)) <= tolerance for x0, y0, x1, y1 in boxes)


def energy(heat: Floats, *within: NDArray[np.bool_]) -> list[float]:
    """The shares of the positive map, 0 to 1, that lie where each of ``within`` ``[H, W]`` does, which the map covers:
    Wang et al., "Score-CAM", arXiv 1910.01279, section 4.3. Of a map with nothing positive, 0.
    """
    mask = positive(heat, *within[0].shape[::-1])
    total = float(mask.sum())
    return [float(mask[each].sum()) / total if total else 0.0 for each in within]


def cosine(one: Floats, other: Floats, height: int, width: int) -> float:
    """The cosine between two maps as masks of this size, 1 where they are the same; 0 if one is empty."""
    left, right = (positive(heat, width, height).ravel().astype(np.float64) for heat in (one, other))
    size = float(np.sqrt((left @ left) * (right @ right)))
    return float(left @ right) / size if size else 0.0


def interval(values: Sequence[float] | NDArray[Any], pictures: Sequence[str]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean, percentiles; ``pictures`` are drawn, each with all of its values.

    It tells how far the mean depends on which of such pictures there are, and nothing of pictures of another kind.
    """
    names, groups = np.unique(np.asarray(pictures), return_inverse=True)
    sums = np.bincount(groups, np.asarray(values, float))
    counts = np.bincount(groups)
    drawn: NDArray[Any] = np.random.default_rng(0).integers(0, len(names), (_RESAMPLES, len(names)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)
