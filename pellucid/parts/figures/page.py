"""One figure of an answer, to be pasted into a report: its options, its blocks, and where they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from pydantic import Field

from pellucid.errors import InvalidOption
from pellucid.network.spec import ModelSpec
from pellucid.parts.option_types import Analysis, Options
from pellucid.render import compose, typeface
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
    number,
    written,
)
from pellucid.types import Box as SourceBox
from pellucid.types import DecodedImage, Explanation, Floats, GateReading, ImageInfo, MethodSpec, Pixels, Plan

__all__ = ["FIGURE_TYPES", "SVG"]  # for the service's document
# The longer side of the photograph that a figure is drawn from.
SOURCE_SIDE: Final = 1200
# Maps in one figure.
MOST_MAPS: Final = 12
_MOST_ROWS: Final = 8

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
# What shows through a difference: the grey of its bar, and of a photograph beneath, which is paled towards it.
_GROUND: Final = "#dddddd"
_PALED: Final = 0.5


# The colours of a segmentation's classes: Okabe and Ito's, and lighter ones.
# fmt: off
_CLASSES: Final = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442", "#8c6bb1", "#7f7f7f", "#b2df8a",
    "#fb9a99", "#a6761d",
)
# fmt: on


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
    """What a figure shows, from top to bottom. A place of ``panels`` can be empty."""

    title: str
    note: str
    panels: Sequence[Sequence[Panel | None]]
    facts: Sequence[Bars]
    paragraphs: Sequence[str]
    source: Sequence[str]


# -- numbers and words


def score(target: dict[str, Any]) -> str:
    """A target's score for readers: as ``schemas.Target.score``."""
    if "similarity" in target:
        return f"{target['similarity']:.3f}".replace("-", "\N{MINUS SIGN}")
    if "value" in target:
        return f"{target['value']:.4g} {target.get('unit', '')}".rstrip().replace("-", "\N{MINUS SIGN}", 1)
    if "share" in target:
        return f"{target['share']:.1%} of the picture"
    return f"{target.get('probability', 0):.1%}"


def score_unit(spec: ModelSpec, index: int) -> str:
    """The unit of what is explained."""
    output = spec.output
    if output.kind == "embedding":
        return "cosine similarity"
    if output.kind == "linear":
        return (output.units[index] if output.units else "") or "units of the value"
    return "logits"


def map_unit(explanation: Explanation, methods: Sequence[MethodSpec], spec: ModelSpec) -> str:
    """What a map's numbers are, as the caption of its scale."""
    if explanation.fuse:
        return "from 0 to 1, each layer stretched"
    (unit,) = {method.unit for method in methods if method.name == explanation.method} or {""}
    return f"in {unit or score_unit(spec, explanation.target.index)}"


def score_words(spec: ModelSpec) -> str:
    """What is explained, in one word."""
    return {"embedding": "similarity", "linear": "value"}.get(spec.output.kind, "logit")


def picture_words(info: ImageInfo) -> str:
    """A picture's name and size."""
    return f"{info.filename or 'Picture'}, {info.width} \N{MULTIPLICATION SIGN} {info.height} pixels"


def source_words(spec: ModelSpec, *infos: ImageInfo) -> str:
    """Which weights saw which pictures."""
    digest = spec.parameters_sha256 or spec.weights_sha256
    weights = f"{spec.name}, weights {digest[:12]}" if digest else spec.name
    pictures = ", ".join(dict.fromkeys(f"picture {info.sha256[:12]}" for info in infos))
    return f"{weights}; {pictures} (first digits of SHA-256)"


def tiles_words(*images: DecodedImage) -> str:
    """What the scores of pictures in tiles are; empty if there are none."""
    if not any(image.tiling for image in images):
        return ""
    return "Scores and the factors of gates are means over the tiles."


def papers(names: Iterable[str], methods: Sequence[MethodSpec]) -> str:
    """The methods' names in their papers, and the papers."""
    known = {method.name: method for method in methods}
    found = [known[name] for name in dict.fromkeys(names) if name in known]
    return " ".join(f"{each.title}: {each.paper}." for each in found)


# -- panels


def source_size(image: DecodedImage) -> Size:
    """Width and height of the photograph."""
    return image.info.width or 1, image.info.height or 1


