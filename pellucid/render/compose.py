"""Masks, overlays and grids as uint8 arrays: ``[h, w]`` grey or ``[h, w, 3]`` RGB."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pellucid.render.colormap import table
from pellucid.resampling import upsample
from pellucid.types import Box, FeatureMaps, Floats, Pixels

Range = tuple[Floats, Floats]

# The gap between two tiles of a grid, in pixels. Its palette index is the last one, which no tile uses. It is grey,
# because no colour map ends in that grey.
_GAP = 2
_GAP_LEVEL = 255
_GAP_COLOUR = 128


def scaled_size(width: int, height: int, max_side: int) -> tuple[int, int]:
    """(width, height), scaled down so that the longer side is at most ``max_side``. Keeps the aspect ratio."""
    scale = min(1.0, max_side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


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


def mask(heat: Floats, size: tuple[int, int], keep_sign: bool) -> Pixels:
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


def enlarged(levels: Pixels, size: tuple[int, int]) -> Pixels:
    """``levels`` ``[h, w]`` in ``size`` (width, height): the nearest level, none in between."""
    return np.asarray(Image.fromarray(levels).resize(size, Image.Resampling.NEAREST))


def shared_mask(heat: Floats, size: tuple[int, int], reach: float, keep_sign: bool) -> Pixels:
    """An 8-bit mask of ``size`` (width, height) on a scale shared by several maps: the value ``reach`` > 0 becomes 255.

    0 becomes 0. With ``keep_sign``, 0 becomes 128, and -``reach`` becomes 1.
    """
    levels = upsample(heat, *size) / np.float32(reach)
    levels = 128 + 127 * np.clip(levels, -1, 1) if keep_sign else 255 * np.clip(levels, 0, 1)
    rounded: Pixels = np.rint(levels).astype(np.uint8)
    return rounded


def overlay(
    picture: Pixels, source_size: tuple[int, int], box: Box, levels: Pixels, colormap: str, alpha: float
) -> Pixels:
    """Draw the mask ``levels`` in colour over ``box`` of the picture, with the opacity ``alpha`` (0 to 1).

    ``box`` is in pixels of the source, whose size is ``source_size``; ``picture`` may be a smaller copy of it. The area
    outside the box is dimmed: the network did not see it, which must not look like an absence of evidence.
    """
    height, width = picture.shape[:2]
    scale_x, scale_y = width / source_size[0], height / source_size[1]
    x0, x1 = round(box[0] * scale_x), max(round(box[0] * scale_x) + 1, round(box[2] * scale_x))
    y0, y1 = round(box[1] * scale_y), max(round(box[1] * scale_y) + 1, round(box[3] * scale_y))
    canvas = (picture * np.float32(0.45)).astype(np.uint8)
    inside = picture[y0:y1, x0:x1]
    fitted = Image.fromarray(levels).resize((inside.shape[1], inside.shape[0]), Image.Resampling.BILINEAR)
    colours = Image.fromarray(table(colormap)[np.asarray(fitted)])
    canvas[y0:y1, x0:x1] = np.asarray(Image.blend(Image.fromarray(inside), colours, alpha))
    return canvas


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
    tile: tuple[int, int]
    gap: int


def value_range(groups: Sequence[Floats], per_layer: bool) -> Range:
    """The minimum and maximum ``[n, 1, 1]`` of each channel over all ``groups``, each ``[n, h, w]``.

    With ``per_layer``, the minimum and maximum ``[1, 1, 1]`` over all channels.
    """
    axes = None if per_layer else (1, 2)
    low = np.minimum.reduce([values.min(axes) for values in groups])
    high = np.maximum.reduce([values.max(axes) for values in groups])
    return low.reshape(-1, 1, 1), high.reshape(-1, 1, 1)


def grid(maps: FeatureMaps, value_range: Range, colormap: str, tile_side: int, columns: int | None) -> Grid:
    """Draw the channels as tiles whose longer side is about ``tile_side`` pixels.

    The range ``value_range`` is spread over the colour map. Maps are enlarged by whole factors, so each value is a
    square of equal pixels and nothing is interpolated. Maps larger than a tile are averaged down. ``columns`` None
    makes the grid about square.
    """
    low, high = value_range
    count = len(maps.values)
    scale = (_GAP_LEVEL - 1) / np.where(high > low, high - low, 1)
    stretched = maps.values - low
    stretched *= scale
    stretched += 0.5  # rounds, since astype truncates and all values are positive
    tiles = _tiles(stretched.astype(np.uint8), tile_side)
    tile_h, tile_w = tiles.shape[1:]
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    step_y, step_x = tile_h + _GAP, tile_w + _GAP
    cells = np.full((rows, step_y, columns, step_x), _GAP_LEVEL, np.uint8)
    whole, rest = divmod(count, columns)  # full rows, tiles in the last row
    cells[:whole, :tile_h, :, :tile_w] = tiles[: whole * columns].reshape(whole, columns, tile_h, tile_w).swapaxes(1, 2)
    if rest:
        cells[whole, :tile_h, :rest, :tile_w] = tiles[whole * columns :].swapaxes(0, 1)
    levels = cells.reshape(rows * step_y, columns * step_x)[:-_GAP, :-_GAP]
    palette = np.vstack((table(colormap, _GAP_LEVEL), np.full((1, 3), _GAP_COLOUR, np.uint8)))
    return Grid(levels, palette, columns, rows, (tile_w, tile_h), _GAP)


def _tiles(levels: Pixels, side: int) -> Pixels:
    """Resize maps ``[n, h, w]`` to the size of a tile."""
    _, height, width = levels.shape
    longer = max(height, width)
    if longer <= side:
        factor = side // longer
        return levels.repeat(factor, 2).repeat(factor, 1) if factor > 1 else levels
    size = scaled_size(width, height, side)
    return np.stack([np.asarray(Image.fromarray(level).resize(size, Image.Resampling.BOX)) for level in levels])
