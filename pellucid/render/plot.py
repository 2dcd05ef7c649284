"""Bar charts of channel weights, one strip for each gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pellucid.types import Floats, Pixels

_WIDTH: Final = 960
_MARGIN: Final = 16
_AXIS: Final = 56  # width of the axis labels, left of a strip
_TITLE: Final = 24
_STRIP: Final = 72
_INK: Final = (32, 32, 32)
_PALE: Final = (232, 232, 232)
_LINE: Final = (120, 120, 120)
_ABOVE: Final = (208, 84, 32)  # orange and blue, which colour-blind readers can tell apart
_BELOW: Final = (44, 104, 176)


@dataclass(frozen=True, slots=True)
class Strip:
    """One strip: a bar for each value, drawn up or down from ``neutral``, the value that has no effect.

    ``reach`` is the axis's extent on each side of ``neutral``. Use the same reach to make strips comparable.
    """

    title: str
    values: Floats
    neutral: float
    reach: float


def bars(strips: Sequence[Strip]) -> Pixels:
    """Draw the strips below one another, and a legend of the colours. Returns ``[height, width, 3]`` RGB.

    If there are more channels than pixels, a column of pixels shows the range of its channels.
    """
    height = _MARGIN + sum(_TITLE + _STRIP + _MARGIN for _ in strips) + _TITLE
    image = Image.new("RGB", (_WIDTH, height), "white")
    draw = ImageDraw.Draw(image)
    top = _MARGIN
    for strip in strips:
        draw.text((_MARGIN, top), strip.title, _INK, ImageFont.load_default(15))
        _draw(draw, strip, top + _TITLE)
        top += _TITLE + _STRIP + _MARGIN
    left = _MARGIN + _AXIS
    for colour, meaning in ((_ABOVE, "above 1, or for the class"), (_BELOW, "below 1, or against it")):
        draw.rectangle((left, top - 4, left + 10, top + 6), colour)
        draw.text((left + 18, top + 1), meaning, _INK, ImageFont.load_default(12), anchor="lm")
        left += 190
    return np.asarray(image)


def _draw(draw: ImageDraw.ImageDraw, strip: Strip, top: int) -> None:
    left, right, bottom = _MARGIN + _AXIS, _WIDTH - _MARGIN, top + _STRIP - 1
    low = strip.neutral - strip.reach if strip.values.min() < strip.neutral else strip.neutral
    high = strip.neutral + strip.reach if strip.values.max() > strip.neutral else strip.neutral
    if low == high:  # every channel is neutral: draw a line in the middle
        low, high = strip.neutral - strip.reach, strip.neutral + strip.reach

    def y(value: float) -> float:
        return bottom - (value - low) / (high - low) * (_STRIP - 1)

    draw.rectangle((left, top, right, bottom), _PALE)
    edges = np.linspace(left, right + 1, len(strip.values) + 1)
    gap = 1 if edges[1] - edges[0] >= 3 else 0
    for value, start, stop in zip(strip.values.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        ends = sorted((y(value), y(strip.neutral)))
        colour = _ABOVE if value >= strip.neutral else _BELOW
        draw.rectangle((int(start), ends[0], max(int(start), int(stop) - 1 - gap), ends[1]), colour)
    draw.line((left, y(strip.neutral), right, y(strip.neutral)), _LINE)
    font = ImageFont.load_default(12)
    for value in {low, strip.neutral, high}:
        draw.text((left - 6, y(value)), f"{value:.3g}", _INK, font, anchor="rm")
