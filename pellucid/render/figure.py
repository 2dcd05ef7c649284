"""A figure as a list of shapes, and its two forms: pixels, and SVG with real text and embedded pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from PIL import Image, ImageDraw

from pellucid.render import png, typeface
from pellucid.render.encode import MEDIA_TYPES, Picture, encode
from pellucid.types import Pixels

SVG: Final = "image/svg+xml"
FIGURE_TYPES: Final = (*MEDIA_TYPES, SVG)
# Pictures in an SVG have so many pixels for each of the figure's, as they are enlarged and printed.
_SVG_DENSITY: Final = 2
# Pictures of fewer pixels are written as PNG, others as JPEG of this quality.
_SMALL: Final = 2**15
_QUALITY: Final = 92
# The font of an SVG, and narrow ones for readers who lack it.
_FAMILIES: Final = f"'{typeface.FAMILY}', 'Source Sans 3', 'Open Sans', 'Noto Sans', 'Segoe UI', Arial, sans-serif"

ThemeName = Literal["light", "dark"]
Anchor = Literal["start", "middle", "end"]
_PILLOW_ANCHORS: Final[dict[Anchor, str]] = {"start": "ls", "middle": "ms", "end": "rs"}


@dataclass(frozen=True, slots=True)
class Text:
    """One line of text. ``y`` is its baseline, and ``size`` its height in pixels."""

    x: float
    y: float
    text: str
    size: int
    colour: str
    bold: bool = False
    anchor: Anchor = "start"


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle that is filled, or, with ``outline`` > 0, a frame of this width inside of it."""

    x: float
    y: float
    width: float
    height: float
    colour: str
    outline: int = 0


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture: ``pixels`` ``[rows, columns, 3]``, scaled to ``width`` and ``height``."""

    x: float
    y: float
    width: float
    height: float
    pixels: Pixels


Shape = Text | Box | Shown


@dataclass(frozen=True, slots=True)
class Figure:
    """Shapes on ``paper``, the later over the earlier. Positions are in pixels from the top left."""

    title: str
    width: int
    height: int
    paper: str
    shapes: Sequence[Shape]


@dataclass(frozen=True, slots=True)
class Theme:
    """The colours of a figure. ``above`` and ``below`` differ for colour-blind readers."""

    paper: str
    ink: str
    faint: str
    line: str
    track: str
    bar: str
    above: str
    below: str


THEMES: Final[dict[ThemeName, Theme]] = {
    "light": Theme("#ffffff", "#1b1f24", "#59636e", "#aab2bb", "#eceff2", "#4a6fa5", "#d05420", "#2c68b0"),
    "dark": Theme("#14181d", "#e8ecf0", "#a3adb8", "#56606b", "#262d35", "#7fa6dc", "#f08a52", "#6aa6ec"),
}


def number(value: float) -> str:
    """Three digits, with a minus sign."""
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def density(media_type: str) -> int:
    """How many pixels of a picture belong into one pixel of a figure of this type."""
    return _SVG_DENSITY if media_type == SVG else 1


def written(figure: Figure, media_type: str) -> Picture:
    """A figure as a file. Raises KeyError for a type that is not in FIGURE_TYPES."""
    if media_type == SVG:
        return Picture("".join(_svg(figure)).encode(), SVG, figure.width, figure.height)
    return encode(pixels(figure), media_type)


def pixels(figure: Figure) -> Pixels:
    """A figure as ``[height, width, 3]`` RGB."""
    image = Image.new("RGB", (figure.width, figure.height), figure.paper)
    draw = ImageDraw.Draw(image)
    for shape in figure.shapes:
        if isinstance(shape, Text):
            line = typeface.drawable(shape.text)
            face = typeface.font(shape.size, shape.bold, line)
            draw.text((shape.x, shape.y), line, shape.colour, face, anchor=_PILLOW_ANCHORS[shape.anchor])
            continue
        x0, y0, x1, y1 = _edges(shape)
        if isinstance(shape, Shown):
            picture = Image.fromarray(shape.pixels)
            size = x1 - x0, y1 - y0
            image.paste(picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC), (x0, y0))
        elif shape.outline:
            draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=shape.colour, width=shape.outline)
        else:
            draw.rectangle((x0, y0, x1 - 1, y1 - 1), shape.colour)
    return np.asarray(image)


def _edges(shape: Box | Shown) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 in whole pixels: at least one wide and high."""
    x0, y0 = round(shape.x), round(shape.y)
    return x0, y0, max(x0 + 1, round(shape.x + shape.width)), max(y0 + 1, round(shape.y + shape.height))


def _svg(figure: Figure) -> Iterator[str]:
    size = f'width="{figure.width}" height="{figure.height}"'
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {figure.width} {figure.height}" '
        f'role="img" font-family="{_FAMILIES}">\n'
        f"<title>{_legal(figure.title)}</title>\n"
        f'<rect {size} fill="{figure.paper}"/>\n'
    )
    for shape in figure.shapes:
        if isinstance(shape, Text):
            anchor = "" if shape.anchor == "start" else f' text-anchor="{shape.anchor}"'
            bold = ' font-weight="600"' if shape.bold else ""
            yield (
                f'<text x="{shape.x:.6g}" y="{shape.y:.6g}" font-size="{shape.size}" fill="{shape.colour}"{anchor}'
                f"{bold}{_length(shape)}>{_legal(shape.text)}</text>\n"
            )
            continue
        inset = shape.outline / 2 if isinstance(shape, Box) else 0
        place = (
            f'x="{shape.x + inset:.6g}" y="{shape.y + inset:.6g}" '
            f'width="{max(0.5, shape.width - 2 * inset):.6g}" height="{max(0.5, shape.height - 2 * inset):.6g}"'
        )
        if isinstance(shape, Shown):
            yield f'<image {place} preserveAspectRatio="none" href={quoteattr(_data(shape.pixels))}/>\n'
        elif shape.outline:
            yield f'<rect {place} fill="none" stroke="{shape.colour}" stroke-width="{shape.outline}"/>\n'
        else:
            yield f'<rect {place} fill="{shape.colour}"/>\n'
    yield "</svg>\n"


def _length(shape: Text) -> str:
    """The width of a text in our font, which any other is squeezed to. Empty for letters that ours lacks."""
    line = " ".join(shape.text.split())
    if not line or typeface.drawable(line) != line:
        return ""
    return f' textLength="{typeface.width(line, shape.size, shape.bold):.6g}" lengthAdjust="spacingAndGlyphs"'


def _legal(text: str) -> str:
    """Text without what XML 1.0 does not allow."""
    return escape("".join(letter for letter in " ".join(text.split()) if letter.isprintable()))


def _data(shown: Pixels) -> str:
    if shown.shape[0] * shown.shape[1] < _SMALL:
        media_type, data = "image/png", png.encode(np.ascontiguousarray(shown))
    else:
        buffer = io.BytesIO()
        Image.fromarray(shown).save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
        media_type, data = "image/jpeg", buffer.getvalue()
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
