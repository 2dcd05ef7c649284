"""Measures how long a pass is queued. A pass that arrives while all slots are busy starts when a slot becomes free."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class Turn:
    """When a pass was queued and when it started, in seconds of ``time.perf_counter``."""

    handed_over: float
    began: float

    @property
    def waited_s(self) -> float:
        """Seconds for which the pass waited for a slot."""
        return self.began - self.handed_over


class Turns:
    """Tracks which passes run in the ``slots`` and which are queued. Thread-safe."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._taken = 0
        self._waiting: deque[Turn] = deque()
        self._lock = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[Turn]:
        """Wrap one pass. ``waited_s`` of the yielded object is final when the pass ends."""
        now = time.perf_counter()
        turn = Turn(now, now)
        with self._lock:
            if self._taken >= self._slots:
                self._waiting.append(turn)
            self._taken += 1
        try:
            yield turn
        finally:
            with self._lock:
                self._taken -= 1
                if (
                    turn in self._waiting
                ):  # it failed, or it ended before the thread of the earlier pass released its slot
                    self._waiting.remove(turn)
                elif self._waiting:
                    self._waiting.popleft().began = time.perf_counter()
