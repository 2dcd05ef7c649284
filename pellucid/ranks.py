"""Rank correlation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """The ranks of ``[n, ...]`` values along the first axis, from 0. Equal values share their mean rank."""
    order = np.argsort(values, axis=0, kind="stable")
    ordered = np.take_along_axis(values, order, 0)
    place = np.arange(len(values)).reshape(-1, *[1] * (values.ndim - 1))
    same = ordered[1:] == ordered[:-1]
    first, last = np.broadcast_to(place, values.shape).copy(), np.broadcast_to(place, values.shape).copy()
    first[1:][same], last[:-1][same] = 0, len(values)
    first, last = np.maximum.accumulate(first, 0), np.minimum.accumulate(last[::-1], 0)[::-1]
    shared = np.empty(values.shape)
    np.put_along_axis(shared, order, (first + last) / 2, 0)
    return shared


def rank_correlations(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Spearman's rank correlation of ``[n, ...]`` and ``[n, ...]`` along the first axis: Pearson's of the ranks.

    NaN where one of them is constant.
    """
    left, right = ranks(one), ranks(other)
    left, right = left - left.mean(0), right - right.mean(0)
    size = np.sqrt((left**2).sum(0) * (right**2).sum(0))
    found: NDArray[np.float64] = np.divide((left * right).sum(0), size, out=np.full(size.shape, np.nan), where=size > 0)
    return found


def spearman(one: NDArray[Any], other: NDArray[Any]) -> float | None:
    """Spearman's rank correlation of two arrays of one size, -1 to 1.

    None if one of them is constant, or not finite.
    """
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return None
    found = float(rank_correlations(one.reshape(-1, 1), other.reshape(-1, 1))[0])
    return None if np.isnan(found) else found
