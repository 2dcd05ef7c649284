"""Rank correlation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """The rank of each of ``[n]`` values from 0. Equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: NDArray[np.float64] = (last - (counts + 1) / 2)[inverse]
    return shared


def spearman(one: NDArray[Any], other: NDArray[Any]) -> float | None:
    """Spearman's rank correlation of two arrays of one size, -1 to 1: Pearson's correlation of the ranks.

    None if one of them is constant, or not finite.
    """
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return None
    left, right = ranks(one.ravel()), ranks(other.ravel())
    left, right = left - left.mean(), right - right.mean()
    size = float(np.sqrt((left @ left) * (right @ right)))
    return float(left @ right) / size if size > 0 else None
