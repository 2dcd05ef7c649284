"""What a change of channels would do."""

from __future__ import annotations

from pydantic import Field

from pellucid.schemas.base import Prediction, Schema
from pellucid.schemas.side_by_side import SideBySide


class ChannelFactor(Schema):
    """A channel that is edited."""

    channel: int = Field(description="The channel, counted from 0.", examples=[12])
    factor: float = Field(description="What it is multiplied by; 0 mutes it.", examples=[0.5])


class AppliedEdit(Schema):
    """Channels and their factors."""

    channels: list[ChannelFactor] = Field(description="The channels that were named.")
    others: float = Field(description="The factor of all others: 1, or 0 where some were to be kept.", examples=[1.0])


class TargetChange(Schema):
    """What the change did to one class."""

    before: Prediction = Field(description="As it is.")
    after: Prediction = Field(description="As edited.")
    change: float = Field(description="The logit after less the one before.", examples=[-0.42])
    maps: SideBySide = Field(description="The class's map at the layer before and after.")


class MutedChannel(Schema):
    """A channel that mattered."""

    channel: int = Field(description="The channel.", examples=[40])
    muted: float = Field(description="What muting it does to the logit.", examples=[-0.31])


class Agreement(Schema):
    """Spearman's rank correlation of what each channel measurably gives the logit with what is taken for it; null where
    there is nothing to correlate.
    """

    gradient_weights: float | None = Field(description="With Grad-CAM's weights.", examples=[0.41])
    gradient_activation: float | None = Field(description="With gradient times activation.", examples=[0.98])
    gate_weights: float | None = Field(description="With the gate's weights.", examples=[-0.05])


class ChannelRanking(Schema):
    """Which channels mattered for the first target: measured, and what is taken for it."""

    muted: list[float] = Field(
        description="Measured: the logit with that channel alone at zero, less the logit as it is; channel 0 first.",
        examples=[[-0.31, 0.02, 0.0]],
    )
    gradient_weights: list[float] = Field(
        description="Grad-CAM's weight: the mean over positions of the logit's gradient.",
        examples=[[0.002, -0.001, 0.0]],
    )
    gradient_activation: list[float] = Field(
        description="Gradient times activation, summed over positions: muting, had the head been linear.",
        examples=[[0.3, -0.02, 0.0]],
    )
    gate_weights: list[float] | None = Field(
        description="The weights of the gate that ends at the layer; null where none does.", examples=[[1.2, 0.8, 1.0]]
    )
    most: list[MutedChannel] = Field(description="The channels whose muting changes most, the largest change first.")
    agreement: Agreement = Field(description="How far each tells the measured order.")


class WhatIf(Schema):
    """What the network would have said, had some channels weighed more, less, or nothing."""

    layer: str = Field(description="The layer whose channels are edited.", examples=["blocks.15.gate"])
    gate: str | None = Field(
        description="The gate that ends there, whose weights an edit multiplies as well; null where none does.",
        examples=["blocks.15.gate"],
    )
    edit: AppliedEdit = Field(description="What was changed.")
    before: list[Prediction] = Field(description="The most probable classes as it is, by the network behind the layer.")
    after: list[Prediction] = Field(description="The most probable classes as edited.")
    targets: list[TargetChange] = Field(description="What became of each target.")
    ranking: ChannelRanking | None = Field(description="Which channels mattered; null unless `rank=true`.")
