"""Turns the scores of trials into curves, areas, and one advantage: whether the network follows the map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pellucid.trust.ranks import spearman
from pellucid.trust.trials import ROAD_FRACTIONS, Trials
from pellucid.types import Floats

Test = Literal["deletion", "insertion", "road"]
Finding = Literal["follows", "unclear", "contradicts"]

# An advantage within this many standard deviations of the random maps is not distinguishable from chance.
_CLEAR: Final = 2.0


@dataclass(frozen=True, slots=True)
class Curve:
    """A class's probability against the share of pixels that were removed or restored, ``fractions`` ``[n]``.

    Pixels are taken in the order of the map (``map`` ``[n]``), of a centred Gaussian (``gaussian`` ``[n]``), or of R
    random maps (``random`` ``[R, n]``). ``map_auc``, ``gaussian_auc`` and ``random_auc`` ``[R]`` are the areas under
    the curves, 0 to 1.
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
    """The class's probability on the picture masked by the map. Grad-CAM++, arXiv 1710.11063, section 4.1.

    With Y the probability on the whole picture and O on the masked one: ``probability`` is O, ``drop`` is
    max(0, Y - O) / Y, and ``increase`` is O > Y.
    """

    probability: float
    drop: float
    increase: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """How far the map of one target can be trusted.

    - ``advantage``: by how much the map's areas are better than the mean random map's, averaged over the tests, in
      probability
    - ``noise``: the standard deviation of the advantage that one more random map would have
    - ``gaussian``: the advantage of a centred Gaussian
    - ``beaten``: the number of random maps with a lower advantage
    - ``positive_share``: the sum of the map's positive values, divided by the sum of all magnitudes
    - ``passes``: the number of pictures that were scored
    """

    finding: Finding
    advantage: float
    noise: float
    gaussian: float
    beaten: int
    curves: tuple[Curve, ...]
    confidence: Confidence
    gaussian_confidence: Confidence
    random_confidence: tuple[Confidence, ...]
    positive_share: float
    passes: int


def measured(trials: Trials, scores: NDArray[Any]) -> tuple[Measured, ...]:
    """Evaluate each target. ``scores`` ``[trials, targets]`` are the targets' probabilities on the trials' pictures."""
    return tuple(_of_target(trials, scores[:, target], target) for target in range(trials.targets))


def _of_target(trials: Trials, scores: NDArray[Any], target: int) -> Measured:
    by_map: dict[tuple[str, int], list[float]] = {}
    for trial, score in zip(trials.plan, scores, strict=True):
        by_map.setdefault((trial.kind, trial.map), []).append(float(score))
    original, blank, blurred = (by_map[kind, -1] for kind in ("original", "blank", "blurred"))
    baselines = len(trials.maps) - trials.targets
    rows = [baselines + target, *range(baselines)]  # the map, the Gaussian, the random maps
    whole = (0.0, *trials.design.fractions, 1.0)

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
    quality = np.mean([signs[c.test] * np.array([c.map_auc, c.gaussian_auc, *c.random_auc]) for c in curves], 0)
    advantages = quality - quality[2:].mean()
    random = advantages[2:]
    noise = float(random.std(ddof=1) * np.sqrt(1 + 1 / len(random)))
    confidences = [_confidence(original[0], by_map["masked", row][0]) for row in rows]
    heat = trials.maps[rows[0]]
    total = float(np.abs(heat).sum())
    return Measured(
        finding=finding(float(advantages[0]), noise),
        advantage=float(advantages[0]),
        noise=noise,
        gaussian=float(advantages[1]),
        beaten=int((random < advantages[0]).sum()),
        curves=curves,
        confidence=confidences[0],
        gaussian_confidence=confidences[1],
        random_confidence=tuple(confidences[2:]),
        positive_share=float(np.maximum(heat, 0).sum()) / total if total else 0.0,
        passes=len(trials),
    )


def finding(advantage: float, noise: float) -> Finding:
    """Whether the advantage is more than twice the noise above 0 (follows) or below 0 (contradicts)."""
    if abs(advantage) <= _CLEAR * noise:
        return "unclear"
    return "follows" if advantage > 0 else "contradicts"


def sentence(result: Measured, label: str) -> str:
    """The finding as a sentence for people. ``label`` is the class's label."""
    random = len(result.random_confidence)
    spread = "random maps have no spread"
    if result.noise:
        spread = f"{abs(result.advantage) / result.noise:.1f} times the spread of random maps"
    text = {
        "follows": f"The network follows this map for {label!r}: taking away what it marks costs more of the class's "
        "probability, and showing it brings more back, than with random maps on average",
        "unclear": f"It is unclear whether the network follows this map for {label!r}: its advantage is within "
        "twice the spread of random maps, too little to tell it from chance",
        "contradicts": f"The network contradicts this map for {label!r}: random maps do better on average",
    }[result.finding]
    gaussian = "less" if result.gaussian < result.advantage else "more"
    return (
        f"{text} (advantage {result.advantage:+.3f} of probability, {spread}; it beats "
        f"{result.beaten} of {random}). A spot in the middle of the picture does {gaussian} ({result.gaussian:+.3f})."
    )


def sanity(heat: Floats, randomised: Floats) -> tuple[float | None, ...]:
    """Spearman's correlation of a map ``[h, w]`` with each map ``[n, h, w]`` of a head with random weights.

    None for a constant map. Adebayo et al., "Sanity Checks for Saliency Maps", arXiv 1810.03292.
    """
    return tuple(spearman(heat, other) for other in randomised)


def _confidence(whole: float, masked: float) -> Confidence:
    drop = max(0.0, whole - masked) / whole if whole > 0 else 0.0
    return Confidence(masked, drop, masked > whole)


def _areas(values: NDArray[Any], fractions: NDArray[Any]) -> NDArray[np.float64]:
    """Areas ``[n]`` under the curves ``[n, points]`` by the trapezoidal rule, divided by the length of the axis."""
    areas: NDArray[np.float64] = np.trapezoid(values.astype(np.float64), fractions, axis=1) / np.ptp(fractions)
    return areas
