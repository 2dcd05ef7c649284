"""What a network sees of a picture: its centre, all of it at a size of its own, or all of it squeezed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, Literal

from pellucid.errors import InvalidOption
from pellucid.types import Tiling

ViewKind = Literal["centre", "whole", "squash"]
LEAST_DETAIL: Final = 64
MOST_DETAIL: Final = 1024
# Of the pixels of a whole picture. Above it the detail is lowered.
MOST_PIXELS: Final = 2**20
# The long side by the short one. Few enough that pictures share batches: eighths, then quarters. A picture is squeezed
# by at most 6.1 % (the root of 9 / 8) to the nearest, and by the rounding of the sides.
RATIOS: Final = (*(eighths / 8 for eighths in range(8, 17)), 2.25, 2.5, 2.75, 3.0)
# The longest picture that is seen at once is squeezed to the largest ratio by as much.
_LONGEST: Final = RATIOS[-1] * 1.0607
# Tiles of one picture. Each costs as much as a picture.
MOST_TILES: Final = 16
# The part of a tile that the next one shares, at least.
_OVERLAP: Final = 1 / 8


@dataclass(frozen=True, slots=True)
class View:
    """What the network sees of a picture.

    - ``centre``: the centre crop of the network's preprocessing
    - ``whole``: the whole picture, its short side close to ``detail`` pixels, both sides multiples of ``multiple``. A
      network of one size sees it in tiles of that size: ``tile``, (height, width).
    - ``squash``: the whole picture, squeezed to the network's own size
    """

    kind: ViewKind = "centre"
    detail: int = 0
    multiple: int = 32
    tile: tuple[int, int] | None = None


CENTRE: Final = View()


def tile_multiple(height: int, width: int) -> int:
    """The number of pixels by which tiles of this size are placed: a divisor of both sides, 32 or less.

    It is 32 for most sizes, which the cells of most layers divide. Then maps of several tiles have cells in common.
    """
    most = max(1, min(32, min(height, width) // 7))
    return max(step for step in range(1, most + 1) if math.gcd(height, width) % step == 0)


def tiling(width: int, height: int, view: View) -> Tiling:
    """How a whole picture of ``width`` x ``height`` is resized, and cut into tiles. Most have a single one.

    Raises InvalidOption for a picture that needs more than MOST_TILES.
    """
    if view.tile is None:
        long, short = max(width, height), min(width, height)
        if long <= _LONGEST * short:
            size = whole_size(width, height, view)
            return Tiling(size, size)
        view = replace(view, tile=whole_size(*((3, 1) if width == long else (1, 3)), view), detail=0)
        assert view.tile is not None
    side, detail = min(view.tile), view.detail
    while True:
        # As small as a tile fits into, or larger.
        scale = max(view.tile[0] / height, view.tile[1] / width) * max(1, detail / side)
        size = (
            _rounded(height * scale, view.tile[0], view.multiple),
            _rounded(width * scale, view.tile[1], view.multiple),
        )
        rows, columns = (_starts(whole, tile, view.multiple) for whole, tile in zip(size, view.tile, strict=True))
        if len(rows) * len(columns) <= MOST_TILES:
            return Tiling(size, view.tile, tuple((top, left) for top in rows for left in columns))
        if detail <= side:
            raise InvalidOption(
                f"view: The picture has {width} x {height} pixels, which is too long for {MOST_TILES} tiles of "
                f"{view.tile[1]} x {view.tile[0]}, so it can't be seen whole. Send a part of it, or choose view=squash "
                "or view=centre."
            )
        detail = max(side, detail - view.multiple)


def _rounded(length: float, tile: int, multiple: int) -> int:
    return tile + max(0, round((length - tile) / multiple)) * multiple


def _starts(length: int, tile: int, multiple: int) -> list[int]:
    """Where the tiles of one axis start: evenly, and at multiples of ``multiple``."""
    steps = (length - tile) // multiple
    most = max(1, int(tile * (1 - _OVERLAP)) // multiple)
    gaps = math.ceil(steps / most)
    return [round(number * steps / gaps) * multiple if gaps else 0 for number in range(gaps + 1)]


def whole_size(width: int, height: int, view: View) -> tuple[int, int]:
    """The (height, width) at which a picture of ``width`` x ``height`` is seen at once, if it is no longer than 1:3."""
    long, short = max(width, height), min(width, height)
    ratio = min(RATIOS, key=lambda each: abs(math.log(each * short / long)))
    detail = min(view.detail, math.sqrt(MOST_PIXELS / ratio))
    least = max(1, round(detail / view.multiple)) * view.multiple
    most = max(1, round(least * ratio / view.multiple)) * view.multiple
    while least * most > MOST_PIXELS:  # by the rounding
        least -= view.multiple
        most = round(least * ratio / view.multiple) * view.multiple
    return (least, most) if width >= height else (most, least)
