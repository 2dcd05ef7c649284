"""One figure of an answer, to be pasted into a report: its options, the kinds of its blocks, and where they stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from pydantic import Field

from pellucid.errors import InvalidOption
from pellucid.parts.option_types import Analysis, Options
from pellucid.render import typeface
from pellucid.render.compose import Size
from pellucid.render.encode import Picture
from pellucid.render.figure import (
    FIGURE_TYPES,
    SVG,
    THEMES,
    Box,
    Figure,
    Shape,
    Shown,
    Text,
    Theme,
    ThemeName,
    density,
    written,
)
from pellucid.types import Pixels, Plan

__all__ = ["FIGURE_TYPES", "SVG"]  # for the service's document
# The longer side of the photograph that a figure is drawn from.
SOURCE_SIDE: Final = 1200
# Maps in one figure.
MOST_MAPS: Final = 12

_WIDTH: Final = 1200
_MARGIN: Final = 36
_GAP: Final = 28
_ROOM: Final = _WIDTH - 2 * _MARGIN
_TITLE, _HEAD, _BODY, _NOTE = 30, 20, 18, 17  # sizes of text
_LINE: Final = 24  # between two lines of a paragraph
_ROW: Final = 30  # between two bars
_BAR: Final = 14
# Heights of a panel's title and note, and of its scale.
_CAPTION: Final = 54
_SCALE: Final = 74
# The highest picture of a panel, by the number of columns.
_HIGHEST: Final = {1: 560, 2: 460, 3: 420, 4: 360}
# All pictures of a row are as high as the lowest of them, but those that can be are at least so high.
_LEAST_HIGH: Final = 200
# Below a narrower picture, a scale is so wide, for its numbers.
_LEAST_SCALE: Final = 200


class FigureOptions(Options):
    """The options of routes whose answer can be one figure."""

    theme: ThemeName = Field(
        "light",
        description="Colours of a figure (`Accept: image/png`, `image/webp` or `image/svg+xml`): on white, or on a "
        "dark page.",
        examples=["dark"],
    )

    def figure(self, analysis: Analysis) -> Picture:
        """The figure of one image, as a file of the analysis's media type."""
        return drawn(self.sheet(analysis), self.theme, analysis.media_type)

    def sheet(self, analysis: Analysis) -> Sheet:
        """What the figure of one image shows."""
        raise NotImplementedError

    def maps(self, plan: Plan) -> int:
        """The number of heat maps in the figure."""
        return max(1, len(plan.targets))

    def require_room(self, plan: Plan) -> None:
        """Raise InvalidOption if a figure would have too many maps."""
        if self.maps(plan) > MOST_MAPS:
            raise InvalidOption(
                f"A figure of {self.maps(plan)} maps would be too small to read. At most {MOST_MAPS} are allowed. Ask "
                "for fewer targets, methods or layers, or for application/json."
            )

    def addressed_to(self, name: str) -> Any:
        if "theme" in self.model_fields_set:
            raise InvalidOption("theme: Only routes under /v1 reply with figures.")
        return super().addressed_to(name)


@dataclass(frozen=True, slots=True)
class Scale:
    """A bar of colours below a panel: ``colours`` ``[n, 4]`` RGBA, the numbers at fractions of it, and a caption.

    ``ground`` is what shows where the colours are transparent: by default the paper.
    """

    colours: Pixels
    ticks: Sequence[tuple[float, str]]
    caption: str
    ground: str | None = None


