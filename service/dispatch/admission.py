"""Bounded depth: how many images may be in flight at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import QueueFull


class Admission:
    """Counts images in flight. For one event loop: it takes no lock, because nothing in it awaits."""

    def __init__(self, limit: int, seconds_for: Callable[[int], float]) -> None:
        self._limit = limit
        self._seconds_for = seconds_for
        self.in_flight = 0
        self.bytes_in_flight = 0

    @contextmanager
    def enter(self, images: int, size: int = 0) -> Iterator[None]:
        """Hold ``images`` places, and ``size`` bytes, while in the context.

        Raises QueueFull, with the time after which to try again.
        """
        if self.in_flight + images > self._limit:
            raise QueueFull(
                f"{self.in_flight} images are in flight and {images} more would pass the limit of {self._limit}.",
                retry_after_s=self._seconds_for(self.in_flight),
            )
        self.in_flight += images
        self.bytes_in_flight += size
        try:
            yield
        finally:
            self.in_flight -= images
            self.bytes_in_flight -= size
