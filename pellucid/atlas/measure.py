"""How far examples and classes of one half of the pictures tell what channels do in the other half."""

from __future__ import annotations

from typing import Final

import numpy as np

from pellucid.atlas.gathered import Gathered
from pellucid.ranks import rank_correlations
from pellucid.types import Array

_LEAST: Final = 40  # pictures
_MOST: Final = 2000  # pictures of each half
_USUAL: Final = 0.995  # of the pictures
_FARTHEST: Final = 1e6
_LEAST_CLASSES: Final = 8
_LEAST_OF_CLASS: Final = 2  # pictures in each half


def of_layer(gathered: Gathered, name: str) -> tuple[float | None, float | None]:
    """``crops_predict`` and ``classes_agree`` of a layer. See LayerFacts."""
    columns = gathered.subject.parts["mean", name]
    count = min(gathered.pictures, len(gathered.values))
    if count < _LEAST:
        return None, None
    maxima = gathered.values[:count, gathered.subject.parts["maximum", name]]
    means = gathered.values[:count, columns]
    examples = gathered.best.value.shape[1]
    first, second = _half(maxima, 0), _half(maxima, 1)
    known, new = _half(means, 0), _half(means, 1)
    centre, scale = known.mean(0), known.std(0) + 1e-12
    known, new = (known - centre) / scale, (new - centre) / scale
    products = new @ known.T  # over all channels
    of_known, of_new = (known**2).sum(1), (new**2).sum(1)
    alike = np.zeros_like(second)
    shown = np.argsort(-first, axis=0, kind="stable")[:examples]
    for channel in range(maxima.shape[1]):
        own, others = new[:, channel], known[shown[:, channel], channel]
        dots = products[:, shown[:, channel]] - own[:, None] * others
        lengths = np.sqrt(np.maximum((of_new - own**2)[:, None] * (of_known[shown[:, channel]] - others**2), 0))
        alike[:, channel] = np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0).mean(1)
    return _correlation(second, alike), classes_agree(gathered, columns)


def classes_agree(gathered: Gathered, columns: slice) -> float | None:
    """The rank correlation of the class means of both halves, the mean over channels. None: too few pictures."""
    count = min(gathered.pictures, len(gathered.values))
    values = np.asarray(gathered.values[:count, columns])
    predicted = gathered.predicted[gathered.sampled[:count]]
    halves: list[dict[int, Array]] = []
    for half in (0, 1):
        classes, counts = np.unique(predicted[half::2], return_counts=True)
        enough = classes[(counts >= _LEAST_OF_CLASS) & (classes >= 0)].tolist()
        of = predicted[half::2]
        halves.append({each: values[half::2][of == each].mean(0, dtype=np.float64) for each in enough})
    shared = [each for each in halves[0] if each in halves[1]]
    if len(shared) < _LEAST_CLASSES:
        return None
    return _correlation(*(np.stack([half[each] for each in shared]) for half in halves))


def alone(gathered: Gathered, columns: slice) -> float:
    """``alone`` of a gate. See LayerFacts."""
    values = np.asarray(gathered.values[: min(gathered.pictures, len(gathered.values)), columns])
    if len(values) < 3:
        return 0.0
    far = np.zeros(values.shape)
    for sign in (1, -1):
        ends = np.partition(sign * values, (0, 1), axis=0)
        gap, span = ends[1] - ends[0], ends.max(0) - ends[1]
        far += np.where(sign * values == ends[0], gap / np.maximum(span, 1e-12), 0)
    return round(min(float(np.quantile(far.mean(1), _USUAL)), _FARTHEST), 6)


def _half(values: Array, half: int) -> Array:
    return np.asarray(values[half::2][:_MOST])


def _correlation(one: Array, other: Array) -> float | None:
    """The rank correlation of ``[n, C]`` and ``[n, C]``, the mean over channels. None if no channel varies in both."""
    found = rank_correlations(one, other)
    known = found[np.isfinite(found)]
    return round(float(known.mean()), 4) if len(known) else None
