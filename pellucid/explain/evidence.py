"""What the passes of one batch left behind, and the gradients of what is explained: arrays, whatever made them.

``Floats`` are float32 from a runtime. What is computed has the dtype of what it is computed from, so tests use float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pellucid.types import Contrast, Floats, Integers, Plan


class Behind(Protocol):
    """The network behind a layer, for one image: what by-passes the layer is that image's own."""

    @property
    def linear(self) -> Floats | None:
        """The weight ``[classes, C]`` where global average pooling and one linear layer follow, else None.

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
        """The same with the values of each parameter in another order, seeded by the draw alone.

        Norms keep their statistics. Called only where ``linear`` is None.
        """
        ...


@dataclass(frozen=True)
class ForwardRecord:
    """What the passes of one batch left behind, for B images. R: the rows of ``wanted`` for an image's plan.

    ``logits`` ``[B, classes]``. ``maps``: layer, or PIXELS for the normalised picture -> ``[B, C, h, w]``.
    ``gradients``: layer -> for each image ``[R, C, h, w]`` or ``[R, C, 1, 1]``, empty where its plan asks for none;
    no entry for layers in ``linear``. ``gates``: gate -> weights ``[B, C]``. ``gate_gradients``: gate -> for each
    image ``[R, C]``, empty where its plan asks for no effects. ``behind``: layer or PIXELS, and image -> the network
    behind it; cheap. ``linear``: layer -> its head's weight ``[classes, C]``, see Behind. ``waited_s``: seconds before
    the pass began.

    A later pass may overwrite the arrays, so what outlives this one is copied.
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
    """For one image: the activation ``[C, h, w]`` and, for K classes, the gradient of each one's scalar by it.

    ``gradient`` is ``[K, C, h, w]``, or ``[K, C, 1, 1]`` where it is the same at every position; it broadcasts either
    way.
    """

    activation: Floats
    gradient: Floats


def resolved(plan: Plan, logits: Floats) -> list[int]:
    """The plan's targets, or the class with the largest of the ``logits`` ``[classes]``; of equals the first.

    With a contrast, one that it is not explained against, if there is any.
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
    """The scalars that are explained, as weights of the logits: ``[K, classes]``."""
    rows: Floats = np.zeros((len(targets), classes), np.float32)
    rows[range(len(targets)), targets] = 1
    if contrast is not None:
        rows[:, contrast.against] -= contrast.weight / len(contrast.against)
    return rows


def has_importance(plan: Plan) -> bool:
    """Whether a plan asks for the importance of a layer's channels."""
    return plan.gates and plan.layer is not None and plan.edit is None


def wanted(plan: Plan, targets: Sequence[int], classes: int) -> Floats:
    """The weights of the logits whose gradients a plan needs: ``[R, classes]``, a row for each target, see ``scalars``.

    The importance of channels and the effects of gates are of the first target alone, so with a contrast there is a
    last row for it.
    """
    rows = scalars(targets, plan.contrast, classes)
    if plan.contrast is None or not (has_importance(plan) or (plan.gates and plan.effects)):
        return rows
    return np.concatenate((rows, scalars(targets[:1], None, classes)))


def first_alone(plan: Plan, rows: Floats) -> Floats:
    """Of what has a row for each of ``wanted``, that of the first target without a contrast."""
    row: Floats = rows[0 if plan.contrast is None else -1]
    return row


def classes_of(rows: Floats) -> Integers:
    """The few classes that have a weight in ``rows`` ``[K, classes]``."""
    return np.flatnonzero(rows.any(axis=0))


def closed(rows: Floats, linear: Floats, maps: Floats) -> Floats:
    """d (rows[k] . logits) / d map in closed form: ``[K, C, 1, 1]``. ``maps`` is ``[..., C, h, w]``, see Behind."""
    used = classes_of(rows)
    gradient: Floats = rows[:, used] @ linear[used] / (maps.shape[-2] * maps.shape[-1])
    return gradient[:, :, None, None]


def gradients(behind: Behind, maps: Floats, rows: Floats) -> Floats:
    """As Behind.gradients; ``[K, n, C, 1, 1]`` where they are known without a pass."""
    if behind.linear is None:
        return behind.gradients(maps, rows)
    known = closed(rows, behind.linear, maps)[:, None]
    return np.broadcast_to(known, (len(rows), len(maps), *known.shape[2:]))


def weighted(weights: Floats, activation: Floats) -> Floats:
    """sum_c weights[k, c] A[c]: ``[K, C]`` and ``[C, h, w]`` -> ``[K, h, w]``."""
    heat: Floats = weights @ activation.reshape(len(activation), -1)  # K C @ C hw
    return heat.reshape(-1, *activation.shape[1:])


def stretched(maps: Floats) -> Floats:
    """Each map of ``[..., h, w]`` from its smallest value to its largest, 0 to 1; one that is flat is 0."""
    low, high = maps.min((-2, -1), keepdims=True), maps.max((-2, -1), keepdims=True)
    unit: Floats = (maps - low) / np.where(high > low, high - low, 1)
    return unit
