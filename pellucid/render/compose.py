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

# Between two tiles of a grid. Its level is the last, which no tile uses; grey is at no end of a colour map.
_GAP = 2
_GAP_LEVEL = 255
_GAP_COLOUR = 128


def scaled_size(width: int, height: int, max_side: int) -> tuple[int, int]:
    """(width, height) with the longer side at most ``max_side``, the aspect ratio kept."""
    scale = min(1.0, max_side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _stretched(values: Floats) -> Floats:
    """``values`` themselves, min moved to 0 and max to 1; a map with no range becomes 0 throughout."""
    low, high = values.min(), values.max()
    values -= low
    if high > low:
        values /= high - low
    return values


def positive(heat: Floats, width: int, height: int) -> Floats:
    """ReLU, min-max, resize, min-max: evidence for the class in [0, 1], all 0 where there is none.

    The order is pytorch-grad-cam's, so the result equals that library's.
    """
    return _stretched(upsample(_stretched(np.maximum(heat, 0)), width, height))


def signed(heat: Floats, width: int, height: int) -> Floats:
    """Resize, then divide by the largest magnitude: [-1, 1], 0 stays no evidence."""
    values = upsample(heat, width, height)
    peak = np.abs(values).max()
    if peak > 0:
        values /= peak
    return values


def mask(heat: Floats, size: tuple[int, int], keep_sign: bool) -> Pixels:
    """An 8-bit mask of ``size`` (width, height). 255 is the most evidence for the class.

    0 is the least, and all evidence against is 0 too; with ``keep_sign`` 128 is none, 1 the most against, 255 the most
    for.
    """
    # In place throughout: at this size a fresh array costs more than the arithmetic.
    if keep_sign:
        levels = signed(heat, *size)
        levels *= 127
        levels += 128
    else:
        levels = positive(heat, *size)
        levels *= 255
    return np.rint(levels, out=levels).astype(np.uint8)


def shared_mask(heat: Floats, size: tuple[int, int], reach: float, keep_sign: bool) -> Pixels:
    """An 8-bit mask of ``size`` (width, height) on a scale that several share: ``reach``, more than 0, is 255.

    With ``keep_sign`` 128 is none, and -``reach`` 1.
    """
    levels = upsample(heat, *size) / np.float32(reach)
    levels = 128 + 127 * np.clip(levels, -1, 1) if keep_sign else 255 * np.clip(levels, 0, 1)
    rounded: Pixels = np.rint(levels).astype(np.uint8)
    return rounded


def overlay(
    picture: Pixels, source_size: tuple[int, int], box: Box, levels: Pixels, colormap: str, alpha: float
) -> Pixels:
    """The mask ``levels`` over the picture, ``alpha`` (0 to 1) of colour to picture, inside ``box`` alone.

    ``box`` is in pixels of a source of ``source_size``, of which ``picture`` may be a smaller copy. What the network
    did not see is dimmed, so that a cropped margin isn't taken for one without evidence.
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
    """Tiles row by row in the order of the channels: tile n is at column n % columns, row n // columns.

    ``levels`` ``[height, width]`` index ``palette`` ``[256, 3]``: a third of the bytes of RGB, to compose and to send.
    """

    levels: Pixels
    palette: Pixels
    columns: int
    rows: int
    tile: tuple[int, int]
    gap: int


def value_range(groups: Sequence[Floats], per_layer: bool) -> Range:
    """The least and the greatest value of each channel over all ``groups``, each ``[n, h, w]``, as ``[n, 1, 1]``.

    ``per_layer``: those that all channels have in common, as ``[1, 1, 1]``.
    """
    axes = None if per_layer else (1, 2)
    low = np.minimum.reduce([values.min(axes) for values in groups])
    high = np.maximum.reduce([values.max(axes) for values in groups])
    return low.reshape(-1, 1, 1), high.reshape(-1, 1, 1)


def grid(maps: FeatureMaps, shown: Range, colormap: str, tile_side: int, columns: int | None) -> Grid:
    """The channels as tiles whose longer side is about ``tile_side``, the range ``shown`` stretched over the colour
    map.

    Maps grow by whole factors, each value a square of equal pixels, so that nothing is shown that is not there; larger
    ones are averaged down.
    """
    low, high = shown
    count = len(maps.values)
    scale = (_GAP_LEVEL - 1) / np.where(high > low, high - low, 1)
    stretched = maps.values - low
    stretched *= scale
    stretched += 0.5  # all are positive: cut off, they are rounded
    tiles = _tiles(stretched.astype(np.uint8), tile_side)
    tile_h, tile_w = tiles.shape[1:]
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    step_y, step_x = tile_h + _GAP, tile_w + _GAP
    cells = np.full((rows, step_y, columns, step_x), _GAP_LEVEL, np.uint8)
    whole, rest = divmod(count, columns)  # rows that are full, tiles in the last
    cells[:whole, :tile_h, :, :tile_w] = tiles[: whole * columns].reshape(whole, columns, tile_h, tile_w).swapaxes(1, 2)
    if rest:
        cells[whole, :tile_h, :rest, :tile_w] = tiles[whole * columns :].swapaxes(0, 1)
    levels = cells.reshape(rows * step_y, columns * step_x)[:-_GAP, :-_GAP]
    palette = np.vstack((table(colormap, _GAP_LEVEL), np.full((1, 3), _GAP_COLOUR, np.uint8)))
    return Grid(levels, palette, columns, rows, (tile_w, tile_h), _GAP)


def _tiles(levels: Pixels, side: int) -> Pixels:
    """Maps ``[n, h, w]`` at the size of a tile."""
    _, height, width = levels.shape
    longer = max(height, width)
    if longer <= side:
        factor = side // longer
        return levels.repeat(factor, 2).repeat(factor, 1) if factor > 1 else levels
    size = scaled_size(width, height, side)
    return np.stack([np.asarray(Image.fromarray(level).resize(size, Image.Resampling.BOX)) for level in levels])
