"""Admission control: limits the images and the bytes in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pellucid.errors import QueueFull


class Admission:
    """Counts the images and bytes in flight. Belongs to one event loop, so it needs no lock: nothing in it awaits.

    Bytes count once they are received: otherwise, a client could block others with an announced Content-Length. Images
    count once their bytes are received, so that slow clients occupy no places.

    ``images`` and ``size`` (bytes) are the limits. ``seconds_for(images)`` predicts when that many images are done, for
    Retry-After.
    """

    def __init__(self, images: int, size: int, seconds_for: Callable[[int], float]) -> None:
        self._most_images = images
        self.most_bytes = size
        self._seconds_for = seconds_for
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self.in_flight = 0
        self.bytes_in_flight = 0

    async def empty(self) -> None:
        """Wait until no request is in flight."""
        await self._empty.wait()

    @contextmanager
    def enter(self, announced: int = 0) -> Iterator[Place]:
        """Admit a request. The place starts empty, and releases all that it holds at the end of the context.

        Raises QueueFull if one more image or the ``announced`` bytes would exceed a limit. Call it before the body is
        read.
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
                f"{self.in_flight} images are in flight, and {images} more would exceed the limit of "
                f"{self._most_images}."
            )
        if self.bytes_in_flight + size > self.most_bytes:
            held, more, most = (value / 2**20 for value in (self.bytes_in_flight, size, self.most_bytes))
            raise self._full(f"{held:.1f} MiB are in flight, and {more:.1f} more would exceed the limit of {most:g}.")

    def _full(self, detail: str) -> QueueFull:
        return QueueFull(detail, retry_after_s=self._seconds_for(self.in_flight))


@dataclass(eq=False, slots=True)
class Place:
    """The images and bytes of one request that count towards the limits."""

    door: Admission
    images: int = 0
    size: int = 0

    def hold(self, *, images: int = 0, size: int = 0) -> None:
        """Add images and bytes to this place. Raises QueueFull with Retry-After if they exceed a limit."""
        self.door._require(images, size)
        self.door.in_flight += images
        self.door.bytes_in_flight += size
        self.images += images
        self.size += size
