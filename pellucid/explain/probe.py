"""One image at a layer behind which the network can run many times, for methods that need more than a gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pellucid.explain.evidence import Behind, combined, gradients
from pellucid.types import Floats

# Copies of one image that run together; a quarter as many where gradients are taken, shared by the classes.
_COPIES = 32


class GivenUpError(Exception):
    """The caller has left: nobody needs the answer."""


@dataclass(frozen=True)
class Probe:
    """``varied`` ``[C, h, w]`` goes into the network ``behind``. It is the layer's ``activation``, or the picture.

    ``wanted`` ``[K, classes]`` are the explained scalars, as weights of the logits. ``parts`` asks ``void`` (see Batch)
    before each pass, and raises GivenUpError if it is true.
    """

    activation: Floats
    varied: Floats
    wanted: Floats
    behind: Behind
    samples: int
    void: Callable[[], bool]

    def parts(self, count: int, *, gradient: bool = False) -> Iterator[slice]:
        """``count`` copies in parts; each part is one pass."""
        size = max(1, _COPIES // 4 // len(self.wanted)) if gradient else _COPIES
        for start in range(0, count, size):
            if self.void():
                raise GivenUpError
            yield slice(start, min(start + size, count))

    @property
    def linear(self) -> Floats | None:
        """The weights of the scalars ``[K, C]`` if the head is linear (see Behind), else None."""
        return None if self.behind.linear is None else combined(self.wanted, self.behind.linear)

    def scores(self, copies: Floats) -> Floats:
        """The scalars of n copies ``[n, C, h, w]``: ``[n, K]``."""
        return self.behind.logits(copies) @ self.wanted.T

    def gradients(self, copies: Floats) -> Floats:
        """d y_k / d copy: ``[K, n, C, h, w]``, or ``[K, n, C, 1, 1]`` if it is the same at every position."""
        return gradients(self.behind, copies, self.wanted)

    def replaced(self, others: Floats) -> Floats:
        """How each scalar changes if one channel is replaced by that of ``others`` ``[C, h, w]``: ``[C, K]``."""
        unchanged = self.scores(self.varied[None])  # the record's logits may have been rounded in another way
        gains = []
        for part in self.parts(len(self.varied)):
            channels = np.arange(part.start, part.stop)
            copies = np.repeat(self.varied[None], len(channels), axis=0)  # n C h w
            copies[np.arange(len(channels)), channels] = others[channels]
            gains.append(self.scores(copies) - unchanged)
        return np.concatenate(gains)
