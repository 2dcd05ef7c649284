"""Descriptions of a network as frozen data: preprocessing, labels, layers, gates. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Final, Literal

from pydantic import Field

# Names the network's input in place of a layer. A layer of this name takes precedence.
PIXELS: Final = "pixels"

OutputKind = Literal["softmax", "sigmoid", "linear", "dense", "embedding"]
# What the first axis of an output counts: one of them, and several.
_OUTPUT_NOUNS: Final[dict[OutputKind, tuple[str, str]]] = {
    "softmax": ("class", "classes"),
    "sigmoid": ("label", "labels"),
    "linear": ("quantity", "quantities"),
    "dense": ("class", "classes"),
    "embedding": ("dimension", "dimensions"),
}
# The usual preprocessing of networks of photographs: the crop's share of the short side, ImageNet's mean and deviation.
CROP: Final = 0.875
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
Interpolation = Literal["nearest", "bilinear", "bicubic"]
# The dtype of pixels before normalisation.
Depth = Literal["uint8", "float32"]
RGB: Final = ("red", "green", "blue")
MOST_CHANNELS: Final = 16
# The bounds that network.file checks.
Side = Annotated[int, Field(ge=1, le=2**13)]
Mean = Annotated[float, Field(allow_inf_nan=False)]
Std = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Limit = Annotated[float, Field(ge=-1e30, le=1e30)]
ChannelName = Annotated[str, Field(min_length=1, max_length=64)]


@dataclass(frozen=True, slots=True)
class PreprocessSpec:
    """The steps from an upright picture to the network's input: resize, centre crop, normalise.

    ``resize`` is the new length of the short side in pixels; the aspect ratio is kept. With ``squash`` both sides get
    this length. ``size`` is the (height, width) of the centre crop. A value of a channel becomes
    ``((value - low) / (high - low) - mean) / std``, with a ``mean``, ``std``, ``low`` and ``high`` for each channel.

    ``channels`` names the channels, 1 to 16 of them. Colour pictures fill the channels red, green, blue and alpha.
    ``depth`` is the dtype of the pixels. A network of depth uint8 has the range 0 to 255. ``shown`` names the channels
    that pictures are drawn from: three (as red, green and blue) or one (as gray).

    By default, three channels are red, green and blue and a single one is gray, the range is 0 to 255, and red, green
    and blue are shown, or else the first three channels, or else the first. Raises ValueError.
    """

    size: tuple[Side, Side]
    resize: Side
    interpolation: Interpolation
    mean: tuple[Mean, ...]
    std: tuple[Std, ...]
    squash: bool = False
    channels: tuple[ChannelName, ...] = ()
    low: tuple[Limit, ...] = ()
    high: tuple[Limit, ...] = ()
    depth: Depth = "uint8"
    shown: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.mean)
        if not 1 <= count <= MOST_CHANNELS:
            raise ValueError(f"a network takes 1 to {MOST_CHANNELS} channels, and mean has {count} numbers")
        if not self.channels:
            names = {1: ("gray",), 3: RGB}.get(count, tuple(f"channel {number}" for number in range(1, count + 1)))
            object.__setattr__(self, "channels", names)
        for field, default in (("low", 0.0), ("high", 255.0)):
            object.__setattr__(self, field, getattr(self, field) or (default,) * count)
        if not self.shown:
            shown = RGB if {*RGB} <= {*self.channels} else self.channels[: 3 if count > 2 else 1]
            object.__setattr__(self, "shown", shown)
        for field in ("std", "channels", "low", "high"):
            if (given := len(getattr(self, field))) != count:
                numbers = f"{count} number{'s' * (count != 1)}"
                raise ValueError(f"mean has {numbers}, one for each channel, and {field} {given}")
        if len({*self.channels}) != count:
            raise ValueError(f"two channels have the same name among {', '.join(self.channels)}")
        if len(self.shown) not in (1, 3) or not {*self.shown} <= {*self.channels}:
            raise ValueError(f"shown names one or three of {', '.join(self.channels)}, not {', '.join(self.shown)}")
        if not all(low < high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError(f"low must be below high, and these are {self.low} and {self.high}")
        if self.depth == "uint8" and {*self.low, *self.high} != {0, 255}:
            raise ValueError("the values of 8-bit channels are 0 to 255; another range needs the depth float32")

    @property
    def is_plain(self) -> bool:
        """Whether the input is an 8-bit RGB picture."""
        return self.depth == "uint8" and self.channels == RGB

    @property
    def shape(self) -> tuple[int, int, int]:
        """The channels, height and width of the network's input."""
        return len(self.mean), *self.size

    @property
    def blank(self) -> tuple[float, ...]:
        """The value of each channel that is normalised to 0."""
        return tuple(low + (high - low) * mean for mean, low, high in zip(self.mean, self.low, self.high, strict=True))

    @property
    def spread(self) -> tuple[float, ...]:
        """The difference of values of each channel that is normalised to 1."""
        return tuple((high - low) * std for std, low, high in zip(self.std, self.low, self.high, strict=True))

    @property
    def largest(self) -> tuple[float, ...]:
        """The largest magnitude of each channel that is read. Numbers far beyond its range overflow in the network."""
        return tuple(1e6 * max(abs(low), abs(high)) for low, high in zip(self.low, self.high, strict=True))


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """What a network's output means, and its ``shape`` without the batch.

    - ``softmax``: ``[classes]``, the logits of classes of which one applies
    - ``sigmoid``: ``[labels]``, the logits of labels that apply independently, each if its probability reaches
      ``threshold``
    - ``linear``: ``[quantities]``, values in ``units``, one for each label. A unit may be empty.
    - ``dense``: ``[classes, h, w]``, the logits of the classes at each position. ``background`` is the class that is
      not explained by default, None if there is none. A single class applies where its logit is positive.
    - ``embedding``: ``[dimensions]``, a vector of length 1. It has no labels.
    """

    kind: OutputKind = "softmax"
    shape: tuple[Annotated[int, Field(ge=1)], ...] = ()
    units: tuple[str, ...] = ()
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    background: int | None = None


