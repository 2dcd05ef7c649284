"""What is computed of the answers: of each picture, and of each class. docs/how-to/report.md has the definitions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from pellucid.report.answers import Floats, Seen

# Maps of any shape are put on a grid of so many cells a side.
GRID: Final = 16
# The middle is the rectangle of the frame's proportions with half of its area.
_EDGE: Final = (1 - 0.5**0.5) / 2
# In fewer pictures nothing is called usual.
LEAST: Final = 20
# A deviation that is smaller is rounding.
_LEAST_DEVIATION: Final = 1e-4


@dataclass(frozen=True)
class Spread:
    """The mean weight of a gate's channels over pictures: the 5th, 50th and 95th percentile."""

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class ClassSummary:
    """One explained class.

    ``label`` has the index in it if another explained class has the same label. ``predicted`` counts the pictures whose
    most probable class it is. ``score`` is the mean score of the class. ``right`` is (right, known): how many pictures
    are of the class that their subfolder names. ``mean_map`` ``[GRID, GRID]`` sums to 1, or is 0 if no map has evidence
    for the class.
    """

    index: int
    label: str
    pictures: tuple[Seen, ...]
    predicted: int
    score: float
    right: tuple[int, int]
    mean_map: Floats
    outside: float
    findings: Counter[str]
    gates: dict[str, Spread]


def evidence(heat: Floats) -> Floats:
    """What an overlay shows of a map: its values above a quarter of the largest, less this quarter; 0 elsewhere."""
    return np.asarray(np.maximum(heat - max(0.0, heat.max()) / 4, 0))


def on_grid(heat: Floats) -> Floats:
    """The evidence of a map ``[h, w]`` by area on ``[GRID, GRID]``. Its sum is 1, or 0 if there is none."""
    for_it = evidence(heat)
    rows, columns = (_overlaps(side, np.linspace(0, 1, GRID + 1)) for side in heat.shape)
    shared = rows @ for_it @ columns.T
    return shared / (shared.sum() or 1)


def outside_middle(heat: Floats) -> float | None:
    """The share of a map's evidence outside of the middle, 0 to 1; of an even map 0.5. None if there is none."""
    for_it = evidence(heat)
    return share_outside(for_it) if for_it.any() else None


def share_outside(amounts: Floats) -> float:
    """The share of ``amounts`` ``[h, w]``, none negative, that lies outside of the middle. 0 if all are 0."""
    rows, columns = (_overlaps(side, np.array([_EDGE, 1 - _EDGE])) for side in amounts.shape)
    return float(1 - (rows @ amounts @ columns.T).item() / amounts.sum()) if amounts.any() else 0.0


def _overlaps(cells: int, edges: Floats) -> Floats:
    """The share of each of ``cells`` equal parts of 0 to 1 that lies between two neighbouring ``edges``."""
    starts, ends = np.arange(cells) / cells, np.arange(1, cells + 1) / cells
    shared = np.minimum(edges[1:, None], ends) - np.maximum(edges[:-1, None], starts)
    return np.asarray(np.maximum(shared, 0) * cells)


def of_classes(pictures: Sequence[Seen]) -> list[ClassSummary]:
    """A summary of each explained class, the one with the most pictures first."""
    groups: dict[int, list[Seen]] = {}
    for seen in pictures:
        groups.setdefault(seen.target.index, []).append(seen)
    best = Counter(seen.best.index for seen in pictures)
    shared = Counter(group[0].target.label for group in groups.values())
    return [
        _of_class(group, shared[group[0].target.label] > 1, best[index])
        for index, group in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def _of_class(pictures: Sequence[Seen], shared: bool, predicted: int) -> ClassSummary:
    target = pictures[0].target
    known = [seen for seen in pictures if seen.truth is not None]
    mean_map = np.mean([on_grid(seen.heat) for seen in pictures], axis=0)
    return ClassSummary(
        target.index,
        f"{target.label} ({target.index})" if shared else target.label,
        tuple(pictures),
        predicted,
        float(np.mean([seen.target.number or 0 for seen in pictures])),
        (sum(seen.truth == seen.best.label for seen in known), len(known)),
        mean_map / (mean_map.sum() or 1),
        share_outside(mean_map),
        Counter(seen.cam.trust.finding for seen in pictures if seen.cam.trust),
        gate_spreads(pictures),
    )


def gate_spreads(pictures: Iterable[Seen]) -> dict[str, Spread]:
    """How the mean weight of each gate is spread over the pictures."""
    means: dict[str, list[float]] = {}
    for seen in pictures:
        for layer, weights in seen.gates.items():
            means.setdefault(layer, []).append(float(weights.mean()))
    return {layer: Spread(*map(float, np.percentile(each, (5, 50, 95)))) for layer, each in means.items()}


def gate_distances(pictures: Sequence[Seen]) -> list[tuple[str, float]]:
    """For each picture, the gate whose weights are furthest from those of the other pictures, and how far.

    The weights of a channel are counted in its standard deviations from its median, and the channels' magnitudes are
    averaged: the picture's distance at this gate. The number is that distance in robust standard deviations (1.4826
    times the median absolute deviation) from the median over the pictures. A deviation is at least a tenth of the
    median, and pictures with equal weights count once. Empty for fewer than LEAST pictures with weights of their own.
    """
    found: dict[str, Floats] = {}
    for layer in pictures[0].gates if pictures else ():
        weights = np.stack([seen.gates[layer] for seen in pictures])  # pictures, C
        once = np.unique(weights.round(4), return_index=True, axis=0)[1]
        if len(once) >= LEAST:
            spread = np.maximum(weights[once].std(0), _LEAST_DEVIATION)
            distances = (np.abs(weights - np.median(weights[once], 0)) / spread).mean(1)
            median = float(np.median(distances[once]))
            robust = 1.4826 * float(np.median(np.abs(distances[once] - median)))
            found[layer] = (distances - median) / max(robust, median / 10, _LEAST_DEVIATION)
    if not found:
        return []
    layers, table = list(found), np.stack([*found.values()])  # gates, pictures
    return [(layers[gate], float(table[gate, place])) for place, gate in enumerate(table.argmax(0))]
