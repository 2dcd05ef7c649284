"""Pictures with text: bar charts of channel weights, and grids of feature maps with labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pellucid.render.compose import Grid
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
# The gap between the tiles of a grid, which holds a line of text, and the greys of its texts, from paper to ink.
GRID_GAP: Final = 20
GREYS: Final[Pixels] = np.linspace((255,) * 3, _INK, 16).astype(np.uint8)
_FAINT_INK: Final = 170  # of 255
_BAR: Final = (200, 14)


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


@dataclass(frozen=True, slots=True)
class Labels:
    """The texts of a grid: ``title`` and ``note`` above it, and for each tile its name and the range of its colours.

    ``ends`` name the ends of the colours, and ``scale`` says what they mean. A text can be empty.
    """

    title: str
    note: str
    names: Sequence[str]
    ranges: Sequence[str]
    ends: tuple[str, str]
    scale: str


def labelled(grid: Grid, labels: Labels) -> tuple[Pixels, tuple[int, int]]:
    """Draw a grid, made with GRID_GAP and GREYS, with its labels and a bar of its colours.

    Returns ``[height, width]`` indices into the grid's palette, and x and y of the first tile. A tile that is too
    narrow for its range has its name only.
    """
    title, text, small = ImageFont.load_default(20), ImageFont.load_default(14), ImageFont.load_default(12)
    height, width = grid.levels.shape
    left, top = _MARGIN, _MARGIN + 48 + GRID_GAP
    (low, high), bar = labels.ends, top + height + _MARGIN
    start = left + round(text.getlength(low)) + 8
    stop = start + _BAR[0] + 8 + round(text.getlength(high)) + _MARGIN
    beside = stop + text.getlength(labels.scale) <= left + width  # the bar, or else below it
    needed = [title.getlength(labels.title), text.getlength(labels.note), text.getlength(labels.scale), stop - left]
    size = 2 * _MARGIN + max(width, *map(round, needed)), bar + (24 if beside else 46) + _MARGIN - 8
    ink = Image.new("L", size)
    draw = ImageDraw.Draw(ink)
    draw.text((left, _MARGIN), labels.title, 255, title)
    draw.text((left, _MARGIN + 28), labels.note, _FAINT_INK, text)
    for number, (name, span) in enumerate(zip(labels.names, labels.ranges, strict=True)):
        row, column = divmod(number, grid.columns)
        x, y = left + column * (grid.tile[0] + grid.gap), top + row * (grid.tile[1] + grid.gap) - 4
        draw.text((x, y), name, 255, small, anchor="ls")
        if small.getlength(name) + 6 + small.getlength(span) <= grid.tile[0]:
            draw.text((x + grid.tile[0], y), span, _FAINT_INK, small, anchor="rs")
    middle = bar + _BAR[1] // 2
    draw.text((left, middle), low, 255, text, anchor="lm")
    draw.text((start + _BAR[0] + 8, middle), high, 255, text, anchor="lm")
    draw.text((stop, middle) if beside else (left, middle + 22), labels.scale, _FAINT_INK, text, anchor="lm")
    paper = 256 - len(GREYS)
    levels = np.asarray(ink) // len(GREYS) + np.uint8(paper)
    np.copyto(levels[top : top + height, left : left + width], grid.levels, where=grid.levels < paper)
    levels[bar : bar + _BAR[1], start : start + _BAR[0]] = np.linspace(0, paper - 1, _BAR[0])
    return levels, (left, top)
