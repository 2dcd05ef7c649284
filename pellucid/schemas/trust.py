"""How far a map can be trusted. docs/trust.md has every formula and its source."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from pellucid.schemas.base import Schema


class TrustCost(Schema):
    """The cost of measuring how far a map can be trusted."""

    passes: int = Field(description="Pictures that the network scores.", examples=[193])
    estimated_ms: int | None = Field(
        description="Estimated milliseconds for them, without other work. Null if nothing was measured yet.",
        examples=[620],
    )


class RandomCurve(Schema):
    """The curves of all random maps, point by point."""

    mean: list[float] = Field(description="Their mean.", examples=[[0.36, 0.11, 0.0]])
    min: list[float] = Field(description="Their minimum.", examples=[[0.36, 0.02, 0.0]])
    max: list[float] = Field(description="Their maximum.", examples=[[0.36, 0.3, 0.0]])


class Areas(Schema):
    """Areas under the curves. An area is the mean score along a curve."""

    map: float = Field(description="The area of the map.", examples=[0.12])
    gaussian: float = Field(description="The area of a Gaussian in the middle of the picture.", examples=[0.15])
    random: list[float] = Field(description="The area of each random map.", examples=[[0.2, 0.17, 0.25, 0.22]])


class TrustCurve(Schema):
    """The target's score while pixels are removed or restored in the order of a map, highest values first."""

    test: Literal["deletion", "insertion", "road"] = Field(
        description="`deletion`: pixels become the network's mean colour. The curve of a good map falls early. "
        "`insertion`: pixels of a blurred picture become sharp. The curve of a good map rises early. `road`: pixels "
        "are imputed from their neighbours, which hides the shape of the removed area. The curve of a good map falls "
        "early.",
        examples=["deletion"],
    )
    fractions: list[float] = Field(description="Shares of the pixels.", examples=[[0.0, 0.5, 1.0]])
    map: list[float] = Field(
        description="The score at each share, in the order of the map.", examples=[[0.36, 0.04, 0.0]]
    )
    gaussian: list[float] = Field(
        description="The same in the order of a Gaussian in the middle of the picture.", examples=[[0.36, 0.07, 0.0]]
    )
    random: RandomCurve = Field(description="The same in the order of random maps.")
    auc: Areas = Field(description="Areas under these curves.")


class MaskedConfidence(Schema):
    """The class's probability on the picture masked by a map."""

    probability: float = Field(description="The class's probability on the masked picture, O.", examples=[0.29])
    drop: float = Field(
        description="The relative loss of probability: max(0, Y - O) / Y, with Y that of the whole picture.",
        examples=[0.18],
    )
    increase: bool = Field(description="Whether the probability is higher than the whole picture's.", examples=[False])


class RandomConfidence(Schema):
    """Drop and increase in confidence of all random maps."""

    drop: float = Field(description="The mean of their drops.", examples=[0.72])
    increases: int = Field(description="The number of random maps with an increase.", examples=[0])


class Confidence(Schema):
    """Drop and increase in confidence (Grad-CAM++)."""

    map: MaskedConfidence = Field(description="With the map.")
    gaussian: MaskedConfidence = Field(description="With a Gaussian in the middle of the picture.")
    random: RandomConfidence = Field(description="With random maps.")


class Sanity(Schema):
    """Whether the map depends on what the network has learnt: its similarity to maps of heads with random weights."""

    correlations: list[float | None] = Field(
        description="Spearman's rank correlation with the map of each random head. Null if that map is constant.",
        examples=[[0.2, -0.31, 0.05, 0.11, -0.08]],
    )
    mean_magnitude: float | None = Field(
        description="The mean of their magnitudes. Close to 1, the map shows the picture rather than the network.",
        examples=[0.15],
    )


class Trust(Schema):
    """How far a map can be trusted: the change of the target's score if its pixels are removed or restored."""

    _words: ClassVar[str] = "{0.sentence}"
    _shows: ClassVar[tuple[str, ...]] = ("sentence",)

    measure: Literal["probability", "value", "similarity"] = Field(
        description="The score that is measured: the class's probability, the quantity's value, or the similarity to "
        "the reference. With `direction=down`, one minus the probability, or the value with the other sign.",
        examples=["probability"],
    )
    finding: Literal["follows", "unclear", "contradicts"] = Field(
        description="Whether the network follows the map more than random maps. `follows`: `advantage` is more than "
        "twice `noise` above 0. `contradicts`: it is more than twice `noise` below 0.",
        examples=["follows"],
    )
    sentence: str = Field(
        description="The finding in words.",
        examples=["The network follows this map for 'Egyptian cat': ..."],
    )
    advantage: float = Field(
        description="By how much the areas under the map's three curves are better than the mean random map's, "
        "averaged over the curves, in the unit of `measure`. A random map has 0 on average.",
        examples=[0.14],
    )
    noise: float = Field(
        description="The standard deviation of the advantage that one more random map would have.", examples=[0.05]
    )
    gaussian: float = Field(description="The advantage of a Gaussian in the middle of the picture.", examples=[0.06])
    beaten: int = Field(description="The number of random maps with a lower advantage.", examples=[8])
    random_maps: int = Field(description="The number of random maps.", examples=[8])
    curves: list[TrustCurve] = Field(description="Deletion, insertion and ROAD.")
    confidence: Confidence | None = Field(
        description="The class's probability on the picture masked by the map. Null if the score is no probability, "
        "and with `direction=down`."
    )
    positive_share: float = Field(
        description="The share of the map's evidence that is for the class: the sum of its positive values, divided by "
        "the sum of all magnitudes.",
        examples=[0.8],
    )
    sanity: Sanity = Field(description="Whether the map depends on the network's weights.")
    cost: TrustCost = Field(description="The cost for the image, with all its targets.")
