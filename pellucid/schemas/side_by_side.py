"""A map as numbers, and two maps on a common scale."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from pellucid.schemas.base import BoxField, Picture, Schema


class RawMap(Schema):
    """The map as the method defines it, before ReLU, scaling and resizing. A fused map lies in 0 to 1."""

    _words: ClassVar[str] = "{0.shape}, {0.min:.3g} to {0.max:.3g}"

    shape: list[int] = Field(description="Height and width.", examples=[[7, 7]])
    values: list[list[float]] = Field(description="The rows, top row first.", examples=[[[0.11, -0.02], [0.31, 0.25]]])
    min: float = Field(description="The smallest value.", examples=[-0.02])
    max: float = Field(description="The largest value.", examples=[0.31])
    all_negative: bool = Field(
        description="Whether no position has evidence for the class. The mask is then 0 throughout.", examples=[False]
    )


class MapOnScale(Schema):
    """A map on a common scale."""

    _words: ClassVar[str] = "{0.raw}"
    _shows: ClassVar[tuple[str, ...]] = ("mask",)
    _colours: ClassVar[dict[str, str]] = {"mask": "heat"}

    mask: Picture = Field(
        description="8-bit grey, as large as `box`, or as the photograph with `fit=source` (within `max_side` and "
        "`min_side`). 255 is `reach`, and 0 is no evidence for the class. In a difference, and in any map "
        "with `signed`, 128 is 0, 255 is `reach`, and 1 is -`reach`."
    )
    raw: RawMap = Field(description="The low-resolution map.")


class SideBySide(Schema):
    """Two maps on a common scale, and their difference: second minus first."""

    _shows: ClassVar[tuple[str, ...]] = ("first", "second", "difference", "rank_agreement")
    _colours: ClassVar[dict[str, str]] = {"first": "heat", "second": "second", "difference": "difference"}

    box: BoxField
    reach: float = Field(
        description="The end of the scale of all three masks: the largest magnitude in both maps and their difference.",
        examples=[2.31],
    )
    first: MapOnScale = Field(description="The map before an edit, or of the first side.")
    second: MapOnScale = Field(description="The map after an edit, or of the second side.")
    difference: MapOnScale = Field(description="Second minus first, at each position of the network's input.")
    rank_agreement: float | None = Field(
        description="Spearman's rank correlation of the two maps: 1 if both rank all positions equally. Null if one of "
        "them is constant.",
        examples=[0.93],
    )
