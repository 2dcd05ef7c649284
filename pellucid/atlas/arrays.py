"""What was gathered of a layer or gate -> its facts and arrays in the file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pellucid.atlas import measure
from pellucid.atlas.content import LARGEST, QUANTILES, Evidence, LayerFacts
from pellucid.atlas.gathered import Gathered
from pellucid.atlas.observe import Watched
from pellucid.network.file import CompiledNetwork
from pellucid.types import Array, Floats

_NAMED: Final = 5  # classes in a list
_COLUMNS: Final = 512  # whose quantiles are computed at once


def of_layer(network: CompiledNetwork, gathered: Gathered, layer: Watched) -> tuple[LayerFacts, dict[str, Array]]:
    subject, name = gathered.subject, layer.name
    channels = layer.shape[0]
    columns = subject.parts["mean", name]
    place = subject.parts["maximum", name]  # also among the means of all layers
    arrays = {
        "maximum": _quantiles(gathered, place),
        "mean": _quantiles(gathered, columns),
        "zeros": (gathered.zeros[place] / gathered.pictures).astype("<f4"),
        **_by_class(gathered, place),
    }
    evidence: Evidence = "none"
    scores, counts, named = np.zeros((0, channels)), np.zeros(0, int), list[int]()
    if name in subject.linear:
        evidence = "weights"
        weights = network.weights[network.manifest.values[name].linear or ""].astype(np.float64)
        rows = np.array([row for row, predicted in enumerate(gathered.classes) if predicted >= 0], int)
        counts, named = gathered.counts[rows], [gathered.classes[row] for row in rows]
        sums = gathered.sums[rows, place]
        scores = weights[named] * sums / (counts + 2)[:, None]
    elif name in subject.inner and gathered.differentiated:
        evidence = "gradients"
        inner = [each for each in subject.layers if each.name in subject.inner]
        before = sum(each.shape[0] for each in inner[: [each.name for each in inner].index(name)])
        rows = np.nonzero(gathered.evident)[0]
        counts = gathered.evident[rows]
        scores = gathered.evidence[rows, before : before + channels] / (counts + 2)[:, None]
        named = [gathered.classes[row] for row in rows]
    arrays |= _lists("for", scores, named, counts) | _lists("against", -scores, named, counts, sign=-1)
    predict, agree = measure.of_layer(gathered, name)
    facts = LayerFacts(
        shape=layer.shape, cells=layer.cells, evidence=evidence, crops_predict=predict, classes_agree=agree
    )
    return facts, arrays


def of_gate(
    network: CompiledNetwork, gathered: Gathered, name: str, channels: int, before: str
) -> tuple[LayerFacts, dict[str, Array]]:
    subject = gathered.subject
    columns = subject.parts["highest", name]
    arrays = {
        "weight": _quantiles(gathered, columns),
        **_by_class(gathered, slice(columns.start - subject.channels, columns.stop - subject.channels)),
        **_lists("for", np.zeros((0, channels)), []),
        **_lists("against", np.zeros((0, channels)), []),
    }
    inside = slice(columns.start - subject.weights.start, columns.stop - subject.weights.start)
    if gathered.damaged:
        for number, kind in enumerate(("clean", *subject.damages)):
            copies = np.asarray(gathered.damaged_weights[: gathered.damaged, number, inside])
            arrays[f"damaged {kind}"] = quantiles(copies)
    shape = next(gate.shape for gate in network.spec.gates if gate.layer == name)
    agree, alone = measure.classes_agree(gathered, columns), measure.alone(gathered, columns)
    return LayerFacts(shape=shape, before=before, classes_agree=agree, alone=alone), arrays


def quantiles(values: Floats) -> Floats:
    """33 quantiles ``[C, 33]`` of values ``[n, C]``, evenly spaced, linear between two values."""
    ordered = np.sort(np.ascontiguousarray(values.T), axis=1)
    places = np.linspace(0, len(values) - 1, QUANTILES)
    below = places.astype(int)
    low, high = ordered[:, below], ordered[:, np.minimum(below + 1, len(values) - 1)]
    found: Floats = (low + (places - below) * (high - low)).astype("<f4")
    return found


def _quantiles(gathered: Gathered, columns: slice) -> Floats:
    rows = min(gathered.pictures, len(gathered.values))
    starts = range(columns.start, columns.stop, _COLUMNS)
    parts = [np.array(gathered.values[:rows, start : min(start + _COLUMNS, columns.stop)]) for start in starts]
    return np.concatenate([quantiles(part) for part in parts])


def _by_class(gathered: Gathered, columns: slice) -> dict[str, Array]:
    """The mean of each channel over pictures of each predicted class, and the classes that activate it most."""
    rows = [row for row, predicted in enumerate(gathered.classes) if predicted >= 0]
    order = sorted(rows, key=lambda row: gathered.classes[row])
    counts = gathered.counts[order]
    sums = gathered.sums[:, columns]
    means = sums[order] / np.maximum(counts, 1)[:, None]
    mean = gathered.totals[columns] / gathered.pictures
    variance = gathered.squares[columns] / gathered.pictures - mean**2
    spread = np.sqrt(np.maximum(variance, 0))
    scores = (means - mean) / np.maximum(spread, 1e-12) * (counts / (counts + 2))[:, None]
    named = [gathered.classes[row] for row in order]
    return {
        "class means classes": np.array(named, "<i4"),
        "class means pictures": counts.astype("<i4"),
        "class means": np.clip(means, -65504, 65504).astype("<f2"),
        "spread": spread.astype("<f4"),
        **_lists("activating", np.where(spread > 0, scores, 0), named, counts),
    }


def _lists(
    relation: str, scores: NDArray[Any], classes: Sequence[int], counts: Sequence[int] | Array = (), sign: int = 1
) -> dict[str, Array]:
    """For each channel the classes with the largest positive ``scores`` ``[classes, C]``. Empty places are -1."""
    channels, count = scores.shape[1], min(_NAMED, len(scores))
    order = np.argsort(-scores, axis=0, kind="stable")[:count].T  # [C, count]
    chosen = np.take_along_axis(scores.T, order, 1) if count else np.zeros((channels, 0))
    positive = chosen > 0
    of = np.array(counts if len(counts) else np.zeros(len(scores)), np.int64)
    return {
        f"{relation} classes": np.where(positive, np.array(classes, np.int64)[order], -1).astype("<i4"),
        f"{relation} scores": np.where(positive, sign * np.minimum(chosen, LARGEST / 2), 0).astype("<f4"),
        f"{relation} pictures": np.where(positive, of[order], 0).astype("<i4"),
    }
