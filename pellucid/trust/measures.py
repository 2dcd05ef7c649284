"""Scores of the perturbations -> curves, their areas, and whether the network follows the map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pellucid.trust.perturbations import ROAD_FRACTIONS, Perturbations
from pellucid.trust.ranks import spearman
from pellucid.types import Floats

Test = Literal["deletion", "insertion", "road"]
Measure = Literal["probability", "value", "similarity"]
Finding = Literal["follows", "unclear", "contradicts"]

# Within this many standard deviations of random maps, an advantage can be chance.
_CLEAR: Final = 2.0


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
    probability. ``noise``: the standard deviation of a random map's advantage. ``gaussian``: the advantage of the
    Gaussian in the middle. ``beaten``: the number of random maps with a lower advantage. ``measure``: what the scores
    are. The confidences are None unless they are probabilities.
    """

    measure: Measure

    finding: Finding
    advantage: float
    noise: float
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


def _of_target(perturbations: Perturbations, scores: NDArray[Any], target: int, measure: Measure) -> Measured:
    found = {perturbation: float(score) for perturbation, score in zip(perturbations.plan, scores, strict=True)}
    by_map: dict[tuple[str, int], list[float]] = {}
    for perturbation, score in found.items():
        by_map.setdefault((perturbation.kind, perturbation.map), []).append(score)
    original, blank, blurred = (by_map[kind, -1] for kind in ("original", "blank", "blurred"))
    baselines = len(perturbations.maps) - perturbations.targets
    rows = [baselines + target, *range(baselines)]  # the map, the Gaussian, the random ones
    whole = (0.0, *perturbations.design.fractions, 1.0)

    def curve(test: Test, fractions: Sequence[float], before: list[float], after: list[float]) -> Curve:
        values = np.array([before + by_map[test, row] + after for row in rows], np.float32)
        areas = _areas(values, np.asarray(fractions))
        return Curve(
            test,
            np.asarray(fractions, np.float32),
            *(values[0], values[1], values[2:]),
            *(float(areas[0]), float(areas[1]), areas[2:].astype(np.float32)),
        )

    curves = (
        curve("deletion", whole, original, blank),
        curve("insertion", whole, blurred, original),
        curve("road", (0.0, *ROAD_FRACTIONS), original, []),
    )
    signs = {"deletion": -1, "insertion": 1, "road": -1}
    merits = np.mean([signs[c.test] * np.array([c.map_auc, c.gaussian_auc, *c.random_auc]) for c in curves], 0)
    advantages = merits - merits[2:].mean()
    random = advantages[2:]
    noise = float(random.std(ddof=1) * np.sqrt(1 + 1 / len(random)))
    confidences: list[Confidence] = []
    if measure == "probability":
        confidences = [_confidence(original[0], by_map["masked", row][0]) for row in rows]
    heat = perturbations.maps[rows[0]]
    total = float(np.abs(heat).sum())
    return Measured(
        measure=measure,
        finding=finding(float(advantages[0]), noise),
        advantage=float(advantages[0]),
        noise=noise,
        gaussian=float(advantages[1]),
        beaten=int((random < advantages[0]).sum()),
        curves=curves,
        confidence=confidences[0] if confidences else None,
        gaussian_confidence=confidences[1] if confidences else None,
        random_confidence=tuple(confidences[2:]),
        random_maps=len(random),
        positive_share=float(np.maximum(heat, 0).sum()) / total if total else 0.0,
        passes=len(perturbations),
    )


def finding(advantage: float, noise: float) -> Finding:
    """Whether a map's advantage is larger than chance explains, and its sign."""
    if abs(advantage) <= _CLEAR * noise:
        return "unclear"
    return "follows" if advantage > 0 else "contradicts"


def sentence(found: Measured, label: str, down: bool = False) -> str:
    """The finding as a sentence. ``down``: the map shows what lowers the score."""
    random, measure = found.random_maps, found.measure
    spread = "random maps have no spread"
    if found.noise:
        spread = f"{abs(found.advantage) / found.noise:.1f} times the spread of random maps"
    said = {
        "follows": f"The network follows this map for {label!r}: taking away what it marks "
        + (
            f"raises the {measure} more, and showing it lowers it more,"
            if down
            else f"costs more of the {measure}, and showing it brings more back,"
        )
        + " than with random maps on average",
        "unclear": f"It is unclear whether the network follows this map for {label!r}: its advantage is within "
        "twice the spread of random maps, too little to tell it from chance",
        "contradicts": f"The network contradicts this map for {label!r}: random maps do better on average",
    }[found.finding]
    gaussian = "less" if found.gaussian < found.advantage else "more"
    return (
        f"{said} (advantage {found.advantage:+.3f} of {measure}, {spread}; it beats "
        f"{found.beaten} of {random}). A spot in the middle of the picture does {gaussian} ({found.gaussian:+.3f})."
    )


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
