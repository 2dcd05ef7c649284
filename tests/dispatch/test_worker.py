"""Each image gets its own result, whatever happens to the other images of its batch."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace

import pytest

from pellucid.errors import DeadlineExceeded, Draining, EngineDown, InferenceFailed, OutOfMemory
from pellucid.types import Batch, Outcome, Plan, Prediction
from service.dispatch.worker import Worker
from tests.dispatch.echo import FOREVER, POISON, EchoEngine, pixel, running, until


class SmallEngine(EchoEngine):
    """Runs out of memory for more than ``room`` images."""

    room = 2

    def run(self, batch: Batch) -> list[Outcome]:
        outcomes = super().run(batch)
        if len(outcomes) > self.room:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return outcomes


class BrokenEngine(EchoEngine):
    """Fails on every batch, like a CUDA device after an illegal access."""

    def run(self, batch: Batch) -> list[Outcome]:
        super().run(batch)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


class ExitingEngine(EchoEngine):
    """Raises SystemExit, which ends the thread."""

    def run(self, batch: Batch) -> list[Outcome]:
        super().run(batch)
        sys.exit(3)


class SilentEngine(EchoEngine):
    """Reports NaN for the value POISON - 1."""

    def run(self, batch: Batch) -> list[Outcome]:
        return [
            replace(outcome, fault="NaN") if outcome.predictions[0].index == POISON - 1 else outcome
            for outcome in super().run(batch)
        ]


class ForgetfulEngine(EchoEngine):
    """Returns one outcome too few for every batch of more than one image."""

    def run(self, batch: Batch) -> list[Outcome]:
        outcomes = super().run(batch)
        return outcomes if len(outcomes) == 1 else outcomes[1:]


@pytest.fixture
def engine() -> EchoEngine:
    return EchoEngine()


def test_each_job_gets_its_own_result(engine: EchoEngine) -> None:
    engine.open.set()
    with running(engine, max_batch=3) as worker:
        futures = [worker.submit(pixel(value), Plan(), FOREVER) for value in range(10)]
        assert [future.result(30).outcome.predictions[0].index for future in futures] == list(range(10))


def test_jobs_that_arrive_while_the_engine_is_busy_run_as_one_batch(engine: EchoEngine) -> None:
    with running(engine) as worker:
        first = worker.submit(pixel(0), Plan(), FOREVER)
        assert engine.entered.wait(30)
        rest = [worker.submit(pixel(value), Plan(), FOREVER) for value in (1, 2, 3)]
        engine.open.set()
        assert first.result(30).batch_size == 1
        assert [future.result(30).batch_size for future in rest] == [3, 3, 3]


def test_one_thread_owns_the_engine(engine: EchoEngine) -> None:
    engine.open.set()
    with running(engine, max_batch=1) as worker:
        for future in [worker.submit(pixel(value), Plan(), FOREVER) for value in range(5)]:
            future.result(30)
    assert len(engine.threads) == 1
    assert threading.get_ident() not in engine.threads


def test_one_bad_image_in_a_batch_of_eight_leaves_seven_right_answers(engine: EchoEngine) -> None:
    with running(engine) as worker:
        blocker = worker.submit(pixel(0), Plan(), FOREVER)
        assert engine.entered.wait(30)
        values = [1, 2, 3, 4, 5, POISON, 7, 8]
        futures = {value: worker.submit(pixel(value), Plan(), FOREVER) for value in values}
        engine.open.set()
        blocker.result(30)
        with pytest.raises(InferenceFailed):
            futures.pop(POISON).result(30)
        assert {v: f.result(30).outcome.predictions[0].index for v, f in futures.items()} == {v: v for v in futures}


def test_an_engine_that_loses_an_outcome_can_not_shift_results_between_callers() -> None:
    engine = ForgetfulEngine()
    with running(engine) as worker:
        blocker = worker.submit(pixel(0), Plan(), FOREVER)
        assert engine.entered.wait(30)
        futures = [worker.submit(pixel(value), Plan(), FOREVER) for value in (1, 2)]
        engine.open.set()
        blocker.result(30)
        assert [future.result(30).outcome.predictions[0].index for future in futures] == [1, 2]


def test_a_cancelled_job_costs_the_engine_nothing(engine: EchoEngine) -> None:
    with running(engine) as worker:
        first = worker.submit(pixel(0), Plan(), FOREVER)
        assert engine.entered.wait(30)
        left = worker.submit(pixel(1), Plan(), FOREVER)
        stays = worker.submit(pixel(2), Plan(), FOREVER)
        assert left.cancel()
        engine.open.set()
        first.result(30)
        assert stays.result(30).batch_size == 1
    assert engine.batches == [1, 1]


def test_stopping_finishes_accepted_jobs_and_refuses_new_ones(engine: EchoEngine) -> None:
    engine.open.set()
    worker = Worker(engine, 2)
    futures = [worker.submit(pixel(value), Plan(), FOREVER) for value in range(5)]
    worker.start()
    worker.stop()
    assert [future.result(0).outcome.predictions[0].index for future in futures] == list(range(5))
    with pytest.raises(Draining):
        worker.submit(pixel(9), Plan(), FOREVER).result(0)


def test_a_stopped_worker_can_be_restarted(engine: EchoEngine) -> None:
    engine.open.set()
    worker = Worker(engine, 2)
    for value in (1, 2):
        worker.start()
        assert worker.submit(pixel(value), Plan(), FOREVER).result(30).outcome.predictions[0].index == value
        worker.stop()


def test_a_batch_that_runs_out_of_memory_is_halved_and_lowers_the_limit() -> None:
    engine = SmallEngine()
    with running(engine) as worker:
        blocker = worker.submit(pixel(0), Plan(), FOREVER)
        assert engine.entered.wait(30)
        futures = [worker.submit(pixel(value), Plan(), FOREVER) for value in range(1, 13)]
        engine.open.set()
        blocker.result(30)
        finished = [future.result(30) for future in futures]
    assert [one.outcome.predictions[0].index for one in finished] == list(range(1, 13))
    assert {one.batch_size for one in finished} == {2}
    assert engine.batches == [1, 8, 4, 2, 2, 4, 2, 2, 2, 2]  # 8 failed, then 4 twice; batches of 2 fit
    assert worker.batch_cap == 2


def test_a_thread_that_waits_while_memory_runs_out_takes_no_larger_batch() -> None:
    engine = SmallEngine()
    engine.open.set()
    with running(engine) as worker:
        until(lambda: worker._batcher._idle == 2)
        worker._cap.lower(4)
        with worker._batcher._changed:  # the lock, so that the threads see all jobs at once
            futures = [worker.submit(pixel(value), Plan(), FOREVER) for value in range(4)]
        assert [future.result(30).batch_size for future in futures] == [2] * 4
    assert engine.batches == [2, 2]


def test_a_single_image_that_runs_out_of_memory_gets_an_error_to_retry() -> None:
    engine = SmallEngine()
    engine.room = 0
    engine.open.set()
    with running(engine) as worker, pytest.raises(OutOfMemory):
        worker.submit(pixel(1), Plan(), FOREVER).result(30)
    assert worker.fault is None


def test_nan_fails_its_image_only() -> None:
    faulty = SilentEngine()
    faulty.open.set()
    with running(faulty) as worker:
        bad, good = (worker.submit(pixel(value), Plan(), FOREVER) for value in (POISON - 1, 1))
        with pytest.raises(InferenceFailed, match="NaN"):
            bad.result(30)
        assert good.result(30).outcome.predictions[0].index == 1


def test_a_hanging_engine_is_detected_and_its_jobs_fail(engine: EchoEngine) -> None:
    with running(engine, hang_limit_s=0.05) as worker:
        stuck = worker.submit(pixel(0), Plan(), FOREVER)
        assert engine.entered.wait(30)
        waiting = worker.submit(pixel(1), Plan(), FOREVER)
        errors = [future.exception(30) for future in (stuck, waiting)]
        assert [str(error) for error in errors] == ["The engine hangs."] * 2
        assert errors[0] is not errors[1]
        assert worker.fault
        with pytest.raises(EngineDown):
            worker.submit(pixel(2), Plan(), FOREVER).result(0)
        engine.open.set()
        while worker.fault:
            time.sleep(0.001)
        assert worker.submit(pixel(3), Plan(), FOREVER).result(30).outcome.predictions[0].index == 3


class TwoSlots(EchoEngine):
    """Batches of zeros block until ``open`` is set. Other batches do not."""

    @property
    def slots(self) -> int:
        return 2

    def run(self, batch: Batch) -> list[Outcome]:
        return super().run(batch) if not batch.pixels.any() else _echoed(batch)


def _echoed(batch: Batch) -> list[Outcome]:
    values = batch.pixels[:, 0, 0, 0].tolist()
    return [Outcome((Prediction(value, 1.0, 0.0),), (), (), (), 0.0, 0.0) for value in values]


def test_jobs_are_refused_while_one_of_two_slots_hangs_and_both_recover() -> None:
    engine = TwoSlots()
    with running(engine, hang_limit_s=0.2) as worker:
        stuck = worker.submit(pixel(0), Plan(), FOREVER)
        assert engine.entered.wait(30)
        worker.submit(pixel(1), Plan(), FOREVER).result(30)  # the other slot
        with pytest.raises(EngineDown, match="hangs"):
            stuck.result(30)
        with pytest.raises(EngineDown):
            worker.submit(pixel(2), Plan(), FOREVER).result(30)
        engine.open.set()
        while worker.fault:
            time.sleep(0.001)
        both = [worker.submit(pixel(value), Plan(), FOREVER) for value in (0, 3)]
        assert [future.result(30).outcome.predictions[0].index for future in both] == [0, 3]


def test_a_hanging_engine_does_not_keep_the_worker_from_stopping(engine: EchoEngine) -> None:
    worker = Worker(engine, 8, hang_limit_s=0.05)
    worker.start()
    stuck = worker.submit(pixel(0), Plan(), FOREVER)
    worker.stop()
    with pytest.raises(EngineDown):
        stuck.result(0)
    engine.open.set()


@pytest.mark.parametrize("broken", [BrokenEngine, ExitingEngine])
def test_an_engine_that_fails_on_every_image_ends_the_worker(broken: type[EchoEngine]) -> None:
    died = threading.Event()
    engine = broken()
    with running(engine, on_death=died.set) as worker:
        futures = [worker.submit(pixel(value), Plan(), FOREVER) for value in (1, 2)]
        engine.open.set()
        for future in futures:
            with pytest.raises((EngineDown, InferenceFailed)):
                future.result(30)
        assert died.wait(30)
        assert worker.fault
        with pytest.raises(EngineDown):
            worker.submit(pixel(3), Plan(), FOREVER).result(0)


class GivingUpEngine(EchoEngine):
    """Runs one batch for each release of ``turns``. Gives up the images whose callers have left by its end."""

    def __init__(self) -> None:
        super().__init__()
        self.open.set()
        self.started, self.turns = threading.Semaphore(0), threading.Semaphore(0)

    def run(self, batch: Batch) -> list[Outcome]:
        self.started.release()
        assert self.turns.acquire(timeout=30)
        outcomes = super().run(batch)
        return [replace(outcome, given_up=void()) for outcome, void in zip(outcomes, batch.void, strict=True)]


def test_a_running_engine_sees_which_callers_left_and_only_their_images_fail() -> None:
    engine = GivingUpEngine()
    deadline = time.monotonic() + 1
    with running(engine) as worker:
        blocker = worker.submit(pixel(0), Plan(), FOREVER)
        assert engine.started.acquire(timeout=30)
        left, stays = (worker.submit(pixel(value), Plan(), FOREVER) for value in (1, 2))
        late = worker.submit(pixel(3), Plan(), deadline)
        engine.turns.release()
        blocker.result(30)
        assert engine.started.acquire(timeout=30)  # the rest runs as one batch
        assert not left.cancel()
        while time.monotonic() <= deadline:
            time.sleep(0.01)
        engine.turns.release()
        for future in (left, late):
            with pytest.raises(DeadlineExceeded):
                future.result(30)
        assert stays.result(30).outcome.predictions[0].index == 2


def test_an_abandoned_batch_does_not_lower_the_predicted_cost() -> None:
    engine = GivingUpEngine()
    with running(engine) as worker:
        whole = worker.submit(pixel(0), Plan(), FOREVER)
        time.sleep(0.3)
        engine.turns.release()
        whole.result(30)
        assert engine.started.acquire(timeout=30)
        forecast = worker.seconds_for({"": 1})
        left = worker.submit(pixel(1), Plan(), FOREVER)
        assert engine.started.acquire(timeout=30)
        left.cancel()
        engine.turns.release()
        with pytest.raises(DeadlineExceeded):
            left.result(30)
        assert worker.seconds_for({"": 1}) == forecast > 0.2
