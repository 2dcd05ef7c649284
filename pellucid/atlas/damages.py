"""Damaged copies of pictures, to see how a gate's weights move. Deterministic: the same picture, the same damage."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Final

import numpy as np
from PIL import Image

from pellucid.atlas.content import DamageKind
from pellucid.network.spec import PreprocessSpec
from pellucid.types import Floats, InputPixels

_NOISE: Final = 0.18  # standard deviation, as a share of the range
_BLUR: Final = 0.012  # standard deviation, as a share of the side
_REACH: Final = 4  # standard deviations
_DARK: Final = 0.375  # of the brightness
_QUALITY: Final = 20  # of the JPEG

Damage = Callable[[Floats, np.random.Generator], Floats]


def kinds(spec: PreprocessSpec) -> tuple[DamageKind, ...]:
    """The damages that fit a network's pixels. JPEG needs 8-bit RGB."""
    return ("noise", "blur", "dark", "jpeg") if spec.is_plain else ("noise", "blur", "dark")


def damaged(pixels: InputPixels, kind: str, spec: PreprocessSpec, seed: int) -> InputPixels:
    """A damaged copy of the network's pixels ``[H, W, C]``."""
    if kind == "jpeg":
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY)
        return np.asarray(Image.open(buffer))
    # One number for all channels is much faster than an array of them.
    low, high = (np.array(limit if len({*limit}) > 1 else limit[0], np.float32) for limit in (spec.low, spec.high))
    shares = (pixels - low) / (high - low)
    damage: dict[str, Damage] = {"noise": _noisy, "blur": _blurred, "dark": lambda values, _: values * _DARK}
    values = low + np.clip(damage[kind](shares, np.random.default_rng(seed)), 0, 1) * (high - low)
    return np.rint(values).astype(np.uint8) if pixels.dtype == np.uint8 else values.astype(np.float32)


def _noisy(values: Floats, chance: np.random.Generator) -> Floats:
    noise: Floats = values + _NOISE * chance.standard_normal(values.shape, np.float32)
    return noise


def _blurred(values: Floats, _: np.random.Generator) -> Floats:
    """A Gaussian blur. A product of matrices would be split over BLAS's own threads, which costs more here."""
    for axis in (0, 1):
        values = np.moveaxis(values, axis, 0)
        side = len(values)
        total, weights = values.copy(order="K"), np.ones((side, 1, 1), np.float32)
        for distance in range(1, min(side, 1 + round(_REACH * _BLUR * side))):
            weight = np.exp(np.float32(-((distance / (_BLUR * side)) ** 2) / 2))
            for to, of in ((slice(distance, None), slice(-distance)), (slice(-distance), slice(distance, None))):
                total[to] += weight * values[of]
                weights[to] += weight
        values = np.moveaxis(total / weights, 0, axis)
    return values
