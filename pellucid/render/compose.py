"""Masks, overlays and grids as uint8 arrays: ``[h, w]`` grey or ``[h, w, 3]`` RGB."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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
# The share of the largest magnitude from which an overlay has its full opacity.
_OPAQUE_FROM: Final = 0.5
# An overlay dims what the network did not see to this share of its brightness.
_DIMMED: Final = [int(level * 0.45) for level in range(256)] * 3


def scaled_size(width: int, height: int, max_side: int, min_side: int = 0) -> Size:
    """(width, height), scaled so that the longer side is at most ``max_side``, and at least ``min_side``.

    ``max_side`` wins. Keeps the aspect ratio.
    """
    longer = max(width, height)
    scale = min(max(longer, min_side), max_side) / longer
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


@lru_cache(32)
def tints(colormap: str, keep_sign: bool) -> Pixels:
    """The colours of an overlay by the level of its mask: ``[256, 4]`` RGBA. What is no evidence is transparent.

    Opacity grows with the magnitude of the evidence, and is full from half of the largest. With ``keep_sign``, the
    middle half of the colour map is left out: it is pale, and would veil the picture.
    """
    levels = np.arange(256)
    if keep_sign:
        strength = np.clip((levels - 128) / 127, -1, 1)
        shown = np.rint(127.5 + 127.5 * np.where(strength < 0, strength - 1, strength + 1) / 2).astype(np.intp)
    else:
        strength, shown = levels / 255, levels
    ramp = np.minimum(1, np.abs(strength) / _OPAQUE_FROM)
    opacity = np.rint(255 * ramp * ramp * (3 - 2 * ramp)).astype(np.uint8)
    return np.column_stack((table(colormap)[shown], opacity))


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

    The opacity follows the evidence, up to ``alpha`` (0 to 1): see ``tints``. ``box`` is in pixels of the source, whose
    size is ``source_size``; ``picture`` may be a smaller copy of it. The area outside the box is dimmed: the network
    did not see it, which must not look like an absence of evidence. ``reach`` > 0 is the end of a scale that several
    overlays share.
    """
    source = _resized(picture, size)
    x0, y0, x1, y1 = place = scaled_box(box, source_size, size)
    colours, opacity = _palette(colormap, keep_sign, alpha)
    levels = _smooth_levels(heat, (x1 - x0, y1 - y0), keep_sign, reach)
    mask = levels.point(opacity)
    levels.putpalette(colours)
    canvas = source.point(_DIMMED)
    canvas.paste(source.crop(place), place)
    canvas.paste(levels.convert("RGB"), place, mask)
    return np.asarray(canvas)


def tinted(
    picture: Pixels, source_size: Size, box: Box, colours: Pixels, shown: NDArray[np.bool_], alpha: float, size: Size
) -> Pixels:
    """Draw ``colours`` ``[h, w, 3]`` over ``box`` where they are ``shown`` ``[h, w]``. All else is as in overlays."""
    source = _resized(picture, size)
    x0, y0, x1, y1 = place = scaled_box(box, source_size, size)
    inner = x1 - x0, y1 - y0
    mask = Image.fromarray(shown.astype(np.uint8) * np.uint8(round(255 * alpha)))
    canvas = source.point(_DIMMED)
    canvas.paste(source.crop(place), place)
    tint = Image.fromarray(colours).resize(inner, Image.Resampling.NEAREST)
    canvas.paste(tint, place, mask.resize(inner, Image.Resampling.NEAREST))
    return np.asarray(canvas)


def resized(picture: Pixels, size: Size) -> Pixels:
    """A picture ``[h, w, 3]`` in ``size`` (width, height)."""
    return np.asarray(_resized(picture, size))


def _resized(picture: Pixels, size: Size) -> Image.Image:
    source = Image.fromarray(picture)
    return source if source.size == size else source.resize(size, Image.Resampling.BICUBIC)


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
