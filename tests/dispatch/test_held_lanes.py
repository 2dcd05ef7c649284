"""A lane waits while its model is being compiled. Other lanes do not."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from pellucid.errors import DeadlineExceeded, Draining
from pellucid.types import Batch, Outcome, Plan
from service.dispatch.worker import Worker
from tests.dispatch.echo import FOREVER, EchoEngine, pixel, running, until
from tests.support import REPOSITORY

NEW, USUAL, OTHER = Plan(layer="new"), Plan(), Plan(layer="other")


class CompilingEngine(EchoEngine):
    """Must compile the lanes in ``unknown``. A compilation blocks until ``compiles`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.open.set()
        self.unknown = {"new"}
        self.compiles = threading.Event()
        self.prepared: list[tuple[str, bool]] = []
        self.error: Exception | None = None
        self.ran: list[str] = []

    def ready(self, plan: Plan) -> bool:
        return self.lane(plan) not in self.unknown

    def prepare(self, plan: Plan, alone: bool = False, keep: bool = False) -> None:
        self.prepared.append((self.lane(plan), alone))
        assert self.compiles.wait(30)
        if self.error:
            raise self.error
        self.unknown.discard(self.lane(plan))

    def run(self, batch: Batch) -> list[Outcome]:
        self.ran.append(self.lane(batch.plans[0]))
        return super().run(batch)


@pytest.fixture
def engine() -> Iterator[CompilingEngine]:
    engine = CompilingEngine()
    yield engine
    engine.compiles.set()


def test_other_lanes_run_while_the_jobs_of_one_wait_for_its_compilation(engine: CompilingEngine) -> None:
    with running(engine) as worker:
        held = [worker.submit(pixel(value), NEW, FOREVER) for value in (1, 2, 3)]
        until(lambda: engine.prepared == [("new", False)])
        for value in (4, 5):
            assert worker.submit(pixel(value), USUAL, FOREVER).result(30).outcome.predictions[0].index == value
        assert not any(future.done() for future in held)
        assert worker.waiting == 3
        assert worker.fault is None
        engine.compiles.set()
        finished = [future.result(30) for future in held]
        assert [one.outcome.predictions[0].index for one in finished] == [1, 2, 3]
        until(lambda: engine.prepared == [("new", False), ("new", True)])  # both forms, once each
    assert engine.ran[:2] == ["", ""]
    assert set(engine.ran[2:]) == {"new"}


def test_jobs_run_as_soon_as_one_form_is_compiled(engine: CompilingEngine) -> None:
    second = threading.Event()

    class OneForm(CompilingEngine):
        def prepare(self, plan: Plan, alone: bool = False, keep: bool = False) -> None:
            if alone:
                assert second.wait(30)
            super().prepare(plan, alone)

    engine = OneForm()
    engine.compiles.set()
    with running(engine) as worker:
        assert worker.submit(pixel(1), NEW, FOREVER).result(30).outcome.predictions[0].index == 1
        assert engine.prepared == [("new", False)]
        second.set()


def test_lanes_are_compiled_one_at_a_time(engine: CompilingEngine) -> None:
    engine.unknown = {"new", "other"}
    with running(engine) as worker:
        futures = [worker.submit(pixel(value), plan, FOREVER) for value, plan in ((1, NEW), (2, OTHER))]
        until(lambda: len(engine.prepared) == 1)
        engine.compiles.set()
        assert [future.result(30).outcome.predictions[0].index for future in futures] == [1, 2]
        until(lambda: len(engine.prepared) == 4)
    assert engine.prepared == [("new", False), ("new", True), ("other", False), ("other", True)]


def test_a_failed_compilation_does_not_affect_other_lanes(engine: CompilingEngine) -> None:
    engine.error = RuntimeError("no such operation")
    with running(engine) as worker:
        held = worker.submit(pixel(1), NEW, FOREVER)
        usual = worker.submit(pixel(2), USUAL, FOREVER)
        assert usual.result(30).outcome.predictions[0].index == 2
        engine.compiles.set()
        assert held.result(30).outcome.predictions[0].index == 1  # the engine still runs them
        assert worker.submit(pixel(3), USUAL, FOREVER).result(30).outcome.predictions[0].index == 3
        assert worker.fault is None


def test_a_cancelled_job_leaves_its_held_lane(engine: CompilingEngine) -> None:
    with running(engine) as worker:
        left = worker.submit(pixel(1), NEW, FOREVER)
        until(lambda: len(engine.prepared) == 1)
        assert left.cancel()
        assert worker.waiting == 0
        engine.compiles.set()
        assert worker.submit(pixel(2), NEW, FOREVER).result(30).outcome.predictions[0].index == 2
    assert engine.batches == [1]


def test_a_job_that_is_late_when_its_lane_is_released_fails(engine: CompilingEngine) -> None:
    with running(engine) as worker:
        deadline = time.monotonic() + 0.5
        late = worker.submit(pixel(1), NEW, deadline)
        until(lambda: len(engine.prepared) == 1 and time.monotonic() > deadline)
        engine.compiles.set()
        with pytest.raises(DeadlineExceeded):
            late.result(30)


def test_stopping_while_a_lane_is_held_finishes_its_jobs(engine: CompilingEngine) -> None:
    worker = Worker(engine, 8)
    worker.start()
    held = worker.submit(pixel(1), NEW, FOREVER)
    until(lambda: len(engine.prepared) == 1)
    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    until(lambda: worker._batcher._closed)
    with pytest.raises(Draining):
        worker.submit(pixel(2), NEW, FOREVER).result(0)
    engine.compiles.set()
    stopping.join(30)
    assert not stopping.is_alive()
    assert held.result(0).outcome.predictions[0].index == 1


def test_stopping_while_an_empty_lane_is_held_ends_at_once(engine: CompilingEngine) -> None:
    worker = Worker(engine, 8)
    worker.start()
    assert worker.submit(pixel(1), NEW, FOREVER).cancel()
    until(lambda: len(engine.prepared) == 1)
    worker.stop()
    assert not any(thread.is_alive() for thread in worker._threads)


HANGING = """
import threading
from pellucid.types import Plan
from service.dispatch.worker import Worker
from tests.dispatch.echo import FOREVER, EchoEngine, pixel

class Hanging(EchoEngine):
    def ready(self, plan):
        return False

    def prepare(self, plan, alone=False, keep=False):
        entered.set()
        threading.Event().wait()

entered = threading.Event()
worker = Worker(Hanging(), 8)
worker.start()
future = worker.submit(pixel(1), Plan(), FOREVER)
assert entered.wait(30)
future.cancel()
worker.stop()
print("stopped")
"""


def test_a_hanging_compilation_does_not_keep_the_process_alive() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGING], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr


def test_a_batch_that_may_wait_for_a_compiler_does_not_raise_the_predicted_cost(engine: CompilingEngine) -> None:
    both, prepare = threading.Event(), engine.prepare

    def preparing(plan: Plan, alone: bool = False, keep: bool = False) -> None:
        prepare(plan, alone, keep)
        assert not alone or both.wait(30)

    engine.prepare = preparing  # type: ignore[method-assign]
    engine.compiles.set()
    with running(engine) as worker:
        worker.submit(pixel(1), NEW, FOREVER).result(30)
        prepared = worker.prepared(NEW)
        assert not prepared.done()
        assert worker.seconds_for({"new": 1}) == 0
        both.set()
        prepared.result(30)
        worker.submit(pixel(1), NEW, FOREVER).result(30)
        assert worker.seconds_for({"new": 1}) > 0
