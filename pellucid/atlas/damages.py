"""Damaged copies of pictures, to see how a gate's weights move. Deterministic: the same picture, the same damage."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Final

import numpy as np
from PIL import Image

from pellucid.network.spec import PreprocessSpec
from pellucid.types import Floats, InputPixels

_NOISE: Final = 0.18  # standard deviation, as a share of the range
_BLUR: Final = 0.012  # standard deviation, as a share of the side
_DARK: Final = 0.375  # of the brightness
_QUALITY: Final = 20  # of the JPEG

Damage = Callable[[Floats, np.random.Generator], Floats]


def kinds(spec: PreprocessSpec) -> tuple[str, ...]:
    """The damages that fit a network's pixels. JPEG needs 8-bit RGB."""
    return ("noise", "blur", "dark", *(["jpeg"] if spec.is_plain else []))


def damaged(pixels: InputPixels, kind: str, spec: PreprocessSpec, seed: int) -> InputPixels:
    """A damaged copy of the network's pixels ``[H, W, C]``."""
    if kind == "jpeg":
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY)
        return np.asarray(Image.open(buffer))
    low, high = (np.array(limit, np.float32) for limit in (spec.low, spec.high))
    shares = (pixels - low) / (high - low)
    damage: dict[str, Damage] = {"noise": _noisy, "blur": _blurred, "dark": lambda values, _: values * _DARK}
    values = low + np.clip(damage[kind](shares, np.random.default_rng(seed)), 0, 1) * (high - low)
    return np.rint(values).astype(np.uint8) if pixels.dtype == np.uint8 else values.astype(np.float32)


def _noisy(values: Floats, chance: np.random.Generator) -> Floats:
    noise: Floats = values + _NOISE * chance.standard_normal(values.shape, np.float32)
    return noise


def _blurred(values: Floats, _: np.random.Generator) -> Floats:
    for axis in (0, 1):
        side = values.shape[axis]
        distance = np.subtract.outer(np.arange(side), np.arange(side)) / (_BLUR * side)
        weights = np.exp(-(distance**2) / 2)
        matrix = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
        values = np.moveaxis(np.tensordot(matrix, values, (1, axis)), 0, axis)
    return values
