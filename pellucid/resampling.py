"""Enlarge maps as torch does, to draw them and to mask pictures with them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from pellucid.types import Floats


def upsample(values: Floats, width: int, height: int) -> Floats:
    """Maps ``[..., h, w]`` as ``[..., height, width]``, bilinear between pixel centres (torch's
    ``align_corners=False``).
    """
    h, w = values.shape[-2:]
    down, across = _interpolation(height, h, values.dtype), _interpolation(width, w, values.dtype)
    return np.asarray(down @ values @ across.T, values.dtype)


@lru_cache(128)
def _interpolation(size: int, given: int, dtype: np.dtype[Any]) -> Floats:
    """The matrix ``[size, given]`` that interpolates ``given`` values linearly at ``size`` places.

    Place i lies at (i + 0.5) given / size - 0.5 among the values, at the ends no further than the outermost.
    """
    places = np.clip((np.arange(size) + 0.5) * given / size - 0.5, 0, given - 1)
    below = places.astype(np.intp)
    share = places - below
    matrix: Floats = np.zeros((size, given), dtype)
    matrix[np.arange(size), below] = 1 - share
    matrix[np.arange(size), np.minimum(below + 1, given - 1)] += share
    return matrix
