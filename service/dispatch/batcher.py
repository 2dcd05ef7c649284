"""What to run next. Greedy and work-conserving: whoever asks gets everything that waits, up to the largest batch.

There is no window to wait for company: with service time a + b·n a window only adds latency, and under load the queue
fills by itself while the engine works.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable

from service.errors import DeadlineExceeded
from service.types import Job


class Batcher:
    """Jobs wait in lanes, first come first served; the lane whose first job has waited longest goes next.

    Jobs of one lane share a trunk and a cut, so a job that needs a backward pass never slows those that do not.
    All methods may be called from any thread.
    """

    def __init__(self, max_batch: int, seconds_for: Callable[[str, int], float]) -> None:
        self._max_batch = max_batch
        self._seconds_for = seconds_for
        self._lanes: dict[str, deque[Job]] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._idle = 0

    def put(self, job: Job) -> bool:
        """Queue a job. False, and the job is not taken, once the batcher is closed."""
        with self._changed:
            if self._closed:
                return False
            self._lanes.setdefault(job.lane, deque()).append(job)
            self._changed.notify()
            return True

    def close(self) -> None:
        """Take no more jobs; ``take`` still hands out those that wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self) -> list[Job]:
        """Wait for work and return one batch of one lane. An empty list means closed and drained.

        Who else is waiting for work gets an equal share of what there is. Jobs whose caller has gone are dropped;
        those that can't be done by their deadline fail with DeadlineExceeded.
        """
        with self._changed:
            while True:
                self._idle += 1
                while not self._lanes and not self._closed:
                    self._changed.wait()
                self._idle -= 1
                if not self._lanes:
                    return []
                batch = self._next_batch()
                if batch:
                    return batch

    def _next_batch(self) -> list[Job]:
        name = min(self._lanes, key=lambda lane: self._lanes[lane][0].submitted)
        lane = self._lanes[name]
        batch: list[Job] = []
        most = min(self._max_batch, math.ceil(len(lane) / (1 + self._idle)))
        while lane and len(batch) < most:
            job = lane.popleft()
            if not job.future.set_running_or_notify_cancel():
                continue
            # The first is refused only when it is late already: a forecast that nothing tests again would stay wrong.
            soonest = time.monotonic() + (self._seconds_for(name, len(batch) + 1) if batch else 0.0)
            if job.deadline < soonest:
                job.future.set_exception(DeadlineExceeded("The queue was too long to answer by the deadline."))
            else:
                batch.append(job)
        if not lane:
            del self._lanes[name]
        return batch
