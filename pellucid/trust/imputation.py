"""Noisy linear imputation: replaces removed pixels by means of their neighbours, so that the mask's shape is hidden.

Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods", arXiv 2202.00449, section 4.2.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pellucid.types import Floats, Pixels

# Standard deviation of the noise in 8-bit levels. It is 0.01 of the range, as in the paper.
NOISE: Final = 2.55
# Largest residual of the solution in 8-bit levels, far below the noise.
_RESIDUAL: Final = 0.1
_MOST_ITERATIONS: Final = 12
_SMALLEST: Final = 4


def imputed(pixels: Pixels, removed: NDArray[np.bool_], generator: np.random.Generator) -> Pixels:
    """Impute the ``removed`` ``[H, W]`` pixels of ``pixels`` ``[H, W, 3]``, and add noise of NOISE levels to them."""
    filled = linear(pixels, removed).transpose(1, 2, 0)
    filled += generator.normal(0, NOISE, filled.shape) * removed[:, :, None]
    return np.rint(np.clip(filled, 0, 255)).astype(np.uint8)


def linear(pixels: Pixels, removed: NDArray[np.bool_]) -> Floats:
    """Impute without noise. Returns channels first: ``[3, H, W]``.

    Each removed pixel becomes the weighted mean of its eight neighbours, including removed ones. Neighbours beside,
    above and below have the weight 2, diagonal ones 1. If all pixels are removed, the result is grey.

    Solved by conjugate gradients, preconditioned by one multigrid V-cycle.
    """
    known = pixels.transpose(2, 0, 1).astype(np.float32)
    if removed.all():
        known[:] = 127.5
        return known
    grid = _Grid(removed)
    x = _initial_guess(known, ~removed)
    residual = grid.residual(x)
    step = grid.cycle(residual)
    direction = step.copy()
    rho = (residual * step).sum((1, 2))
    for _ in range(_MOST_ITERATIONS):
        # The matrix's diagonal is 12, so residual / 12 is an error in levels.
        if float(np.abs(residual).max(initial=0)) < 12 * _RESIDUAL:
            break
        image = grid.applied(direction)
        alpha = (rho / np.maximum((direction * image).sum((1, 2)), 1e-20))[:, None, None]
        x += alpha * direction
        residual -= alpha * image
        step = grid.cycle(residual)
        rho, before = (residual * step).sum((1, 2)), rho
        direction *= (rho / np.maximum(before, 1e-20))[:, None, None]
        direction += step
    return x


def _neighbour_sums(x: Floats) -> Floats:
    """The weighted sum of each pixel's eight neighbours, for ``x`` ``[n, H, W]``. Pixels beyond the edge count as 0."""
    down = x + x
    down[:, 1:] += x[:, :-1]
    down[:, :-1] += x[:, 1:]
    both = down + down
    both[:, :, 1:] += down[:, :, :-1]
    both[:, :, :-1] += down[:, :, 1:]
    both -= 4 * x
    return both


def _block_sums(x: Floats) -> Floats:
    """Sums over blocks of 2 x 2, ``[n, H, W]`` -> ``[n, ceil(H / 2), ceil(W / 2)]``."""
    x = np.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2))) if x.shape[1] % 2 or x.shape[2] % 2 else x
    rows = x[:, ::2] + x[:, 1::2]
    return rows[:, :, ::2] + rows[:, :, 1::2]


def _repeat_blocks(x: Floats, height: int, width: int) -> Floats:
    """Repeat each value over its block of 2 x 2. This is the transpose of ``_block_sums``."""
    count, rows, columns = x.shape
    spread = np.broadcast_to(x[:, :, None, :, None], (count, rows, 2, columns, 2))
    return spread.reshape(count, 2 * rows, 2 * columns)[:, :height, :width]


class _Grid:
    """The equations on one grid, and on the coarser ones below it.

    For each removed pixel: (sum of weights) x value - (weighted sum of neighbours) = 0.
    """

    def __init__(self, removed: NDArray[np.bool_]) -> None:
        self._free = removed[None].astype(np.float32)
        self._weight = _neighbour_sums(np.ones_like(self._free))
        self._step = self._free / self._weight
        self._coarse: _Grid | None = None
        if min(removed.shape) > _SMALLEST:
            # A block is free only if all of its pixels are removed. Known pixels fix the other blocks.
            sizes = _block_sums(np.ones_like(self._free))
            free = (_block_sums(self._free) == sizes)[0]
            if free.any():
                self._coarse = _Grid(free)

    def applied(self, x: Floats) -> Floats:
        """The left side of the equations, for ``x`` that is 0 at known pixels."""
        image = self._weight * x
        image -= _neighbour_sums(x)
        image *= self._free
        return image

    def residual(self, x: Floats) -> Floats:
        """The residual of the equations, for ``x`` that includes the known pixels."""
        return -self.applied(x)

    def cycle(self, residual: Floats) -> Floats:
        """Approximate the correction for ``residual`` by a symmetric V-cycle: Jacobi, coarser grid, Jacobi."""
        x = self._step * residual
        if self._coarse is None:
            for _ in range(2 * _SMALLEST):
                x += self._step * (residual - self.applied(x))
            return x
        left = residual - self.applied(x)
        x += self._free * _repeat_blocks(self._coarse.cycle(_block_sums(left)), *x.shape[1:])
        x += self._step * (residual - self.applied(x))
        return x


def _initial_guess(values: Floats, known: NDArray[np.bool_]) -> Floats:
    """Fill each unknown pixel with the mean of the known pixels in the smallest block around it that has any."""
    if known.all():
        return values
    counts = _block_sums(known[None].astype(np.float32))
    means = (_block_sums(values * known) / np.maximum(counts, 1)).astype(np.float32)
    coarse = _initial_guess(means, counts[0] > 0)
    return np.where(known, values, _repeat_blocks(coarse, *known.shape))
