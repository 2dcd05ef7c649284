"""Two maps on one scale, and their difference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pellucid.ranks import spearman
from pellucid.render import compose
from pellucid.render.colormap import table
from pellucid.render.encode import encode
from pellucid.resampling import upsample
from pellucid.types import Box, Floats, Pixels


@dataclass(frozen=True, slots=True)
class Canvas:
    """What masks cover: the ``box``, or all of a photograph of ``source`` (width, height). Sides are in pixels."""

    box: Box
    max_side: int
    min_side: int = 0
    source: compose.Size | None = None

    def drawn(self, mask: Callable[[compose.Size], Pixels], signed: bool) -> Pixels:
        """The ``mask`` that a function draws over the box. Outside of it the canvas has the level of no evidence."""
        if self.source is None:
            x0, y0, x1, y1 = self.box
            return mask(compose.scaled_size(x1 - x0, y1 - y0, self.max_side, self.min_side))
        frame = compose.scaled_size(*self.source, self.max_side, self.min_side)
        x0, y0, x1, y1 = place = compose.scaled_box(self.box, self.source, frame)
        return compose.framed(mask((x1 - x0, y1 - y0)), frame, place, 128 if signed else 0)


def maps_json(
    first: Floats, second: Floats, canvas: Canvas, keep_sign: bool, colours: str | None = None
) -> dict[str, Any]:
    """The maps ``[h, w]``, which may differ in size, as masks on ``canvas``; the difference in ``colours`` as well.

    ``reach`` is the largest magnitude of both and of the difference, and the end of all masks' scale.
    """
    one, other, difference, reach = compared(first, second)

    def mask(heat: Floats, signed: bool, smooth: bool = False) -> Pixels:
        return canvas.drawn(lambda size: compose.shared_mask(heat, size, reach or 1.0, signed, smooth), signed)

    def entry(heat: Floats, signed: bool) -> dict[str, Any]:
        return {"mask": encode(mask(heat, signed)), "raw": raw_json(heat)}

    agreement = spearman(one, other)
    coloured = {}
    if colours:
        coloured["picture"] = encode(mask(difference, True, smooth=True), palette=table(colours))
    return {
        "box": canvas.box,
        "reach": np.float32(reach),
        "first": entry(first, keep_sign),
        "second": entry(second, keep_sign),
        "difference": entry(difference, True),
        "rank_agreement": None if agreement is None else np.float32(agreement),
        **coloured,
    }


def compared(first: Floats, second: Floats) -> tuple[Floats, Floats, Floats, float]:
    """Two maps in one shape, the second minus the first, and the largest magnitude of all three."""
    height, width = (max(sides) for sides in zip(first.shape, second.shape, strict=True))
    one, other = (heat if heat.shape == (height, width) else upsample(heat, width, height) for heat in (first, second))
    difference = other - one
    return one, other, difference, float(max(np.abs(values).max() for values in (one, other, difference)))


def raw_json(heat: Floats) -> dict[str, Any]:
    """A map ``[h, w]`` with its range, as JSON."""
    return {
        "shape": heat.shape,
        "values": heat,
        "min": heat.min(),
        "max": heat.max(),
        "all_negative": bool(heat.max() <= 0),
    }


def common(one: Box, other: Box) -> Box:
    """The intersection of two boxes of one picture. Both hold its middle, so it is never empty."""
    return max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])


def over(heat: Floats, box: Box, part: Box) -> Floats:
    """A map ``[h, w]`` of ``box``, cut to ``part`` and resampled to the same shape, bilinear between centres."""
    if part == box:
        return heat
    across, down = (
        _between(
            size,
            (part[axis] - box[axis]) / (box[axis + 2] - box[axis]),
            (part[axis + 2] - box[axis]) / (box[axis + 2] - box[axis]),
        )
        for axis, size in ((0, heat.shape[1]), (1, heat.shape[0]))
    )
    return np.asarray(down @ heat @ across.T, np.float32)


def _between(size: int, begin: float, end: float) -> Floats:
    """``[size, size]``: the weights that resample ``size`` cells to as many between two fractions of the whole."""
    at = size * (begin + (end - begin) * (np.arange(size) + 0.5) / size) - 0.5
    return np.array([np.interp(at, np.arange(size), unit) for unit in np.eye(size)], np.float32).T
