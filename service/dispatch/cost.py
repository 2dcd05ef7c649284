"""Predicts the seconds of a batch: a + b·n for n images, fitted while serving."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

# A lane of another size, as ``Engine.lane`` names it.
_SIZED: Final = re.compile(r"(.*)@\d+x\d+ x(\d+\.\d+)")


class CostModel:
    """Least-squares fit of seconds against batch size. Each new batch multiplies the weight of older ones by ``decay``.

    Thread-safe.
    """

    def __init__(self, decay: float = 0.98) -> None:
        self._decay = decay
        self._lock = threading.Lock()
        # Sums over the batches: 1, n, seconds, n², n·seconds.
        self._sums: tuple[float, ...] = (0.0,) * 5

    def observe(self, size: float, seconds: float) -> None:
        """Record that a batch of ``size`` images took ``seconds``."""
        terms = (1.0, size, seconds, size * size, size * seconds)
        with self._lock:
            self._sums = tuple(self._decay * old + new for old, new in zip(self._sums, terms, strict=True))

    def predict(self, size: float) -> float:
        """The seconds of a batch of ``size``. 0 before the first batch, so that nothing is refused without data."""
        weight, n, s, nn, ns = self._sums
        if weight == 0:
            return 0.0
        variance = nn * weight - n**2
        if variance < 1e-9 * nn * weight:  # only one batch size so far: assume proportionality
            return s / n * size
        slope = max(0.0, (ns * weight - n * s) / variance)
        start = max(0.0, (s - slope * n) / weight)
        return start + slope * size


class LaneCosts:
    """A CostModel for each of the ``kept`` lanes that ran most recently. Thread-safe.

    Lanes that differ in the size of the pixels share one: an image of twice the pixels counts as two.
    """

    def __init__(self, kept: int = 256) -> None:
        self._kept = kept
        self._models: OrderedDict[str, CostModel] = OrderedDict()
        self._lock = threading.Lock()

    def observe(self, lane: str, size: int, seconds: float) -> None:
        """Record that a batch of ``size`` images of this lane took ``seconds``."""
        outputs, pixels = _parsed(lane)
        with self._lock:
            model = self._models.setdefault(outputs, CostModel())
            self._models.move_to_end(outputs)
            model.observe(size * pixels, seconds)
            if len(self._models) > self._kept:
                self._models.popitem(last=False)

    def predict(self, lane: str, size: int) -> float:
        """The seconds of one batch. 0 for an unknown lane."""
        outputs, pixels = _parsed(lane)
        with self._lock:
            model = self._models.get(outputs)
            return model.predict(size * pixels) if model else 0.0

    def seconds_for(self, images: Mapping[str, int], max_batch: int) -> float:
        """The seconds of all batches for ``images`` (lane -> number of images), if batches are as full as possible."""
        total = 0.0
        for lane, count in images.items():
            full, rest = divmod(count, max_batch)
            total += full * self.predict(lane, max_batch) + (self.predict(lane, rest) if rest else 0.0)
        return total


def _parsed(lane: str) -> tuple[str, float]:
    """The lane without its size, and the pixels of its images in those of the network's own size."""
    found = _SIZED.fullmatch(lane)
    return (found[1], float(found[2])) if found else (lane, 1.0)
