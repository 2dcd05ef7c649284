"""Two classes, two pictures, or two networks beside each other."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pellucid.schemas.base import BoxField, ImageInfo, Picture, Prediction, Schema
from pellucid.schemas.side_by_side import SideBySide


class ComparedSide(Schema):
    """One of the two that are compared."""

    model: str = Field(description="The network that was run.", examples=["lite0"])
    image: ImageInfo = Field(description="The picture that it was given.")
    box: BoxField
    predictions: list[Prediction] = Field(description="The most probable classes, best first.")
    target: Prediction = Field(description="The class that the map explains.")
    layer: str = Field(description="The layer that the map was taken at, or `pixels`.", examples=["head"])


class ComparedMaps(SideBySide):
    """The maps of both sides on one scale, and their difference: the second less the first."""

    frame: Literal["picture", "input"] = Field(
        description="Where a position of these maps lies. `picture`: both sides are of one picture, and the maps are "
        "resampled to `box`, which both networks saw. `input`: the pictures are two, and the maps cover what the "
        "network was given, so a position of the masks is one of each side's own `box`.",
        examples=["picture"],
    )
    box: Annotated[
        list[int],
        Field(
            min_length=4,
            max_length=4,
            description="What the masks cover. Frame `picture`: x0, y0, x1, y1 in pixels of the source. `input`: the "
            "network's whole input, 0, 0, width, height.",
            examples=[[94, 19, 357, 281]],
        ),
    ]
    picture: Picture = Field(
        description="The difference in colour, as large as its mask: the middle of the colour map is no difference, "
        "its upper end more evidence in the second, by `reach`, its lower end in the first."
    )


class GateChange(Schema):
    """What a gate multiplied one channel by on both sides."""

    channel: int = Field(description="The channel, counted from 0.", examples=[17])
    first: float = Field(description="The weight on the first side.", examples=[0.31])
    second: float = Field(description="The weight on the second side.", examples=[0.88])
    difference: float = Field(description="The second less the first.", examples=[0.57])


class ComparedGate(Schema):
    """A channel-attention gate that both sides have: of the same name, with as many channels."""

    layer: str = Field(description="The gate's name.", examples=["blocks.15.gate"])
    channels: int = Field(description="How many channels it weighs.", examples=[1152])
    differences: list[float] = Field(
        description="The second side's weight less the first's, channel 0 first.", examples=[[0.02, -0.11, 0.57]]
    )
    mean_absolute: float = Field(description="The mean magnitude of `differences`.", examples=[0.08])
    rank_agreement: float | None = Field(
        description="Spearman's rank correlation of both sides' weights; null where one of them is constant.",
        examples=[0.71],
    )
    most_changed: list[GateChange] = Field(
        description="The channels whose weights differ most, the largest magnitude first; those alike left out."
    )


class Comparison(Schema):
    """Two sides and what differs between them."""

    kind: Literal["classes", "pictures", "models"] = Field(
        description="What differs: the class that is explained, the picture, or the network.", examples=["pictures"]
    )
    method: str = Field(description="How both maps were made.", examples=["grad-cam"])
    first: ComparedSide = Field(description="The first class, picture or network.")
    second: ComparedSide = Field(description="The second.")
    maps: ComparedMaps = Field(description="Both maps on one scale, and their difference.")
    gates: list[ComparedGate] = Field(
        description="The gates that both sides have, in order of execution; empty where they share none. Of two "
        "classes always empty: a gate sees the picture, and no class."
    )


class CompareReply(Schema):
    """The reply of /v1/compare."""

    model: str = Field(description="The network that was run, of two the first.", examples=["lite0"])
    request_id: str = Field(description="The request's id, as in X-Request-ID.", examples=["b1f5c0de7a3e4c55"])
    compare: Comparison = Field(description="Both sides, and what differs.")
