"""An answer as a block of HTML: photograph and maps, tables of predictions and gates, findings.

It has no script and no style sheet, and takes its colours from the page around it, light or dark. ``_tag`` escapes all
text that is not ``_Html``. GitHub removes inline styles; the block can be read without them, so bars are letters and
rows of pictures are tables.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Any, Final

from PIL import Image, ImageOps

from pellucid.schemas.base import Picture, Schema
from pellucid.schemas.compare import Comparison
from pellucid.schemas.shown import Source, brief

_SIDE: Final = 320  # the longer side of a picture in pixels, shown on so many of the page's:
_SHOWN: Final = 230
_IN_CELL: Final = 48
_BESIDE: Final = 4  # pictures in a row
_ROWS: Final = 10
_BINS: Final = 12
_BAR: Final = "color:#4a86c8"  # seen on white and on black
_PADDED: Final = "padding:1px 12px 1px 0;text-align:"
_LEVELS: Final = "▁▂▃▄▅▆▇█"
# Colours of no, middle and most evidence; signed: most against, none, most for.
_HEAT: Final = ("#2743c8", "#f4e04d", "#c1121f")
_SIGNED: Final = ("#2c68b0", "#dddddd", "#d05420")
_CLASSES: Final = (86, 180, 233, 230, 159, 0, 0, 158, 115, 204, 121, 167, 213, 94, 0, 0, 114, 178, 240, 228, 66)


def block(answer: Any, source: Source | None = None) -> str:
    """The HTML of a reply, of a part of one, or of a list of parts. ``source`` is its request, if it is known.

    Photographs are shown at 320 pixels at most, so that a notebook stays small.
    """
    drawn = _Block(source, answer)
    if isinstance(answer, Schema):
        drawn.parts("", answer)
    else:
        drawn.add("", [*answer])
    return drawn.html()


def coloured(mask: Image.Image, scale: str, photograph: Image.Image | None = None, box: Any = ()) -> Image.Image:
    """A map of grey levels in colour, opaque by its evidence over the ``box`` of the photograph, in its pixels.

    ``scale``: ``heat``; ``signed``, 128 is no evidence; ``classes``, a segmentation, whose first class is transparent.
    """
    mask = mask.convert("L")
    if scale == "classes":
        indexed = Image.frombytes("P", mask.size, mask.tobytes())
        indexed.putpalette(([255] * 3 + [*_CLASSES] * 37)[: 3 * 256])
        colours, opacity = indexed.convert("RGB"), [0] + [150] * 255
    else:
        first, middle, last = _SIGNED if scale == "signed" else _HEAT
        colours = ImageOps.colorize(mask, first, last, middle, midpoint=128)
        opacity = [min(255, 2 * abs(at - 128)) if scale == "signed" else round(0.8 * at) for at in range(256)]
    if photograph is None:
        return colours
    x0, y0, x1, y1 = map(round, box)
    size = max(1, x1 - x0), max(1, y1 - y0)
    laid = photograph.copy()
    laid.paste(colours.resize(size), (x0, y0), mask.point(opacity).resize(size))
    return laid


class _Html(str):
    """Markup. All other text is escaped."""


def _joined(parts: Iterable[str], between: str = "") -> _Html:
    return _Html(between.join(each if isinstance(each, _Html) else escape(each) for each in parts))


def _tag(name: str, *inside: str, **attributes: object) -> _Html:
    given = "".join(f' {key}="{escape(str(value))}"' for key, value in attributes.items())
    return _Html(f"<{name}{given}>" + ("" if name == "img" else f"{_joined(inside)}</{name}>"))


class _Block:
    """Pictures, facts and tables, in the order in which an answer has them."""

    def __init__(self, source: Source | None, answer: Any) -> None:
        self.options = source.options if source else {}
        self.photographs = [_opened(data) for data in source.photographs()] if source else []
        sides = isinstance(answer, Comparison) and answer.maps.frame == "input"
        self.boxes = [answer.first.box, answer.second.box] if sides else []
        several = len(self.photographs) > 1
        self.pictures = [
            _figure(found[0], f"{which if several else ''}photograph")
            for which, found in zip(("first ", "second "), self.photographs, strict=False)
            if found
        ]
        self.facts: list[_Html] = []
        self.tables: list[_Html] = []

    def html(self) -> str:
        starts = range(0, len(self.pictures), _BESIDE)
        rows = [_tag("tr", *self.pictures[at : at + _BESIDE], style="background:none") for at in starts]
        shown = [_tag("table", _tag("tbody", *rows), style="border:0;margin:4px 0")] if rows else []
        tables = _tag("div", *self.tables, style="display:flex;flex-wrap:wrap;gap:6px 36px")
        return _tag("div", *self.facts, *shown, tables, style="font-size:13px;line-height:1.45;margin:4px 0")

    def parts(self, title: str, value: Schema, box: Sequence[float] = (), colours: str = "") -> None:
        """Add the fields of a schema. ``box`` and ``colours`` are those of its place in the answer."""
        box = getattr(value, "box", None) or box
        for name, each in _fields(value):
            if name != "mask" or getattr(value, "overlay", None) is None:
                seen = name == "maps" or (title and isinstance(each, Picture))  # that they are pictures can be seen
                words = filter(None, (title, "" if seen else _spaced(name)))
                self.add(", ".join(words), each, box, colours or value._colours.get(name, ""))

    def add(self, title: str, value: Any, box: Sequence[float] = (), colours: str = "") -> None:
        """Add a field: a picture, a table of schemas, the fields of one, or a fact."""
        if isinstance(value, Picture):
            self._picture(title, value, box, colours)
        elif _is_table(value) and _is_drawn(value[0]):
            for each in value:
                self.parts(str(each), each, box)
        elif _is_table(value):
            self.tables.append(_table(title, value))
        elif isinstance(value, dict) and any(map(_is_table, value.values())):
            for key, each in value.items():
                self.add(f"{title}, {key}", each)
        elif isinstance(value, Schema) and (
            _is_drawn(value) or not value._words or any(_is_table(each) for _, each in _fields(value))
        ):
            described = value._words and not value._colours
            self.parts(f"{title}: {value}" if described else title, value, box, colours)
        elif value != []:
            words = str(value) if isinstance(value, Schema) else brief(value)
            self.facts.append(_tag("div", _tag("b", f"{title}:"), " ", words))

    def _picture(self, title: str, picture: Picture, box: Sequence[float], colours: str) -> None:
        try:
            image = picture.to_pil()
        except (OSError, ValueError):
            return
        if colours:
            side = int(colours == "second" and len(self.photographs) > 1)
            if self.boxes:
                box = () if colours == "difference" else self.boxes[side]
            signed = colours == "difference" or (colours != "classes" and self.options.get("signed"))
            scale = "signed" if signed else "classes" if colours == "classes" else "heat"
            if box and self.photographs and (found := self.photographs[side]):
                whole = (0, 0, *found[0].size) if self.options.get("fit") == "source" else [found[1] * at for at in box]
                image = coloured(image, scale, found[0], whole)
            else:
                image = coloured(image, scale)
        self.pictures.append(_figure(image, title))


def _opened(data: bytes | None) -> tuple[Image.Image, float] | None:
    """A photograph, upright and small, and its scale. None for what Pillow can't read."""
    try:
        image = Image.open(io.BytesIO(data or b""))
        side = max(image.size)
        image.draft("RGB", (2 * _SIDE, 2 * _SIDE))  # a JPEG is decoded at a fraction of its size
        upright = ImageOps.exif_transpose(image).convert("RGB")
        shown = ImageOps.contain(upright, (min(_SIDE, 4 * side),) * 2, Image.Resampling.BOX)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return shown, max(shown.size) / side


