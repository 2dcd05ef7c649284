"""The envelope of every POST route that explains, and its parts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pellucid.schemas.base import BoxField, ClassName, ImageInfo, Picture, Prediction, Problem, Schema, Target
from pellucid.schemas.provenance import Frame, Provenance
from pellucid.schemas.side_by_side import RawMap
from pellucid.schemas.trust import Trust
from pellucid.schemas.what_if import WhatIf


class ChannelWeight(Schema):
    """One channel of a gate."""

    channel: int = Field(description="The channel, counted from 0.", examples=[2])
    weight: float = Field(description="The factor by which it was multiplied.", examples=[0.91])


class Gate(Schema):
    """What a channel-attention gate did to this picture. A gate's value alone is not importance."""

    layer: str = Field(
        description="The gate's name: the module that holds it, or, where that holds several, its own multiplication.",
        examples=["features.1.block.1"],
    )
    type: str = Field(description="The class of the module that holds it.", examples=["SqueezeExcitation"])
    channels: int = Field(description="How many channels it weighs.", examples=[16])
    weights: list[float] = Field(
        description="The factor by which each channel was multiplied, channel 0 first.", examples=[[0.91, 0.34, 0.77]]
    )
    mean: float = Field(description="The mean of `weights`.", examples=[0.673])
    strongest: list[ChannelWeight] = Field(description="The channels with the largest weights, largest first.")
    weakest: list[ChannelWeight] = Field(description="The channels with the smallest weights, smallest first.")
    effects: list[float] | None = Field(
        None,
        description="What each channel did for the class's logit: its gradient by the gated activation times that "
        "activation, summed over positions. Only there with `effects=true`.",
        examples=[[0.12, -0.03, 0.4]],
    )
    restored: list[float] | None = Field(
        None,
        description="Measured: the class's logit with that channel's weight set back to 1, less the logit as it is. "
        "Only there where `restore` names this gate.",
        examples=[[0.01, -0.02, 0.0]],
    )


class Importance(Schema):
    """Grad-CAM's channel weights: how much the class's logit would grow with each channel, averaged over positions.

    Every network has these, with gates or without. They are gradients, not gates.
    """

    layer: str = Field(description="The layer that the channels belong to.", examples=["head"])
    target: ClassName = Field(description="The class whose logit is meant.")
    weights: list[float] = Field(
        description="The mean over positions of the logit's gradient by each channel, channel 0 first.",
        examples=[[0.0021, -0.0007]],
    )


class Attention(Schema):
    """Weights of channels: `gates` are what the network itself computed, `importance` is what an explanation
    attributes.
    """

    gates: list[Gate] = Field(
        description="The network's channel-attention gates, in order of execution; empty where it has none."
    )
    importance: Importance = Field(
        description="Grad-CAM channel weights at the chosen layer for the chosen class (the first, of several)."
    )


class Tiles(Schema):
    """Where the channels lie in a grid. Tile n is in column n % columns and row n // columns."""

    columns: int = Field(description="Tiles in a row.", examples=[4])
    rows: int = Field(description="Rows.", examples=[4])
    width: int = Field(description="A tile's width in pixels.", examples=[112])
    height: int = Field(description="A tile's height in pixels.", examples=[112])
    gap: int = Field(description="Pixels between tiles.", examples=[2])


class Stats(Schema):
    """Statistics of the channels shown, in the order of `channels`."""

    mean: list[float] = Field(description="Mean activation.", examples=[[0.42, 0.31]])
    max: list[float] = Field(description="Largest activation.", examples=[[3.1, 2.7]])
    zeros: list[float] = Field(description="Share of positions that are exactly zero, 0 to 1.", examples=[[0.5, 0.02]])


class FeatureMap(Schema):
    """Some channels of one layer."""

    layer: str = Field(description="The layer, or the gate.", examples=["blocks.4"])
    side: Literal["before", "after", "difference"] | None = Field(
        None, description="Of a gate: which side of it, or what it changed. Not there for a layer.", examples=["after"]
    )
    shape: list[int] = Field(description="The layer's channels, height and width.", examples=[[40, 28, 28]])
    channels: list[int] = Field(description="The channels shown, in order.", examples=[[12, 3]])
    grid: Picture = Field(description="The channels as tiles, row by row.")
    tiles: Tiles = Field(description="The grid's geometry.")
    stats: Stats = Field(description="What the channels are like, in numbers.")


class GradCam(Schema):
    """Where the evidence for one class lies."""

    target: Target = Field(description="The class that is explained.")
    against: list[ClassName] | None = Field(
        None, description="The classes that it is explained against. Only there with `against`."
    )
    layer: str = Field(
        description="The layer whose activations are weighed, `pixels`, or the fused layers with ` + ` between them.",
        examples=["head"],
    )
    fused: Literal["mean", "max", "product"] | None = Field(
        None, description="How the maps of several layers became this one. Only there with `fuse`.", examples=["mean"]
    )
    method: str = Field(description="How the map was made.", examples=["grad-cam"])
    mask: Picture = Field(
        description="8-bit grey, as large as `box` (or `max_side`): 255 is the most evidence for the class, 0 none. "
        "`signed`: 128 is none."
    )
    overlay: Picture | None = Field(
        description="The whole photograph with the mask in colour over `box`; null unless `overlay=true`."
    )
    box: BoxField
    raw: RawMap = Field(description="The low-resolution map with its true range.")
    trust: Trust | None = Field(None, description="How far the map can be trusted. Only there with `trust=true`.")


class Result(Schema):
    """What was found in one image. Only the parts that the route or `include` names are there."""

    image: ImageInfo = Field(description="The picture that was explained.")
    predictions: list[Prediction] | None = Field(None, description="The most probable classes, best first.")
    attention: Attention | None = Field(None, description="Weights of channels.")
    feature_maps: list[FeatureMap] | None = Field(None, description="Feature maps by layer, in the order asked for.")
    grad_cam: list[GradCam] | None = Field(
        None, description="Heat maps: method by method, layer by layer, target by target, each in the order asked for."
    )
    what_if: WhatIf | None = Field(None, description="What a change of channels would do.")
    frame: Frame | None = Field(None, description="What the network was given. Only there with `provenance=true`.")


class Failure(Schema):
    """The entry of an image that could not be explained, among others that could."""

    image: ImageInfo = Field(description="The picture as it was received.")
    error: Problem = Field(description="Why it could not be explained.")


class Reply(Schema):
    """The envelope of every POST route."""

    model: str = Field(description="The network that was run.", examples=["lite0"])
    request_id: str = Field(description="The request's id, as in X-Request-ID.", examples=["b1f5c0de7a3e4c55"])
    results: list[Result | Failure] = Field(description="One entry for each image, in the order sent.")
    provenance: Provenance | None = Field(
        None, description="What computed the answer. Only there with `provenance=true`."
    )
