"""How long a batch takes: a + b·n seconds for n images, fitted while serving."""

from __future__ import annotations


class CostModel:
    """Least squares of seconds over batch size, older batches forgotten by ``decay`` each time.

    Not for use from several threads at once: the worker's thread observes, others only read a float.
    """

    def __init__(self, decay: float = 0.98) -> None:
        self._decay = decay
        self._weight = self._n = self._s = self._nn = self._ns = 0.0

    def observe(self, size: int, seconds: float) -> None:
        """A batch of ``size`` images took ``seconds``."""
        decay = self._decay
        self._weight = decay * self._weight + 1
        self._n = decay * self._n + size
        self._s = decay * self._s + seconds
        self._nn = decay * self._nn + size * size
        self._ns = decay * self._ns + size * seconds

    def predict(self, size: int) -> float:
        """Seconds for a batch of ``size``; 0 before the first one, so that nothing is refused on no evidence."""
        if self._weight == 0:
            return 0.0
        variance = self._nn * self._weight - self._n**2
        if variance < 1e-9 * self._nn * self._weight:  # one batch size seen so far: in proportion to it
            return self._s / self._n * size
        slope = max(0.0, (self._ns * self._weight - self._n * self._s) / variance)
        start = max(0.0, (self._s - slope * self._n) / self._weight)
        return start + slope * size
