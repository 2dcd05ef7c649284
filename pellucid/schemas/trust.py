"""How far a map can be trusted. docs/explanation/trust.md has every formula and its source."""

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
    """The curves of the map at random places, point by point."""

    mean: list[float] = Field(description="Their mean.", examples=[[0.36, 0.11, 0.0]])
    min: list[float] = Field(description="Their minimum.", examples=[[0.36, 0.02, 0.0]])
    max: list[float] = Field(description="Their maximum.", examples=[[0.36, 0.3, 0.0]])


class Areas(Schema):
    """Areas under the curves. An area is the mean score along a curve."""

    map: float = Field(description="The area of the map.", examples=[0.12])
    gaussian: float = Field(description="The area of a Gaussian in the middle of the picture.", examples=[0.15])
    random: list[float] = Field(
        description="The area of the map at each random place.", examples=[[0.2, 0.17, 0.25, 0.22]]
    )


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
    random: RandomCurve = Field(description="The same with the map at random places.")
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
    """Drop and increase in confidence of the map at random places."""

    drop: float = Field(description="The mean of their drops.", examples=[0.72])
    increases: int = Field(description="The number of places with an increase.", examples=[0])


class Confidence(Schema):
    """Drop and increase in confidence (Grad-CAM++)."""

    map: MaskedConfidence = Field(description="With the map.")
    gaussian: MaskedConfidence = Field(description="With a Gaussian in the middle of the picture.")
    random: RandomConfidence = Field(description="With the map at random places.")


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
        description="Whether the place of the map matters. `follows`: `p_value` is below 0.1 and `advantage` is "
        "positive. `contradicts`: it is below 0.1 and `advantage` is negative. Each is wrong about once in twenty.",
        examples=["follows"],
    )
    sentence: str = Field(
        description="The finding in words.", examples=["The network follows this map for 'Egyptian cat': ..."]
    )
    advantage: float = Field(
        description="By how much the areas under the map's three curves are better than the same map's at random "
        "places, averaged over the curves and the places, in the unit of `measure`. It is 0 on average if the place "
        "does not matter.",
        examples=[0.14],
    )
    noise: float = Field(
        description="The standard deviation of the advantage that the map would have at one more random place.",
        examples=[0.05],
    )
    p_value: float = Field(
        description="The probability that a map whose place does not matter has an advantage at least as far from 0: "
        "two-sided, by Student's t with `random_maps` - 1 degrees of freedom.",
        examples=[0.03],
    )
    gaussian: float = Field(description="The advantage of a Gaussian in the middle of the picture.", examples=[0.06])
    beaten: int = Field(description="The number of random places where the map has a lower advantage.", examples=[8])
    random_maps: int = Field(description="The number of random places.", examples=[8])
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