def photograph(image: DecodedImage, title: str = "Photograph") -> Panel:
    """The whole photograph, the box that the network saw marked if it did not see all of it."""
    width, height = source_size(image)
    x0, y0, x1, y1 = image.box
    whole = image.box == (0, 0, width, height)
    mark = None if whole else (x0 / width, y0 / height, x1 / width, y1 / height)
    rows, columns = image.seen_size
    how = f" in {len(image.tiling.corners)} tiles of" if image.tiling else ", at"
    seen = f"the network saw {'all of it' if whole else 'the frame'}{how} {columns} \N{MULTIPLICATION SIGN} {rows}"

    def draw(size: Size) -> Pixels:
        assert image.picture is not None
        return compose.resized(image.picture, size)

    return Panel(title, seen, width / height, draw, mark=mark)


@dataclass(frozen=True, slots=True)
class Look:
    """How maps are coloured. ``reach`` > 0 ends a scale that several of them share."""

    colours: str
    signed: bool
    alpha: float = 0.6
    reach: float | None = None


def overlay(title: str, note: str, image: DecodedImage, heat: Floats, box: SourceBox, look: Look, unit: str) -> Panel:
    """A map ``[h, w]`` over ``box`` of the photograph, with its scale."""
    source = source_size(image)

    def draw(size: Size) -> Pixels:
        assert image.picture is not None
        return compose.overlay(
            image.picture, source, box, heat, look.colours, look.alpha, look.signed, size, look.reach
        )

    return Panel(title, note, source[0] / source[1], draw, scale(heat, look, unit))


def scale(heat: Floats, look: Look, unit: str) -> Scale:
    """The scale of a map's colours, in the map's own numbers."""
    tints = compose.tints(look.colours, look.signed)
    if look.signed:
        end = look.reach or float(np.abs(heat).max())
        ticks = [(0.0, number(-end)), (0.5, "0"), (1.0, number(end))] if end else [(0.5, "0")]
        return Scale(tints, ticks, f"evidence {unit}: below 0 against, above 0 for")
    least, most = (0.0, look.reach) if look.reach else (max(0.0, float(heat.min())), float(heat.max()))
    if most <= 0:
        return Scale(tints, [(0.0, "0")], f"no evidence for it: the map is {number(heat.min())} to {number(most)}")
    middle = (least + most) / 2
    ticks = [(0.0, number(least)), (0.5, number(middle)), (1.0, number(most))]
    return Scale(tints, ticks, f"evidence {unit}")


def difference(title: str, image: DecodedImage | None, heat: Floats, box: SourceBox, colours: str, unit: str) -> Panel:
    """One map minus another on a scale of its own, over the photograph in pale grey.

    Over plain grey where the two maps have a photograph each.
    """
    look = Look(colours, True)
    shown = replace(scale(heat, look, unit), caption=unit, ground=_GROUND)
    reach = float(np.abs(heat).max())
    span = f"{number(heat.min())} to {number(heat.max())}"
    note = f"scale of its own, \N{PLUS-MINUS SIGN}{number(reach)}; {span}" if reach else "no difference"
    if image is None:
        source, proportion = (1, 1), box[2] / box[3]
        place, alpha, beneath = (0, 0, 1, 1), 1.0, np.array([[_rgb(_GROUND)]], np.uint8)
    else:
        assert image.picture is not None
        source, place, alpha = source_size(image), box, 0.8
        proportion = source[0] / source[1]
        grey = image.picture @ np.array([0.299, 0.587, 0.114], np.float32)
        paled = grey * (1 - _PALED) + _PALED * _rgb(_GROUND)[0]
        beneath = np.repeat(paled.astype(np.uint8)[..., None], 3, axis=2)

    def draw(size: Size) -> Pixels:
        return compose.overlay(beneath, source, place, heat, colours, alpha, True, size)

    return Panel(title, note, proportion, draw, shown)


# -- facts


