"""What a network sees of a picture: its centre, all of it at a size of its own, or all of it squeezed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from pellucid.errors import InvalidOption

ViewKind = Literal["centre", "whole", "squash"]
LEAST_DETAIL: Final = 64
MOST_DETAIL: Final = 1024
# Of the pixels of a whole picture. Above it the detail is lowered.
MOST_PIXELS: Final = 2**20
# The long side by the short one. Few enough that pictures share batches: eighths, then quarters. A picture is squeezed
# by at most 6.1 % (the root of 9 / 8) to the nearest, and by the rounding of the sides.
RATIOS: Final = (*(eighths / 8 for eighths in range(8, 17)), 2.25, 2.5, 2.75, 3.0)
# The longest picture is squeezed to the largest ratio by as much.
_LONGEST: Final = RATIOS[-1] * 1.0607


@dataclass(frozen=True, slots=True)
class View:
    """What the network sees of a picture.

    - ``centre``: the centre crop of the network's preprocessing
    - ``whole``: the whole picture, its short side close to ``detail`` pixels, both sides multiples of ``multiple``
    - ``squash``: the whole picture, squeezed to the network's own size
    """

    kind: ViewKind = "centre"
    detail: int = 0
    multiple: int = 32


CENTRE: Final = View()


def whole_size(width: int, height: int, view: View) -> tuple[int, int]:
    """The (height, width) of the network's input for a whole picture of ``width`` x ``height``.

    Raises InvalidOption for a picture that is longer than 1:3.
    """
    long, short = max(width, height), min(width, height)
    if long > _LONGEST * short:
        raise InvalidOption(
            f"view: The picture has {width} x {height} pixels, which is longer than 1:3, so it can't be seen whole. "
            "Send a part of it, or choose view=squash or view=centre."
        )
    ratio = min(RATIOS, key=lambda each: abs(math.log(each * short / long)))
    detail = min(view.detail, math.sqrt(MOST_PIXELS / ratio))
    least = max(1, round(detail / view.multiple)) * view.multiple
    most = max(1, round(least * ratio / view.multiple)) * view.multiple
    while least * most > MOST_PIXELS:  # by the rounding
        least -= view.multiple
        most = round(least * ratio / view.multiple) * view.multiple
    return (least, most) if width >= height else (most, least)
