"""Measures how long a pass is queued. A pass that arrives while all slots are busy starts when a slot becomes free."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class Wait:
    """When a pass was queued and when it started, in seconds of ``time.perf_counter``."""

    queued: float
    started: float

    @property
    def waited_s(self) -> float:
        """Seconds for which the pass waited for a slot."""
        return self.started - self.queued


class SlotQueue:
    """Tracks which passes run in the ``slots`` and which are queued. Thread-safe."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._taken = 0
        self._waiting: deque[Wait] = deque()
        self._lock = threading.Lock()

    @contextmanager
    def occupy(self) -> Iterator[Wait]:
        """Wrap one pass. ``waited_s`` of the yielded object is final when the pass ends."""
        now = time.perf_counter()
        wait = Wait(now, now)
        with self._lock:
            if self._taken >= self._slots:
                self._waiting.append(wait)
            self._taken += 1
        try:
            yield wait
        finally:
            with self._lock:
                self._taken -= 1
                # Still queued: it failed, or it ended before the thread of an earlier pass released its slot.
                if wait in self._waiting:
                    self._waiting.remove(wait)
                elif self._waiting:
                    self._waiting.popleft().started = time.perf_counter()
