"""An answer as a block of HTML: photograph and maps, tables of predictions and gates, findings.

It has no script and no style sheet, escapes all text, and takes its colours from the page around it, light or dark.
GitHub removes inline styles; the block can be read without them, so bars are letters and rows of pictures are tables.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Iterator, Sequence
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
_QUALITY: Final = 75
_BINS: Final = 12
_BAR: Final = "#4a86c8"  # seen on white and on black
_PADDED: Final = "padding:1px 12px 1px 0;"
_LEVELS: Final = "▁▂▃▄▅▆▇█"
# Colours of no, middle and most evidence; signed: most against, none, most for.
_HEAT: Final = ("#2743c8", "#f4e04d", "#c1121f")
_SIGNED: Final = ("#2c68b0", "#dddddd", "#d05420")
_CLASSES: Final = (86, 180, 233, 230, 159, 0, 0, 158, 115, 204, 121, 167, 213, 94, 0, 0, 114, 178, 240, 228, 66)


def block(answer: Any, source: Source | None = None) -> str:
    """The HTML of a reply, of a part of one, or of a list of parts. ``source`` is its request, if it is known.

    Photographs are shown at 320 pixels at most, so that a notebook stays small.
    """
    sides = isinstance(answer, Comparison) and answer.maps.frame == "input"
    drawn = _Block(source, [answer.first.box, answer.second.box] if sides else [])
    if isinstance(answer, Schema):
        drawn.walk(answer, "", None)
    else:
        drawn.entries([*answer], "", None)
    return drawn.html()


def heat(
    mask: Image.Image, photograph: Image.Image | None = None, box: Sequence[float] = (), signed: bool = False
) -> Image.Image:
    """A map of grey levels in colour: the more evidence, the more opaque over the ``box`` of the photograph.

    ``box`` is in pixels of ``photograph``, x0, y0, x1, y1. With ``signed``, the level 128 is no evidence.
    """
    first, middle, last = _SIGNED if signed else _HEAT
    mask = mask.convert("L")
    coloured = ImageOps.colorize(mask, first, last, middle, midpoint=128)
    if photograph is None:
        return coloured
    opacity = mask.point([min(255, 2 * abs(level - 128)) if signed else round(0.8 * level) for level in range(256)])
    return _laid(coloured, opacity, photograph, box)


class _Block:
    """Pictures, facts and tables, in the order in which an answer has them."""

    def __init__(self, source: Source | None, boxes: Sequence[Sequence[float]]) -> None:
        self.options = source.options if source else {}
        self.photographs = [_opened(data) for data in source.photographs()] if source else []
        self.boxes = boxes
        self.pictures: list[str] = []
        self.facts: list[str] = []
        self.tables: list[str] = []
        for which, found in zip(("first ", "second "), self.photographs, strict=False):
            if found:
                self.pictures.append(_figure(found[0], f"{which if len(self.photographs) > 1 else ''}photograph"))

    def html(self) -> str:
        rows = (self.pictures[start : start + _BESIDE] for start in range(0, len(self.pictures), _BESIDE))
        shown = "".join(f'<tr style="background:none">{"".join(row)}</tr>' for row in rows)
        return (
            '<div style="font-size:13px;line-height:1.45;margin:4px 0">'
            + "".join(f"<div>{fact}</div>" for fact in self.facts)
            + (f'<table style="border:0;margin:4px 0"><tbody>{shown}</tbody></table>' if shown else "")
            + (f'<div style="display:flex;flex-wrap:wrap;gap:6px 36px">{"".join(self.tables)}</div>')
            + "</div>"
        )

    def walk(self, value: Schema, title: str, within: Schema | None) -> None:
        """Add a schema. ``within`` has the box of its maps, if it has none."""
        for name, each in _fields(value):
            words = _joint(title, name)
            if isinstance(each, Picture):
                if name != "mask" or getattr(value, "overlay", None) is None:
                    self._picture(each, value, name, within, title or _spaced(name))
            elif isinstance(each, Schema):
                if _is_drawn(each) or not each._words or any(map(_is_table, dict(_fields(each)).values())):
                    described = each._words and not each._colours
                    self.walk(each, f"{words}: {each}" if described else words, value)
                else:
                    self.facts.append(f"<b>{escape(words)}:</b> {escape(str(each))}")
            elif _is_table(each):
                self.entries(each, words, value)
            elif isinstance(each, dict) and any(map(_is_table, each.values())):
                for key, entries in each.items():
                    self.entries(entries, f"{words}, {key}", value)
            elif each != []:
                self.facts.append(f"<b>{escape(words)}:</b> {escape(brief(each))}")

    def entries(self, entries: list[Any], title: str, within: Schema | None) -> None:
        """Add a list of schemas: each by itself if it is drawn, else a table of them."""
        if not entries:
            return
        if _is_drawn(entries[0]):
            for each in entries:
                self.walk(each, str(each), within)
            return
        names = [*dict.fromkeys(name for each in entries for name, _ in _fields(each))]
        head = "".join(f'<th style="{_PADDED}text-align:left">{escape(_spaced(name))}</th>' for name in names)
        rows = ("".join(_cell(name, getattr(each, name), each) for name in names) for each in entries[:_ROWS])
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        more = f"<div>… {len(entries)} in all</div>" if len(entries) > _ROWS else ""
        self.tables.append(
            f'<div><b>{escape(title)}</b><table style="margin:2px 0;font-size:12px"><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table>{more}</div>"
        )

    def _picture(self, picture: Picture, value: Schema, name: str, within: Schema | None, title: str) -> None:
        try:
            image = picture.to_pil()
        except (OSError, ValueError):
            return
        if colours := value._colours.get(name, ""):
            beneath = self._beneath(getattr(value, "box", None) or getattr(within, "box", None) or (), title)
            signed = bool(self.options.get("signed")) or "difference" in title
            image = _classes(image, *beneath) if colours == "classes" else heat(image, *beneath, signed)
        self.pictures.append(_figure(image, title))

    def _beneath(self, box: Sequence[float], title: str) -> tuple[Image.Image | None, Sequence[float]]:
        """The photograph under a map, and the map's place on it. None if it is of no single photograph."""
        number = int("second" in title and len(self.photographs) > 1)
        if not self.photographs or (found := self.photographs[number]) is None or not box:
            return None, ()
        if self.boxes:
            if "difference" in title:
                return None, ()
            box = self.boxes[number]
        image, scale = found
        return image, (0, 0, *image.size) if self.options.get("fit") == "source" else [scale * each for each in box]


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


