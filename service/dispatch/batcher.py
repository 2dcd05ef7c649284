"""Forms batches. Greedy and work-conserving: a free thread takes all waiting jobs of a lane, up to the largest batch.

There is no batching window. With a service time of a + b·n, a window only adds latency, and under load the queue fills
by itself while the engine is busy. A full batch gains nothing by waiting longer, so it may be queued inside the engine,
where it starts as soon as a slot is free.
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

from .cost import cost, most_of
from .turns import Turns


class Batcher:
    """Holds waiting jobs in lanes. Callers take turns within a lane and between lanes, and get equal shares of pixels.

    Jobs of one turn go first in, first out, and the lane with the first of all jobs goes next.

    Jobs of one lane need the same outputs of the network, so a job that needs a gradient never slows a job that does
    not. A job whose future is done (its caller has left) is removed from its lane at once, and its pixels are freed.
    All methods are thread-safe.

    ``seconds_for(lane, size)`` predicts the seconds of a batch. ``spare``: the number of threads that exceed the
    engine's slots. With one spare thread, a full batch can queue inside the engine while all slots are busy, if
    ``queues(lane)`` is true.
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
        self._lanes: dict[str, dict[str, OrderedDict[Job, None]]] = {}  # by caller, each in the order of arrival
        self._turns = Turns()
        self._changed = threading.Condition()  # re-entrant: failing a future calls _leave in the same thread
        self._held: set[str] = set()
        self._closed = False
        self._idle = 0

    def __len__(self) -> int:
        with self._changed:
            return sum(map(self._waiting, self._lanes))

    def put(self, job: Job, who: str = "") -> bool:
        """Queue a job of this caller. Returns False, and does not queue it, if the batcher is closed."""
        with self._changed:
            if self._closed:
                return False
            self._lanes.setdefault(job.lane, {}).setdefault(who, OrderedDict())[job] = None
            self._changed.notify()
        waiting = weakref.ref(job)  # a strong reference would be a cycle, which only the garbage collector frees
        job.future.add_done_callback(lambda _: self._leave(waiting(), who))
        return True

    def hold(self, lane: str) -> bool:
        """Stop handing out jobs of a lane until ``release``. Returns False if it was held already."""
        with self._changed:
            new = lane not in self._held
            self._held.add(lane)
            return new

    def release(self, lane: str) -> None:
        """Hand out jobs of a held lane again."""
        with self._changed:
            self._held.discard(lane)
            self._changed.notify_all()

    def open(self) -> None:
        """Accept jobs again after ``close``."""
        with self._changed:
            self._closed = False

    def close(self) -> None:
        """Accept no more jobs. ``take`` still hands out the waiting ones."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def fail(self, error: Callable[[], PellucidError]) -> None:
        """Fail every waiting job. ``error`` is called once for each, so that no two futures share an exception."""
        with self._changed:
            while self._lanes:
                name = next(iter(self._lanes))
                job = self._pop(name, next(iter(self._lanes[name])))
                if job.future.set_running_or_notify_cancel():
                    job.future.set_exception(error())

    def take(self, limit: Callable[[], int]) -> list[Job]:
        """Wait for work, and return one batch of one lane, of at most ``limit()`` jobs of the network's own size.

        Of larger pictures it has fewer, so that it has no more pixels, but at least one.
        An empty list means that the batcher is closed and drained. ``limit`` is called when the batch is taken, because
        it may change during the wait. If several threads wait, they share the lane's jobs equally. Jobs whose caller
        has left are dropped. Jobs that cannot meet their deadline fail with DeadlineExceeded.
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
                if self._lanes:  # the next lane may have a batch for a waiting thread
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
        return self._waiting(name) >= most_of(name, limit()) and self._queues(name)

    def _waiting(self, name: str) -> int:
        return sum(map(len, self._lanes[name].values()))

    def _next_lane(self) -> str:
        return min(self._lanes.keys() - self._held, key=lambda name: self._order(name, self._next_caller(name)))

    def _next_caller(self, name: str) -> str:
        return min(self._lanes[name], key=lambda who: self._order(name, who))

    def _order(self, name: str, who: str) -> tuple[float, float]:
        return self._turns.next(who), next(iter(self._lanes[name][who])).submitted

    def _next_batch(self, limit: int) -> list[Job]:
        name = self._next_lane()
        self._turns.begin(self._next_caller(name))
        most = min(most_of(name, limit), math.ceil(self._waiting(name) / max(1, 1 + self._idle - self._spare)))
        batch: list[Job] = []
        while name in self._lanes and len(batch) < most:
            job = self._pop(name, who := self._next_caller(name))
            if not job.future.set_running_or_notify_cancel():
                continue
            # The first job fails only if it is late already. Otherwise, a wrong forecast would never be corrected.
            soonest = time.monotonic() + (self._seconds_for(name, len(batch) + 1) if batch else 0.0)
            if job.deadline < soonest:
                job.future.set_exception(DeadlineExceeded("The queue was too long to answer by the deadline."))
            else:
                batch.append(job)
                self._turns.charge(who, cost(name))
        return batch

    def _pop(self, name: str, who: str) -> Job:
        job = next(iter(self._lanes[name][who]))
        self._remove(job, who)
        return job

    def _leave(self, job: Job | None, who: str) -> None:
        with self._changed:
            if job is not None and job in self._lanes.get(job.lane, {}).get(who, ()):
                self._remove(job, who)

    def _remove(self, job: Job, who: str) -> None:
        lane = self._lanes[job.lane]
        del lane[who][job]
        if not lane[who]:
            del lane[who]
        if not lane:
            del self._lanes[job.lane]
        if not self._lanes:
            self._turns = Turns()
            if self._closed:
                self._changed.notify_all()  # a spare thread that could not take a batch must end


class BatchCap:
    """The current limit of images in a batch, at most ``most``. A larger image counts as several.

    It is halved when memory runs out, and doubled again after each ``rest_s`` seconds without that. Thread-safe.
    """

    def __init__(self, most: int, rest_s: float = 60, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = self.now = most
        self._rest_s = rest_s
        self._clock = clock
        self._changed = 0.0
        self._lock = threading.Lock()

    def lower(self, failed: int) -> None:
        """Lower the limit, because a batch of ``failed`` images ran out of memory."""
        with self._lock:
            self.now = max(1, min(self.now, failed // 2))
            self._changed = self._clock()

    def current(self) -> int:
        """The number of images that the next batch may have."""
        with self._lock:
            if self.now < self._most and self._clock() - self._changed >= self._rest_s:
                self.now = min(self._most, 2 * self.now)
                self._changed = self._clock()
            return self.now
