"""Logits -> classes with their probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.types import Floats, Integers, Prediction


@dataclass(frozen=True)
class Scores:
    """Logits ``[B, classes]`` and their softmax."""

    logits: Floats
    probabilities: Floats

    @classmethod
    def of_logits(cls, logits: Floats) -> Scores:
        """The logits with their softmax."""
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return cls(logits, powers / powers.sum(1, keepdims=True))

    def of(self, image: int, index: int) -> Prediction:
        """One class of one image."""
        return Prediction(index, float(self.probabilities[image, index]), float(self.logits[image, index]))

    def top(self, counts: Sequence[int]) -> list[tuple[Prediction, ...]]:
        """For each image its ``count`` classes with the largest logits, the largest first."""
        indices = strongest(self.logits, max(counts))
        images = np.arange(len(indices))[:, None]
        columns = (indices, self.probabilities[images, indices], self.logits[images, indices])
        rows = zip(counts, *(values.tolist() for values in columns), strict=True)
        return [tuple(map(Prediction, *(column[:count] for column in of_image))) for count, *of_image in rows]


def strongest(values: Floats, count: int) -> Integers:
    """The places of the ``count`` largest values of each row ``[n, m]``, the largest first: ``[n, count]``.

    Equals keep their order, whatever the count. A shorter row has all its places.
    """
    return ascending(-values)[:, :count]


def ascending(values: Floats) -> Integers:
    """The places of the values of each row ``[n, m]``, the least value first. Equals keep their order."""
    if values.dtype != np.float32:
        return values.argsort(1, kind="stable")
    # numpy sorts integers of value and place about five times faster than it sorts floats stably.
    bits = (values + 0).view(np.int32)  # -0 + 0 is 0
    keys = (bits ^ (bits >> 31 & 0x7FFFFFFF)).astype(np.int64) << 32 | np.arange(values.shape[1])
    keys.sort(1)
    return keys & 0xFFFFFFFF