SOFTMAX: Final = OutputSpec()


def counted(outputs: int, kind: OutputKind) -> str:
    """A number of outputs with its noun: "1 quantity", "1000 classes"."""
    return f"{outputs} {_OUTPUT_NOUNS[kind][outputs != 1]}"


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of pixels on which a network runs.

    ``multiple``: of each side, or None if the network runs at its own size only. Then ``why`` says why.
    """

    multiple: int | None
    why: str = ""


ONE_SIZE: Final = Sizes(None, "it was compiled for one size")


@dataclass(frozen=True)
class ModelSpec:
    """A network's name, the labels of its output, its preprocessing and the source of its weights.

    ``output`` says what the labels are. ``weights_sha256`` is the digest of the weights file. ``parameters_sha256`` is
    that of all parameters and buffers.
    """

    name: Annotated[str, Field(min_length=1, max_length=200)]
    title: str
    labels: Annotated[tuple[str, ...], Field(max_length=2**20)]
    preprocess: PreprocessSpec
    source: str
    weights_sha256: str | None = None
    parameters_sha256: str | None = None
    output: OutputSpec = SOFTMAX

    @property
    def described_output(self) -> str:
        """The number and the kind of outputs, for readers: "1000 classes"."""
        shape = self.output.shape or (len(self.labels),)
        positions = f" at {shape[1]} x {shape[2]} positions" if len(shape) == 3 else ""
        return f"{counted(shape[0], self.output.kind)}{positions}"

    @cached_property
    def scalars(self) -> int:
        """The numbers of one image's output: one for each label, unless ``output`` is dense or an embedding."""
        return math.prod(self.output.shape) if self.output.shape else len(self.labels)

    @cached_property
    def indices(self) -> dict[str, tuple[int, ...]]:
        """Case-folded label -> the classes with that label. ImageNet has a Cardigan (a dog) and a cardigan."""
        indices: dict[str, tuple[int, ...]] = {}
        for index, label in enumerate(self.labels):
            key = label.casefold()
            indices[key] = (*indices.get(key, ()), index)
        return indices


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One layer. ``kind`` is the module's class or the operation; ``shape`` is (channels, height, width)."""

    name: str
    kind: str
    shape: tuple[int, int, int]


def stages(layers: Iterable[LayerSpec]) -> dict[tuple[int, int], LayerSpec]:
    """The last of the outermost ``layers`` of each map size (height, width), in their order. Layers that pad are left
    out."""
    found: dict[tuple[int, int], LayerSpec] = {}
    for layer in layers:
        before = found.get(layer.shape[1:])
        if not layer.kind.lower().endswith(("pad", "pad2d")) and (
            before is None or layer.name.count(".") <= before.name.count(".")
        ):
            found.pop(layer.shape[1:], None)
            found[layer.shape[1:]] = layer
    return found


@dataclass(frozen=True, slots=True)
class GateSpec:
    """One channel-attention gate.

    ``layer`` is its name: that of its module, or of its multiplication if the module has several gates. ``type`` is the
    module's class. ``shape`` is (channels, height, width) of the map that it scales. ``before`` and ``after`` are the
    layers that hold its input and output. ``squash`` is the function that bounds its weights: sigmoid, hardsigmoid,
    softmax, tanh, relu6, hardtanh or clamp.
    """

    layer: str
    type: str
    shape: tuple[int, int, int]
    before: str
    after: str
    squash: str


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """One self-attention between all tokens.

    ``name`` is that of its module. Of the tokens, the first ``extra`` are not positions, such as a class token; the
    others are those of the ``grid`` (height, width). Behind the last attention's block, the logits are computed from
    the tokens ``read``: from the first of these two to before the second.
    """

    name: str
    heads: Annotated[int, Field(ge=1)]
    extra: Annotated[int, Field(ge=0)]
    grid: tuple[int, int]
    read: tuple[int, int]


@dataclass(frozen=True)
class NetworkSpec:
    """The layers, gates, attentions and default layers of a network.

    ``default_layer`` is the layer of a heat map unless the caller names another, and ``default_layer_reason`` says why.
    If no layer fits, ``default_layer`` is empty and the reason says why. ``feature_layers`` are an early, a middle and
    a late layer. ``spatial_gates`` have one weight per position in place of one per channel.
    """

    layers: tuple[LayerSpec, ...]
    gates: tuple[GateSpec, ...]
    default_layer: str
    default_layer_reason: str
    feature_layers: tuple[str, ...]
    spatial_gates: tuple[GateSpec, ...] = ()
    attentions: tuple[AttentionSpec, ...] = ()

    @cached_property
    def by_name(self) -> dict[str, LayerSpec]:
        """Layer name -> layer, in the order of execution."""
        return {layer.name: layer for layer in self.layers}

    @cached_property
    def last_stages(self) -> tuple[str, ...]:
        """The layers that end the last three map sizes: two at most, and the default layer. Empty without that."""
        if not self.default_layer:
            return ()
        until = self.layers[: [*self.by_name].index(self.default_layer) + 1]
        earlier = stages(until)
        earlier.pop(until[-1].shape[1:], None)
        return (*[layer.name for layer in earlier.values()][-2:], self.default_layer)
