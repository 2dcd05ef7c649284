"""When would it be done? What can't be done by its deadline is refused before it is decoded."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from pellucid.errors import EngineDown, TooLate
from pellucid.types import Plan

from .worker import Worker

# What a new image's seconds weigh in the mean: it is one of the last twenty or so.
_SHARE: Final = 0.05
# A forecast may be too low by a batch that came out smaller, or by a busy event loop. To let in what then is late costs
# more than to refuse what might just have been in time: it keeps others out and gets no answer.
_MARGIN: Final = 1.25


class Forecast:
    """Knows the images in flight by network and lane, and what such images took. ``threads`` decode and render them.

    For one event loop: it takes no lock, because nothing in it awaits.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._picture_s = 0.0  # of one thread, to decode and render one image
        self._lanes: defaultdict[Worker, Counter[str]] = defaultdict(Counter)
        self._images = 0

    def seconds_for(self, images: int) -> float:
        """Seconds until so many of the images in flight are done."""
        engine = sum(worker.seconds_for(lanes) for worker, lanes in self._lanes.items())
        return max(engine * images / max(self._images, images, 1), self._pictures(images))

    @contextmanager
    def expect(self, worker: Worker, plan: Plan, images: int, deadline: float) -> Iterator[Callable[[float], None]]:
        """Count ``images`` among those in flight while in the context.

        Yields what is to be called as each of them is answered, with the seconds of a thread that decoding and
        rendering it took. ``deadline`` is in ``time.monotonic`` seconds. Raises TooLate, with the time after which to
        try again, where they could not be done by then, and EngineDown.
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
            if left:  # none is, once the caller has gone: what was stopped then says so afterwards
                left -= 1
                lanes[lane] -= 1
                self._images -= 1
            if picture_s:  # a picture that could not be decoded has none
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
        """Count passes through the network that an image in flight still asks for, of pictures that nobody sent.

        Yields what is to be called with the number of those that are done.
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
        if not in_flight or seconds_left <= 0:  # a forecast that nothing tests again would stay wrong
            return
        ahead = Counter(self._lanes[worker])
        if ahead[lane]:  # the same is true of a lane
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
