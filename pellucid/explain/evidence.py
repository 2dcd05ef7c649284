"""The seam to the runtime: what it must compute, what it hands over, and the gradients of the explained scalars.

A runtime hands over float32. Results keep the dtype of their inputs, so that tests can use float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pellucid.types import Contrast, Floats, Integers, Plan


class Behind(Protocol):
    """The network behind a layer, for one image. Values that by-pass the layer are that image's."""

    @property
    def linear(self) -> Floats | None:
        """The weight ``[classes, C]`` if global average pooling and one linear layer are all that follows, else None.

        The gradient of logit k by the map is then ``linear[k] / (h * w)`` at every position.
        """
        ...

    def logits(self, maps: Floats) -> Floats:
        """``[n, C, h, w]`` -> ``[n, classes]``."""
        ...

    def gradients(self, maps: Floats, wanted: Floats) -> Floats:
        """d (wanted[k] . logits) / d map: ``[n, C, h, w]``, ``[K, classes]`` -> ``[K, n, C, h, w]``."""
        ...

    def shuffled(self, draw: int) -> Behind:
        """A copy with the values of each parameter shuffled. The draw alone is the seed; norms keep their statistics.

        Called only if ``linear`` is None.
        """
        ...


@dataclass(frozen=True)
class ForwardRecord:
    """What the passes of a batch of B images computed. An image has R rows, those of ``wanted`` for its plan.

    ``logits`` ``[B, classes]``. ``maps``: layer, or PIXELS for the normalised picture -> ``[B, C, h, w]``.
    ``gradients``: layer -> for each image ``[R, C, h, w]`` or ``[R, C, 1, 1]``, an empty array if its plan needs none.
    A layer in ``linear`` has no entry. ``gates``: gate -> weights ``[B, C]``. ``gate_gradients``: gate -> for each
    image ``[R, C]``, an empty array if its plan asks for no effects. ``behind``: layer or PIXELS, and image -> the
    network behind it; cheap to call. ``linear``: layer -> Behind.linear. ``waited_s``: seconds before the pass began.

    The next pass may overwrite the arrays: copy what outlives ``explain``.
    """

    logits: Floats
    maps: Mapping[str, Floats]
    gradients: Mapping[str, Sequence[Floats]]
    gates: Mapping[str, Floats]
    gate_gradients: Mapping[str, Sequence[Floats]]
    behind: Callable[[str, int], Behind]
    linear: Mapping[str, Floats]
    waited_s: float = 0.0


@dataclass(frozen=True)
class Evidence:
    """For one image: the activation ``[C, h, w]``, and the gradients of K scalars by it.

    ``gradient`` is ``[K, C, h, w]``, or ``[K, C, 1, 1]`` if it is the same at every position. It broadcasts either way.
    """

    activation: Floats
    gradient: Floats


def resolved(plan: Plan, logits: Floats) -> list[int]:
    """The plan's targets, or the class with the largest of the ``logits`` ``[classes]``. The first of equals wins.

    A contrast excludes its own classes, unless it names all.
    """
    if plan.targets:
        return list(plan.targets)
    if plan.contrast is None:
        return [int(logits.argmax())]
    classes = np.arange(len(logits))
    others = np.delete(classes, plan.contrast.against)
    classes = others if len(others) else classes
    return [int(classes[logits[classes].argmax()])]


def scalars(targets: Sequence[int], contrast: Contrast | None, classes: int) -> Floats:
    """The explained scalars, one for each target, as weights of the logits: ``[K, classes]``."""
    rows: Floats = np.zeros((len(targets), classes), np.float32)
    rows[range(len(targets)), targets] = 1
    if contrast is not None:
        rows[:, contrast.against] -= contrast.weight / len(contrast.against)
    return rows


def has_importance(plan: Plan) -> bool:
    """Whether a plan asks for the importance of a layer's channels."""
    return plan.gates and plan.layer is not None and plan.edit is None


def wanted(plan: Plan, targets: Sequence[int], classes: int) -> Floats:
    """The scalars whose gradients a plan needs, as weights of the logits: ``[R, classes]``.

    The first rows are those of ``scalars``. The importance of channels and the effects of gates ignore a contrast: a
    plan that has one and asks for these needs the first target alone as a last row.
    """
    rows = scalars(targets, plan.contrast, classes)
    if plan.contrast is None or not (has_importance(plan) or (plan.gates and plan.effects)):
        return rows
    return np.concatenate((rows, scalars(targets[:1], None, classes)))


def first_alone(plan: Plan, rows: Floats) -> Floats:
    """The row of the first target without a contrast, out of an array with a row for each of ``wanted``."""
    row: Floats = rows[0 if plan.contrast is None else -1]
    return row


def classes_of(rows: Floats) -> Integers:
    """The few classes that have a weight in ``rows`` ``[K, classes]``."""
    return np.flatnonzero(rows.any(axis=0))


def combined(rows: Floats, linear: Floats) -> Floats:
    """rows @ linear: ``[K, classes]`` and ``[classes, C]`` -> ``[K, C]``."""
    used = classes_of(rows)
    weights: Floats = rows[:, used] @ linear[used]
    return weights


def closed(rows: Floats, linear: Floats, maps: Floats) -> Floats:
    """d (rows[k] . logits) / d map in closed form: ``[K, C, 1, 1]``. ``maps`` is ``[..., C, h, w]``, see Behind."""
    gradient: Floats = combined(rows, linear) / (maps.shape[-2] * maps.shape[-1])
    return gradient[:, :, None, None]


def gradients(behind: Behind, maps: Floats, rows: Floats) -> Floats:
    """As Behind.gradients, but ``[K, n, C, 1, 1]`` and without a pass if the head is linear."""
    if behind.linear is None:
        return behind.gradients(maps, rows)
    known = closed(rows, behind.linear, maps)[:, None]
    return np.broadcast_to(known, (len(rows), len(maps), *known.shape[2:]))


def weighted(weights: Floats, activation: Floats) -> Floats:
    """sum_c weights[k, c] A[c]: ``[K, C]`` and ``[C, h, w]`` -> ``[K, h, w]``."""
    heat: Floats = weights @ activation.reshape(len(activation), -1)  # K C @ C hw
    return heat.reshape(-1, *activation.shape[1:])


def stretched(maps: Floats) -> Floats:
    """Each map of ``[..., h, w]`` scaled to 0 to 1. A flat map becomes 0."""
    low, high = maps.min((-2, -1), keepdims=True), maps.max((-2, -1), keepdims=True)
    unit: Floats = (maps - low) / np.where(high > low, high - low, 1)
    return unit
