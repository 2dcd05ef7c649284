"""When memory runs out: how it is told from other failures, and how many images a batch may then have."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

# torch's allocators (CUDA and CPU) and OpenVINO raise RuntimeError or a kind of it, and say so in words alone.
_WORDS: Final = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch may succeed where this one failed."""
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in _WORDS)


class BatchCap:
    """The largest batch that is tried: halved when memory runs out, doubled again after each ``rest_s`` without that.

    May be used from several threads.
    """

    def __init__(self, most: int, rest_s: float = 60, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = self.now = most
        self._rest_s = rest_s
        self._clock = clock
        self._changed = 0.0
        self._lock = threading.Lock()

    def lower(self, failed: int) -> None:
        """A batch of ``failed`` images did not fit."""
        with self._lock:
            self.now = max(1, min(self.now, failed // 2))
            self._changed = self._clock()

    def current(self) -> int:
        """How many images the next batch may have."""
        with self._lock:
            if self.now < self._most and self._clock() - self._changed >= self._rest_s:
                self.now = min(self._most, 2 * self.now)
                self._changed = self._clock()
            return self.now
