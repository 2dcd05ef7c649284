"""What channels respond to, by an atlas."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from pellucid.schemas.base import ClassName, Picture, Schema

_QUANTILES = "33 quantiles over the atlas' pictures, from the minimum to the maximum, evenly spaced."

_CENTRE = "Only present with `view=centre`, because the atlas describes the centres of its pictures."


class ClassScore(ClassName):
    """A class of a channel, with a score.

    In `speaks_for` and `speaks_against`, the score is the channel's mean contribution to the class's logit, over
    pictures that are predicted as the class. It is gradient times activation, summed over positions, or weight times
    mean activation if `evidence` is `weights`. In `activating`, the score says by how many standard deviations the
    channel's mean in pictures of the predicted class exceeds its mean in all. All scores are multiplied by
    n / (n + 2) for n pictures.
    """

    _words: ClassVar[str] = "{0.label} {0.score:.2g}"

    score: float = Field(description="The score.", examples=[0.21])
    pictures: int = Field(description="The number of pictures behind the score.", examples=[14])


class Meaning(Schema):
    """What a channel responds to, in short."""

    _shows: ClassVar[tuple[str, ...]] = ("speaks_for", "crops")

    layer: str = Field(description="The layer of the channel. For a gate, the layer that it scales.", examples=["head"])
    speaks_for: list[ClassScore] = Field(description="Classes whose score the channel raises most.")
    activating: list[ClassScore] = Field(description="Predicted classes whose pictures activate it most.")
    crops: list[Picture] = Field(
        description="The parts of pictures that activate it most, dimmed where it is inactive. Empty if the atlas "
        "has no crops."
    )


class GateAtlas(Schema):
    """How usual the weights of a gate are."""

    _shows: ClassVar[tuple[str, ...]] = ("outside", "unusual")

    places: list[float] = Field(
        description="The share of the atlas' pictures with a smaller weight, for each channel, channel 0 first.",
        examples=[[0.4, 0.97]],
    )
    outside: float = Field(
        description="The share of channels whose weight lies outside the range of all pictures of the atlas.",
        examples=[0.01],
    )
    unusual: bool = Field(
        description="Whether `outside` is at least 5 %, and the weights lie further outside, on average, than the "
        "weights of 99.5 % of the atlas' own pictures do, each compared with all others. Then the gate responds to "
        "something that the atlas lacks.",
        examples=[False],
    )


class MapsAtlas(Schema):
    """What the shown channels respond to, and how usual their values are, in the order of `channels`."""

    mean: list[float] | None = Field(
        None,
        description=f"The share of the atlas' pictures with a smaller mean activation. {_CENTRE}",
        examples=[[0.98]],
    )
    maximum: list[float] | None = Field(
        None,
        description=f"The share of the atlas' pictures with a smaller largest activation. {_CENTRE}",
        examples=[[0.99]],
    )
    meanings: list[Meaning] = Field(description="What each of the first 16 channels responds to.")


class BoxChannel(Schema):
    """A channel that responds to a part of the picture."""

    _words: ClassVar[str] = "{0.channel}: {0.score:.3g}"

    channel: int = Field(description="The channel, counted from 0.", examples=[795])
    score: float = Field(description="(`inside` - `outside`) / the channel's scale.", examples=[0.62])
    inside: float = Field(description="Its mean activation in the box.", examples=[2.1])
    outside: float = Field(description="Its mean activation elsewhere.", examples=[0.2])
    meaning: Meaning | None = Field(
        None,
        description="What it responds to. Only present with `atlas=true`, for the first 16 channels; null if the "
        "atlas lacks the layer.",
    )


class BoxChannels(Schema):
    """The channels of a layer that respond to what is in the box, the largest score first."""

    layer: str = Field(description="The layer.", examples=["head"])
    positions: int = Field(description="The number of positions of the layer's map in the box.", examples=[12])
    scale: Literal["atlas", "layer"] = Field(
        description="What scores are divided by. `atlas`: the channel's largest activation in the pictures of the "
        "atlas, without the top 3 % of them. `layer`: the standard deviation of all values of the layer in this "
        "picture.",
        examples=["atlas"],
    )
    entries: list[BoxChannel] = Field(description="The channels.")


class AtlasFacts(Schema):
    """What an atlas was made of."""

    pictures: int = Field(description="The number of pictures.", examples=[2500])
    crops: bool = Field(description="Whether it has crops of the pictures.", examples=[True])
    layers: list[str] = Field(description="Its layers.", examples=[["stem", "blocks.4", "head"]])
    gates: list[str] = Field(description="Its gates.", examples=[["blocks.15.gate"]])
    sha256: str = Field(
        description="SHA-256 of its content, in hexadecimal.",
        examples=["596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb"],
    )


class ChannelSummary(Schema):
    """A channel of a layer or gate."""

    channel: int = Field(description="The channel, counted from 0.", examples=[795])
    mean: float = Field(
        description="The median over pictures of its mean activation, or of the gate's weight.", examples=[0.42]
    )
    maximum: float | None = Field(
        None, description="The median over pictures of its largest activation. Only for a layer.", examples=[3.1]
    )
    zeros: float | None = Field(
        None, description="The share of positions that are exactly zero, 0 to 1. Only for a layer.", examples=[0.8]
    )
    score: float | None = Field(
        None,
        description="How much more it speaks for `target` than for `against`, or than for the mean of all classes. "
        "If `evidence` is `weights`: the difference of the weights, times the channel's standard deviation. "
        "Otherwise: the difference of the mean activations in pictures of the two classes, in standard deviations.",
        examples=[0.7],
    )
    speaks_for: list[ClassScore] = Field(description="Classes whose score the channel raises most. Empty for a gate.")
    activating: list[ClassScore] = Field(description="Predicted classes whose pictures activate it most.")


class ChannelList(Schema):
    """Channels of a layer or gate, in the requested order."""

    model: str = Field(description="The network.", examples=["lite0"])
    layer: str = Field(description="The layer or gate.", examples=["head"])
    channels: int = Field(description="The number of its channels.", examples=[1280])
    evidence: Literal["weights", "gradients", "none"] = Field(
        description="How `speaks_for` was found. `weights`: the weights of the linear layer behind this one, times "
        "the activation. `gradients`: gradient times activation.",
        examples=["weights"],
    )
    entries: list[ChannelSummary] = Field(description="The channels.")


class ChannelExample(Schema):
    """A picture that activates a channel."""

    _shows: ClassVar[tuple[str, ...]] = ("crop", "value", "name", "predicted")

    value: float = Field(description="The activation, its mean over positions, or the gate's weight.", examples=[7.3])
    position: list[int] | None = Field(
        description="Row and column of the activation. Null for a mean, and for a gate.", examples=[[3, 4]]
    )
    crop: Picture | None = Field(
        description="The part of the picture that the position sees, dimmed where the channel is inactive. Null if "
        "the atlas has no crops."
    )
    box: list[int] | None = Field(
        description="The crop as x0, y0, x1, y1, in pixels of the network's input.", examples=[[0, 32, 180, 224]]
    )
    sha256: str = Field(
        description="SHA-256 of the picture's file, in hexadecimal.",
        examples=["596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb"],
    )
    name: str | None = Field(description="The picture's name, if the atlas has names.", examples=["cats/12.jpg"])
    predicted: ClassName | None = Field(description="The network's most probable class for it.")


class ChannelDetail(Schema):
    """All that the atlas knows of a channel. `weight` and `damaged` are of gates, the other fields of layers."""

    model: str = Field(description="The network.", examples=["lite0"])
    layer: str = Field(description="The layer or gate.", examples=["head"])
    channel: int = Field(description="The channel, counted from 0.", examples=[795])
    pictures: int = Field(description="The number of the atlas' pictures.", examples=[2500])
    maximum: list[float] | None = Field(None, description=f"The largest activation: {_QUANTILES}")
    mean: list[float] | None = Field(None, description=f"The mean activation: {_QUANTILES}")
    zeros: float | None = Field(
        None, description="The share of positions that are exactly zero, 0 to 1.", examples=[0.8]
    )
    before: str | None = Field(None, description="The layer whose channels the gate scales.", examples=["blocks.15"])
    weight: list[float] | None = Field(None, description=f"The gate's weight: {_QUANTILES}")
    damaged: dict[str, list[float]] | None = Field(
        None,
        description="The same over damaged copies of some of the pictures, by kind of damage. `clean` is for "
        "these pictures undamaged.",
    )
    evidence: Literal["weights", "gradients", "none"] | None = Field(
        None, description="How `speaks_for` and `speaks_against` were found.", examples=["weights"]
    )
    crops_predict: float | None = Field(
        None,
        description="How well crops explain this layer, -1 to 1. It is the rank correlation of a channel's maximum "
        "with the similarity to its examples, over pictures that are not examples, averaged over channels.",
        examples=[0.4],
    )
    classes_agree: float | None = Field(
        None,
        description="How stable the classes of its channels are, -1 to 1. It is the rank correlation of the class "
        "means in two halves of the pictures, averaged over channels.",
        examples=[0.7],
    )
    speaks_for: list[ClassScore] = Field(description="Classes whose score the channel raises most. Empty for a gate.")
    speaks_against: list[ClassScore] = Field(description="Classes whose score it lowers most. Empty for a gate.")
    activating: list[ClassScore] = Field(
        description="Predicted classes whose pictures activate it most, or get the largest weights."
    )
    examples: dict[Literal["maximum", "mean", "highest", "lowest"], list[ChannelExample]] = Field(
        description="The pictures that activate the channel most, by maximum and by mean. For a gate: the pictures "
        "with its highest and its lowest weights. No picture is twice in one list."
    )
