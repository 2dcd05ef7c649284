"""Writes maps to files that preserve their numbers."""

from __future__ import annotations

import io
from typing import Any, Final

import numpy as np

from pellucid.render import png
from pellucid.types import Floats

# Largest level of 16 bits.
_TOP: Final = 65_535


def npz(arrays: dict[str, Any]) -> bytes:
    """A ``.npz`` file of ``arrays``. ``numpy.load`` reads it without ``allow_pickle``."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def png16(values: Floats) -> tuple[bytes, float, float]:
    """A map ``[h, w]`` as (16-bit grey PNG, scale, offset), with value = offset + scale x level.

    The error of a decoded value is at most scale / 2. The scale of a constant map is 0.
    """
    low, high = float(values.min()), float(values.max())
    scale = (high - low) / _TOP
    levels = np.rint((values.astype(np.float64) - low) / scale if scale else np.zeros(values.shape))
    return png.encode(levels.astype(np.uint16)), scale, low
