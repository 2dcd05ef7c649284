"""The seam to the engine: the arrays that it returns.

The engine returns float32. Every result keeps the dtype of its inputs, so that tests can use float64.

An explained scalar is a weighted sum of the logits. It is written as a row of weights ``[classes]`` (``scalars``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from pellucid.network.spec import SOFTMAX, OutputSpec
from pellucid.types import Floats, Integers, Plan


class Behind(Protocol):
    """The network behind a layer, for one image.

    Values that bypass the layer, such as a skip connection, are fixed to those of the image.
    """

    @property
    def linear(self) -> Floats | None:
        """The weight ``[classes, C]`` of the classifier if the head is linear, else None.

        A linear head is global average pooling and one linear layer. The gradient of logit k by the map is then
        ``linear[k] / (h * w)`` at every position.
        """
        ...

    def logits(self, maps: Floats) -> Floats:
        """The logits ``[n, classes]`` of ``maps`` ``[n, C, h, w]``."""
        ...

    def gradients(self, maps: Floats, wanted: Floats) -> Floats:
        """d (wanted[k] . logits) / d map: ``[K, n, C, h, w]``.

        ``maps`` is ``[n, C, h, w]``, and ``wanted`` ``[K, classes]``.
        """
        ...

    def shuffled(self, draw: int) -> Behind:
        """A copy in which the values of each parameter are shuffled. ``draw`` is the seed.

        Normalisation layers keep their running statistics. Called only if ``linear`` is None.
        """
        ...


@dataclass(frozen=True)
class ForwardRecord:
    """The arrays that the passes of a batch of B images computed. R is the number of rows of ``wanted`` for an image.

    - ``logits``: ``[B, classes]``. Of a dense output ``[B, classes * h * w]``, of an embedding ``[B, dimensions]``.
    - ``output``: what they mean
    - ``maps``: layer, or PIXELS for the normalised picture -> ``[B, C, h, w]``
    - ``gradients``: layer -> for each image ``[R, C, h, w]`` or ``[R, C, 1, 1]``; empty if its plan needs none. Layers
      in ``linear`` have no entry.
    - ``gates``: gate -> weights ``[B, C]``
    - ``gate_gradients``: gate -> for each image ``[R, C]``; empty if its plan has no ``effects``
    - ``behind``: (layer or PIXELS, image's index) -> the network behind it. Cheap to call.
    - ``linear``: layer -> ``Behind.linear``
    - ``waited_s``: seconds that the batch waited in the runtime before its pass began
    - ``spatial_gates``: gate -> weights ``[B, h, w]``
    - ``attentions``: the matrix ``[B, heads, N, N]`` of each attention, in order; empty if no plan needs them
    - ``attention_gradients``: for each attention, for each image ``[R, heads, N, N]``

    The next pass may overwrite the arrays. Copy everything that outlives the call of ``explain``.
    """

    logits: Floats
    maps: Mapping[str, Floats]
    gradients: Mapping[str, Sequence[Floats]]
    gates: Mapping[str, Floats]
    gate_gradients: Mapping[str, Sequence[Floats]]
    behind: Callable[[str, int], Behind]
    linear: Mapping[str, Floats]
    output: OutputSpec = SOFTMAX
    waited_s: float = 0.0
    spatial_gates: Mapping[str, Floats] = field(default_factory=dict)
    attentions: Sequence[Floats] = ()
    attention_gradients: Sequence[Sequence[Floats]] = ()


@dataclass(frozen=True)
class Evidence:
    """One image's activation ``[C, h, w]``, and the gradients of K scalars by it.

    ``gradient`` is ``[K, C, h, w]``, or ``[K, C, 1, 1]`` if it is the same at every position. Both broadcast.
    """

    activation: Floats
    gradient: Floats


@dataclass(frozen=True)
class Attended:
    """One image's attention between N tokens, in the order of the network's attentions.

    - ``matrices``: each ``[heads, N, N]``, one row for each query
    - ``gradients``: of K scalars by each matrix, each ``[K, heads, N, N]``; empty unless the method needs them. The
      scalars are those of the attention's own block: of the logits that the mean of its tokens gives.
    - ``extra``: the first tokens, which are not positions
    - ``grid``: (height, width) of the positions
    - ``read``: the range of tokens that the logits are computed from
    - ``targets``: K
    """

    matrices: Sequence[Floats]
    gradients: Sequence[Floats]
    extra: int
    grid: tuple[int, int]
    read: tuple[int, int]
    targets: int


def has_importance(plan: Plan) -> bool:
    """Whether a plan requests the importance of a layer's channels."""
    return plan.gates and plan.layer is not None and plan.edit is None


def used_classes(rows: Floats) -> Integers:
    """The indices of the classes with a nonzero weight in ``rows`` ``[K, classes]``. They are few."""
    return np.flatnonzero(rows.any(axis=0))


def channel_gradient(rows: Floats, linear: Floats) -> Floats:
    """rows @ linear: ``[K, classes]`` @ ``[classes, C]`` -> ``[K, C]``. Skips classes without a weight."""
    used = used_classes(rows)
    weights: Floats = rows[:, used] @ linear[used]
    return weights


def closed_form(rows: Floats, linear: Floats, maps: Floats) -> Floats:
    """d (rows[k] . logits) / d map in closed form ``[K, C, 1, 1]``, for a linear head. See ``Behind.linear``.

    ``rows`` ``[K, classes]``, ``linear`` ``[classes, C]``, ``maps`` ``[..., C, h, w]``.
    """
    gradient: Floats = channel_gradient(rows, linear) / (maps.shape[-2] * maps.shape[-1])
    return gradient[:, :, None, None]


def gradients(behind: Behind, maps: Floats, rows: Floats) -> Floats:
    """``Behind.gradients``, or the closed form ``[K, n, C, 1, 1]``, which needs no pass, if the head is linear."""
    if behind.linear is None:
        return behind.gradients(maps, rows)
    gradient = closed_form(rows, behind.linear, maps)[:, None]
    return np.broadcast_to(gradient, (len(rows), len(maps), *gradient.shape[2:]))


def weighted_sum(weights: Floats, activation: Floats) -> Floats:
    """sum_c weights[k, c] A[c]: ``[K, C]`` and ``[C, h, w]`` -> ``[K, h, w]``."""
    heat: Floats = weights @ activation.reshape(len(activation), -1)  # K C @ C hw
    return heat.reshape(-1, *activation.shape[1:])


def min_max_scaled(maps: Floats) -> Floats:
    """Each map of ``[..., h, w]``, scaled to the range 0 to 1. A constant map becomes 0."""
    low, high = maps.min((-2, -1), keepdims=True), maps.max((-2, -1), keepdims=True)
    unit: Floats = (maps - low) / np.where(high > low, high - low, 1)
    return unit
