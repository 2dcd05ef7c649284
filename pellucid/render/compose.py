"""Masks, overlays and grids as uint8 arrays: ``[h, w]`` grey or ``[h, w, 3]`` RGB."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from pellucid.render.colormap import table
from pellucid.resampling import upsample
from pellucid.types import Box, FeatureMaps, Floats, Pixels

Range = tuple[Floats, Floats]
Size = tuple[int, int]  # width, height
Stretch = Literal["channel", "layer", "percentile"]

# The grey between the tiles of a grid. No colour map ends in it.
_GAP: Final = np.full((1, 3), 128, np.uint8)
# The percentiles at the ends of the colours with the stretch ``percentile``.
PERCENTILES: Final = (5, 95)
# The shares of the largest magnitude where an overlay's colours begin, where they are fully opaque, and of its line.
BEGIN: Final = 0.25
_OPAQUE_FROM: Final = 0.75
LINE: Final = 0.8
# The line's dark edges are this opaque. It is solid from this opacity of the overlay, and fades below.
_EDGE: Final = 0.6
_SOLID_FROM: Final = 0.6
# The longer side of the grid in which regions are found that are too small for a line.
_LINE_GRID: Final = 96
# The parts of colour maps that overlays use, where not all: the ends of these are as dark as a shadow.
_BRIGHT: Final = {"turbo": (0.15, 0.9), "jet": (0.15, 0.86)}
# An overlay dims what the network did not see to this share of its brightness.
_DIMMED: Final = [int(level * 0.45) for level in range(256)] * 3


def scaled_size(width: int, height: int, max_side: int, min_side: int = 0) -> Size:
    """(width, height), scaled so that the longer side is at most ``max_side``, and at least ``min_side``.

    The shorter side is at least half of ``min_side``. ``max_side`` wins. Keeps the aspect ratio.
    """
    longer, shorter = max(width, height), min(width, height)
    scale = min(max(1, min_side / longer, min_side / 2 / shorter), max_side / longer)
    return max(1, round(width * scale)), max(1, round(height * scale))


def scaled_box(box: Box, source_size: Size, size: Size) -> Box:
    """``box`` of a picture of ``source_size`` in a copy of ``size``: in whole pixels, at least one wide and high."""
    (x0, x1), (y0, y1) = (
        (start := min(round(box[axis] * scale), size[axis] - 1), max(start + 1, round(box[axis + 2] * scale)))
        for axis, scale in enumerate(after / before for before, after in zip(source_size, size, strict=True))
    )
    return x0, y0, x1, y1


def _min_max_scaled(values: Floats) -> Floats:
    """Scale ``values`` to the range 0 to 1, in place, and return them. A constant map becomes 0."""
    low, high = values.min(), values.max()
    values -= low
    if high > low:
        values /= high - low
    return values


def positive(heat: Floats, width: int, height: int) -> Floats:
    """Evidence for the class in [0, 1]: ReLU, min-max scaling, resize, min-max scaling. All 0 if there is none.

    The order is that of pytorch-grad-cam, so the result equals that library's.
    """
    return _min_max_scaled(upsample(_min_max_scaled(np.maximum(heat, 0)), width, height))


def signed(heat: Floats, width: int, height: int) -> Floats:
    """Evidence in [-1, 1]: resize, then divide by the largest magnitude. 0 still means no evidence."""
    values = upsample(heat, width, height)
    peak = np.abs(values).max()
    if peak > 0:
        values /= peak
    return values


def mask(heat: Floats, size: Size, keep_sign: bool) -> Pixels:
    """An 8-bit mask ``[height, width]`` of ``size`` (width, height).

    255 is the most evidence for the class. 0 is no evidence, or evidence against it. With ``keep_sign``, 128 is no
    evidence, and the largest magnitude becomes 255 (for the class) or 1 (against it).
    """
    # In place throughout: at this size, allocating an array costs more than the arithmetic.
    if keep_sign:
        levels = signed(heat, *size)
        levels *= 127
        levels += 128
    else:
        levels = positive(heat, *size)
        levels *= 255
    return np.rint(levels, out=levels).astype(np.uint8)


def enlarged(levels: Pixels, size: Size) -> Pixels:
    """``levels`` ``[h, w]`` in ``size`` (width, height): the nearest level, none in between."""
    return np.asarray(Image.fromarray(levels).resize(size, Image.Resampling.NEAREST))


def framed(levels: Pixels, size: Size, place: Box, blank: int) -> Pixels:
    """``levels`` at ``place`` in a mask of ``size`` that is ``blank`` everywhere else."""
    x0, y0, x1, y1 = place
    frame = np.full(size[::-1], blank, np.uint8)
    frame[y0:y1, x0:x1] = levels
    return frame


def shared_mask(heat: Floats, size: Size, reach: float, keep_sign: bool, smooth: bool = False) -> Pixels:
    """An 8-bit mask of ``size`` on a scale shared by several maps: the value ``reach`` > 0 becomes 255.

    0 becomes 0. With ``keep_sign``, 0 becomes 128, and -``reach`` becomes 1. ``smooth`` interpolates as overlays do.
    """
    levels = (np.asarray(_cubic(heat, size)) if smooth else upsample(heat, *size)) / np.float32(reach)
    levels = 128 + 127 * np.clip(levels, -1, 1) if keep_sign else 255 * np.clip(levels, 0, 1)
    rounded: Pixels = np.rint(levels).astype(np.uint8)
    return rounded


def _cubic(heat: Floats, size: Size) -> Image.Image:
    """A map, enlarged to ``size`` by cubic convolution (Keys 1981, a = -0.5), as an image of 32-bit floats.

    Bilinear interpolation has creases along rows and columns of cells: a peak becomes a star. This has none, keeps the
    values at the cells' centres, and may exceed the largest value between two cells.
    """
    return Image.fromarray(heat).resize(size, Image.Resampling.BICUBIC)


def _smooth_levels(heat: Floats, size: Size, keep_sign: bool, reach: float | None = None) -> Image.Image:
    """``mask``, but smooth, as an 8-bit image: the largest value of a cell becomes 255, and what exceeds it as well.

    With ``reach`` > 0, this value becomes 255, and 0 no evidence.
    """
    if keep_sign:
        peak = reach or np.abs(heat).max()
        levels = heat * np.float32(127 / peak if peak > 0 else 0) + 128
    elif reach:
        levels = np.maximum(heat, 0) * np.float32(255 / reach)
    else:
        levels = _min_max_scaled(np.maximum(heat, 0)) * 255
    levels += np.float32(0.5)  # rounds, since Pillow truncates; it also clips
    return _cubic(levels, size).convert("L")


def strong(heat: Floats, size: Size, share: float = LINE) -> NDArray[np.bool_]:
    """Where a map ``[h, w]``, drawn in ``size``, reaches a share of its largest value, as an overlay's line shows it.

    Nowhere if the map has no evidence for the class, or is constant: its mask is 0.
    """
    return np.asarray(_smooth_levels(heat, size, keep_sign=False)) >= max(1, share * 255)


@lru_cache(32)
def tints(colormap: str, keep_sign: bool) -> Pixels:
    """The colours of an overlay by the level of its mask: ``[256, 4]`` RGBA. What is little evidence is transparent.

    Opacity follows the evidence as a share of the map's largest magnitude: 0 up to a quarter, half at half, full
    from three quarters. The colours are spread over what is visible, from a quarter to 1. The rule is the same for
    every map: one whose values are mostly near its largest is coloured throughout. The dark ends of turbo and jet are
    left out. With ``keep_sign``, the middle half of the colour map is left out: it is pale, and would veil the picture.
    """
    levels = np.arange(256)
    strength = np.clip((levels - 128) / 127, -1, 1) if keep_sign else levels / 255
    seen = np.maximum(0, np.abs(strength) - BEGIN) / (1 - BEGIN)
    if keep_sign:
        place = (1 + np.where(strength < 0, -1, 1) * (1 + seen) / 2) / 2
    else:
        start, end = _BRIGHT.get(colormap, (0, 1))
        place = start + (end - start) * seen
    ramp = np.clip((np.abs(strength) - BEGIN) / (_OPAQUE_FROM - BEGIN), 0, 1)
    opacity = np.rint(255 * ramp * ramp * (3 - 2 * ramp)).astype(np.uint8)
    return np.column_stack((table(colormap)[np.rint(255 * place).astype(np.intp)], opacity))


@lru_cache(64)
def _palette(colormap: str, keep_sign: bool, alpha: float) -> tuple[bytes, list[int]]:
    """The colours of 256 levels as RGB bytes, and their opacities from 0 to 255."""
    shown = tints(colormap, keep_sign)
    return shown[:, :3].tobytes(), np.rint(shown[:, 3] * alpha).astype(int).tolist()


def overlay(
    picture: Pixels,
    source_size: Size,
    box: Box,
    heat: Floats,
    colormap: str,
    alpha: float,
    keep_sign: bool,
    size: Size,
    reach: float | None = None,
) -> Pixels:
    """Draw a map ``[h, w]`` in colour over ``box`` of the picture. Returns ``[height, width, 3]`` of ``size``.

    The opacity follows the evidence, up to ``alpha`` (0 to 1): see ``tints``. A line surrounds what is at least 0.8 of
    the largest. ``box`` is in pixels of the source, whose size is ``source_size``; ``picture`` may be a smaller copy of
    it. The area outside the box is dimmed: the network did not see it, which must not look like an absence of evidence.
    ``reach`` > 0 is the end of a scale that several overlays share.
    """
    canvas = _dimmed(picture, size, place := scaled_box(box, source_size, size))
    x0, y0, x1, y1 = place
    colours, opacity = _palette(colormap, keep_sign, alpha)
    levels = _smooth_levels(heat, (x1 - x0, y1 - y0), keep_sign, reach)
    mask = levels.point(opacity)
    if shown := mask.getbbox():
        tinted = levels.crop(shown)
        tinted.putpalette(colours)
        canvas.paste(tinted.convert("RGB"), (x0 + shown[0], y0 + shown[1]), mask.crop(shown))
        _outline(canvas, (x0, y0), levels, keep_sign, min(1, alpha / _SOLID_FROM))
    return np.asarray(canvas)


def tinted(
    picture: Pixels, source_size: Size, box: Box, colours: Pixels, shown: NDArray[np.bool_], alpha: float, size: Size
) -> Pixels:
    """Draw ``colours`` ``[h, w, 3]`` over ``box`` where they are ``shown`` ``[h, w]``. All else is as in overlays."""
    x0, y0, x1, y1 = place = scaled_box(box, source_size, size)
    inner = x1 - x0, y1 - y0
    mask = Image.fromarray(shown.astype(np.uint8) * np.uint8(round(255 * alpha)))
    canvas = _dimmed(picture, size, place)
    tint = Image.fromarray(colours).resize(inner, Image.Resampling.NEAREST)
    canvas.paste(tint, place, mask.resize(inner, Image.Resampling.NEAREST))
    return np.asarray(canvas)


def resized(picture: Pixels, size: Size) -> Pixels:
    """A picture ``[h, w, 3]`` in ``size`` (width, height)."""
    return np.asarray(_resized(picture, size))


def _dimmed(picture: Pixels, size: Size, place: Box) -> Image.Image:
    """A picture in ``size``, dimmed outside of ``place``."""
    canvas = _resized(picture, size)
    x0, y0, x1, y1 = place
    width, height = size
    for outside in ((0, 0, width, y0), (0, y0, x0, y1), (x1, y0, width, y1), (0, y1, width, height)):
        canvas.paste(canvas.crop(outside).point(_DIMMED), outside)
    return canvas


def _resized(picture: Pixels, size: Size) -> Image.Image:
    source = Image.fromarray(picture)
    return source if source.size == size else source.resize(size, Image.Resampling.BICUBIC)


def _outline(canvas: Image.Image, corner: Size, levels: Image.Image, keep_sign: bool, opacity: float) -> None:
    """Draw a white line with dark edges around the strongest evidence of ``levels``, which lie at ``corner`` (x, y).

    There is none around regions narrower than a thirtieth of the longer side, and none in very small pictures. Where a
    region is wide, its narrow parts have a line as well, so every line is closed, or ends at the border.
    """
    if max(levels.size) < _LINE_GRID:
        return
    strong = _strong(keep_sign)
    grid = scaled_size(*levels.size, _LINE_GRID)
    small = np.asarray(levels.resize(grid, Image.Resampling.NEAREST).point(strong)) > 0
    wide, count = _grown(~_grown(~small, 1), 2), 0
    # Morphological reconstruction: a wide region keeps its narrow parts.
    while count != (count := int(np.count_nonzero(narrow := small & ~wide))):
        wide |= _grown(small & wide, 2)
    near = _grown(wide, 1)  # so that a line along a cut has room
    width = max(1, max(canvas.size) / 450)
    strokes = _strokes(width, opacity)
    # Region by region: an empty row or column of the grid is between two.
    for top, bottom in _runs(near.max(1)):
        for left, right in _runs(near[top:bottom].max(0)):
            box = scaled_box((left, top, right, bottom), grid, levels.size)
            region = levels.crop(box).point(strong)
            x0, y0, x1, y1 = region.getbbox() or (1, 1, 1, 1)
            across = x0 == 0 < left or (x1 == region.width and right < grid[0])
            down = y0 == 0 < top or (y1 == region.height and bottom < grid[1])
            if across or down or narrow[top:bottom, left:right].any():
                kept = (wide & ~_grown(narrow, 1))[top:bottom, left:right]
                mask = Image.fromarray(kept.astype(np.uint8) * np.uint8(255))
                region = ImageChops.darker(region, mask.resize(region.size, Image.Resampling.NEAREST))
            edge = region.filter(ImageFilter.BoxBlur(1.5 * width))
            for grey, stroke in zip((0, 255), strokes, strict=True):
                canvas.paste((grey, grey, grey), (corner[0] + box[0], corner[1] + box[1]), edge.point(stroke))


@lru_cache
def _strong(keep_sign: bool) -> list[int]:
    """Whether a level of a mask is within the line: 255, or 0."""
    middle, scale = (128, 127) if keep_sign else (0, 255)
    return [255 if abs(level - middle) >= LINE * scale else 0 for level in range(256)]


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Where the runs of true flags start, and where they end."""
    ends = np.flatnonzero(np.diff(flags, prepend=False, append=False)).tolist()
    return list(zip(ends[::2], ends[1::2], strict=True))


