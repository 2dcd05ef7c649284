"""Ways to damage a picture, each from barely visible to severe. After Hendrycks and Dietterich, arXiv 1903.12261.

A corruption takes RGB bytes ``[H, W, 3]``, a strength in [0, 1] and a random generator, and returns RGB bytes. Lengths
are fractions of the picture's side, so a small crop is damaged like a large one.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Picture = NDArray[np.uint8]
Corruption = Callable[[Picture, float, np.random.Generator], Picture]


def _bytes(values: NDArray[np.floating[Any]]) -> Picture:
    rounded: Picture = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return rounded


def _between(weak: float, severe: float, strength: float) -> float:
    return weak + (severe - weak) * strength


def noise(picture: Picture, strength: float, chance: np.random.Generator) -> Picture:
    """Gaussian noise, for each channel or the same for all three."""
    channels = 3 if chance.random() < 0.7 else 1
    grain = chance.standard_normal((*picture.shape[:2], channels), dtype=np.float32)
    return _bytes(picture + _between(12, 80, strength) * grain)


def blur(picture: Picture, strength: float, chance: np.random.Generator) -> Picture:
    """Gaussian blur."""
    radius = _between(0.004, 0.02, strength) * min(picture.shape[:2])
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))


def jpeg(picture: Picture, strength: float, chance: np.random.Generator) -> Picture:
    """JPEG at quality 34 to 6."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=round(_between(34, 6, strength)))
    return np.asarray(Image.open(buffer))


def contrast(picture: Picture, strength: float, chance: np.random.Generator) -> Picture:
    """Contrast lowered around the picture's mean."""
    mean = picture.mean(dtype=np.float32)
    return _bytes(mean + _between(0.5, 0.1, strength) * (picture.astype(np.float32) - mean))


def fog(picture: Picture, strength: float, chance: np.random.Generator) -> Picture:
    """A smooth, uneven veil of light grey."""
    height, width = picture.shape[:2]
    patches = Image.fromarray(chance.integers(0, 256, (5, 5), dtype=np.uint8))
    veil = np.asarray(patches.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)[..., None]
    opacity = _between(0.3, 0.75, strength) + 0.2 * (veil / 255 - 0.5)
    return _bytes(picture * (1 - opacity) + (190 + veil / 4) * opacity)


def pixelate(picture: Picture, strength: float, chance: np.random.Generator) -> Picture:
    """Downscaled by a factor of 2 to 6, and enlarged again as squares or smoothly."""
    height, width = picture.shape[:2]
    factor = _between(2, 6, strength)
    small = Image.fromarray(picture).resize((round(width / factor), round(height / factor)), Image.Resampling.BOX)
    enlarge = Image.Resampling.NEAREST if chance.random() < 0.5 else Image.Resampling.BILINEAR
    return np.asarray(small.resize((width, height), enlarge))


def colour_cast(picture: Picture, strength: float, chance: np.random.Generator) -> Picture:
    """Each of red, green and blue scaled by its own factor."""
    gain = np.exp(_between(0.2, 0.8, strength) * chance.uniform(-1, 1, 3)).astype(np.float32)
    return _bytes(picture * gain)


def brightness(picture: Picture, strength: float, chance: np.random.Generator) -> Picture:
    """Underexposed or overexposed."""
    dark = chance.random() < 0.5
    return _bytes(picture.astype(np.float32) * (_between(0.6, 0.15, strength) if dark else _between(1.4, 3, strength)))


def impulse(picture: Picture, strength: float, chance: np.random.Generator) -> Picture:
    """Salt and pepper: single pixels black or white."""
    draw = chance.random(picture.shape[:2])
    share = _between(0.02, 0.2, strength)
    damaged = picture.copy()
    damaged[draw < share / 2] = 0
    damaged[draw > 1 - share / 2] = 255
    return damaged


def motion(picture: Picture, strength: float, chance: np.random.Generator) -> Picture:
    """Blur along a line in any direction, as by a moving camera."""
    length = _between(0.025, 0.1, strength) * min(picture.shape[:2])
    angle = chance.uniform(0, np.pi)
    offsets = np.linspace(-length / 2, length / 2, max(3, round(length) + 1))
    margin = round(length / 2) + 1
    padded = np.pad(picture, ((margin, margin), (margin, margin), (0, 0)), mode="reflect").astype(np.float32)
    height, width = picture.shape[:2]
    total = np.zeros(picture.shape, np.float32)
    for offset in offsets:
        top = margin + round(offset * np.sin(angle))
        left = margin + round(offset * np.cos(angle))
        total += padded[top : top + height, left : left + width]
    return _bytes(total / len(offsets))


def posterise(picture: Picture, strength: float, chance: np.random.Generator) -> Picture:
    """Few levels per channel: 6 down to 2."""
    levels = round(_between(6, 2, strength))
    return _bytes(np.rint(picture.astype(np.float32) / 255 * (levels - 1)) * (255 / (levels - 1)))


TRAINED: dict[str, Corruption] = {
    function.__name__: function for function in (noise, blur, jpeg, contrast, fog, pixelate, colour_cast, brightness)
}
# Never used in training, so the check shows whether the gates generalise.
HELD_OUT: dict[str, Corruption] = {function.__name__: function for function in (impulse, motion, posterise)}
