"""How far a map can be trusted: options, perturbations, and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pellucid.network.spec import OutputKind, OutputSpec, PreprocessSpec
from pellucid.parts.option_types import Options
from pellucid.trust.measures import Confidence, Curve, Measure, Measured, measured, sanity
from pellucid.trust.perturbations import Design, Perturbations
from pellucid.types import DecodedImage, Outcome, Plan, Prediction

# Maps by networks with random weights behind the layer, for the sanity check.
RANDOM_HEADS: Final = 5
# What is measured if the output has no probabilities.
_MEASURES: Final[dict[OutputKind, Measure]] = {"linear": "value", "embedding": "similarity"}


class TrustOptions(Options):
    """The options of ``trust``."""

    trust: bool = Field(
        False,
        description="Also test how far each map can be trusted. The test compares deletion, insertion and ROAD "
        "curves of the map with those of the same map at random places and of a spot in the middle. A sanity check "
        "is added. The test runs the network many times: `trust` in /v1/models/{name} says how often, and how long "
        "that takes.",
        examples=[True],
    )
    trust_steps: int = Field(
        Design().steps,
        ge=2,
        le=32,
        description="With `trust`: the number of steps in which pixels are removed and restored.",
        examples=[8],
    )
    trust_maps: int = Field(
        Design().random_maps,
        ge=4,
        le=32,
        description="With `trust`: the number of random places that the map is compared with.",
        examples=[8],
    )

    @property
    def design(self) -> Design | None:
        return Design(self.trust_steps, self.trust_maps) if self.trust else None


@dataclass(frozen=True, slots=True)
class Trusted:
    """The measurements of one target's map. ``sanity``: its rank correlation with each random head's map.

    ``estimated_s``: the forecast of the seconds that the image's perturbations take, 0 if there was none.
    """

    measured: Measured
    sanity: tuple[float | None, ...]
    estimated_s: float


def perturbations_of(image: DecodedImage, outcome: Outcome, spec: PreprocessSpec, design: Design) -> Perturbations:
    """The perturbations for the maps of an outcome."""
    maps = [explanation.heat for explanation in outcome.explanations]
    return Perturbations(image.pixels, maps, [255 * value for value in spec.mean], design, spec.low, spec.high)


def scoring_plan(plan: Plan, outcome: Outcome, size: tuple[int, int] | None) -> Plan:
    """The plan for each perturbed picture: the scores of the targets of ``outcome``, the result of ``plan``.

    ``size``: see Plan.
    """
    found = outcome.explanations
    scored = tuple(explanation.target.index for explanation in found)
    return Plan(
        scored=scored,
        targets=scored,  # each region is of the target with its number
        regions=tuple(explanation.region for explanation in found if explanation.region),
        reference=plan.reference,
        size=size,
    )


def scores_of(scored: Sequence[Prediction], plan: Plan) -> list[float]:
    """The scores of a perturbed picture, one for each of its ``scored`` targets: probabilities where there are some.

    For a plan that explains what lowers a score: one minus the probability, or the score with the other sign.
    """
    found = []
    for each in scored:
        rest = 0.0 if each.probability is None else 1.0
        score = each.logit if each.probability is None else each.probability
        found.append(score if plan.direction > 0 else rest - score)
    return found


def measure(
    perturbations: Perturbations,
    scores: NDArray[np.float64],
    outcome: Outcome,
    output: OutputSpec,
    estimated_s: float,
    tiles: int = 1,
) -> tuple[Trusted, ...]:
    """The measurements of each map, from the ``scores`` ``[perturbations, targets]``. Each took a pass by ``tiles``."""
    kind = _MEASURES.get(output.kind, "probability")
    return tuple(
        Trusted(
            replace(each, passes=each.passes * tiles),
            sanity(explanation.heat, explanation.randomised) if explanation.randomised is not None else (),
            estimated_s,
        )
        for each, explanation in zip(measured(perturbations, scores, kind), outcome.explanations, strict=True)
    )


def trust_json(found: Trusted, label: str, down: bool = False) -> dict[str, Any]:
    """The field ``trust`` of a map. ``down``: the map shows what lowers the score."""
    measured = found.measured
    known = [abs(each) for each in found.sanity if each is not None]
    return {
        "measure": measured.measure,
        "finding": measured.finding,
        "sentence": sentence(measured, label, down),
        "advantage": np.float32(measured.advantage),
        "noise": np.float32(measured.noise),
        "p_value": np.float32(measured.p_value),
        "gaussian": np.float32(measured.gaussian),
        "beaten": measured.beaten,
        "random_maps": measured.random_maps,
        "curves": [_curve_json(curve) for curve in measured.curves],
        "confidence": None if down else _confidences_json(measured),
        "positive_share": np.float32(measured.positive_share),
        "sanity": {
            "correlations": [None if each is None else np.float32(each) for each in found.sanity],
            "mean_magnitude": np.float32(np.mean(known)) if known else None,
        },
        "cost": {
            "passes": measured.passes,
            "estimated_ms": round(1000 * found.estimated_s) if found.estimated_s else None,
        },
    }


def _curve_json(curve: Curve) -> dict[str, Any]:
    return {
        "test": curve.test,
        "fractions": curve.fractions,
        "map": curve.map,
        "gaussian": curve.gaussian,
        "random": {"mean": curve.random.mean(0), "min": curve.random.min(0), "max": curve.random.max(0)},
        "auc": {
            "map": np.float32(curve.map_auc),
            "gaussian": np.float32(curve.gaussian_auc),
            "random": curve.random_auc,
        },
    }


def _confidences_json(found: Measured) -> dict[str, Any] | None:
    if found.confidence is None or found.gaussian_confidence is None:
        return None
    random = found.random_confidence
    return {
        "map": _confidence_json(found.confidence),
        "gaussian": _confidence_json(found.gaussian_confidence),
        "random": {
            "drop": np.float32(np.mean([each.drop for each in random])),
            "increases": sum(each.increase for each in random),
        },
    }


def _confidence_json(found: Confidence) -> dict[str, Any]:
    return {"probability": np.float32(found.probability), "drop": np.float32(found.drop), "increase": found.increase}


def sentence(found: Measured, label: str, down: bool = False) -> str:
    """The finding as a sentence. ``down``: the map shows what lowers the score."""
    measure = found.measure
    said = {
        "follows": f"The network follows this map for {label!r}: removing what it marks "
        + (
            f"raises the {measure} more, and showing it lowers it more,"
            if down
            else f"lowers the {measure} more, and showing it raises it more,"
        )
        + " than with the same map at random places",
        "unclear": f"It is unclear whether the network follows this map for {label!r}: its advantage over the same map "
        "at random places may be chance",
        "contradicts": f"The network contradicts this map for {label!r}: the same map does better at random places",
    }[found.finding]
    gaussian = "less" if found.gaussian < found.advantage else "more"
    p = "p < 0.001" if found.p_value < 0.001 else f"p = {found.p_value:.2g}"
    return (
        f"{said} (advantage {found.advantage:+.3f} of {measure}, {p}; it beats {found.beaten} of {found.random_maps}). "
        f"A spot in the middle of the picture does {gaussian} ({found.gaussian:+.3f})."
    )