@lru_cache(16)
def _strokes(width: float, opacity: float) -> list[list[int]]:
    """The opacities of a line's dark edges and of its white middle, by the level of a region's blurred edge.

    ``width`` is that of the middle in pixels. The level tells the distance from the edge: the blur is as wide as the
    line.
    """
    distance = [abs(level / 255 - 0.5) * (3 * width + 1) for level in range(256)]
    return [
        [round(255 * opacity * share * min(1, max(0, reach - each))) for each in distance]
        for share, reach in ((_EDGE, 1.5 * width + 0.5), (1, 0.5 * width + 0.5))
    ]


def _grown(mask: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """A mask ``[h, w]``, grown by ``steps`` squares to all eight sides."""
    grown = mask.copy()
    for _ in range(steps):
        grown[1:] |= grown[:-1]
        grown[:-1] |= grown[1:]
        grown[:, 1:] |= grown[:, :-1]
        grown[:, :-1] |= grown[:, 1:]
    return grown


@dataclass(frozen=True, slots=True)
class Grid:
    """Tiles in the order of the channels, row by row: tile n is in column n % columns and row n // columns.

    ``levels`` ``[height, width]`` are indices into ``palette`` ``[256, 3]``, which takes a third of the bytes of RGB.
    ``tile`` is a tile's (width, height) and ``gap`` the space between tiles, in pixels.
    """

    levels: Pixels
    palette: Pixels
    columns: int
    rows: int
    tile: Size
    gap: int


def value_range(groups: Sequence[Floats], stretch: Stretch) -> Range:
    """The minimum and maximum ``[n, 1, 1]`` of each channel over all ``groups``, each ``[n, h, w]``.

    With ``layer``, the minimum and maximum ``[1, 1, 1]`` over all channels. With ``percentile``, each channel's
    PERCENTILES, or its minimum and maximum if these percentiles are equal.
    """
    axes = None if stretch == "layer" else (1, 2)
    low = np.minimum.reduce([values.min(axes) for values in groups])
    high = np.maximum.reduce([values.max(axes) for values in groups])
    if stretch == "percentile":
        together = np.concatenate([values.reshape(len(values), -1) for values in groups], axis=1)
        inner, outer = np.percentile(together, PERCENTILES, axis=1).astype(np.float32)
        low, high = np.where(inner < outer, (inner, outer), (low, high))
    return low.reshape(-1, 1, 1), high.reshape(-1, 1, 1)


def grid(
    maps: FeatureMaps,
    value_range: Range,
    colormap: str,
    tile_side: int,
    columns: int | None,
    gap: int = 2,
    greys: Pixels = _GAP,
) -> Grid:
    """Draw the channels as tiles whose longer side is about ``tile_side`` pixels.

    The range ``value_range`` is spread over the colour map; values outside of it have the colours of its ends. Maps are
    enlarged by whole factors, so each value is a square of equal pixels and nothing is interpolated. Maps larger than a
    tile are averaged down. ``columns`` None makes the grid about square. ``greys`` ``[n, 3]`` are the palette's last
    colours, which no tile uses. The first of them is between the tiles.
    """
    gap_level = 256 - len(greys)
    low, high = value_range
    count = len(maps.values)
    scale = (gap_level - 1) / np.where(high > low, high - low, 1)
    stretched = np.clip(maps.values, low, high)
    stretched -= low
    stretched *= scale
    stretched += 0.5  # rounds, since astype truncates and all values are positive
    tiles = _tiles(stretched.astype(np.uint8), tile_side)
    tile_h, tile_w = tiles.shape[1:]
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    step_y, step_x = tile_h + gap, tile_w + gap
    cells = np.full((rows, step_y, columns, step_x), gap_level, np.uint8)
    whole, rest = divmod(count, columns)  # full rows, tiles in the last row
    cells[:whole, :tile_h, :, :tile_w] = tiles[: whole * columns].reshape(whole, columns, tile_h, tile_w).swapaxes(1, 2)
    if rest:
        cells[whole, :tile_h, :rest, :tile_w] = tiles[whole * columns :].swapaxes(0, 1)
    levels = cells.reshape(rows * step_y, columns * step_x)[:-gap, :-gap]
    palette = np.vstack((table(colormap, gap_level), greys))
    return Grid(levels, palette, columns, rows, (tile_w, tile_h), gap)


def _tiles(levels: Pixels, side: int) -> Pixels:
    """Resize maps ``[n, h, w]`` to the size of a tile."""
    _, height, width = levels.shape
    longer = max(height, width)
    if longer <= side:
        factor = side // longer
        return levels.repeat(factor, 2).repeat(factor, 1) if factor > 1 else levels
    size = scaled_size(width, height, side)
    return np.stack([np.asarray(Image.fromarray(level).resize(size, Image.Resampling.BOX)) for level in levels])
