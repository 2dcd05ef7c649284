"""The reply of the POST routes that predict and explain, and its parts."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from pellucid.schemas.atlas import BoxChannels, GateAtlas, MapsAtlas, Meaning
from pellucid.schemas.base import BoxField, ClassName, ImageInfo, Picture, Prediction, Problem, Schema, Target
from pellucid.schemas.provenance import Frame, Provenance
from pellucid.schemas.side_by_side import RawMap
from pellucid.schemas.trust import Trust
from pellucid.schemas.what_if import WhatIf


class ChannelWeight(Schema):
    """One channel of a gate, or of `importance`."""

    _words: ClassVar[str] = "{0.channel}: {0.weight:.3g}"

    channel: int = Field(description="The channel, counted from 0.", examples=[2])
    weight: float = Field(description="The factor by which the gate multiplied it, or its importance.", examples=[0.91])
    meaning: Meaning | None = Field(
        None, description="What the channel responds to. Only present with `atlas=true`; null if the atlas lacks it."
    )


class Gate(Schema):
    """The weights of a channel-attention gate for this picture. A weight alone is not importance."""

    _words: ClassVar[str] = "{0.layer}, {0.channels} channels"
    _shows: ClassVar[tuple[str, ...]] = ("layer", "channels", "mean", "weights", "strongest", "weakest", "atlas")

    layer: str = Field(
        description="The gate's name: that of its module, or of its multiplication if the module has several gates.",
        examples=["features.1.block.1"],
    )
    type: str = Field(description="The class of the gate's module.", examples=["SqueezeExcitation"])
    channels: int = Field(description="The number of channels.", examples=[16])
    weights: list[float] = Field(
        description="The factor by which each channel was multiplied, channel 0 first.", examples=[[0.91, 0.34, 0.77]]
    )
    mean: float = Field(description="The mean of `weights`.", examples=[0.673])
    strongest: list[ChannelWeight] = Field(description="The channels with the largest weights, largest first.")
    weakest: list[ChannelWeight] = Field(description="The channels with the smallest weights, smallest first.")
    effects: list[float] | None = Field(
        None,
        description="The effect of each channel on the class's logit: the gradient of the logit with respect to the "
        "gated activation, times that activation, summed over positions. Only present with `effects=true`.",
        examples=[[0.12, -0.03, 0.4]],
    )
    restored: list[float] | None = Field(
        None,
        description="The class's logit with that channel's weight set to 1, minus the unchanged logit, measured. Only "
        "present if `restore` names this gate.",
        examples=[[0.01, -0.02, 0.0]],
    )
    atlas: GateAtlas | None = Field(
        None,
        description="How usual the weights are. Only present with `atlas=true` and `view=centre`, because the atlas "
        "describes the centres of its pictures.",
    )


class SpatialGate(Schema):
    """The weights of a gate with one number per position, such as CBAM's spatial gate. A weight alone is not
    importance."""

    _words: ClassVar[str] = "{0.layer}, {0.min:.3g} to {0.max:.3g}"
    _shows: ClassVar[tuple[str, ...]] = ("mask",)
    _colours: ClassVar[dict[str, str]] = {"mask": "heat"}

    layer: str = Field(
        description="The gate's name: that of its module, or of its multiplication if the module has several gates.",
        examples=["layer1.0.se.spatial"],
    )
    type: str = Field(description="The class of the gate's module.", examples=["SpatialAttn"])
    weights: list[list[float]] = Field(
        description="The factor by which each position of all channels was multiplied, row by row, top row first.",
        examples=[[[0.41, 0.52], [0.73, 0.44]]],
    )
    min: float = Field(description="The smallest of `weights`.", examples=[0.41])
    max: float = Field(description="The largest of `weights`.", examples=[0.73])
    mask: Picture = Field(
        description="8-bit grey, in the proportions of `box`, at most 256 pixels long. 255 is the largest weight, 0 is "
        "a weight of 0."
    )
    box: BoxField


class Importance(Schema):
    """Grad-CAM's channel weights: the gradient of the class's logit with respect to each channel, averaged over
    positions.

    Every network has these, with or without gates. They are gradients, not gate weights.
    """

    _words: ClassVar[str] = "{0.target} at {0.layer}"

    layer: str = Field(description="The layer of the channels.", examples=["head"])
    target: ClassName = Field(description="The class whose logit is differentiated.")
    weights: list[float] = Field(
        description="The mean over positions of the logit's gradient with respect to each channel, channel 0 first.",
        examples=[[0.0021, -0.0007]],
    )
    strongest: list[ChannelWeight] | None = Field(
        None, description="The channels with the largest magnitudes. Only present with `atlas=true`."
    )


class Attention(Schema):
    """Weights of channels. `gates` are computed by the network itself, `importance` by an explanation."""

    gates: list[Gate] = Field(
        description="The network's channel-attention gates, in order of execution. Empty if it has none."
    )
    spatial_gates: list[SpatialGate] | None = Field(
        None,
        description="The network's gates with one number per position, in order of execution. Only present if it has "
        "any.",
    )
    importance: Importance | None = Field(
        None,
        description="Grad-CAM's channel weights at the chosen layer, for the first target. Not present for an "
        "embedding without a reference.",
    )


class Tiles(Schema):
    """The geometry of a grid of channels, in pixels.

    Tile n is in column n % columns and row n // columns. Its top left is at x = left + column (width + gap) and
    y = top + row (height + gap).
    """

    columns: int = Field(description="Number of columns.", examples=[4])
    rows: int = Field(description="Number of rows.", examples=[4])
    width: int = Field(description="Width of a tile in pixels.", examples=[112])
    height: int = Field(description="Height of a tile in pixels.", examples=[112])
    gap: int = Field(description="Space between tiles in pixels.", examples=[2])
    left: int = Field(description="Space on the left of the tiles in pixels. 0 without `labels`.", examples=[0])
    top: int = Field(description="Space above the tiles in pixels. 0 without `labels`.", examples=[0])


class Stats(Schema):
    """Statistics of the channels shown, in the order of `channels`."""

    mean: list[float] = Field(description="Mean activation.", examples=[[0.42, 0.31]])
    max: list[float] = Field(description="Largest activation.", examples=[[3.1, 2.7]])
    zeros: list[float] = Field(description="Share of positions that are exactly zero, 0 to 1.", examples=[[0.5, 0.02]])


class FeatureMap(Schema):
    """Some channels of one layer."""

    _shows: ClassVar[tuple[str, ...]] = ("grid",)
    _colours: ClassVar[dict[str, str]] = {"grid": ""}

    layer: str = Field(description="The layer, or the gate.", examples=["blocks.4"])
    side: Literal["before", "after", "difference"] | None = Field(
        None,
        description="The side of a gate, or the difference: after - before. Not present for a layer.",
        examples=["after"],
    )
    shape: list[int] = Field(description="The layer's channels, height and width.", examples=[[40, 28, 28]])
    channels: list[int] = Field(description="The channels shown, in order.", examples=[[12, 3]])
    grid: Picture = Field(description="The channels as tiles, row by row.")
    tiles: Tiles = Field(description="The grid's geometry.")
    stats: Stats = Field(description="Statistics of the channels.")
    atlas: MapsAtlas | None = Field(None, description="What the channels respond to. Only present with `atlas=true`.")

    def __str__(self) -> str:
        return f"{self.layer} {self.side or ''}".rstrip()


class SegmentationClass(ClassName):
    """A class of a segmentation, and its level in the mask."""

    level: int = Field(description="The grey level of its positions.", examples=[15])


class Segmentation(Schema):
    """The class with the largest logit at each position."""

    _shows: ClassVar[tuple[str, ...]] = ("mask", "classes")
    _colours: ClassVar[dict[str, str]] = {"mask": "classes"}

    mask: Picture = Field(
        description="8-bit grey, as large as `box` (its longer side at most 1024 pixels). The level is the class's "
        "index. If the network has one class, 1 is where it applies, and 0 elsewhere."
    )
    box: BoxField
    classes: list[SegmentationClass] = Field(description="The classes in the mask.")


class ExplainedRegion(Schema):
    """Where a class of a segmentation is explained."""

    kind: Literal["class", "picture", "box", "point", "mask"] = Field(
        description="`class`: where it has the largest logit. `picture`: everywhere, also if it has the largest logit "
        "nowhere.",
        examples=["class"],
    )
    positions: int = Field(description="The number of positions of the network's output.", examples=[5120])


class GradCam(Schema):
    """A heat map: where the evidence for one class is."""

    _words: ClassVar[str] = "{0.target}: {0.method} at {0.layer}"
    _shows: ClassVar[tuple[str, ...]] = ("mask", "overlay", "trust")
    _colours: ClassVar[dict[str, str]] = {"mask": "heat"}

    target: Target = Field(description="What is explained.")
    direction: Literal["up", "down"] | None = Field(
        None, description="`down`: the map explains what lowers the score. Only present with `direction=down`."
    )
    region: ExplainedRegion | None = Field(
        None, description="Where the class is explained. Only present for a segmentation."
    )
    against: list[ClassName] | None = Field(
        None, description="The classes that it is explained against. Only present with `against`."
    )
    layer: str = Field(
        description="The layer of the map, `pixels`, or the names of the fused layers, joined by ` + `.",
        examples=["head"],
    )
    fused: Literal["mean", "max", "product"] | None = Field(
        None,
        description="How the maps of several layers were fused. Only present with `fuse` or `method=best`.",
        examples=["mean"],
    )
    method: str = Field(description="The method.", examples=["grad-cam"])
    mask: Picture = Field(
        description="8-bit grey, as large as `box`, or as the photograph with `fit=source` (within `max_side` and "
        "`min_side`). 255 is the most evidence for the class, 0 is none. With `signed`, 128 is none. Enlarged by "
        "bilinear interpolation."
    )
    overlay: Picture | None = Field(
        description="The whole photograph with the map in colour over `box`: the more evidence, the more opaque. "
        "A white line surrounds what is at least 0.8 of the largest, except regions narrower than 1/30 of the longer "
        "side of `box`. Enlarged by cubic interpolation. Null unless `overlay=true`."
    )
    box: BoxField
    raw: RawMap = Field(description="The low-resolution map with its original range.")
    trust: Trust | None = Field(None, description="How far the map can be trusted. Only present with `trust=true`.")


class Result(Schema):
    """The result for one image. Only the parts of the route, or of `include`, are present."""

    _words: ClassVar[str] = "{0.image}"
    _shows: ClassVar[tuple[str, ...]] = (
        "image",
        "grad_cam",
        "segmentation",
        "predictions",
        "what_if",
        "channels",
        "attention",
        "feature_maps",
        "embedding",
    )

    image: ImageInfo = Field(description="The picture that was explained.")
    predictions: list[Prediction] | None = Field(
        None,
        description="The most probable classes or labels, best first. For a segmentation: the classes with the "
        "largest share. Quantities come in the network's order. Empty for an embedding.",
    )
    embedding: list[float] | None = Field(
        None, description="The network's output, scaled to length 1. Only present if it is an embedding."
    )
    segmentation: Segmentation | None = Field(
        None, description="The class at each position. Only present if the output is a segmentation."
    )
    attention: Attention | None = Field(None, description="Weights of channels.")
    feature_maps: list[FeatureMap] | None = Field(None, description="Feature maps by layer, in the requested order.")
    grad_cam: list[GradCam] | None = Field(
        None, description="Heat maps, ordered by method, layer and target, each in the requested order."
    )
    what_if: WhatIf | None = Field(None, description="The effect of an edit of channels.")
    channels: BoxChannels | None = Field(None, description="The channels that respond to what is in the box.")
    tiles: list[list[int]] | None = Field(
        None,
        description="The parts of the picture that the network saw one by one, as boxes. Predictions are the mean over "
        "them; maps are stitched. Only present if there were several (`view=whole`).",
        examples=[[[0, 0, 427, 427], [213, 0, 640, 427]]],
    )
    frame: Frame | None = Field(
        None, description="The part of the picture that the network was given. Only present with `provenance=true`."
    )


class Failure(Schema):
    """The entry of an image that failed, in a reply in which other images succeeded."""

    image: ImageInfo = Field(description="The picture as it was received.")
    error: Problem = Field(description="Why it failed.")


class Reply(Schema):
    """The reply of the POST routes."""

    model: str = Field(description="The network that was run.", examples=["lite0"])
    request_id: str = Field(description="The request's id, as in X-Request-ID.", examples=["b1f5c0de7a3e4c55"])
    results: list[Result | Failure] = Field(description="One entry for each image, in the order sent.")
    provenance: Provenance | None = Field(
        None, description="What computed the answer. Only present with `provenance=true`."
    )
