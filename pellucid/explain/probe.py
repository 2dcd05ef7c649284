"""Runs the network behind a layer many times for one image. For methods that need more than one gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pellucid.explain.evidence import Behind, channel_gradient, gradients
from pellucid.types import Floats

# Copies of one image in one pass. Passes with gradients take a quarter of it, divided by the number of classes.
_COPIES = 32


class GivenUpError(Exception):
    """The caller has left, so the work was abandoned."""


@dataclass(frozen=True)
class Probe:
    """One image, and the network that a method may run on varied copies of it.

    - ``activation`` ``[C, h, w]``: the layer's activation
    - ``varied`` ``[C, h, w]``: the input of ``behind``. It is ``activation``, or the normalised picture.
    - ``wanted`` ``[K, classes]``: the explained scalars, as weights of the logits
    - ``samples``: the number of passes of methods that sample
    - ``void``: true once the caller has left, see Batch
    """

    activation: Floats
    varied: Floats
    wanted: Floats
    behind: Behind
    samples: int
    void: Callable[[], bool]

    def passes(self, count: int, *, gradient: bool = False) -> Iterator[slice]:
        """Split ``count`` copies into slices, one for each pass.

        ``gradient`` makes them smaller. Raises GivenUpError before a pass if the caller has left.
        """
        size = max(1, _COPIES // 4 // len(self.wanted)) if gradient else _COPIES
        for start in range(0, count, size):
            if self.void():
                raise GivenUpError
            yield slice(start, min(start + size, count))

    @property
    def linear(self) -> Floats | None:
        """The gradient ``[K, C]`` of the scalars by each channel's mean if the head is linear, else None.

        See ``Behind.linear``.
        """
        return None if self.behind.linear is None else channel_gradient(self.wanted, self.behind.linear)

    def scores(self, copies: Floats) -> Floats:
        """The scalars ``[n, K]`` of ``copies`` ``[n, C, h, w]``."""
        return self.behind.logits(copies) @ self.wanted.T

    def gradients(self, copies: Floats) -> Floats:
        """d y_k / d copy: ``[K, n, C, h, w]``, or ``[K, n, C, 1, 1]`` if it is the same at every position."""
        return gradients(self.behind, copies, self.wanted)

    def replacement_effect(self, others: Floats) -> Floats:
        """The change ``[C, K]`` of each scalar if one channel is replaced by that of ``others`` ``[C, h, w]``.

        Raises GivenUpError if the caller has left.
        """
        unchanged = self.scores(self.varied[None])  # not the record's logits, which may be rounded differently
        gains = []
        for part in self.passes(len(self.varied)):
            channels = np.arange(part.start, part.stop)
            copies = np.repeat(self.varied[None], len(channels), axis=0)  # n C h w
            copies[np.arange(len(channels)), channels] = others[channels]
            gains.append(self.scores(copies) - unchanged)
        return np.concatenate(gains)
