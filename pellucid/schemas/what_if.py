"""The effect of an edit of channels."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from pellucid.schemas.atlas import Meaning
from pellucid.schemas.base import Prediction, Schema
from pellucid.schemas.shown import brief
from pellucid.schemas.side_by_side import SideBySide


class ChannelFactor(Schema):
    """An edited channel."""

    _words: ClassVar[str] = "{0.channel} x {0.factor:.3g}"

    channel: int = Field(description="The channel, counted from 0.", examples=[12])
    factor: float = Field(description="The factor that it is multiplied by. 0 mutes it.", examples=[0.5])
    meaning: Meaning | None = Field(None, description="What it responds to. Only present with `atlas=true`.")


class AppliedEdit(Schema):
    """The edited channels and their factors."""

    channels: list[ChannelFactor] = Field(description="The channels that the request names.")
    others: float = Field(
        description="The factor of all other channels: 1, or 0 if the request keeps only some.", examples=[1.0]
    )

    def __str__(self) -> str:
        return f"channels {brief(self.channels)}, others x {self.others:.3g}"


class TargetChange(Schema):
    """The effect of the edit on one class."""

    _words: ClassVar[str] = "{0.before} to {0.after.score}"
    _shows: ClassVar[tuple[str, ...]] = ("maps",)

    before: Prediction = Field(description="Before the edit.")
    after: Prediction = Field(description="After the edit.")
    change: float = Field(description="The logit after the edit minus the logit before it.", examples=[-0.42])
    maps: SideBySide = Field(description="The class's map at the layer before and after the edit.")


class MutedChannel(Schema):
    """A channel whose muting changes the logit."""

    _words: ClassVar[str] = "{0.channel}: {0.muted:+.3g}"

    channel: int = Field(description="The channel, counted from 0.", examples=[40])
    muted: float = Field(description="The change of the logit if the channel is muted.", examples=[-0.31])
    meaning: Meaning | None = Field(None, description="What it responds to. Only present with `atlas=true`.")


class Agreement(Schema):
    """Spearman's rank correlation of the measured effect of each channel with an estimate of it.

    Null if one of the two is constant, or if there is no such estimate.
    """

    gradient_weights: float | None = Field(description="With Grad-CAM's weights.", examples=[0.41])
    gradient_activation: float | None = Field(description="With gradient times activation.", examples=[0.98])
    gate_weights: float | None = Field(description="With the gate's weights.", examples=[-0.05])


class ChannelRanking(Schema):
    """Which channels matter for the first target: measured by muting, and estimated."""

    _shows: ClassVar[tuple[str, ...]] = ("most", "agreement")

    muted: list[float] = Field(
        description="Measured: the logit with that channel set to zero, minus the unchanged logit. Channel 0 first.",
        examples=[[-0.31, 0.02, 0.0]],
    )
    gradient_weights: list[float] = Field(
        description="Grad-CAM's weight: the mean over positions of the logit's gradient.",
        examples=[[0.002, -0.001, 0.0]],
    )
    gradient_activation: list[float] = Field(
        description="Gradient times activation, summed over positions. If the network behind the layer were linear, "
        "this would be minus `muted`.",
        examples=[[0.3, -0.02, 0.0]],
    )
    gate_weights: list[float] | None = Field(
        description="The weights of the gate whose output is the layer. Null if there is no gate.",
        examples=[[1.2, 0.8, 1.0]],
    )
    most: list[MutedChannel] = Field(
        description="The channels whose muting changes the logit most, largest change first."
    )
    agreement: Agreement = Field(description="How well each estimate predicts the measured order.")


class WhatIf(Schema):
    """The network's answer if some channels are scaled or muted."""

    layer: str = Field(description="The layer whose channels are edited.", examples=["blocks.15.gate"])
    gate: str | None = Field(
        description="The gate whose output is the layer. The edit scales its weights. Null if there is no gate.",
        examples=["blocks.15.gate"],
    )
    edit: AppliedEdit = Field(description="The edit.")
    before: list[Prediction] = Field(
        description="The most probable classes before the edit, computed by the network behind the layer."
    )
    after: list[Prediction] = Field(description="The most probable classes after the edit.")
    targets: list[TargetChange] = Field(description="The effect on each target.")
    ranking: ChannelRanking | None = Field(description="Which channels matter. Null unless `rank=true`.")