def _small(image: Image.Image) -> Image.Image:
    image = image.convert("RGB")
    image.thumbnail((_SIDE, _SIDE))
    return image


def _laid(coloured: Image.Image, opacity: Image.Image, photograph: Image.Image, box: Sequence[float]) -> Image.Image:
    """The photograph under a picture in its ``box``."""
    x0, y0, x1, y1 = map(round, box)
    size = max(1, x1 - x0), max(1, y1 - y0)
    laid = photograph.copy()
    laid.paste(coloured.resize(size), (x0, y0), opacity.resize(size))
    return laid


def _classes(mask: Image.Image, photograph: Image.Image | None, box: Sequence[float]) -> Image.Image:
    """A segmentation in colour, the first class transparent."""
    coloured = Image.frombytes("P", mask.size, mask.convert("L").tobytes())
    coloured.putpalette(([255] * 3 + [*_CLASSES] * 37)[: 3 * 256])
    opacity = mask.convert("L").point([0] + [150] * 255)
    return coloured.convert("RGB") if photograph is None else _laid(coloured.convert("RGB"), opacity, photograph, box)


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


def _joint(title: str, name: str) -> str:
    """The title of a field in a part with a title. That they are maps can be seen."""
    return ", ".join(filter(None, (title, "" if name == "maps" else _spaced(name))))


def _figure(image: Image.Image, caption: str) -> str:
    """A picture and its caption, as a cell of a table."""
    shown = _image(image, caption, round(_SHOWN * image.width / max(image.size)))
    return (
        '<td style="vertical-align:top;text-align:left;padding:4px 8px 4px 0;border:0;background:none">'
        f'{shown}<div style="max-width:{_SHOWN}px;white-space:normal">{escape(caption)}</div></td>'
    )


def _image(image: Image.Image, caption: str, width: int) -> str:
    file = io.BytesIO()
    _small(image).save(file, "JPEG", quality=_QUALITY)
    data = b64encode(file.getvalue()).decode()
    return f'<img width="{width}" alt="{escape(caption)}" src="data:image/jpeg;base64,{data}">'


def _cell(name: str, value: Any, of: Schema) -> str:
    """A cell of a table. A score has a bar if it is a share of 1."""
    if name == "score" and isinstance(value, str):
        share = getattr(of, "probability", None)
        bar = "█" * round(12 * share) if share is not None else ""
        text = f'{value:\u2007>6} <span style="color:{_BAR}">{bar}</span>'
        return f'<td style="{_PADDED}text-align:left;font-variant-numeric:tabular-nums;white-space:nowrap">{text}</td>'
    side = "right" if isinstance(value, (int, float)) and not isinstance(value, bool) else "left"
    return f'<td style="{_PADDED}text-align:{side}">{_inner(value)}</td>'


def _inner(value: Any) -> str:
    if isinstance(value, Picture):
        try:
            return _image(value.to_pil(), "", _IN_CELL)
        except (OSError, ValueError):
            return ""
    if isinstance(value, Schema) and not value._words:
        return " ".join(filter(None, (_inner(each) for _, each in _fields(value))))
    if isinstance(value, list):
        if len(value) > _ROWS and all(isinstance(each, (int, float)) for each in value):
            return _histogram(value)
        joint = " " if value and isinstance(value[0], Picture) else ", "
        return joint.join(map(_inner, value[:3])) + (" …" if len(value) > 3 else "")
    return escape("" if value is None else f"{value:.3g}" if isinstance(value, float) else brief(value))


def _histogram(values: list[float]) -> str:
    """How often which value occurs, in letters between the smallest and the largest."""
    low, high = min(values), max(values)
    counts = [0] * _BINS
    for value in values:
        counts[min(_BINS - 1, int(_BINS * (value - low) / ((high - low) or 1)))] += 1
    most = max(counts)
    bars = "".join(_LEVELS[round((len(_LEVELS) - 1) * count / most)] if count else "\u2007" for count in counts)
    return f'<span style="white-space:nowrap">{low:.3g} <span style="color:{_BAR}">{bars}</span> {high:.3g}</span>'
