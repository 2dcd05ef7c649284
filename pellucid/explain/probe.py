"""One image at a cut behind which the network may be run many times: what one gradient is not enough for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pellucid.explain.evidence import Behind, gradients
from pellucid.types import Floats

# Copies of one image that run together; a quarter as many where gradients are taken, shared by the classes.
_COPIES = 32


class GivenUpError(Exception):
    """Nobody waits for the image any more."""


@dataclass(frozen=True)
class Probe:
    """``varied`` ``[C, h, w]`` is what the network ``behind`` takes. ``activation`` ``[C, h, w]`` is that of the layer,
    another one where the picture is varied.

    ``wanted`` ``[K, classes]`` are the scalars that are explained, as weights of the logits. ``void``: as in Batch; it
    is asked before each pass, and GivenUpError raised where it says so.
    """

    activation: Floats
    varied: Floats
    wanted: Floats
    behind: Behind
    samples: int
    void: Callable[[], bool]

    def parts(self, count: int, *, gradient: bool = False) -> Iterator[slice]:
        """``count`` copies in parts that are run together."""
        size = max(1, _COPIES // 4 // len(self.wanted)) if gradient else _COPIES
        for start in range(0, count, size):
            if self.void():
                raise GivenUpError
            yield slice(start, min(start + size, count))

    @property
    def linear(self) -> Floats | None:
        """The weights of the scalars ``[K, C]``, where global pooling and a linear classifier are all that follows."""
        return None if self.behind.linear is None else self.wanted @ self.behind.linear

    def scores(self, copies: Floats) -> Floats:
        """The scalars of n copies of what is varied ``[n, C, h, w]``: ``[n, K]``."""
        return self.behind.logits(copies) @ self.wanted.T

    def gradients(self, copies: Floats) -> Floats:
        """d y_k / d copy: ``[K, n, C, h, w]``, or ``[K, n, C, 1, 1]`` where it is the same at every position."""
        return gradients(self.behind, copies, self.wanted)

    def replaced(self, others: Floats) -> Floats:
        """What each scalar gains where one channel alone is that of ``others`` ``[C, h, w]``: ``[C, K]``."""
        unchanged = self.scores(self.varied[None])  # by what runs the copies: another runtime may round otherwise
        gains = []
        for part in self.parts(len(self.varied)):
            channels = np.arange(part.start, part.stop)
            copies = np.repeat(self.varied[None], len(channels), axis=0)  # n C h w
            copies[np.arange(len(channels)), channels] = others[channels]
            gains.append(self.scores(copies) - unchanged)
        return np.concatenate(gains)
