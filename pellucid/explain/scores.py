"""Probabilities and the most probable classes, from logits."""

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
        """Compute the softmax of ``logits`` ``[B, classes]``."""
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return cls(logits, powers / powers.sum(1, keepdims=True))

    def of(self, image: int, index: int) -> Prediction:
        """The probability and the logit of class ``index`` for one image."""
        return Prediction(index, float(self.probabilities[image, index]), float(self.logits[image, index]))

    def top(self, counts: Sequence[int]) -> list[tuple[Prediction, ...]]:
        """For each image, the classes with the largest logits, largest first: as many as its entry in ``counts``."""
        indices = strongest(self.logits, max(counts))
        images = np.arange(len(indices))[:, None]
        columns = (indices, self.probabilities[images, indices], self.logits[images, indices])
        rows = zip(counts, *(values.tolist() for values in columns), strict=True)
        return [tuple(map(Prediction, *(column[:count] for column in of_image))) for count, *of_image in rows]


def strongest(values: Floats, count: int) -> Integers:
    """The indices ``[n, count]`` of the largest values in each row of ``values`` ``[n, m]``, largest first.

    Equal values keep their order, so a smaller ``count`` gives a prefix. If m < ``count``, all m indices are returned.
    """
    return ascending(-values)[:, :count]


def ascending(values: Floats) -> Integers:
    """The indices that sort each row of ``values`` ``[n, m]``, smallest first. Equal values keep their order."""
    if values.dtype != np.float32:
        return values.argsort(1, kind="stable")
    # Sorting int64 keys made of value and index is about five times faster than numpy's stable sort of floats.
    bits = (values + 0).view(np.int32)  # -0.0 + 0 is 0.0
    keys = (bits ^ (bits >> 31 & 0x7FFFFFFF)).astype(np.int64) << 32 | np.arange(values.shape[1])
    keys.sort(1)
    return keys & 0xFFFFFFFF
