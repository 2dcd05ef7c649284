"""How long a batch takes: a + b·n seconds for n images, fitted while serving."""

from __future__ import annotations

import threading


class CostModel:
    """Least squares of seconds over batch size, older batches forgotten by ``decay`` each time.

    May be used from several threads.
    """

    def __init__(self, decay: float = 0.98) -> None:
        self._decay = decay
        self._lock = threading.Lock()
        # Sums over the batches: 1, n, seconds, n², n·seconds.
        self._sums: tuple[float, ...] = (0.0,) * 5

    def observe(self, size: int, seconds: float) -> None:
        """A batch of ``size`` images took ``seconds``."""
        one = (1.0, size, seconds, size * size, size * seconds)
        with self._lock:
            self._sums = tuple(self._decay * old + new for old, new in zip(self._sums, one, strict=True))

    def predict(self, size: int) -> float:
        """Seconds for a batch of ``size``; 0 before the first one, so that nothing is refused on no evidence."""
        weight, n, s, nn, ns = self._sums
        if weight == 0:
            return 0.0
        variance = nn * weight - n**2
        if variance < 1e-9 * nn * weight:  # one batch size seen so far: in proportion to it
            return s / n * size
        slope = max(0.0, (ns * weight - n * s) / variance)
        start = max(0.0, (s - slope * n) / weight)
        return start + slope * size
