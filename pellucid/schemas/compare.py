"""The comparison of two classes, two pictures, or two networks."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pellucid.schemas.base import BoxField, ImageInfo, Picture, Prediction, Schema
from pellucid.schemas.side_by_side import SideBySide


class ComparedSide(Schema):
    """One side of a comparison."""

    _words: ClassVar[str] = "{0.target}, {0.model} at {0.layer}"
    _shows: ClassVar[tuple[str, ...]] = ("predictions",)

    model: str = Field(description="The network that was run.", examples=["lite0"])
    image: ImageInfo = Field(description="The picture.")
    box: BoxField
    tiles: list[list[int]] | None = Field(
        None,
        description="The parts of the picture that the network saw one by one. Only present if there were several.",
    )
    predictions: list[Prediction] = Field(description="The most probable classes, best first.")
    target: Prediction = Field(description="The class that the map explains.")
    layer: str = Field(description="The layer of the map, or `pixels`.", examples=["head"])


class ComparedMaps(SideBySide):
    """The maps of both sides on a common scale, and their difference: second minus first."""

    frame: Literal["picture", "input"] = Field(
        description="The coordinates of these maps. `picture`: both sides have the same picture, and the maps are "
        "resampled to `box`, the part that both networks saw. `input`: the sides have different pictures, and the maps "
        "cover the network's input, which is the `box` of each side.",
        examples=["picture"],
    )
    box: Annotated[
        list[int],
        Field(
            min_length=4,
            max_length=4,
            description="The area that the masks cover. Frame `picture`: x0, y0, x1, y1 in pixels of the source. "
            "`input`: the network's whole input, 0, 0, width, height.",
            examples=[[94, 19, 357, 281]],
        ),
    ]
    picture: Picture = Field(
        description="The difference in colour, as large as its mask. The middle of the colour map is no difference. "
        "Its upper end is more evidence in the second map, by `reach`; its lower end is more in the first."
    )


class GateChange(Schema):
    """The weights of one channel of a gate on both sides."""

    _words: ClassVar[str] = "{0.channel}: {0.difference:+.3g}"

    channel: int = Field(description="The channel, counted from 0.", examples=[17])
    first: float = Field(description="The weight on the first side.", examples=[0.31])
    second: float = Field(description="The weight on the second side.", examples=[0.88])
    difference: float = Field(description="Second minus first.", examples=[0.57])


class ComparedGate(Schema):
    """A channel-attention gate that both sides have, with the same name and number of channels."""

    _words: ClassVar[str] = "{0.layer}"
    _shows: ClassVar[tuple[str, ...]] = ("layer", "channels", "mean_absolute", "rank_agreement", "most_changed")

    layer: str = Field(description="The gate's name.", examples=["blocks.15.gate"])
    channels: int = Field(description="The number of channels.", examples=[1152])
    differences: list[float] = Field(
        description="The second side's weight minus the first's, channel 0 first.", examples=[[0.02, -0.11, 0.57]]
    )
    mean_absolute: float = Field(description="The mean magnitude of `differences`.", examples=[0.08])
    rank_agreement: float | None = Field(
        description="Spearman's rank correlation of both sides' weights. Null if one side is constant.", examples=[0.71]
    )
    most_changed: list[GateChange] = Field(
        description="The channels whose weights differ most, largest magnitude first. Equal weights are left out."
    )


class Comparison(Schema):
    """Two sides, and their differences."""

    kind: Literal["classes", "pictures", "models"] = Field(
        description="What the sides differ in: the explained class, the picture, or the network.", examples=["pictures"]
    )
    method: str = Field(description="The method of both maps.", examples=["grad-cam"])
    first: ComparedSide = Field(description="The first class, picture or network.")
    second: ComparedSide = Field(description="The second class, picture or network.")
    maps: ComparedMaps = Field(description="Both maps on a common scale, and their difference.")
    gates: list[ComparedGate] = Field(
        description="The gates that both sides have, in order of execution. Empty if they share none, and always for "
        "two classes: a gate depends on the picture, not on the class."
    )


class CompareReply(Schema):
    """The reply of /v1/compare."""

    model: str = Field(description="The network that was run; the first, if there are two.", examples=["lite0"])
    request_id: str = Field(description="The request's id, as in X-Request-ID.", examples=["b1f5c0de7a3e4c55"])
    compare: Comparison = Field(description="Both sides, and their differences.")
