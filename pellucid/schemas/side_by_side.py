"""Maps as numbers, and two of them on one scale."""

from __future__ import annotations

from pydantic import Field

from pellucid.schemas.base import BoxField, Picture, Schema


class RawMap(Schema):
    """The map as the method defines it, before ReLU, scaling and resizing; a fused one lies in 0 to 1."""

    shape: list[int] = Field(description="Height and width.", examples=[[7, 7]])
    values: list[list[float]] = Field(description="Rows from the top.", examples=[[[0.11, -0.02], [0.31, 0.25]]])
    min: float = Field(description="The smallest value.", examples=[-0.02])
    max: float = Field(description="The largest value.", examples=[0.31])
    all_negative: bool = Field(
        description="No position speaks for the class: the mask is 0 throughout, whatever its contrast would suggest.",
        examples=[False],
    )


class MapOnScale(Schema):
    """A map on a scale that it shares with others."""

    mask: Picture = Field(
        description="8-bit grey: 255 is `reach`, 0 no evidence for the class; a difference, and any map with `signed`, "
        "has 128 for none, 255 for `reach` and 1 for its negative."
    )
    raw: RawMap = Field(description="The low-resolution map.")


class SideBySide(Schema):
    """Two maps on one scale, and their difference: the second less the first."""

    box: BoxField
    reach: float = Field(
        description="The end of the scale of all three masks: the largest magnitude of both maps and the difference.",
        examples=[2.31],
    )
    first: MapOnScale = Field(description="Before a change, or of the first that is compared.")
    second: MapOnScale = Field(description="After it, or of the second.")
    difference: MapOnScale = Field(description="The second less the first, at each position of the network's input.")
    rank_agreement: float | None = Field(
        description="Spearman's rank correlation of the two maps, 1 where both mark the same positions in the same "
        "order; null where one of them is constant.",
        examples=[0.93],
    )
