"""The threads that run the engine: each takes a batch, runs it, and hands each image its own result."""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from concurrent.futures import Future

import numpy as np

from service.dispatch.batcher import Batcher
from service.dispatch.cost import CostModel
from service.engine.base import Engine
from service.errors import DeadlineExceeded, Draining, InferenceFailed
from service.types import Batch, Finished, Job, Outcome, Pixels, Plan

log = logging.getLogger(__name__)


class _Answer(Future[Finished]):
    """Also remembers that its caller has ``left``, where it can't be cancelled any more because its batch runs."""

    left = False

    def cancel(self) -> bool:
        self.left = True
        return super().cancel()


class Worker:
    """Runs an engine on batches of whatever waits. ``submit`` may be called from any thread."""

    def __init__(self, engine: Engine, max_batch: int) -> None:
        self._engine = engine
        self._max_batch = max_batch
        self._costs: defaultdict[str, CostModel] = defaultdict(CostModel)
        self._batcher = Batcher(max_batch, lambda lane, size: self._costs[lane].predict(size))
        self._threads = [
            threading.Thread(target=self._loop, name=f"engine-{slot}", daemon=True) for slot in range(engine.slots)
        ]

    def start(self) -> None:
        """Start the engine's threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Take no more work, finish what waits, and end the threads."""
        self._batcher.close()
        for thread in self._threads:
            thread.join()

    def submit(self, pixels: Pixels, plan: Plan, deadline: float) -> Future[Finished]:
        """Queue one image ``[H, W, 3]``. Cancelling the future before its batch starts costs the engine nothing; later,
        it stops what takes long.

        The future raises DeadlineExceeded, InferenceFailed, or, when the worker has been stopped, Draining.
        """
        future = _Answer()

        def void() -> bool:
            return future.left or time.monotonic() > deadline

        job = Job(pixels, plan, self._engine.lane(plan), deadline, time.monotonic(), future, void)
        if not self._batcher.put(job):
            job.future.set_exception(Draining("The service is shutting down."))
        return job.future

    def seconds_for(self, images: int) -> float:
        """Predicted seconds for ``images`` in full batches of the cheapest lane that has been seen."""
        full, rest = divmod(images, self._max_batch)
        sizes = [self._max_batch] * full + [rest] * (rest > 0)
        one_by_one = min((sum(map(cost.predict, sizes)) for cost in list(self._costs.values())), default=0.0)
        return one_by_one / len(self._threads)

    def _loop(self) -> None:
        while jobs := self._batcher.take():
            started = time.monotonic()
            self._run(jobs)
            self._costs[jobs[0].lane].observe(len(jobs), time.monotonic() - started)

    def _run(self, jobs: list[Job]) -> None:
        """Run a batch; where it fails, run its halves, so that one bad item never fails its neighbours."""
        started = time.monotonic()
        try:
            outcomes = self._outcomes(jobs)
        except Exception as error:
            if len(jobs) > 1:
                log.warning("a batch of %d failed and is split: %s", len(jobs), error)
                middle = len(jobs) // 2
                self._run(jobs[:middle])
                self._run(jobs[middle:])
            else:
                log.exception("the network failed on one image")
                jobs[0].future.set_exception(InferenceFailed("The network could not be run on this image."))
            return
        for job, outcome in zip(jobs, outcomes, strict=True):
            if outcome.given_up:
                job.future.set_exception(DeadlineExceeded("The deadline passed while the gates were measured."))
            else:
                job.future.set_result(Finished(outcome, started - job.submitted, len(jobs)))

    def _outcomes(self, jobs: list[Job]) -> list[Outcome]:
        pixels, plans, void = zip(*((job.pixels, job.plan, job.void) for job in jobs), strict=True)
        outcomes = self._engine.run(Batch(np.stack(pixels), plans, void))
        if len(outcomes) != len(jobs):
            raise RuntimeError(f"the engine returned {len(outcomes)} outcomes for {len(jobs)} images")
        return outcomes
