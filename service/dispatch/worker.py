"""The threads that run the engine, and their watchdog. Each takes a batch, runs it, and sets the result of each image.

There is one thread more than the engine has slots. So a full batch can already be queued inside the engine when a slot
becomes free, and no core idles while a Python thread wakes, delivers results and takes the next batch.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np

from pellucid.errors import DeadlineExceeded, Draining, EngineDown, InferenceFailed, OutOfMemory, PellucidError
from pellucid.types import Batch, Finished, InputPixels, Job, Outcome, Plan

from .batcher import BatchCap, Batcher
from .cost import LaneCosts, cost
from .engine import Engine
from .turns import caller

log = logging.getLogger(__name__)

SPARE: Final = 1
# torch (CUDA and CPU) and OpenVINO raise RuntimeError or a subclass. Only the message tells that memory ran out.
_WORDS: Final = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")


class _ResultFuture(Future[Finished]):
    """A future that records in ``left`` that it was cancelled, even if its batch runs and it cannot be cancelled."""

    left = False

    def cancel(self) -> bool:
        self.left = True
        return super().cancel()


class Worker:
    """Runs an engine on batches of the waiting jobs. ``submit`` is thread-safe.

    ``hang_limit_s``: seconds after which a batch counts as hanging. ``on_batch`` is called with the size of each batch
    that ran, ``on_single`` with the plan and the seconds of an image that ran alone. ``on_death`` is called if an
    engine thread ends by an error. The worker computes nothing after that, so the process should end.
    """

    def __init__(
        self,
        engine: Engine,
        max_batch: int,
        *,
        hang_limit_s: float = 60,
        on_batch: Callable[[int], None] = lambda size: None,
        on_single: Callable[[Plan, float], None] = lambda plan, seconds: None,
        on_death: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._max_batch = max_batch
        self._on_batch = on_batch
        self._on_single = on_single
        self._on_death = on_death
        self._costs = LaneCosts()
        self._cap = BatchCap(max_batch)
        self._batcher = Batcher(self._costs.predict, self._may_queue, SPARE)
        self._watchdog = Watchdog(hang_limit_s, self._fail_all)
        self._running: list[list[Job]] = [[] for _ in range(engine.slots + SPARE)]
        self._compiling = threading.Lock()
        self._preparing: dict[str, Future[None]] = {}
        self._died = False
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the engine's threads. A stopped worker can be started again."""
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
        """Accept no more jobs, finish the waiting ones, and end the threads. A thread that hangs is abandoned."""
        self._batcher.close()
        for thread in self._threads:
            while thread.is_alive() and not self._watchdog.hung:
                thread.join(0.1)
        self._watchdog.stop()

    @property
    def fault(self) -> str | None:
        """Why the engine computes nothing at the moment, or None."""
        if self._died:
            return "The engine has ended."
        return "The engine hangs." if self._watchdog.hung else None

    @property
    def well(self) -> bool:
        return self.fault is None

    @property
    def waiting(self) -> int:
        """The number of images that wait for the engine."""
        return len(self._batcher)

    @property
    def batch_cap(self) -> int:
        """The current limit of a batch, in images of the network's own size.

        It is below ``max_batch`` for a while after memory ran out.
        """
        return self._cap.now

    def lane(self, plan: Plan) -> str:
        """The plan's lane. Plans of one lane share batches and a cost model."""
        return self._engine.lane(plan)

    def seconds_for(self, images: Mapping[str, int]) -> float:
        """The predicted seconds for ``images`` (lane -> number). A lane that has not run yet counts as 0."""
        return self._costs.seconds_for(images, self._cap.now) / self._engine.slots

    def submit(self, pixels: InputPixels, plan: Plan, deadline: float) -> Future[Finished]:
        """Queue one image ``[H, W, C]``. ``deadline`` is in ``time.monotonic`` seconds.

        If the future is cancelled before its batch starts, the image does not run. If it is cancelled later, methods of
        many passes stop early. The future raises DeadlineExceeded, InferenceFailed, OutOfMemory or EngineDown, or
        Draining if the worker is stopped.
        """
        future = _ResultFuture()

        def void() -> bool:
            self._watchdog.beat()
            return future.left or time.monotonic() > deadline

        job = Job(pixels, plan, self._engine.lane(plan), deadline, time.monotonic(), future, void)
        self.prepared(plan)
        if not self._batcher.put(job, caller.get()):
            job.future.set_exception(Draining("The service is shutting down."))
        elif fault := self.fault:  # checked after queueing: a later fault fails the queued job as well
            self._batcher.fail(partial(EngineDown, fault))
        return job.future

    def prepared(self, plan: Plan) -> Future[None]:
        """Compile what a plan needs, unless that is done. The future is done when the lane runs at its full speed.

        The lane is held until it can run at all.
        """
        lane = self._engine.lane(plan)
        if not self._engine.ready(plan) and self._batcher.hold(lane):
            self._preparing[lane] = preparing = Future[None]()
            try:
                threading.Thread(
                    target=self._prepare, args=(lane, plan, preparing), name="compile", daemon=True
                ).start()
            except RuntimeError:  # no thread could be started: an engine thread compiles it instead
                self._end_preparing(lane, preparing)
        if found := self._preparing.get(lane):
            return found
        prepared = Future[None]()
        prepared.set_result(None)
        return prepared

    def _end_preparing(self, lane: str, preparing: Future[None]) -> None:
        self._batcher.release(lane)
        if self._preparing.get(lane) is preparing:
            del self._preparing[lane]
        preparing.set_result(None)

    def _loop(self, number: int) -> None:
        try:
            while self._take(number):
                self._run(self._running[number])
                self._running[number] = []  # frees the pictures while the thread waits
        except BaseException:  # otherwise the error would be lost, and callers would wait for ever
            log.critical("an engine thread ended by an error: the worker computes nothing any more", exc_info=True)
            self._died = True
            self._fail_all()
            self._on_death()

    def _may_queue(self, lane: str) -> bool:
        """Whether a full batch of this lane may be queued inside a busy engine. False while memory is short."""
        return self._cap.now == self._max_batch and self._engine.queues(lane)

    def _prepare(self, lane: str, plan: Plan, preparing: Future[None]) -> None:
        """Compile what a held lane needs, then release it. Runs in a thread of its own; engine threads do not wait."""
        try:
            with self._compiling:  # one compilation at a time, since it takes a core from the engine
                self._engine.prepare(plan)
                self._batcher.release(lane)
                self._engine.prepare(plan, alone=True)
        except Exception:  # the lane's jobs then run, and fail one by one
            log.exception("compiling for a plan failed")
        finally:
            self._end_preparing(lane, preparing)

    def _take(self, number: int) -> bool:
        self._running[number] = self._batcher.take(self._cap.current)
        return bool(self._running[number])

    def _fail_all(self) -> None:
        down = partial(EngineDown, self.fault or "The engine hangs.")  # a new error for each future
        for job in [job for jobs in self._running for job in jobs]:
            _settle(job.future, down())
        self._batcher.fail(down)

    def _run(self, jobs: list[Job]) -> None:
        """Run a batch. If it fails, run its halves, so that one bad image never fails the others."""
        parts = [jobs]
        while parts:
            part = [job for job in parts.pop() if not job.future.done()]  # done: it was failed while the engine hung
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
        """Run a batch and set its results. Returns the error for its jobs if it failed, else None.

        The error has no ``__cause__``: its traceback would keep arrays alive, and the next attempt needs the memory.
        """
        lane, size = jobs[0].lane, len(jobs)
        compiling = lane in self._preparing  # the engine may wait for that, which a later batch does not
        started = time.monotonic()
        try:
            outcomes = self._outcomes(jobs)
        except Exception as error:
            if is_out_of_memory(error):
                self._cap.lower(int(size * cost(lane)))
                log.warning("a batch of %d ran out of memory; the limit is now %d: %s", len(jobs), self._cap.now, error)
                return OutOfMemory("There is not enough memory for this image at the moment.")
            if len(jobs) > 1:
                log.warning("a batch of %d failed and will be split: %s", len(jobs), error)
            else:
                log.exception("the network failed on one image")
                self._check_engine(jobs[0])
            return InferenceFailed("The network could not be run on this image.")
        started += outcomes[0].waited_s  # excludes the time that it was queued inside the engine
        seconds = time.monotonic() - started
        # A batch with an abandoned image ended early. Its time is only a lower bound of the cost.
        whole = not any(outcome.given_up for outcome in outcomes)
        if not compiling and (whole or seconds > self._costs.predict(lane, size)):
            self._costs.observe(lane, size, seconds)
        self._on_batch(len(jobs))
        if size == 1 and not outcomes[0].given_up:
            self._on_single(jobs[0].plan, seconds)
        for job, outcome in zip(jobs, outcomes, strict=True):
            if outcome.given_up:
                _settle(job.future, DeadlineExceeded("The deadline passed before the explanation was complete."))
            elif outcome.fault:
                _settle(job.future, InferenceFailed(outcome.fault))
            else:
                _settle(job.future, Finished(outcome, started - job.submitted, len(jobs)))
        return None

    def _check_engine(self, failed: Job) -> None:
        """Raise RuntimeError if the engine fails on a black picture as well, since it would fail on every image.

        For example, a CUDA device after an illegal access.
        """
        try:
            black = np.zeros((*self._engine.size, *failed.pixels.shape[2:]), failed.pixels.dtype)
            self._outcomes([replace(failed, pixels=black, plan=Plan())])
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
    """Set the future's result or error, unless it has one already or was cancelled."""
    try:
        if isinstance(answer, Finished):
            future.set_result(answer)
        else:
            future.set_exception(answer)
    except InvalidStateError:
        pass


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error means that memory ran out, so that a smaller batch may succeed."""
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in _WORDS)


class Watchdog:
    """A thread that calls ``on_hang`` if a ``running`` block takes longer than ``limit_s`` seconds.

    Several threads may be in a ``running`` block at once. ``hung`` is true from the first hang until every call that
    hangs has returned.
    """

    def __init__(self, limit_s: float, on_hang: Callable[[], None]) -> None:
        self.hung = False
        self._limit_s = limit_s
        self._on_hang = on_hang
        self._last_beat: dict[int, float] = {}  # thread in a running block -> time of its last sign of life
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._ended.clear()
        self._thread = threading.Thread(target=self._loop, name="engine watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    @contextmanager
    def running(self) -> Iterator[None]:
        begun = time.monotonic()
        with self._lock:
            self._last_beat[threading.get_ident()] = begun
        try:
            yield
        finally:
            with self._lock:
                del self._last_beat[threading.get_ident()]
                was_hung, self.hung = self.hung, self._is_hung()
            if was_hung and not self.hung:
                log.error("the engine has recovered: a batch returned after %.0f s", time.monotonic() - begun)

    def beat(self) -> None:
        """Restart the time limit of this thread's block. Long calls use it to show that they make progress."""
        with self._lock:
            if threading.get_ident() in self._last_beat:
                self._last_beat[threading.get_ident()] = time.monotonic()

    def _is_hung(self) -> bool:
        return any(time.monotonic() - beat > self._limit_s for beat in self._last_beat.values())

    def _loop(self) -> None:
        while not self._ended.wait(min(1.0, self._limit_s / 4)):
            with self._lock:
                was_hung, self.hung = self.hung, self._is_hung()
            if self.hung and not was_hung:
                log.critical("the engine hangs: a batch has not returned for more than %g s", self._limit_s)
                self._on_hang()
