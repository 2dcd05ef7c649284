"""Scores of the perturbations -> curves, their areas, and whether the network follows the map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pellucid.ranks import spearman
from pellucid.trust.perturbations import ROAD_FRACTIONS, Perturbations
from pellucid.types import Floats

Test = Literal["deletion", "insertion", "road"]
Measure = Literal["probability", "value", "similarity"]
Finding = Literal["follows", "unclear", "contradicts"]

# A finding is wrong this often where the place of the map does not matter: once in twenty in each direction.
_LEVEL: Final = 0.1
# Scores are float32: a smaller share of them is no difference.
_ROUNDING: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Curve:
    """A target's score ``[n]`` over the shares ``[n]`` of the pixels that are removed, or restored.

    ``map``, ``gaussian`` ``[n]``, ``random`` ``[R, n]``. The areas under them are mean scores; ``random_auc`` is
    ``[R]``.
    """

    test: Test
    fractions: Floats
    map: Floats
    gaussian: Floats
    random: Floats
    map_auc: float
    gaussian_auc: float
    random_auc: Floats


@dataclass(frozen=True, slots=True)
class Confidence:
    """The class's probability O with all blank but what the map marks. Grad-CAM++, arXiv 1710.11063, section 4.1.

    ``drop``: max(0, Y - O) / Y, where Y is the whole picture's probability; ``increase``: whether O > Y.
    """

    probability: float
    drop: float
    increase: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """How far the map of one target can be trusted.

    ``advantage``: how much better the map's areas are than those of the mean random map, averaged over the tests, in
    probability. ``noise``: the standard deviation of a random map's advantage. ``p_value``: see ``p_value``.
    ``gaussian``: the advantage of the Gaussian in the middle. ``beaten``: the number of random maps with a lower
    advantage. ``measure``: what the scores are. The confidences are None unless they are probabilities.
    """

    measure: Measure
    finding: Finding
    advantage: float
    noise: float
    p_value: float
    gaussian: float
    beaten: int
    curves: tuple[Curve, ...]
    confidence: Confidence | None
    gaussian_confidence: Confidence | None
    random_confidence: tuple[Confidence, ...]
    random_maps: int
    positive_share: float
    passes: int


def measured(perturbations: Perturbations, scores: NDArray[Any], measure: Measure) -> tuple[Measured, ...]:
    """One for each target. ``scores`` ``[perturbations, targets]`` are the targets' ``measure``."""
    return tuple(
        _of_target(perturbations, scores[:, target], target, measure) for target in range(perturbations.targets)
    )


def curves(perturbations: Perturbations, scores: NDArray[Any], target: int) -> tuple[Curve, Curve, Curve]:
    """Deletion, insertion and ROAD of a target's map. ``scores`` ``[perturbations]`` are the target's."""
    by_map = _by_map(perturbations, scores)
    original, blank, blurred = (by_map[kind, -1] for kind in ("original", "blank", "blurred"))
    whole = (0.0, *perturbations.design.fractions, 1.0)

    def curve(test: Test, fractions: Sequence[float], before: list[float], after: list[float]) -> Curve:
        values = np.array([before + by_map[test, row] + after for row in perturbations.rows(target)], np.float32)
        areas = _areas(values, np.asarray(fractions))
        return Curve(
            test,
            np.asarray(fractions, np.float32),
            *(values[0], values[1], values[2:]),
            *(float(areas[0]), float(areas[1]), areas[2:].astype(np.float32)),
        )

    return (
        curve("deletion", whole, original, blank),
        curve("insertion", whole, blurred, original),
        curve("road", (0.0, *ROAD_FRACTIONS), original, []),
    )


def _by_map(perturbations: Perturbations, scores: NDArray[Any]) -> dict[tuple[str, int], list[float]]:
    """The scores of each kind of perturbation by each map, from few pixels to many."""
    found: dict[tuple[str, int], list[float]] = {}
    for perturbation, score in zip(perturbations.plan, scores, strict=True):
        found.setdefault((perturbation.kind, perturbation.map), []).append(float(score))
    return found


def _of_target(perturbations: Perturbations, scores: NDArray[Any], target: int, measure: Measure) -> Measured:
    by_map = _by_map(perturbations, scores)
    rows = perturbations.rows(target)
    found = curves(perturbations, scores, target)
    signs = {"deletion": -1, "insertion": 1, "road": -1}
    merits = np.mean([signs[c.test] * np.array([c.map_auc, c.gaussian_auc, *c.random_auc]) for c in found], 0)
    advantages = merits - merits[2:].mean()
    advantages[np.abs(advantages) <= _ROUNDING * np.abs(merits).max()] = 0
    random = advantages[2:]
    noise = float(random.std(ddof=1) * np.sqrt(1 + 1 / len(random)))
    p = p_value(float(advantages[0]), noise, len(random))
    confidences: list[Confidence] = []
    if measure == "probability":
        whole = by_map["original", -1][0]
        confidences = [_confidence(whole, by_map["masked", row][0]) for row in rows]
    heat = perturbations.maps[rows[0]]
    total = float(np.abs(heat).sum())
    return Measured(
        measure=measure,
        finding=finding(float(advantages[0]), p),
        advantage=float(advantages[0]),
        noise=noise,
        p_value=p,
        gaussian=float(advantages[1]),
        beaten=int((random < advantages[0]).sum()),
        curves=found,
        confidence=confidences[0] if confidences else None,
        gaussian_confidence=confidences[1] if confidences else None,
        random_confidence=tuple(confidences[2:]),
        random_maps=len(random),
        positive_share=float(np.maximum(heat, 0).sum()) / total if total else 0.0,
        passes=len(perturbations),
    )


def p_value(advantage: float, noise: float, random_maps: int) -> float:
    """How often a map whose place does not matter has an advantage at least as far from 0, on either side.

    Student's t with ``random_maps`` - 1 degrees of freedom: Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    if not noise:
        return float(not advantage)
    freedom = random_maps - 1
    angle = math.atan(abs(advantage) / noise / math.sqrt(freedom))
    cosine, odd = math.cos(angle), freedom % 2
    term, total = cosine if odd else 1.0, 0.0
    for step in range(1, (freedom - odd) // 2 + 1):
        total += term
        term *= cosine**2 * (2 * step - 1 + odd) / (2 * step + odd)
    within = math.sin(angle) * total
    return max(0.0, 1 - (2 / math.pi * (angle + within) if odd else within))


def finding(advantage: float, p: float) -> Finding:
    """Whether a map's place matters to the network more than chance explains, and in which direction."""
    if p >= _LEVEL:
        return "unclear"
    return "follows" if advantage > 0 else "contradicts"


def sanity(heat: Floats, randomised: Floats) -> tuple[float | None, ...]:
    """Spearman's correlation of a map with the maps ``[n, h, w]`` of heads with random weights.

    Adebayo et al., "Sanity Checks for Saliency Maps", arXiv 1810.03292. None if such a map is constant.
    """
    return tuple(spearman(heat, other) for other in randomised)


def _confidence(whole: float, masked: float) -> Confidence:
    drop = max(0.0, whole - masked) / whole if whole > 0 else 0.0
    return Confidence(masked, drop, masked > whole)


def _areas(values: NDArray[Any], fractions: NDArray[Any]) -> NDArray[np.float64]:
    """Areas under curves ``[n, points]`` by the trapezoidal rule, divided by the length of the axis."""
    areas: NDArray[np.float64] = np.trapezoid(values.astype(np.float64), fractions, axis=1) / np.ptp(fractions)
    return areas