@dataclass(frozen=True, slots=True)
class Panel:
    """A picture with a title and a note. ``draw`` makes it in a size; ``proportion`` is its width by its height.

    ``mark`` is a frame in it, as fractions of its sides.
    """

    title: str
    note: str
    proportion: float
    draw: Callable[[Size], Pixels]
    scale: Scale | None = None
    mark: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A name, a value, and a bar between two fractions of its track. ``colour`` is a field of Theme, or a colour."""

    name: str
    value: str
    start: float = 0.0
    end: float = 0.0
    colour: str = "bar"


@dataclass(frozen=True, slots=True)
class Bars:
    """Rows below a heading. ``line`` marks a fraction of the tracks; without ``tracks`` there are only values."""

    title: str
    note: str
    rows: Sequence[Row]
    line: float | None = None
    tracks: bool = True


@dataclass(frozen=True, slots=True)
class Sheet:
    """What a figure shows, from top to bottom. A place of ``panels`` and ``facts`` can be empty."""

    title: str
    note: str
    panels: Sequence[Sequence[Panel | None]]
    facts: Sequence[Bars | None]
    paragraphs: Sequence[str]
    source: Sequence[str]


def drawn(sheet: Sheet, theme: ThemeName, media_type: str) -> Picture:
    """A sheet as a file, 1200 pixels wide."""
    page = _Page(THEMES[theme], density(media_type))
    page.heading(sheet.title, sheet.note)
    for panels in sheet.panels:
        page.panels(panels)
    facts = [block for block in sheet.facts if block]
    for start in range(0, len(facts), 2):
        page.facts(facts[start : start + 2])
    for paragraph in sheet.paragraphs:
        page.paragraph(paragraph, _BODY, page.theme.ink)
    for line in filter(None, sheet.source):
        page.paragraph(line, _NOTE - 1, page.theme.faint)
    if page.lacks:
        page.paragraph(
            f"? stands for letters that the font lacks; {typeface.VARIABLE} names a font file that has them.",
            _NOTE,
            page.theme.faint,
        )
    height = page.top + _MARGIN - 8
    return written(Figure(f"{sheet.title}: {sheet.note}", _WIDTH, height, page.theme.paper, page.shapes), media_type)


class _Page:
    """Shapes that are added from top to bottom. Pictures have ``density`` pixels for each pixel of the figure."""

    def __init__(self, theme: Theme, density: int) -> None:
        self.theme, self.density = theme, density
        self.shapes: list[Shape] = []
        self.top = _MARGIN
        self.lacks = False

    def text(self, x: float, y: float, text: str, size: int, colour: str, room: float, **how: Any) -> None:
        """A line from the baseline ``y``, cut to ``room``."""
        line = typeface.cut(text, size, room, how.get("bold", False))
        self.lacks = self.lacks or typeface.drawable(line) != line
        self.shapes.append(Text(x, y, line, size, colour, **how))

    def heading(self, title: str, note: str) -> None:
        self.text(_MARGIN, self.top + 24, title, _TITLE, self.theme.ink, _ROOM, bold=True)
        self.text(_MARGIN, self.top + 54, note, _BODY, self.theme.faint, _ROOM)
        self.top += 54 + _GAP

    def panels(self, panels: Sequence[Panel | None]) -> None:
        """A row of panels in columns of equal width."""
        columns = len(panels)
        room = (_ROOM - (columns - 1) * _GAP) / columns
        sizes = [_fitting(panel.proportion, room, _HIGHEST.get(columns, 320)) for panel in panels if panel]
        limit = max(min(height for _, height in sizes), _LEAST_HIGH)
        highest = max(_fitting(panel.proportion, room, limit)[1] for panel in panels if panel)
        for column, panel in enumerate(panels):
            if panel is not None:
                self._panel(panel, _MARGIN + column * (room + _GAP), room, limit)
        self.top += _CAPTION + highest + (_SCALE if any(panel and panel.scale for panel in panels) else 0) + _GAP

    def _panel(self, panel: Panel, left: float, room: float, highest: int) -> None:
        theme, top = self.theme, self.top + _CAPTION
        width, height = _fitting(panel.proportion, room, highest)
        self.text(left, self.top + 15, panel.title, _HEAD, theme.ink, room, bold=True)
        self.text(left, self.top + 39, panel.note, _NOTE, theme.faint, room)
        x = round(left)
        pixels = panel.draw((width * self.density, height * self.density))
        self.shapes.append(Shown(x, top, width, height, pixels))
        if panel.mark:
            x0, y0, x1, y1 = panel.mark
            place = x + x0 * width, top + y0 * height, (x1 - x0) * width, (y1 - y0) * height
            self.shapes.append(Box(*place, "#000000", 4))
            self.shapes.append(Box(place[0] + 1, place[1] + 1, place[2] - 2, place[3] - 2, "#ffffff", 2))
        if panel.scale:
            self._scale(panel.scale, x, top + height + 12, width, room)

    def _scale(self, scale: Scale, x: float, y: float, width: int, room: float) -> None:
        theme = self.theme
        opacity = scale.colours[:, 3:].astype(np.float32) / 255
        ground = np.array(rgb(scale.ground or theme.paper), np.float32)
        shown = scale.colours[:, :3] * opacity + ground * (1 - opacity)
        width = max(width, min(_LEAST_SCALE, round(room)))
        strip = np.rint(shown).astype(np.uint8)[np.linspace(0, len(shown) - 1, width * self.density).astype(int)]
        self.shapes.append(Shown(x, y, width, _BAR, np.repeat(strip[None], _BAR, axis=0)))
        self.shapes.append(Box(x, y, width, _BAR, theme.line, 1))
        ticks = scale.ticks
        if sum(typeface.width(text, _NOTE) + 14 for _, text in ticks) > width:  # the middle one has no room
            ticks = [(at, text) for at, text in ticks if at in (0, 1)] or ticks
        for at, text in ticks:
            anchor = "start" if at == 0 else "end" if at == 1 else "middle"
            self.text(x + at * width, y + _BAR + 18, text, _NOTE, theme.ink, width, anchor=anchor)
        self.text(x, y + _BAR + 40, scale.caption, _NOTE, theme.faint, room)

    def facts(self, blocks: Sequence[Bars]) -> None:
        """Two blocks beside each other."""
        room = (_ROOM - _GAP) / 2
        for column, block in enumerate(blocks):
            self._bars(block, _MARGIN + column * (room + _GAP), room)
        self.top += 56 + _ROW * max(len(block.rows) for block in blocks) + _GAP - 8

    def _bars(self, block: Bars, left: float, room: float) -> None:
        theme = self.theme
        self.text(left, self.top + 15, block.title, _HEAD, theme.ink, room, bold=True)
        self.text(left, self.top + 39, block.note, _NOTE, theme.faint, room)
        values = max(typeface.width(row.value, _BODY) for row in block.rows)
        names = min(max(typeface.width(row.name, _BODY) for row in block.rows) + 1, 0.62 * room)
        start, track = left + names + 14, room - names - values - 28
        y = self.top + 56
        for row in block.rows:
            self.text(left, y + 17, row.name, _BODY, theme.ink, names)
            end = left + room if block.tracks else start + values
            self.text(end, y + 17, row.value, _BODY, theme.ink, room, anchor="end")
            if block.tracks and track > 20:
                self.shapes.append(Box(start, y + 4, track, _BAR, theme.track))
                colour = getattr(theme, row.colour, row.colour)
                if (width := track * min(1.0, row.end - row.start)) >= 0.5:
                    self.shapes.append(Box(start + track * row.start, y + 4, width, _BAR, colour))
                if block.line is not None:
                    self.shapes.append(Box(start + track * block.line, y, 1, _ROW - 8, theme.faint))
            y += _ROW

    def paragraph(self, text: str, size: int, colour: str) -> None:
        """Text in lines, over the whole width."""
        for line in typeface.wrapped(text, size, _ROOM):
            self.text(_MARGIN, self.top + 16, line, size, colour, _ROOM)
            self.top += _LINE
        self.top += 6


def _fitting(proportion: float, room: float, highest: float) -> Size:
    """The largest size of this proportion, width by height, that fits."""
    width = min(room, highest * proportion)
    return max(1, round(width)), max(1, round(width / proportion))


def rgb(colour: str) -> tuple[int, ...]:
    """The levels of a colour such as #0072b2."""
    return tuple(bytes.fromhex(colour[1:]))
