"""How far a map can be trusted. docs/trust.md has every formula and its source."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pellucid.schemas.base import Schema


class TrustCost(Schema):
    """What trying a map costs."""

    passes: int = Field(description="Pictures that go through the network.", examples=[193])
    estimated_ms: int | None = Field(
        description="Milliseconds that they were expected to take before they began, alone and as things stood; null "
        "where nothing was known yet.",
        examples=[620],
    )


class RandomCurve(Schema):
    """The curves of all random maps, point by point."""

    mean: list[float] = Field(description="Their mean.", examples=[[0.36, 0.11, 0.0]])
    min: list[float] = Field(description="The lowest.", examples=[[0.36, 0.02, 0.0]])
    max: list[float] = Field(description="The highest.", examples=[[0.36, 0.3, 0.0]])


class Areas(Schema):
    """Areas under the curves, 0 to 1: the mean probability on the way."""

    map: float = Field(description="The map's.", examples=[0.12])
    gaussian: float = Field(description="Of a spot in the middle.", examples=[0.15])
    random: list[float] = Field(description="Of each random map.", examples=[[0.2, 0.17, 0.25, 0.22]])


class TrustCurve(Schema):
    """The class's probability while pixels are taken away, or put back, those first that a map marks most."""

    test: Literal["deletion", "insertion", "road"] = Field(
        description="`deletion`: pixels become the network's mean colour; a good map's curve falls soon. `insertion`: "
        "pixels of a blurred picture become sharp; it rises soon. `road`: pixels are imputed from those around them, "
        "so that the shape of what was taken away tells nothing; it falls soon.",
        examples=["deletion"],
    )
    fractions: list[float] = Field(description="Shares of the pixels.", examples=[[0.0, 0.5, 1.0]])
    map: list[float] = Field(
        description="The probability at each share by the map's order.", examples=[[0.36, 0.04, 0.0]]
    )
    gaussian: list[float] = Field(
        description="The same by a spot in the middle of the picture.", examples=[[0.36, 0.07, 0.0]]
    )
    random: RandomCurve = Field(description="The same by random maps.")
    auc: Areas = Field(description="Areas under these curves.")


class MaskedConfidence(Schema):
    """What the network makes of the picture where all but what a map marks is blank."""

    probability: float = Field(description="The class's probability then.", examples=[0.29])
    drop: float = Field(
        description="How much of the whole picture's probability is lost: max(0, Y - O) / Y.", examples=[0.18]
    )
    increase: bool = Field(description="Whether the probability is higher than the whole picture's.", examples=[False])


class RandomConfidence(Schema):
    """The same of random maps."""

    drop: float = Field(description="The mean of their drops.", examples=[0.72])
    increases: int = Field(description="With how many of them the probability rose.", examples=[0])


class Confidence(Schema):
    """Drop and increase in confidence (Grad-CAM++)."""

    map: MaskedConfidence = Field(description="With the map.")
    gaussian: MaskedConfidence = Field(description="With a spot in the middle.")
    random: RandomConfidence = Field(description="With random maps.")


class Sanity(Schema):
    """Whether the map depends on what the network has learnt: its likeness to the maps of heads with random weights."""

    correlations: list[float | None] = Field(
        description="Spearman's rank correlation with the map of each random head; null where that is constant.",
        examples=[[0.2, -0.31, 0.05, 0.11, -0.08]],
    )
    mean_magnitude: float | None = Field(
        description="The mean of their magnitudes: near 1, the map says more of the picture than of the network.",
        examples=[0.15],
    )


class Trust(Schema):
    """How far a map can be trusted: what the class's probability does when the map's pixels go, and come back."""

    finding: Literal["follows", "unclear", "contradicts"] = Field(
        description="Whether the network follows the map more than random ones: `follows` and `contradicts` where "
        "`advantage` is more than twice `noise` above or below 0.",
        examples=["follows"],
    )
    sentence: str = Field(
        description="What the advantage means, in words.",
        examples=["The network follows this map for 'Egyptian cat': ..."],
    )
    advantage: float = Field(
        description="How far the areas under the map's three curves lie on the better side of the mean random map's, "
        "on average: in probability, -1 to 1. 0 is what a random map has.",
        examples=[0.14],
    )
    noise: float = Field(
        description="The standard deviation of the advantage that one more random map would have.", examples=[0.05]
    )
    gaussian: float = Field(description="The advantage of a spot in the middle of the picture.", examples=[0.06])
    beaten: int = Field(description="How many random maps have a lower advantage.", examples=[8])
    random_maps: int = Field(description="Of how many.", examples=[8])
    curves: list[TrustCurve] = Field(description="Deletion, insertion and ROAD.")
    confidence: Confidence = Field(description="What is left of the class where only what the map marks is shown.")
    positive_share: float = Field(
        description="The share of the map's evidence that is for the class: its positive values' sum by the sum of all "
        "magnitudes.",
        examples=[0.8],
    )
    sanity: Sanity = Field(description="Whether the map depends on the network's weights.")
    cost: TrustCost = Field(description="What this cost for the image, whatever the number of its targets.")
