"""Admission control: limits the images and bytes in flight, and refuses a request that would miss its deadline."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from pellucid.errors import EngineDown, QueueFull, TooLate
from pellucid.types import Plan

from .worker import Worker

# Weight of a new image's seconds in the moving average, which so covers about the last 20 images.
_SHARE: Final = 0.05
# Safety factor of a forecast. It may be too low if batches are smaller than expected, or the event loop is busy.
# Admitting a request that misses its deadline is worse than refusing one that would just meet it: the late one takes
# the place of others, and still fails.
_MARGIN: Final = 1.25


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


class Forecast:
    """Tracks the images in flight by worker and lane, and the seconds that decoding and rendering take.

    ``threads`` is the size of the pool that decodes and renders. Belongs to one event loop, so it needs no lock:
    nothing in it awaits.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._picture_s = 0.0  # seconds of one thread to decode and render one image
        self._lanes: defaultdict[Worker, Counter[str]] = defaultdict(Counter)
        self._images = 0

    def seconds_for(self, images: int) -> float:
        """The seconds until this many of the images in flight are done."""
        engine = sum(worker.seconds_for(lanes) for worker, lanes in self._lanes.items())
        return max(engine * images / max(self._images, images, 1), self._pictures(images))

    @contextmanager
    def expect(self, worker: Worker, plan: Plan, images: int, deadline: float) -> Iterator[Callable[[float], None]]:
        """Count ``images`` as in flight during the context. ``deadline`` is in ``time.monotonic`` seconds.

        Yields a callback. Call it once for each image when it is answered, with the seconds of a thread that decoding
        and rendering took (0 if it was not decoded). Raises TooLate with Retry-After if the images would miss the
        deadline, and EngineDown if the engine has a fault.
        """
        if fault := worker.fault:
            raise EngineDown(fault)
        lane = worker.lane(plan)
        self._check(worker, lane, images, deadline - time.monotonic())
        lanes, left = self._lanes[worker], images
        lanes[lane] += images
        self._images += images

        def answered(picture_s: float) -> None:
            nonlocal left
            if left:  # 0 if the context has ended: a cancelled task may still call this
                left -= 1
                lanes[lane] -= 1
                self._images -= 1
            if picture_s:  # 0 for a picture that could not be decoded
                self._picture_s += (_SHARE if self._picture_s else 1) * (picture_s - self._picture_s)

        try:
            yield answered
        finally:
            lanes[lane] -= left
            self._images -= left
            left = 0
            if not lanes[lane]:
                del lanes[lane]

    @contextmanager
    def passes(self, worker: Worker, plan: Plan, count: int) -> Iterator[Callable[[int], None]]:
        """Count further passes for an image in flight, such as trials of its map, which need no decoding.

        Yields a callback. Call it with the number of passes that have just finished.
        """
        lane = worker.lane(plan)
        lanes, left = self._lanes[worker], count
        lanes[lane] += count

        def passed(done: int) -> None:
            nonlocal left
            left -= done
            lanes[lane] -= done

        try:
            yield passed
        finally:
            lanes[lane] -= left
            if not lanes[lane]:
                del lanes[lane]

    def _check(self, worker: Worker, lane: str, images: int, seconds_left: float) -> None:
        in_flight = self._images
        if not in_flight or seconds_left <= 0:  # without traffic, a wrong forecast would never be corrected
            return
        ahead = Counter(self._lanes[worker])
        if ahead[lane]:  # for the same reason, an idle lane adds nothing
            ahead[lane] += images
        needed = _MARGIN * (max(worker.seconds_for(ahead), self._pictures(in_flight + images)) + self._picture_s)
        if needed > seconds_left:
            raise TooLate(
                f"{in_flight} images are in flight: the answer would take about {needed:.1f} s, and its deadline is in "
                f"{seconds_left:.1f} s.",
                retry_after_s=needed - seconds_left,
            )

    def _pictures(self, images: int) -> float:
        return images * self._picture_s / self._threads
