"""Each image gets its own result, whatever happens to its neighbours."""

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
    """Has no memory for more than ``room`` images at once."""

    room = 2

    def run(self, batch: Batch) -> list[Outcome]:
        outcomes = super().run(batch)
        if len(outcomes) > self.room:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return outcomes


class BrokenEngine(EchoEngine):
    """Fails whatever it is given, like a CUDA device after an illegal access."""

    def run(self, batch: Batch) -> list[Outcome]:
        super().run(batch)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


class ExitingEngine(EchoEngine):
    """Ends the thread that runs it."""

    def run(self, batch: Batch) -> list[Outcome]:
        super().run(batch)
        sys.exit(3)


class SilentEngine(EchoEngine):
    """Computes NaN for one value."""

    def run(self, batch: Batch) -> list[Outcome]:
        return [
            replace(outcome, fault="NaN") if outcome.predictions[0].index == POISON - 1 else outcome
            for outcome in super().run(batch)
        ]


class ForgetfulEngine(EchoEngine):
    """Loses an outcome of every batch that has more than one."""

    def run(self, batch: Batch) -> list[Outcome]:
        outcomes = super().run(batch)
        return outcomes if len(outcomes) == 1 else outcomes[1:]


@pytest.fixture
def engine() -> EchoEngine:
    return EchoEngine()


def test_results_go_to_the_jobs_that_asked(engine: EchoEngine) -> None:
    engine.open.set()
    with running(engine, max_batch=3) as worker:
        futures = [worker.submit(pixel(value), Plan(), FOREVER) for value in range(10)]
        assert [future.result(30).outcome.predictions[0].index for future in futures] == list(range(10))


def test_what_arrives_while_the_engine_is_busy_runs_as_one_batch(engine: EchoEngine) -> None:
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


def test_one_poisoned_item_in_a_batch_of_eight_leaves_seven_right_answers(engine: EchoEngine) -> None:
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


def test_a_caller_that_left_costs_the_engine_nothing(engine: EchoEngine) -> None:
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


def test_stopping_finishes_what_was_accepted_and_refuses_the_rest(engine: EchoEngine) -> None:
    engine.open.set()
    worker = Worker(engine, 2)
    futures = [worker.submit(pixel(value), Plan(), FOREVER) for value in range(5)]
    worker.start()
    worker.stop()
    assert [future.result(0).outcome.predictions[0].index for future in futures] == list(range(5))
    with pytest.raises(Draining):
        worker.submit(pixel(9), Plan(), FOREVER).result(0)


def test_a_stopped_worker_can_be_started_again(engine: EchoEngine) -> None:
    engine.open.set()
    worker = Worker(engine, 2)
    for value in (1, 2):
        worker.start()
        assert worker.submit(pixel(value), Plan(), FOREVER).result(30).outcome.predictions[0].index == value
        worker.stop()


def test_a_batch_without_room_is_halved_and_so_are_the_next_ones() -> None:
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
    assert engine.batches == [1, 8, 4, 2, 2, 4, 2, 2, 2, 2]  # eight failed, four twice, and none after that
    assert worker.batch_cap == 2


def test_a_thread_that_waits_while_memory_runs_out_takes_no_larger_batch() -> None:
    engine = SmallEngine()
    engine.open.set()
    with running(engine) as worker:
        until(lambda: worker._batcher._idle == 2)
        worker._cap.lower(4)
        with worker._batcher._changed:  # no thread takes a job before all of them are there
            futures = [worker.submit(pixel(value), Plan(), FOREVER) for value in range(4)]
        assert [future.result(30).batch_size for future in futures] == [2] * 4
    assert engine.batches == [2, 2]


def test_an_image_without_room_is_told_that_it_may_come_again() -> None:
    engine = SmallEngine()
    engine.room = 0
    engine.open.set()
    with running(engine) as worker, pytest.raises(OutOfMemory):
        worker.submit(pixel(1), Plan(), FOREVER).result(30)
    assert worker.fault is None


def test_numbers_that_are_none_fail_their_image_alone() -> None:
    faulty = SilentEngine()
    faulty.open.set()
    with running(faulty) as worker:
        bad, good = (worker.submit(pixel(value), Plan(), FOREVER) for value in (POISON - 1, 1))
        with pytest.raises(InferenceFailed, match="NaN"):
            bad.result(30)
        assert good.result(30).outcome.predictions[0].index == 1


def test_an_engine_that_hangs_is_noticed_and_nobody_waits_for_it(engine: EchoEngine) -> None:
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
    """Its second slot is free while a batch of zeros is held."""

    @property
    def slots(self) -> int:
        return 2

    def run(self, batch: Batch) -> list[Outcome]:
        return super().run(batch) if not batch.pixels.any() else _echoed(batch)


def _echoed(batch: Batch) -> list[Outcome]:
    values = batch.pixels[:, 0, 0, 0].tolist()
    return [Outcome((Prediction(value, 1.0, 0.0),), (), (), (), 0.0, 0.0) for value in values]


def test_while_one_of_two_slots_hangs_nothing_is_taken_and_then_both_work_again() -> None:
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


def test_an_engine_that_hangs_does_not_keep_the_service_from_stopping(engine: EchoEngine) -> None:
    worker = Worker(engine, 8, hang_limit_s=0.05)
    worker.start()
    stuck = worker.submit(pixel(0), Plan(), FOREVER)
    worker.stop()
    with pytest.raises(EngineDown):
        stuck.result(0)
    engine.open.set()


@pytest.mark.parametrize("broken", [BrokenEngine, ExitingEngine])
def test_an_engine_that_fails_on_everything_ends_the_worker_and_says_so(broken: type[EchoEngine]) -> None:
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
    """Runs one batch for each turn that it is given; gives up, at its end, what nobody waits for by then."""

    def __init__(self) -> None:
        super().__init__()
        self.open.set()
        self.started, self.turns = threading.Semaphore(0), threading.Semaphore(0)

    def run(self, batch: Batch) -> list[Outcome]:
        self.started.release()
        assert self.turns.acquire(timeout=30)
        outcomes = super().run(batch)
        return [replace(outcome, given_up=void()) for outcome, void in zip(outcomes, batch.void, strict=True)]


def test_an_engine_at_work_knows_which_images_nobody_waits_for_and_they_alone_fail() -> None:
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


def test_a_batch_that_was_given_up_early_is_no_evidence_that_such_batches_are_short() -> None:
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
