"""Out of memory: detects it, and limits the size of later batches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

# torch (CUDA and CPU) and OpenVINO raise RuntimeError or a subclass. Only the message tells that memory ran out.
_WORDS: Final = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error means that memory ran out, so that a smaller batch may succeed."""
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in _WORDS)


class BatchCap:
    """The current limit of images in a batch, at most ``most``. A larger image counts as several.

    It is halved when memory runs out, and doubled again after each ``rest_s`` seconds without that. Thread-safe.
    """

    def __init__(self, most: int, rest_s: float = 60, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = self.now = most
        self._rest_s = rest_s
        self._clock = clock
        self._changed = 0.0
        self._lock = threading.Lock()

    def lower(self, failed: int) -> None:
        """Lower the limit, because a batch of ``failed`` images ran out of memory."""
        with self._lock:
            self.now = max(1, min(self.now, failed // 2))
            self._changed = self._clock()

    def current(self) -> int:
        """The number of images that the next batch may have."""
        with self._lock:
            if self.now < self._most and self._clock() - self._changed >= self._rest_s:
                self.now = min(self._most, 2 * self.now)
                self._changed = self._clock()
            return self.now
