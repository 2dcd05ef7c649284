"""What a network expects and what it offers, as frozen data. No torch here: the HTTP side reads these too."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Final, Literal

from pydantic import Field

# The network's own input, where a layer's name may stand. (A layer that is so called goes first.)
PIXELS: Final = "pixels"

Interpolation = Literal["nearest", "bilinear", "bicubic"]
# What a file may say of them; see network.file.
Side = Annotated[int, Field(ge=1, le=2**13)]
Mean = Annotated[float, Field(allow_inf_nan=False)]
Std = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class PreprocessSpec:
    """From an upright RGB picture to the network's input, in this order: resize, centre crop, normalise.

    ``resize`` is the length in pixels that the short side becomes, the aspect ratio kept, or with ``squash`` that both
    sides become; ``size`` is the height and width of the centre crop; then ``(value / 255 - mean) / std`` for each of
    the RGB channels.
    """

    size: tuple[Side, Side]
    resize: Side
    interpolation: Interpolation
    mean: tuple[Mean, Mean, Mean]
    std: tuple[Std, Std, Std]
    squash: bool = False


@dataclass(frozen=True)
class ModelSpec:
    """A network's name, class labels (the index is the class), preprocessing, and where its weights come from.

    ``weights_sha256`` is of the file of weights, ``parameters_sha256`` of all that the network holds once it is loaded.
    """

    name: Annotated[str, Field(min_length=1, max_length=200)]
    title: str
    labels: Annotated[tuple[str, ...], Field(min_length=2, max_length=2**20)]
    preprocess: PreprocessSpec
    source: str
    weights_sha256: str | None = None
    parameters_sha256: str | None = None

    @cached_property
    def indices(self) -> dict[str, tuple[int, ...]]:
        """Case-folded label -> the classes that bear it. ImageNet has a Cardigan (a dog) and a cardigan."""
        indices: dict[str, tuple[int, ...]] = {}
        for index, label in enumerate(self.labels):
            key = label.casefold()
            indices[key] = (*indices.get(key, ()), index)
        return indices


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One layer by name. ``kind`` is the module's class or the operation; ``shape`` is (channels, height, width)."""

    name: str
    kind: str
    shape: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class GateSpec:
    """One channel-attention gate.

    ``layer`` is its name: that of the module that holds it, or of its multiplication where that holds several.
    ``type`` is the module's class, ``shape`` what it scales: (channels, height, width). ``before`` and ``after`` are
    the layers whose values it receives and puts out, ``squash`` is the function that bounds its weights: sigmoid,
    hardsigmoid, softmax, tanh, relu6, hardtanh or clamp.
    """

    layer: str
    type: str
    shape: tuple[int, int, int]
    before: str
    after: str
    squash: str


@dataclass(frozen=True)
class NetworkSpec:
    """What the traced network offers by name.

    ``default_layer`` is where Grad-CAM is taken unless a caller names another, and ``default_layer_reason`` says why;
    ``feature_layers`` are an early, a middle and a late layer. Where there is no such layer,
    ``default_layer`` is empty and the reason says what the network can't do, and why.
    """

    layers: tuple[LayerSpec, ...]
    gates: tuple[GateSpec, ...]
    default_layer: str
    default_layer_reason: str
    feature_layers: tuple[str, ...]

    @cached_property
    def by_name(self) -> dict[str, LayerSpec]:
        """Layer name -> layer, in the order of execution."""
        return {layer.name: layer for layer in self.layers}
