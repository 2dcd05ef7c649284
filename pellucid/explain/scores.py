"""Scores of classes, labels and quantities, from a network's output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pellucid.network.spec import OutputSpec
from pellucid.types import Floats, Integers, Plan, Prediction, Region


@dataclass(frozen=True)
class Scores:
    """The ``logits`` of a batch, as in ForwardRecord, with what they mean.

    ``probabilities`` ``[B, classes]`` is None for outputs that have none. ``segmentations`` has the class at each
    position ``[h, w]`` of a dense output, one for each image.
    """

    logits: Floats
    output: OutputSpec
    probabilities: Floats | None
    segmentations: Sequence[NDArray[np.uint8]] = ()

    @classmethod
    def of_logits(cls, logits: Floats, output: OutputSpec) -> Scores:
        """Compute the softmax, the sigmoid or the segmentations of ``logits``."""
        match output.kind:
            case "softmax":
                return cls(logits, output, _softmax(logits))
            case "sigmoid":
                return cls(logits, output, _sigmoid(logits))
            case "dense":
                return cls(logits, output, None, [_segmentation(image.reshape(output.shape)) for image in logits])
        return cls(logits, output, None)

    def of(self, image: int, index: int, region: Region, plan: Plan) -> Prediction:
        """The scores of class ``index`` for one image.

        ``region`` has a mask if the output is dense. For an embedding they are those of the plan's reference.
        """
        if self.output.kind == "dense":
            assert region.mask is not None
            logits = self.logits[image].reshape(self.output.shape)[:, region.mask]  # classes n
            probability = (_softmax(logits.T)[:, index] if len(logits) > 1 else _sigmoid(logits[0])).mean()
            return Prediction(index, float(probability), float(logits[index].mean()), self._shares(image)[index])
        if self.output.kind == "embedding":
            cosine = 0.0 if plan.reference is None else float(self.logits[image] @ plan.reference.vector)
            return Prediction(0, None, cosine)
        probability = None if self.probabilities is None else float(self.probabilities[image, index])
        return Prediction(index, probability, float(self.logits[image, index]))

    def top(self, counts: Sequence[int]) -> list[tuple[Prediction, ...]]:
        """The predictions of each image, as many as its entry in ``counts`` at most.

        Classes and labels have the largest logits, largest first. Those of a dense output have the largest shares of
        the picture, and a share at all. Quantities are in the network's order. An embedding has no predictions.
        """
        if self.output.kind == "embedding":
            return [()] * len(counts)
        if self.output.kind == "dense":
            return [tuple(self._largest(i)[:count]) for i, count in enumerate(counts)]
        if self.probabilities is None:
            values = [self.logits[i, :count].tolist() for i, count in enumerate(counts)]
            return [tuple(Prediction(j, None, value) for j, value in enumerate(of_image)) for of_image in values]
        indices = strongest(self.logits, max(counts))
        images = np.arange(len(indices))[:, None]
        columns = (indices, self.probabilities[images, indices], self.logits[images, indices])
        rows = zip(counts, *(values.tolist() for values in columns), strict=True)
        return [tuple(map(Prediction, *(column[:count] for column in of_image))) for count, *of_image in rows]

    def default_target(self, image: int, excluded: Sequence[int] = ()) -> int:
        """The class that is explained if a request names none.

        It has the largest logit; the first of equal ones. Of a dense output it has the largest share of the picture,
        the background last. A quantity is the first. ``excluded`` classes are left out, unless all are.
        """
        if self.output.kind == "embedding":
            return 0
        values: Floats = self.logits[image]
        if self.output.kind == "dense":
            values = np.asarray(self._shares(image), np.float32)
            if self.output.background is not None:
                values[self.output.background] -= 2
        elif self.output.kind == "linear":
            return next((index for index in range(len(values)) if index not in excluded), 0)
        classes = np.arange(len(values))
        others = np.delete(classes, excluded)
        classes = others if len(others) else classes
        return int(classes[values[classes].argmax()])

    def where(self, image: int, index: int) -> NDArray[np.bool_]:
        """The positions ``[h, w]`` of a dense output where class ``index`` has the largest logit."""
        positions: NDArray[np.bool_] = self.segmentations[image] == (index if self.output.shape[0] > 1 else 1)
        return positions

    def _shares(self, image: int) -> list[float]:
        """The share of the picture of each class."""
        found, classes = self.segmentations[image], self.output.shape[0]
        counts = np.bincount(found.ravel(), minlength=max(classes, 2)).tolist()
        return [count / found.size for count in (counts if classes > 1 else counts[1:])]

    def _largest(self, image: int) -> list[Prediction]:
        shares, logits = self._shares(image), self.logits[image].reshape(self.output.shape)
        order = sorted(range(len(shares)), key=lambda index: -shares[index])
        return [
            Prediction(index, None, float(logits[index][self.where(image, index)].mean()), shares[index])
            for index in order
            if shares[index] > 0
        ]


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    probabilities: Floats = powers / powers.sum(1, keepdims=True)
    return probabilities


def _sigmoid(logits: Floats) -> Floats:
    probabilities: Floats = np.reciprocal(1 + np.exp(-logits))
    return probabilities


def _segmentation(logits: Floats) -> NDArray[np.uint8]:
    """The class ``[h, w]`` with the largest logit; of ``[1, h, w]``, whether it is positive."""
    found: NDArray[np.uint8] = (logits[0] > 0 if len(logits) == 1 else np.zeros(logits.shape[1:])).astype(np.uint8)
    best = logits[0].copy()
    for index, values in enumerate(logits[1:], 1):  # numpy's argmax over the first axis takes ten times as long
        found[values > best] = index
        np.maximum(best, values, out=best)
    return found


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
