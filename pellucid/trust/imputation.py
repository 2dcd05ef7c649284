"""Noisy linear imputation: removed pixels become the mean of their neighbours, so that their shape can't be seen.

Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods", arXiv 2202.00449, section 4.2.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pellucid.types import Floats, InputPixels

# Standard deviation of the noise in 8-bit levels: the paper's 0.01 of the range.
NOISE: Final = 2.55
# In levels. The noise is larger.
_RESIDUAL: Final = 0.1
_MOST_ITERATIONS: Final = 12
_SMALLEST: Final = 4


def imputed(pixels: InputPixels, removed: NDArray[np.bool_], generator: np.random.Generator) -> InputPixels:
    """``pixels`` ``[H, W, C]``, levels from 0 to 255, with the ``removed`` ones ``[H, W]`` imputed, and noise of NOISE
    levels on those. Levels of float32 are neither rounded nor clipped.
    """
    filled = linear(pixels, removed).transpose(1, 2, 0)
    filled += generator.normal(0, NOISE, filled.shape) * removed[:, :, None]
    return filled if pixels.dtype != np.uint8 else np.rint(np.clip(filled, 0, 255)).astype(np.uint8)


def linear(pixels: InputPixels, removed: NDArray[np.bool_]) -> Floats:
    """The same without noise, channels first: ``[C, H, W]``. Each removed pixel is the weighted mean of its eight
    neighbours, removed or not: 2 parts of each beside it, 1 part of each across a corner.

    Conjugate gradients, preconditioned by one V-cycle of multigrid. If all pixels are removed, the result is grey.

    This takes 13 ms for 224 x 224 pixels on one core, whatever the share that is removed. SciPy's sparse LU takes 16 ms
    with a fifth removed and 133 ms with four fifths: a ``trust`` request of 40 such pictures, 3.7 s instead of 1.6 s.
    """
    known = pixels.transpose(2, 0, 1).astype(np.float32)
    if removed.all():
        known[:] = 127.5
        return known
    grid = _Grid(removed)
    x = _guess(known, ~removed)
    residual = grid.residual(x)
    step = grid.cycle(residual)
    direction = step.copy()
    rho = (residual * step).sum((1, 2))
    for _ in range(_MOST_ITERATIONS):
        # Divided by the diagonal, 12, the residual is in levels.
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


def _around(x: Floats) -> Floats:
    """Sums of the eight neighbours of each pixel of ``[n, H, W]``, with weights 2 and 1, and zeros beyond the edge."""
    down = x + x
    down[:, 1:] += x[:, :-1]
    down[:, :-1] += x[:, 1:]
    both = down + down
    both[:, :, 1:] += down[:, :, :-1]
    both[:, :, :-1] += down[:, :, 1:]
    both -= 4 * x
    return both


def _blocks(x: Floats) -> Floats:
    """Sums over blocks of 2 x 2, ``[n, H, W]`` -> ``[n, ceil(H / 2), ceil(W / 2)]``."""
    x = np.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2))) if x.shape[1] % 2 or x.shape[2] % 2 else x
    rows = x[:, ::2] + x[:, 1::2]
    return rows[:, :, ::2] + rows[:, :, 1::2]


def _spread(x: Floats, height: int, width: int) -> Floats:
    """Each value repeated in its block of 2 x 2: the transpose of ``_blocks``."""
    count, rows, columns = x.shape
    spread = np.broadcast_to(x[:, :, None, :, None], (count, rows, 2, columns, 2))
    return spread.reshape(count, 2 * rows, 2 * columns)[:, :height, :width]


class _Grid:
    """The equations on a grid and on coarser ones. For each removed pixel: weight x value - sum of neighbours = 0."""

    def __init__(self, removed: NDArray[np.bool_]) -> None:
        self._free = removed[None].astype(np.float32)
        self._weight = _around(np.ones_like(self._free))
        self._step = self._free / self._weight
        self._coarse: _Grid | None = None
        if min(removed.shape) > _SMALLEST:
            # A block is free if all its pixels are.
            of_block = _blocks(np.ones_like(self._free))
            free = (_blocks(self._free) == of_block)[0]
            if free.any():
                self._coarse = _Grid(free)

    def applied(self, x: Floats) -> Floats:
        """The left side of the equations, for values that are zero at known pixels."""
        image = self._weight * x
        image -= _around(x)
        image *= self._free
        return image

    def residual(self, x: Floats) -> Floats:
        """The residual of the equations, for all values, known ones included."""
        return -self.applied(x)

    def cycle(self, residual: Floats) -> Floats:
        """An approximate solution for the residual: Jacobi, the coarser grid, Jacobi. Symmetric."""
        x = self._step * residual
        if self._coarse is None:
            for _ in range(2 * _SMALLEST):
                x += self._step * (residual - self.applied(x))
            return x
        left = residual - self.applied(x)
        x += self._free * _spread(self._coarse.cycle(_blocks(left)), *x.shape[1:])
        x += self._step * (residual - self.applied(x))
        return x


def _guess(values: Floats, known: NDArray[np.bool_]) -> Floats:
    """Unknown values from the mean of the known ones in the smallest block around them that has some."""
    if known.all():
        return values
    counts = _blocks(known[None].astype(np.float32))
    means = (_blocks(values * known) / np.maximum(counts, 1)).astype(np.float32)
    coarse = _guess(means, counts[0] > 0)
    return np.where(known, values, _spread(coarse, *known.shape))