def predictions(title: str, found: Sequence[dict[str, Any]], spec: ModelSpec) -> Bars | None:
    """The predictions, with bars where there are probabilities or shares."""
    shown, more = found[:_MOST_ROWS], len(found) - _MOST_ROWS
    rest = f", {more} more in the JSON" if more > 0 else ""
    kind = spec.output.kind
    if not found:
        return None
    if kind == "linear":
        return Bars(title, f"values{rest}", [Row(each["label"], score(each)) for each in shown], tracks=False)
    if kind == "dense":
        rows = [
            Row(each["label"], f"{each['share']:.1%}", 0, each["share"], class_colour(each["index"])) for each in shown
        ]
        return Bars(title, f"share of what the network saw{rest}", rows)
    line = spec.output.threshold if kind == "sigmoid" else None
    note = "probability (softmax)" if line is None else f"probability (sigmoid); a label applies from {line:g}"
    rows = [
        Row(
            each["label"],
            f"{each['probability']:.1%}",
            0,
            float(each["probability"]),
            "bar" if each.get("applies", True) else "line",
        )
        for each in shown
    ]
    return Bars(title, note + rest, rows, line)


def likeness(target: dict[str, Any]) -> Bars:
    """The similarity of two pictures, from -1 to 1."""
    value = float(target["similarity"])
    return Bars(
        "Similarity to the reference",
        "cosine of both embeddings, \N{MINUS SIGN}1 to 1",
        [_signed("cosine", value, 1.0)],
        0.5,
    )


def _signed(name: str, value: float, reach: float, shown: str = "") -> Row:
    end = 0.5 + 0.5 * value / (reach or 1.0)
    return Row(name, shown or number(value), min(0.5, end), max(0.5, end), "above" if value >= 0 else "below")


def changed_gates(gates: Sequence[GateReading]) -> Bars | None:
    """Of the gates whose weights are furthest from 1, the channel that each changed most."""
    extremes = [(gate, int(np.abs(gate.weights - 1).argmax())) for gate in gates]
    found = sorted(extremes, key=lambda pair: -abs(float(pair[0].weights[pair[1]]) - 1))[:_MOST_ROWS]
    if not found:
        return None
    reach = abs(float(found[0][0].weights[found[0][1]]) - 1)
    rows = [
        _signed(
            f"{gate.layer}, channel {channel}",
            float(gate.weights[channel]) - 1,
            reach,
            f"\N{MULTIPLICATION SIGN} {gate.weights[channel]:.2f}",
        )
        for gate, channel in found
    ]
    return Bars("What the gates changed most", "what a channel is multiplied by; the line is 1, no change", rows, 0.5)


def changes(title: str, note: str, rows: Sequence[tuple[str, float, str]]) -> Bars | None:
    """Names with signed numbers, as bars from 0. The third of each is the number's text, if it is not the number."""
    reach = max((abs(value) for _, value, _ in rows), default=0.0)
    if not reach:
        return None
    return Bars(title, note, [_signed(name, value, reach, shown) for name, value, shown in rows[:_MOST_ROWS]], 0.5)


def class_colour(index: int) -> str:
    """The colour of a class of a segmentation."""
    return _CLASSES[index % len(_CLASSES)]


def segmentation(analysis: Analysis) -> Panel | None:
    """The classes over the photograph, in the colours of their bars. The background is left as it is."""
    image, levels, output = analysis.image, analysis.outcome.segmentation, analysis.spec.output
    if levels is None:
        return None
    source = source_size(image)
    palette = np.array([_rgb(class_colour(index)) for index in range(256)], np.uint8)
    names = len(analysis.spec.labels)
    shown = levels > 0 if names == 1 else levels != (-1 if output.background is None else output.background)
    colours = palette[np.maximum(levels, 1) - 1 if names == 1 else levels]

    def draw(size: Size) -> Pixels:
        assert image.picture is not None
        return compose.tinted(image.picture, source, image.box, colours, shown, 0.6, size)

    left = "" if output.background is None else f"; {analysis.spec.labels[output.background]} has no colour"
    return Panel("Segmentation", f"the class with the largest logit{left}", source[0] / source[1], draw)


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


# -- layout


def drawn(sheet: Sheet, theme: ThemeName, media_type: str) -> Picture:
    """A sheet as a file, 1200 pixels wide."""
    page = _Page(THEMES[theme], density(media_type))
    page.heading(sheet.title, sheet.note)
    for panels in sheet.panels:
        page.panels(panels)
    for start in range(0, len(sheet.facts), 2):
        page.facts(sheet.facts[start : start + 2])
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
        ground = np.array(_rgb(scale.ground or theme.paper), np.float32)
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
