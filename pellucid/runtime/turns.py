"""When a pass's turn comes: one that is handed over while all slots are busy begins as the first of them is free."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class Turn:
    """When a pass was handed over and when it began, in ``time.perf_counter`` seconds."""

    handed_over: float
    began: float

    @property
    def waited_s(self) -> float:
        """Seconds in which it waited for a slot."""
        return self.began - self.handed_over


class Turns:
    """Counts the passes that a graph of so many ``slots`` has at a time. May be used from several threads."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._taken = 0
        self._waiting: deque[Turn] = deque()
        self._lock = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[Turn]:
        """What happens inside is a pass. When its turn came is known at the end."""
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
                if turn in self._waiting:  # over before another's thread had woken to say so; or it failed
                    self._waiting.remove(turn)
                elif self._waiting:
                    self._waiting.popleft().began = time.perf_counter()
