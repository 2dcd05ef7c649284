"""Pictures with text: bar charts of channel weights, and grids of feature maps with labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from pellucid.render import typeface
from pellucid.render.compose import Grid
from pellucid.render.figure import Box, Figure, Shape, Text, Theme, number
from pellucid.types import Floats, Pixels

_WIDTH: Final = 1200
_MARGIN: Final = 36
_AXIS: Final = 60  # width of the axis labels, left of a strip
_HEADING: Final = 82  # height of the heading and the line under it
_TITLE: Final = 30
_STRIP: Final = 104
_TICKS: Final = 24  # height of the channel axis
_NAMED: Final = 5
# The axis goes so much further than the longest bar, for the channel's number at its tip.
_HEADROOM: Final = 1.4
_MOST_TICKS: Final = 12
# The gap between the tiles of a grid, which holds a line of text, and the greys of its texts, from paper to ink.
GRID_GAP: Final = 20
GREYS: Final[Pixels] = np.linspace((255,) * 3, (32, 32, 32), 16).astype(np.uint8)
_FAINT_INK: Final = 170  # of 255
_BAR: Final = (200, 14)
_GRID_MARGIN: Final = 16
# Sizes of a tile's range: the first that has room in all tiles.
_RANGES: Final = (14, 12, 11)


@dataclass(frozen=True, slots=True)
class Strip:
    """One strip: a bar for each channel, drawn up or down from ``neutral``, the value that has no effect.

    ``leads`` says what the channels are that are named after the note: those furthest from ``neutral``.

    ``reach`` is the axis's extent on each side of ``neutral``. Use the same reach to make strips comparable.
    """

    title: str
    note: str
    values: Floats
    neutral: float
    reach: float
    leads: str

    @property
    def strongest(self) -> list[int]:
        """The channels whose values are furthest from neutral, furthest first."""
        apart = np.abs(self.values - self.neutral)
        return [each for each in np.argsort(-apart, kind="stable")[:_NAMED].tolist() if apart[each] > 0]


def bars(heading: str, under: str, strips: Sequence[Strip], theme: Theme) -> Figure:
    """The strips below a heading and a line under it, and a legend of the colours. The strongest channels are named."""
    room = _WIDTH - 2 * _MARGIN
    shapes: list[Shape] = [
        Text(_MARGIN, _MARGIN + 24, typeface.cut(heading, 30, room, bold=True), 30, theme.ink, bold=True),
        Text(_MARGIN, _MARGIN + 54, typeface.cut(under, 18, room), 18, theme.faint),
    ]
    top = _MARGIN + _HEADING
    for strip in strips:
        named = ", ".join(f"{channel} ({number(strip.values[channel])})" for channel in strip.strongest)
        title = typeface.cut(strip.title, 19, room, bold=True)
        left = _MARGIN + typeface.width(title, 19, bold=True) + 14
        note = f"{strip.note}; {strip.leads}: {named}" if named else strip.note
        shapes.append(Text(_MARGIN, top + 16, title, 19, theme.ink, bold=True))
        if left + typeface.width(note, 17) > _WIDTH - _MARGIN:  # on a line of its own
            left, top = _MARGIN, top + 24
        shapes.append(Text(left, top + 16, typeface.cut(note, 17, _WIDTH - _MARGIN - left), 17, theme.faint))
        shapes += _strip(strip, top + _TITLE, theme)
        top += _TITLE + _STRIP + _TICKS + 16
    left = _MARGIN + _AXIS
    for colour, meaning in ((theme.above, "above 1, or for the class"), (theme.below, "below 1, or against it")):
        shapes += Box(left, top, 13, 13, colour), Text(left + 21, top + 12, meaning, 17, theme.ink)
        left += 240
    title = "; ".join((heading, under, *(strip.title for strip in strips)))
    return Figure(title, _WIDTH, top + 16 + _MARGIN - 8, theme.paper, shapes)


def _strip(strip: Strip, top: int, theme: Theme) -> Iterator[Shape]:
    left, right, count = _MARGIN + _AXIS, _WIDTH - _MARGIN, len(strip.values)
    reach = _HEADROOM * strip.reach
    low = strip.neutral - reach if strip.values.min() < strip.neutral else strip.neutral
    high = strip.neutral + reach if strip.values.max() > strip.neutral else strip.neutral
    if low == high:  # every channel is neutral: a line in the middle
        low, high = strip.neutral - reach, strip.neutral + reach

    def y(value: float) -> float:
        return top + (high - value) / (high - low) * _STRIP

    step = (right - left) / count
    yield Box(left, top, right - left, _STRIP, theme.track)
    for channel, value in enumerate(strip.values.tolist()):
        ends = sorted((y(value), y(strip.neutral)))
        colour = theme.above if value >= strip.neutral else theme.below
        yield Box(left + channel * step, ends[0], max(1, step - (step >= 3)), ends[1] - ends[0], colour)
    yield Box(left, y(strip.neutral), right - left, 1, theme.faint)
    for value in {strip.neutral - strip.reach, strip.neutral, strip.neutral + strip.reach}:
        if low <= value <= high:
            yield Text(left - 8, y(value) + 5, number(value), 15, theme.ink, anchor="end")
    places: list[tuple[float, float]] = []
    for channel in strip.strongest:
        value = float(strip.values[channel])
        x, above = left + (channel + 0.5) * step, value >= strip.neutral
        if all(abs(x - other) > 36 or abs(y(value) - height) > 16 for other, height in places):
            yield Text(x, y(value) + (-4 if above else 14), str(channel), 14, theme.ink, anchor="middle")
            places.append((x, y(value)))
    tick = _tick(count)
    for channel in range(0, count, tick):
        x = left + (channel + 0.5) * step
        name = f"channel {channel}" if channel == 0 else str(channel)
        yield Box(x, top + _STRIP, 1, 5, theme.faint)
        yield Text(x, top + _STRIP + 19, name, 14, theme.faint, anchor="middle" if channel else "start")


def _tick(count: int) -> int:
    """The channels between two ticks: 1, 2 or 5 times a power of 10."""
    steps = (factor * 10**power for power in range(9) for factor in (1, 2, 5))
    return int(next(step for step in steps if count / step <= _MOST_TICKS))


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

    Returns ``[height, width]`` indices into the grid's palette, and x and y of the first tile. Ranges are as small as
    they must be, and a tile that is too narrow still has its name only, which is said beside the bar.
    """
    spans = [(name, span) for name, span in zip(labels.names, labels.ranges, strict=True) if span]

    def fits(name: str, span: str, size: int) -> bool:
        return typeface.font(14).getlength(name) + 6 + typeface.font(size).getlength(span) <= grid.tile[0]

    spanned = next((size for size in _RANGES if all(fits(*each, size) for each in spans)), _RANGES[-1])
    if not all(fits(*each, spanned) for each in spans):
        labels = replace(labels, scale=f"{labels.scale} Ranges that have no room are left out.")
    said = f"{labels.title} {labels.note} {labels.scale}"
    title, text, small = (typeface.font(size, size > 20, said) for size in (21, 16, 14))
    height, width = grid.levels.shape
    left, top = _GRID_MARGIN, _GRID_MARGIN + 58 + GRID_GAP
    (low, high), bar = labels.ends, top + height + _GRID_MARGIN
    start = left + round(text.getlength(low)) + 8
    stop = start + _BAR[0] + 8 + round(text.getlength(high)) + _GRID_MARGIN
    beside = stop + text.getlength(labels.scale) <= left + width  # the bar, or else below it
    needed = [title.getlength(labels.title), text.getlength(labels.note), text.getlength(labels.scale), stop - left]
    size = 2 * _GRID_MARGIN + max(width, *map(round, needed)), bar + (24 if beside else 46) + _GRID_MARGIN - 8
    ink = Image.new("L", size)
    draw = ImageDraw.Draw(ink)
    draw.text((left, _GRID_MARGIN), labels.title, 255, title)
    draw.text((left, _GRID_MARGIN + 28), labels.note, _FAINT_INK, text)
    for tile, (name, span) in enumerate(zip(labels.names, labels.ranges, strict=True)):
        row, column = divmod(tile, grid.columns)
        x, y = left + column * (grid.tile[0] + grid.gap), top + row * (grid.tile[1] + grid.gap) - 4
        draw.text((x, y), name, 255, small, anchor="ls")
        if fits(name, span, spanned):
            draw.text((x + grid.tile[0], y), span, _FAINT_INK, typeface.font(spanned), anchor="rs")
    middle = bar + _BAR[1] // 2
    draw.text((left, middle), low, 255, text, anchor="lm")
    draw.text((start + _BAR[0] + 8, middle), high, 255, text, anchor="lm")
    draw.text((stop, middle) if beside else (left, middle + 22), labels.scale, _FAINT_INK, text, anchor="lm")
    paper = 256 - len(GREYS)
    levels = np.asarray(ink) // len(GREYS) + np.uint8(paper)
    np.copyto(levels[top : top + height, left : left + width], grid.levels, where=grid.levels < paper)
    levels[bar : bar + _BAR[1], start : start + _BAR[0]] = np.linspace(0, paper - 1, _BAR[0])
    return levels, (left, top)
