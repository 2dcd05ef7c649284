"""What a caller may choose, as query parameters or as fields of a JSON body.

Names only; plan.py checks them against the network.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from pellucid.parts.option_types import MOST_EDITED, ColormapName, CommaSeparated, Name, Names, OneName, Options, Scaled

Part = Literal["predictions", "attention", "feature_maps", "grad_cam"]
# What a route may fill that no other has.
RoutePart = Part | Literal["what_if", "compare"]
PARTS: Final[tuple[Part, ...]] = ("predictions", "attention", "feature_maps", "grad_cam")


class PredictOptions(Options):
    """Options of /v1/predict."""

    top_k: int = Field(5, ge=1, le=10_000, description="How many classes, the most probable first.", examples=[5])


class TargetOptions(Options):
    """Which class is explained."""

    target: Names = Field(
        default_factory=list,
        max_length=20,
        description="Class to explain, by index or by label (case does not matter). Repeat it for several. Default: "
        "the most probable class.",
        examples=[["Egyptian cat"], ["285", "281"]],
    )


class LayerOptions(TargetOptions):
    """Which class is explained, and at which layer."""

    layer: Name | None = Field(
        None,
        description="Layer to explain at, by a name from /v1/models/{name}. Default: the last layer with a spatial "
        "extent.",
        examples=["head", "blocks.10"],
    )


class GateOptions(TargetOptions):
    """What is said of channel-attention gates beside their weights."""

    effects: bool = Field(
        False,
        description="Also say what each channel of each gate did for the class: gradient x activation behind the gate. "
        "Costs a backward pass through the network. Here off unless asked for, on /v1/attention on.",
        examples=[True],
    )
    restore: Name | None = Field(
        None,
        description="A gate, by its `layer`, of which the effect is measured: the change of the class's logit when one "
        "channel's weight is set back to 1, channel by channel. Costs a forward pass behind the gate for each channel, "
        "for which other requests wait.",
        examples=["blocks.15.gate"],
    )


class AttentionOptions(GateOptions, LayerOptions):
    """Options of /v1/attention."""

    target: Names = Field(
        default_factory=list,
        max_length=1,
        description="Class to explain, by index or by label. Default: the most probable class.",
        examples=[["Egyptian cat"]],
    )
    effects: bool = Field(
        True,
        description="Say what each channel of each gate did for the class: gradient x activation behind it. Costs "
        "a backward pass through the network, which a network without gates is spared. Here on unless told, on "
        "/v1/explain off.",
        examples=[True],
    )


class FeatureMapOptions(Options):
    """Options of /v1/feature-maps."""

    layers: Annotated[list[Name], CommaSeparated] = Field(
        default_factory=list,
        max_length=16,
        description="Layers to show, by names from /v1/models/{name}; several between commas or repeated. Default: "
        "an early, a middle and a late one.",
        examples=[["stem", "blocks.4", "head"]],
    )
    gates: Annotated[list[Name], CommaSeparated] = Field(
        default_factory=list,
        max_length=16,
        description="Channel-attention gates, by the `layer` of /v1/models/{name}: the same channels before the gate, "
        "after it, and their difference. Alone, without `layers`, they stand in place of the default layers. "
        "Several between commas or repeated.",
        examples=[["blocks.4.gate"]],
    )
    channels: Annotated[list[int], CommaSeparated] = Field(
        default_factory=list,
        max_length=256,
        description="Channels to show, counted from 0, in this order; several between commas or repeated. Default: "
        "the strongest.",
        examples=[[0, 7, 12]],
    )
    count: int = Field(
        16,
        ge=1,
        le=256,
        description="How many of the strongest channels (largest mean absolute activation), where `channels` names "
        "none.",
        examples=[16],
    )
    colormap: ColormapName | None = Field(
        None,
        description="Colours. Default: viridis for feature maps, turbo for overlays, coolwarm for signed overlays.",
        examples=["viridis"],
    )
    scale: Literal["channel", "layer"] = Field(
        "channel",
        description="`channel` stretches each tile over the colour map by itself; `layer` stretches all tiles of a "
        "layer by the same range, so that they can be compared.",
        examples=["channel"],
    )
    columns: int | None = Field(
        None, ge=1, le=256, description="Tiles in a row of the grid. Default: as square as it gets.", examples=[4]
    )
    tile: int = Field(
        112,
        ge=1,
        le=512,
        description="Longer side of a tile in pixels: small maps grow by whole factors up to it, large ones shrink "
        "to it.",
        examples=[112],
    )


class GradCamOptions(TargetOptions):
    """Options of /v1/grad-cam."""

    layer: Annotated[list[Name], CommaSeparated] = Field(
        default_factory=list,
        max_length=8,
        description="Layer to explain at, by a name from /v1/models/{name}, or `pixels`, the network's input; several "
        "between commas or repeated, each with maps of its own unless `fuse` makes one of them. Default: the last "
        "layer with a spatial extent; the pixels for methods that are offered there.",
        examples=[["head"], ["blocks.10", "head"]],
    )
    method: Annotated[list[Name], CommaSeparated] = Field(
        default_factory=lambda: ["grad-cam"],
        min_length=1,
        max_length=32,
        description="How the map is made, by a name from /v1/models/{name}; several between commas or repeated. All "
        "that need one gradient share it.",
        examples=[["grad-cam"], ["grad-cam", "hirescam"]],
    )
    fuse: Literal["mean", "max", "product"] | None = Field(
        None,
        description="One map of several layers, each stretched to 0 to 1 and enlarged to the finest of them: their "
        "`mean`, the `max` of them, or their `product`, which keeps what all of them show.",
        examples=["mean"],
    )
    against: Names = Field(
        default_factory=list,
        max_length=20,
        description="Explain what speaks for the class and not for this one, by index or by label: the target's logit "
        "less `against_weight` times this one's (the mean of them, where it is repeated) in place of the logit. "
        "Without `target`, the most probable of the other classes is explained.",
        examples=[["tabby"]],
    )
    against_weight: float = Field(
        1.0, ge=0, le=10, description="How much `against` weighs. Finer-CAM's authors use 0.6.", examples=[1.0]
    )
    samples: int = Field(
        32,
        ge=1,
        le=256,
        description="How many gradients `smoothgrad` and `integrated-gradients` take: more are finer, and take longer.",
        examples=[32],
    )
    signed: bool = Field(
        False,
        description="Keep evidence against the class: 128 in the mask is none, above it for, below it against. "
        "Without it, evidence against is cut to 0.",
        examples=[False],
    )
    overlay: bool = Field(
        False,
        description="Also return the whole photograph with the map over the box that the network saw; the rest is "
        "dimmed.",
        examples=[True],
    )
    colormap: ColormapName | None = Field(
        None, description="Colours of the overlay. Default: turbo, coolwarm where `signed`.", examples=["turbo"]
    )
    alpha: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of the colour in the overlay: 0 shows the photograph alone, 1 the map alone.",
        examples=[0.5],
    )
    max_side: int = Field(
        1024,
        ge=8,
        le=4096,
        description="Longest side of mask and overlay in pixels. Up to it they have the resolution of the source.",
        examples=[1024],
    )

    trust: bool = Field(
        False,
        description="Also say how far each map can be trusted: deletion, insertion and ROAD curves beside those of "
        "random maps and of a spot in the middle, and a sanity check. Costs some hundred passes through the network, "
        "of which /v1/models/{name} says how long they take.",
        examples=[True],
    )
    trust_steps: int = Field(
        8, ge=2, le=32, description="With `trust`: in how many steps pixels are taken away and put back.", examples=[8]
    )
    trust_maps: int = Field(
        8,
        ge=4,
        le=32,
        description="With `trust`: how many random maps the map is compared with.",
        examples=[8],
    )


class WhatIfOptions(PredictOptions, LayerOptions):
    """Options of /v1/what-if."""

    gate: Name | None = Field(
        None,
        description="Edit the weights of this channel-attention gate, by the `layer` of /v1/models/{name}, in place of "
        "a layer's channels.",
        examples=["blocks.15.gate"],
    )
    mute: Annotated[list[int], CommaSeparated] = Field(
        default_factory=list,
        max_length=MOST_EDITED,
        description="Channels that are set to zero, counted from 0; several between commas or repeated.",
        examples=[[12, 40]],
    )
    keep: Annotated[list[int], CommaSeparated] = Field(
        default_factory=list,
        max_length=MOST_EDITED,
        description="Channels that stay as they are while all that are not named become zero.",
        examples=[[3, 7]],
    )
    scale: Annotated[list[Scaled], CommaSeparated] = Field(
        default_factory=list,
        max_length=MOST_EDITED,
        description="Channels and the factors that they are multiplied by, as CHANNEL:FACTOR; several between commas "
        "or repeated.",
        examples=[["12:0.5", "40:2"]],
    )
    rank: bool = Field(
        False,
        description="Also measure for every channel of the layer what muting it alone does to the first target's "
        "logit. Costs a pass behind the layer for each, save where the head is linear.",
        examples=[True],
    )
    signed: bool = Field(False, description="Keep evidence against the class in the masks.", examples=[False])
    max_side: int = Field(1024, ge=8, le=4096, description="Longest side of the masks in pixels.", examples=[1024])


class CompareOptions(PredictOptions, TargetOptions):
    """Options of /v1/compare."""

    target: Names = Field(
        default_factory=list,
        max_length=2,
        description="Class to explain, by index or by label. Two of them with one picture compare the classes. With "
        "two pictures, or with `against_model`, at most one. Default: the most probable class of the first side.",
        examples=[["Egyptian cat", "tabby"]],
    )
    against_model: Name | None = Field(
        None,
        description="A second network to ask, by a name from /v1/models: compares the networks on one picture.",
        examples=["lite0-plain"],
    )
    layer: OneName | None = Field(
        None,
        description="Layer to explain at, by a name from /v1/models/{name}, or `pixels`. Default: the last layer with "
        "a spatial extent; the pixels for methods that are offered there.",
        examples=["head"],
    )
    against_layer: OneName | None = Field(
        None,
        description="With `against_model`: the layer of that network. Default: the one that `layer` names, or else "
        "its own default.",
        examples=["head"],
    )
    method: OneName = Field(
        "grad-cam", description="How both maps are made, by a name from /v1/models/{name}.", examples=["grad-cam"]
    )
    samples: int = Field(
        32,
        ge=1,
        le=256,
        description="How many gradients `smoothgrad` and `integrated-gradients` take.",
        examples=[32],
    )
    signed: bool = Field(
        False, description="Keep evidence against the class in both masks; their difference always has a sign."
    )
    colormap: ColormapName = Field("coolwarm", description="Colours of the difference.", examples=["coolwarm"])
    max_side: int = Field(1024, ge=8, le=4096, description="Longest side of the pictures in pixels.", examples=[1024])


class ExplainOptions(PredictOptions, GradCamOptions, GateOptions, FeatureMapOptions):
    """Options of /v1/explain: those of all its parts."""

    include: Annotated[list[Part], CommaSeparated] = Field(
        default_factory=lambda: list(PARTS),
        min_length=1,
        description="Parts of the reply; several between commas or repeated. Default: all.",
        examples=[["predictions", "grad_cam"]],
    )
