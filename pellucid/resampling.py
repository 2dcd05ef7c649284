"""Enlarges maps as torch does, to draw them or to mask pictures with them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from pellucid.types import Floats


def upsample(values: Floats, width: int, height: int) -> Floats:
    """Resize maps ``[..., h, w]`` to ``[..., height, width]``, bilinear, as torch with ``align_corners=False``."""
    h, w = values.shape[-2:]
    down, across = _interpolation(height, h, values.dtype), _interpolation(width, w, values.dtype)
    return np.asarray(down @ values @ across.T, values.dtype)


@lru_cache(128)
def _interpolation(size: int, given: int, dtype: np.dtype[Any]) -> Floats:
    """The matrix ``[size, given]`` that interpolates ``given`` values linearly at ``size`` positions.

    Position i is (i + 0.5) given / size - 0.5, clipped to the range 0 to given - 1.
    """
    positions = np.clip((np.arange(size) + 0.5) * given / size - 0.5, 0, given - 1)
    below = positions.astype(np.intp)
    fraction = positions - below
    matrix: Floats = np.zeros((size, given), dtype)
    matrix[np.arange(size), below] = 1 - fraction
    matrix[np.arange(size), np.minimum(below + 1, given - 1)] += fraction
    return matrix