def _fields(value: Schema) -> Iterator[tuple[str, Any]]:
    for name in value._shows or type(value).model_fields:
        if (each := getattr(value, name)) is not None:
            yield name, each


def _is_drawn(value: Any) -> bool:
    """Whether there are maps in a schema, which a row of a table has no room for."""
    return isinstance(value, Schema) and bool(
        value._colours or any(_is_drawn(each) for _, each in _fields(value) if not isinstance(each, list))
    )


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Schema)


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _figure(image: Image.Image, caption: str) -> _Html:
    """A picture and its caption, as a cell of a table."""
    shown = _image(image, caption, round(_SHOWN * image.width / max(image.size)))
    under = _tag("div", caption, style=f"max-width:{_SHOWN}px;white-space:normal")
    style = "vertical-align:top;text-align:left;padding:4px 8px 4px 0;border:0;background:none"
    return _tag("td", shown, under, style=style)


def _image(image: Image.Image, caption: str, width: int) -> _Html:
    small = Picture.small(image, _SIDE, "image/jpeg")
    return _tag("img", width=width, alt=caption, src=f"data:{small.media_type};base64,{small.data}")


def _table(title: str, entries: Sequence[Schema]) -> _Html:
    names = [*dict.fromkeys(name for each in entries for name, _ in _fields(each))]
    head = _tag("tr", *(_tag("th", _spaced(name), style=f"{_PADDED}left") for name in names))
    rows = [_tag("tr", *(_cell(name, each) for name in names)) for each in entries[:_ROWS]]
    table = _tag("table", _tag("thead", head), _tag("tbody", *rows), style="margin:2px 0;font-size:12px")
    more = [_tag("div", f"… {len(entries)} in all")] if len(entries) > _ROWS else []
    return _tag("div", _tag("b", title), table, *more)


def _cell(name: str, of: Schema) -> _Html:
    """A cell of a table. A score has a bar if it is a share of 1."""
    value = getattr(of, name)
    if name == "score" and isinstance(value, str):
        bar = _tag("span", "█" * round(12 * (getattr(of, "probability", None) or 0)), style=_BAR)
        style = f"{_PADDED}left;font-variant-numeric:tabular-nums;white-space:nowrap"
        return _tag("td", f"{value:\u2007>6} ", bar, style=style)
    side = "right" if isinstance(value, (int, float)) and not isinstance(value, bool) else "left"
    return _tag("td", _inner(value), style=_PADDED + side)


def _inner(value: Any) -> str:
    if isinstance(value, Picture):
        try:
            return _image(value.to_pil(), "", _IN_CELL)
        except (OSError, ValueError):
            return ""
    if isinstance(value, Schema) and not value._words:
        return _joined(filter(None, (_inner(each) for _, each in _fields(value))), " ")
    if isinstance(value, list):
        if len(value) > _ROWS and all(isinstance(each, (int, float)) for each in value):
            return _histogram(value)
        between = " " if value and isinstance(value[0], Picture) else ", "
        return _joined((_joined(map(_inner, value[:3]), between), " …" if len(value) > 3 else ""))
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else brief(value)


def _histogram(values: list[float]) -> _Html:
    """How often which value occurs, in letters between the smallest and the largest."""
    low, high = min(values), max(values)
    counts = [0] * _BINS
    for value in values:
        counts[min(_BINS - 1, int(_BINS * (value - low) / ((high - low) or 1)))] += 1
    most = max(counts)
    bars = "".join(_LEVELS[round((len(_LEVELS) - 1) * count / most)] if count else "\u2007" for count in counts)
    return _tag("span", f"{low:.3g} ", _tag("span", bars, style=_BAR), f" {high:.3g}", style="white-space:nowrap")
