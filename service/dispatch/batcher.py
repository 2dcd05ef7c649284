"""What to run next. Greedy and work-conserving: whoever asks gets everything that waits, up to the largest batch.

There is no window to wait for company: with service time a + b·n a window only adds latency, and under load the queue
fills by itself while the engine works. Once it has filled a batch, waiting for a slot gains that batch nothing: it goes
ahead to an engine that takes it, and starts there the moment a slot is free.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable

from pellucid.errors import DeadlineExceeded, PellucidError
from pellucid.types import Job


class Batcher:
    """Jobs wait in lanes, first come first served; the lane whose first job has waited longest goes next.

    Jobs of one lane share a trunk and a cut, so a job that needs a backward pass never slows those that do not. A job
    whose future is done, because its caller has gone, leaves its lane at once, and its pixels with it. All methods may
    be called from any thread.

    ``spare``: how many more threads take batches than the engine has slots. With one spare thread, a full batch can
    queue inside the engine while all slots are busy; only lanes that ``queues`` accepts do.
    """

    def __init__(
        self,
        seconds_for: Callable[[str, int], float],
        queues: Callable[[str], bool] = lambda lane: False,
        spare: int = 0,
    ) -> None:
        self._seconds_for = seconds_for
        self._queues = queues
        self._spare = spare
        self._lanes: dict[str, OrderedDict[Job, None]] = {}
        self._changed = threading.Condition()  # re-entrant: a future that is failed calls _leave in the same thread
        self._held: set[str] = set()
        self._closed = False
        self._idle = 0

    def __len__(self) -> int:
        """How many jobs wait."""
        with self._changed:
            return sum(map(len, self._lanes.values()))

    def put(self, job: Job) -> bool:
        """Queue a job. False, and the job is not taken, once the batcher is closed."""
        with self._changed:
            if self._closed:
                return False
            self._lanes.setdefault(job.lane, OrderedDict())[job] = None
            self._changed.notify()
        waiting = weakref.ref(job)  # the future must not hold the job: the two would wait for the garbage collector
        job.future.add_done_callback(lambda _: self._leave(waiting()))
        return True

    def hold(self, lane: str) -> bool:
        """Hand out no job of a lane until it is released. False where it is held already."""
        with self._changed:
            new = lane not in self._held
            self._held.add(lane)
            return new

    def release(self, lane: str) -> None:
        """Hand out the jobs of a lane again."""
        with self._changed:
            self._held.discard(lane)
            self._changed.notify_all()

    def open(self) -> None:
        """Take jobs (again)."""
        with self._changed:
            self._closed = False

    def close(self) -> None:
        """Take no more jobs; ``take`` still hands out those that wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def fail(self, error: Callable[[], PellucidError]) -> None:
        """Give every job that waits an error of its own."""
        with self._changed:
            while self._lanes:
                job = self._pop(next(iter(self._lanes)))
                if job.future.set_running_or_notify_cancel():
                    job.future.set_exception(error())

    def take(self, limit: Callable[[], int]) -> list[Job]:
        """Wait for work and return one batch of one lane, at most ``limit()`` jobs. Empty means closed and drained.

        The limit is asked when the batch is taken, under the lock: it may have changed during the wait.
        Who else is waiting for work gets an equal share of what there is. Jobs whose caller has gone are dropped;
        those that can't be done by their deadline fail with DeadlineExceeded.
        """
        with self._changed:
            while True:
                self._idle += 1
                while not self._may_take(limit):
                    self._changed.wait()
                self._idle -= 1
                if not self._lanes:
                    return []
                batch = self._next_batch(limit())
                if self._lanes:  # another lane has become the next, and may have a batch for who waits
                    self._changed.notify()
                if batch:
                    return batch

    def _may_take(self, limit: Callable[[], int]) -> bool:
        if not self._lanes:
            return self._closed
        if self._held.issuperset(self._lanes):
            return False
        if self._idle > self._spare:
            return True
        name = self._next_lane()
        return len(self._lanes[name]) >= limit() and self._queues(name)

    def _next_lane(self) -> str:
        free = self._lanes.keys() - self._held
        return min(free, key=lambda lane: next(iter(self._lanes[lane])).submitted)

    def _next_batch(self, limit: int) -> list[Job]:
        name = self._next_lane()
        most = min(limit, math.ceil(len(self._lanes[name]) / max(1, 1 + self._idle - self._spare)))
        batch: list[Job] = []
        while name in self._lanes and len(batch) < most:
            job = self._pop(name)
            if not job.future.set_running_or_notify_cancel():
                continue
            # The first is refused only when it is late already: a forecast that nothing tests again would stay wrong.
            soonest = time.monotonic() + (self._seconds_for(name, len(batch) + 1) if batch else 0.0)
            if job.deadline < soonest:
                job.future.set_exception(DeadlineExceeded("The queue was too long to answer by the deadline."))
            else:
                batch.append(job)
        return batch

    def _pop(self, name: str) -> Job:
        job, _ = self._lanes[name].popitem(last=False)
        self._forget_if_empty(name)
        return job

    def _leave(self, job: Job | None) -> None:
        with self._changed:
            if job is not None and job in (lane := self._lanes.get(job.lane, OrderedDict())):
                del lane[job]
                self._forget_if_empty(job.lane)

    def _forget_if_empty(self, name: str) -> None:
        if not self._lanes[name]:
            del self._lanes[name]
            if self._closed and not self._lanes:
                self._changed.notify_all()  # who was to take no part of a batch may end
