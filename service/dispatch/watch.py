"""Watches a call that may never return."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)


class Watch:
    """A thread that notices when what ``running`` surrounds takes longer than ``limit_s``, and calls ``on_hang`` then.

    ``hung`` is true from then until the call returns after all.
    """

    def __init__(self, limit_s: float, on_hang: Callable[[], None]) -> None:
        self.hung = False
        self._limit_s = limit_s
        self._on_hang = on_hang
        self._begun: float | None = None
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
        """What happens inside is watched."""
        with self._lock:
            self._begun = begun = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._begun = None
                came_back, self.hung = self.hung, False
            if came_back:
                log.error("the engine came back after %.0f s", time.monotonic() - begun)

    def _loop(self) -> None:
        while not self._ended.wait(min(1.0, self._limit_s / 4)):
            with self._lock:
                late = self._begun is not None and time.monotonic() - self._begun > self._limit_s
                news = late and not self.hung
                self.hung = late
            if news:
                log.critical("the engine hangs: it has been running one batch for more than %g s", self._limit_s)
                self._on_hang()
