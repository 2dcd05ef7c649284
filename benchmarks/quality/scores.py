"""How well a map marks a place that is known, and how sure the mean of a few pictures is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.scenes import Scene
from pellucid.render.compose import positive
from pellucid.resampling import upsample
from pellucid.types import Floats

# Zhang et al. allow 15 pixels, on pictures of about 500 x 375: the same share of the longer side.
TOLERANCE: Final = 15 / 500
_RESAMPLES: Final = 2000


def hit(heat: Floats, scene: Scene) -> bool:
    """Pointing game: whether the largest value of the map ``[h, w]`` lies in a box, or near it by TOLERANCE.

    Zhang et al., "Top-down Neural Attention by Excitation Backprop", arXiv 1608.00507, section 4.1. A flat map points
    nowhere, which is a miss.
    """
    height, width = scene.pixels.shape[:2]
    if np.ptp(heat) == 0:
        return False
    enlarged = upsample(heat, width, height)
    return bool(scene.inside(TOLERANCE * max(height, width)).ravel()[enlarged.argmax()])


def energy(heat: Floats, scene: Scene) -> float:
    """The share of the positive map, 0 to 1, that lies in the boxes: Wang et al., "Score-CAM", arXiv 1910.01279,
    section 4.3. Of a map with nothing positive, 0.
    """
    height, width = scene.pixels.shape[:2]
    mask = positive(heat, width, height)
    total = float(mask.sum())
    return float(mask[scene.inside()].sum()) / total if total else 0.0


def cosine(one: Floats, other: Floats, scene: Scene) -> float:
    """The cosine between two maps as masks of the scene's size, 1 where they are the same; 0 if one is empty."""
    height, width = scene.pixels.shape[:2]
    left, right = (positive(heat, width, height).ravel().astype(np.float64) for heat in (one, other))
    size = float(np.sqrt((left @ left) * (right @ right)))
    return float(left @ right) / size if size else 0.0


def interval(values: Sequence[float], pictures: Sequence[str]) -> tuple[float, float]:
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
