"""The threads that run the engine: each takes a batch, runs it, and hands each image its own result.

There is one more than the engine has slots: a full batch is at hand in the engine when a slot becomes free, and no core
waits until a thread has woken, answered and taken the next.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np

from pellucid.errors import DeadlineExceeded, Draining, EngineDown, InferenceFailed, OutOfMemory, PellucidError
from pellucid.types import Batch, Finished, Job, Outcome, Pixels, Plan
from service.dispatch.batcher import Batcher
from service.dispatch.cost import LaneCosts
from service.dispatch.engine import Engine
from service.dispatch.memory import BatchCap, is_out_of_memory
from service.dispatch.watchdog import Watchdog

log = logging.getLogger(__name__)

SPARE: Final = 1


class _Answer(Future[Finished]):
    """Also remembers that its caller has ``left``, where it can't be cancelled any more because its batch runs."""

    left = False

    def cancel(self) -> bool:
        self.left = True
        return super().cancel()


class Worker:
    """Runs an engine on batches of whatever waits. ``submit`` may be called from any thread.

    ``hang_limit_s``: seconds after which a batch that has not come back counts as hanging. ``on_batch`` is told the
    size of each batch that ran. ``on_death`` is called by a thread of the engine that ends by an error: nothing will be
    computed any more, and the process had better end.
    """

    def __init__(
        self,
        engine: Engine,
        max_batch: int,
        *,
        hang_limit_s: float = 60,
        on_batch: Callable[[int], None] = lambda size: None,
        on_death: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._max_batch = max_batch
        self._on_batch = on_batch
        self._on_death = on_death
        self._costs = LaneCosts()
        self._cap = BatchCap(max_batch)
        self._batcher = Batcher(self._costs.predict, self._goes_ahead, SPARE)
        self._watchdog = Watchdog(hang_limit_s, self._fail_all)
        self._running: list[list[Job]] = [[] for _ in range(engine.slots + SPARE)]
        self._compiling = threading.Lock()
        self._died = False
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the engine's threads; also after a stop."""
        self._died = False
        self._batcher.open()
        self._watchdog.start()
        self._threads = [
            threading.Thread(target=self._loop, args=(number,), name=f"engine-{number}", daemon=True)
            for number in range(len(self._running))
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Take no more work, finish what waits, and end the threads. One that hangs is left to itself."""
        self._batcher.close()
        for thread in self._threads:
            while thread.is_alive() and not self._watchdog.hung:
                thread.join(0.1)
        self._watchdog.stop()

    @property
    def fault(self) -> str | None:
        """Why nothing is computed at the moment; None while all is well."""
        if self._died:
            return "The engine has ended."
        return "The engine hangs." if self._watchdog.hung else None

    @property
    def well(self) -> bool:
        """Whether there is no fault."""
        return self.fault is None

    @property
    def waiting(self) -> int:
        """How many images wait for the engine."""
        return len(self._batcher)

    @property
    def batch_cap(self) -> int:
        """The largest batch that is tried at the moment: less than asked for after memory ran out."""
        return self._cap.now

    def lane(self, plan: Plan) -> str:
        """Plans of one lane share batches, and a forecast."""
        return self._engine.lane(plan)

    def seconds_for(self, images: Mapping[str, int]) -> float:
        """Predicted seconds for so many ``images`` of each lane; lanes that have not been run yet count as nothing."""
        return self._costs.seconds_for(images, self._cap.now) / self._engine.slots

    def submit(self, pixels: Pixels, plan: Plan, deadline: float) -> Future[Finished]:
        """Queue one image ``[H, W, 3]``. Cancelling the future before its batch is handed to the engine costs nothing;
        later, it stops what takes long.

        The future raises DeadlineExceeded, InferenceFailed, OutOfMemory, EngineDown, or, when the worker has been
        stopped, Draining.
        """
        future = _Answer()

        def void() -> bool:
            self._watchdog.beat()
            return future.left or time.monotonic() > deadline

        job = Job(pixels, plan, self._engine.lane(plan), deadline, time.monotonic(), future, void)
        if not self._engine.ready(plan) and self._batcher.hold(job.lane):
            try:
                threading.Thread(target=self._prepare, args=(job.lane, plan), name="compile", daemon=True).start()
            except RuntimeError:  # no thread can be had: the engine's own compiles it
                self._batcher.release(job.lane)
        if not self._batcher.put(job):
            job.future.set_exception(Draining("The service is shutting down."))
        elif fault := self.fault:  # looked at after it was queued: whoever finds a fault later fails it as well
            self._batcher.fail(partial(EngineDown, fault))
        return job.future

    def _loop(self, number: int) -> None:
        try:
            while self._take(number):
                self._run(self._running[number])
                self._running[number] = []  # no name here may hold its pictures while the thread waits
        except BaseException:  # whatever it is, nobody else would see it, and callers would wait for ever
            log.critical("a thread of the engine ended by an error: nothing can be computed any more", exc_info=True)
            self._died = True
            self._fail_all()
            self._on_death()

    def _goes_ahead(self, lane: str) -> bool:
        """Whether a full batch of this lane may be handed to an engine that is busy: not where memory has run out."""
        return self._cap.now == self._max_batch and self._engine.queues(lane)

    def _prepare(self, lane: str, plan: Plan) -> None:
        """Compile what a lane needs while its jobs wait, and no thread of the engine does."""
        try:
            with self._compiling:  # one at a time: it takes a core, and the engine goes on meanwhile
                self._engine.prepare(plan)
                self._batcher.release(lane)
                self._engine.prepare(plan, alone=True)
        except Exception:  # its jobs find out, each by itself
            log.exception("what a plan needs could not be compiled")
        finally:
            self._batcher.release(lane)

    def _take(self, number: int) -> bool:
        self._running[number] = self._batcher.take(self._cap.current)
        return bool(self._running[number])

    def _fail_all(self) -> None:
        down = partial(EngineDown, self.fault or "The engine hangs.")  # a new error for each future
        for job in [job for jobs in self._running for job in jobs]:
            _settle(job.future, down())
        self._batcher.fail(down)

    def _run(self, jobs: list[Job]) -> None:
        """Run a batch; where it fails, run its halves, so that one bad item never fails its neighbours."""
        parts = [jobs]
        while parts:
            part = [job for job in parts.pop() if not job.future.done()]  # done: the engine had been given up
            if not part:
                continue
            error = self._attempt(part)
            if error is None:
                continue
            if len(part) > 1:
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
            else:
                _settle(part[0].future, error)

    def _attempt(self, jobs: list[Job]) -> PellucidError | None:
        """Run a batch and hand out its results, or say what its jobs are to be told.

        The cause is not handed on: its traceback holds the tensors that the next attempt needs room for.
        """
        started = time.monotonic()
        try:
            outcomes = self._outcomes(jobs)
        except Exception as error:
            if is_out_of_memory(error):
                self._cap.lower(len(jobs))
                log.warning("no memory for a batch of %d; at most %d from now on: %s", len(jobs), self._cap.now, error)
                return OutOfMemory("There is not enough memory for this image at the moment.")
            if len(jobs) > 1:
                log.warning("a batch of %d failed and is split: %s", len(jobs), error)
            else:
                log.exception("the network failed on one image")
                self._check_engine(jobs[0])
            return InferenceFailed("The network could not be run on this image.")
        started += outcomes[0].waited_s  # of a batch that was ahead, what it takes is counted from its turn
        seconds = time.monotonic() - started
        lane, size = jobs[0].lane, len(jobs)
        # One that was given up ended early: it only tells that such batches take longer than that.
        if seconds > self._costs.predict(lane, size) or not any(outcome.given_up for outcome in outcomes):
            self._costs.observe(lane, size, seconds)
        self._on_batch(len(jobs))
        for job, outcome in zip(jobs, outcomes, strict=True):
            if outcome.given_up:
                _settle(job.future, DeadlineExceeded("The deadline passed while the gates were measured."))
            elif outcome.fault:
                _settle(job.future, InferenceFailed(outcome.fault))
            else:
                _settle(job.future, Finished(outcome, started - job.submitted, len(jobs)))
        return None

    def _check_engine(self, failed: Job) -> None:
        """Raise if the engine fails on a black picture too: every answer would be an error then.

        A CUDA device after an illegal access is like that.
        """
        try:
            self._outcomes([replace(failed, pixels=np.zeros(failed.pixels.shape, np.uint8), plan=Plan())])
        except Exception as error:
            if not is_out_of_memory(error):
                raise RuntimeError("the engine fails on every image") from error

    def _outcomes(self, jobs: list[Job]) -> list[Outcome]:
        pixels, plans, void = zip(*((job.pixels, job.plan, job.void) for job in jobs), strict=True)
        with self._watchdog.running():
            outcomes = self._engine.run(Batch(np.stack(pixels), plans, void))
        if len(outcomes) != len(jobs):
            raise RuntimeError(f"the engine returned {len(outcomes)} outcomes for {len(jobs)} images")
        return outcomes


def _settle(future: Future[Finished], answer: Finished | PellucidError) -> None:
    """Give the future its answer, unless the engine was given up and it has one, or its caller has gone."""
    try:
        if isinstance(answer, Finished):
            future.set_result(answer)
        else:
            future.set_exception(answer)
    except InvalidStateError:
        pass
