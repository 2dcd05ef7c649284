"""Detects native calls that hang."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)


class Watchdog:
    """A thread that calls ``on_hang`` if a ``running`` block takes longer than ``limit_s`` seconds.

    Several threads may be in a ``running`` block at once. ``hung`` is true from the first hang until every call that
    hangs has returned.
    """

    def __init__(self, limit_s: float, on_hang: Callable[[], None]) -> None:
        self.hung = False
        self._limit_s = limit_s
        self._on_hang = on_hang
        self._last_beat: dict[int, float] = {}  # thread in a running block -> time of its last sign of life
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._ended.clear()
        self._thread = threading.Thread(target=self._loop, name="engine watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Watch the block."""
        begun = time.monotonic()
        with self._lock:
            self._last_beat[threading.get_ident()] = begun
        try:
            yield
        finally:
            with self._lock:
                del self._last_beat[threading.get_ident()]
                was_hung, self.hung = self.hung, self._is_hung()
            if was_hung and not self.hung:
                log.error("the engine has recovered: a batch returned after %.0f s", time.monotonic() - begun)

    def beat(self) -> None:
        """Restart the time limit of this thread's block. Long calls use it to show that they make progress."""
        with self._lock:
            if threading.get_ident() in self._last_beat:
                self._last_beat[threading.get_ident()] = time.monotonic()

    def _is_hung(self) -> bool:
        return any(time.monotonic() - beat > self._limit_s for beat in self._last_beat.values())

    def _loop(self) -> None:
        while not self._ended.wait(min(1.0, self._limit_s / 4)):
            with self._lock:
                was_hung, self.hung = self.hung, self._is_hung()
            if self.hung and not was_hung:
                log.critical("the engine hangs: a batch has not returned for more than %g s", self._limit_s)
                self._on_hang()
