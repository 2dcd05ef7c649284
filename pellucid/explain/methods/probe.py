"""One image at a cut whose head may be run many times: what methods ask that one gradient is not enough for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.explain.evidence import Head, differentiate, scalars
from pellucid.types import Contrast

# Copies of one image that are sent through a head together; a quarter of them where their gradient is kept.
_COPIES = 32


class GivenUpError(Exception):
    """Nobody waits for the image any more."""


@dataclass(frozen=True)
class Probe:
    """``crossing``: what the head takes, for this image alone, what the method varies first. ``activation``
    ``[C, h, w]``: that of the layer, which differs from the first where the head is the whole network.

    ``void``: as in Batch; asked before each pass, and GivenUpError raised where it says so.
    """

    activation: Tensor
    crossing: tuple[Tensor, ...]
    targets: list[int]
    contrast: Contrast | None
    head: Head
    samples: int
    void: Callable[[], bool]

    def parts(self, count: int, *, gradient: bool = False) -> Iterator[slice]:
        """``count`` copies in parts that are run together."""
        size = _COPIES // 4 if gradient else _COPIES
        for start in range(0, count, size):
            if self.void():
                raise GivenUpError
            yield slice(start, min(start + size, count))

    @property
    def linear(self) -> Tensor | None:
        """The weights of the scalars ``[K, C]``, where global pooling and a linear classifier are all of the head."""
        rows = self.head.linear
        return None if rows is None else scalars(self.targets, self.contrast, rows.T) @ rows

    def scores(self, copies: Tensor) -> Tensor:
        """The scalars of n copies of what the method varies ``[n, ...]``: ``[n, K]``."""
        logits = self._logits(copies)
        return logits @ scalars(self.targets, self.contrast, logits).T

    def gradients(self, copies: Tensor) -> Tensor:
        """d y_k / d copy ``[K, n, ...]``, class by class: all at once would fill the memory of a large network."""
        if self.linear is not None:  # the same everywhere
            constant = self.linear[:, None, :, None, None] / (copies.shape[2] * copies.shape[3])
            return constant.expand(-1, *copies.shape)
        leaf = copies.detach().requires_grad_()
        with torch.enable_grad():
            logits = self._logits(leaf)
        found = []
        for weights in scalars(self.targets, self.contrast, logits):
            if self.void():
                raise GivenUpError
            found.append(differentiate(logits, leaf, weights.expand(1, *logits.shape), keep=True))
        return torch.cat(found)

    def _logits(self, copies: Tensor) -> Tensor:
        others = [value.expand(len(copies), *value.shape[1:]) for value in self.crossing[1:]]
        logits: Tensor = self.head.forward(copies, *others)
        return logits
