"""The door: how many images, and how many bytes for them, may be in flight at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pellucid.errors import QueueFull


class Admission:
    """Counts what is in flight. For one event loop: it takes no lock, because nothing in it awaits.

    Bytes are counted as they come: what a caller only announces would keep others out at no cost. Images are counted
    once their bytes are there, so that callers who send slowly, or never, take no places.
    """

    def __init__(self, images: int, size: int, seconds_for: Callable[[int], float]) -> None:
        self._most_images = images
        self._most_bytes = size
        self._seconds_for = seconds_for
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self.in_flight = 0
        self.bytes_in_flight = 0

    async def empty(self) -> None:
        """Wait until nobody is inside."""
        await self._empty.wait()

    @contextmanager
    def enter(self, announced: int = 0) -> Iterator[Place]:
        """A place that holds nothing yet, and gives back at the end what it has been made to hold.

        Raises QueueFull, before anything is read, where one more image or the ``announced`` bytes would not fit.
        """
        self._require(1, announced)
        place = Place(self)
        self._inside += 1
        self._empty.clear()
        try:
            yield place
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()
            self.in_flight -= place.images
            self.bytes_in_flight -= place.size

    def _require(self, images: int, size: int) -> None:
        if self.in_flight + images > self._most_images:
            raise self._full(
                f"{self.in_flight} images are in flight and {images} more would pass the limit of {self._most_images}."
            )
        if self.bytes_in_flight + size > self._most_bytes:
            held, more, most = (value / 2**20 for value in (self.bytes_in_flight, size, self._most_bytes))
            raise self._full(f"{held:.1f} MiB are in flight and {more:.1f} more would pass the limit of {most:g}.")

    def _full(self, detail: str) -> QueueFull:
        return QueueFull(detail, retry_after_s=self._seconds_for(self.in_flight))


@dataclass(eq=False, slots=True)
class Place:
    """What one request holds of the door's limits."""

    door: Admission
    images: int = 0
    size: int = 0

    def hold(self, *, images: int = 0, size: int = 0) -> None:
        """Hold so many more images and bytes. Raises QueueFull, with the time after which to try again."""
        self.door._require(images, size)
        self.door.in_flight += images
        self.door.bytes_in_flight += size
        self.images += images
        self.size += size
