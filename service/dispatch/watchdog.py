"""Watches calls that may never return."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)


class Watchdog:
    """A thread that notices when what ``running`` surrounds takes longer than ``limit_s``, and calls ``on_hang`` then.

    ``running`` may surround calls of several threads at once, one in each. ``hung`` is true from when the first of them
    hangs until all that hang have returned after all.
    """

    def __init__(self, limit_s: float, on_hang: Callable[[], None]) -> None:
        self.hung = False
        self._limit_s = limit_s
        self._on_hang = on_hang
        self._heard: dict[int, float] = {}  # of each thread that is inside: when it gave its last sign of life
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
        begun = time.monotonic()
        with self._lock:
            self._heard[threading.get_ident()] = begun
        try:
            yield
        finally:
            with self._lock:
                del self._heard[threading.get_ident()]
                was_hung, self.hung = self.hung, self._is_hung()
            if was_hung and not self.hung:
                log.error("the engine came back after %.0f s", time.monotonic() - begun)

    def beat(self) -> None:
        """What takes long may say by this that it hasn't stopped."""
        with self._lock:
            if threading.get_ident() in self._heard:
                self._heard[threading.get_ident()] = time.monotonic()

    def _is_hung(self) -> bool:
        return any(time.monotonic() - heard > self._limit_s for heard in self._heard.values())

    def _loop(self) -> None:
        while not self._ended.wait(min(1.0, self._limit_s / 4)):
            with self._lock:
                was_hung, self.hung = self.hung, self._is_hung()
            if self.hung and not was_hung:
                log.critical("the engine hangs: a batch has not come back for more than %g s", self._limit_s)
                self._on_hang()
