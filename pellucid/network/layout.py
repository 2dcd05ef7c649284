"""How a value of the graph lies: which of its axes are channels and positions, and how it is seen as a map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

Array = NDArray[Any]
Axes = Literal["BCHW", "BHWC", "BPCHW", "BNC", "BCN"]


@dataclass(frozen=True, slots=True)
class Layout:
    """``axes``: BCHW, BHWC, BPCHW (P maps of C channels each), BNC or BCN (N positions).

    The first ``extra`` of N are no positions: a class token, registers.
    """

    axes: Axes
    height: Annotated[int, Field(ge=1, le=2**20)]
    width: Annotated[int, Field(ge=1, le=2**20)]
    extra: Annotated[int, Field(ge=0, le=2**10)] = 0

    def channels(self, shape: tuple[int, ...]) -> int:
        """How many channels a value of this layout and shape has."""
        return shape[self.axes.index("C")] * (shape[1] if self.axes == "BPCHW" else 1)

    def to_map(self, value: Array) -> Array:
        """A value -> its positions as a map ``[B, C, h, w]``; where it can be, a view."""
        if self.axes == "BHWC":
            return value.transpose(0, 3, 1, 2)
        if self.axes == "BPCHW":
            return value.reshape(len(value), -1, *value.shape[3:])
        if self.axes == "BNC":
            positions = value[:, self.extra :].transpose(0, 2, 1)
            return positions.reshape(*positions.shape[:2], self.height, self.width)
        return value.reshape(*value.shape[:2], self.height, self.width) if self.axes == "BCN" else value

    def from_map(self, maps: Array, one: Array) -> Array:
        """The inverse of ``to_map`` for n maps, with what are no positions as in the value ``one`` ``[1, ...]``."""
        if self.axes == "BHWC":
            return maps.transpose(0, 2, 3, 1)
        if self.axes == "BPCHW":
            return maps.reshape(len(maps), *one.shape[1:])
        if self.axes == "BNC":
            positions = maps.reshape(*maps.shape[:2], -1).transpose(0, 2, 1)
            first = np.broadcast_to(one[:, : self.extra], (len(maps), self.extra, one.shape[2]))
            return np.concatenate((first, positions), 1) if self.extra else positions
        return maps.reshape(*maps.shape[:2], -1) if self.axes == "BCN" else maps
