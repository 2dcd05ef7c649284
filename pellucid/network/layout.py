"""The layout of a graph value: which axes are channels and positions, and its conversion to a map and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from pellucid.types import Array

Axes = Literal["BCHW", "BHWC", "BPCHW", "BNC", "BCN"]


@dataclass(frozen=True, slots=True)
class Layout:
    """``axes``: BCHW, BHWC, BPCHW (P maps of C channels each), BNC or BCN (N positions).

    The first ``extra`` of N are not positions: a class token, registers. ``height`` and ``width`` are those of the map.
    """

    axes: Axes
    height: Annotated[int, Field(ge=1, le=2**20)]
    width: Annotated[int, Field(ge=1, le=2**20)]
    extra: Annotated[int, Field(ge=0, le=2**10)] = 0

    def channels(self, shape: tuple[int, ...]) -> int:
        """The number of channels of a value with this layout and shape."""
        return shape[self.axes.index("C")] * (shape[1] if self.axes == "BPCHW" else 1)

    def to_map(self, value: Array) -> Array:
        """Convert a value to a map ``[B, C, h, w]`` of its positions. A view where possible."""
        if self.axes == "BHWC":
            return value.transpose(0, 3, 1, 2)
        if self.axes == "BPCHW":
            return value.reshape(len(value), -1, *value.shape[3:])
        if self.axes == "BNC":
            positions = value[:, self.extra :].transpose(0, 2, 1)
            return positions.reshape(*positions.shape[:2], self.height, self.width)
        return value.reshape(*value.shape[:2], self.height, self.width) if self.axes == "BCN" else value

    def from_map(self, maps: Array, one: Array) -> Array:
        """The inverse of ``to_map``. The ``extra`` tokens, which a map lacks, are those of ``one`` ``[1, ...]``."""
        if self.axes == "BHWC":
            return maps.transpose(0, 2, 3, 1)
        if self.axes == "BPCHW":
            return maps.reshape(len(maps), *one.shape[1:])
        if self.axes == "BNC":
            positions = maps.reshape(*maps.shape[:2], -1).transpose(0, 2, 1)
            first = np.broadcast_to(one[:, : self.extra], (len(maps), self.extra, one.shape[2]))
            return np.concatenate((first, positions), 1) if self.extra else positions
        return maps.reshape(*maps.shape[:2], -1) if self.axes == "BCN" else maps
