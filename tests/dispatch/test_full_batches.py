"""A full batch is queued inside an engine whose slots are busy. A partial batch is not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from pellucid.types import Batch, Outcome, Plan
from service.dispatch.worker import Worker
from tests.dispatch.echo import FOREVER, EchoEngine, pixel, running, until


class QueueingEngine(EchoEngine):
    """Has one slot, and queues further batches while it is busy, except those of the lane ``deep``."""

    def __init__(self) -> None:
        super().__init__()
        self.handed_over: list[int] = []
        self._slot = threading.Lock()

    def queues(self, lane: str) -> bool:
        return lane != "deep"

    def run(self, batch: Batch) -> list[Outcome]:
        self.handed_over.append(len(batch.plans))
        started = time.monotonic()
        with self._slot:
            waited_s = time.monotonic() - started
            return [replace(outcome, waited_s=waited_s) for outcome in super().run(batch)]


def decisions(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """Record every call of ``_may_take``: the number of waiting images, and the answer."""
    made: list[tuple[int, bool]] = []
    may_take = worker._batcher._may_take

    def decide(limit: Callable[[], int]) -> bool:
        made.append((len(worker._batcher), may_take(limit)))
        return made[-1][1]

    monkeypatch.setattr(worker._batcher, "_may_take", decide)
    return made


@pytest.mark.parametrize(("layer", "count", "ahead"), [("", 2, True), ("", 1, False), ("deep", 2, False)])
def test_only_full_batches_of_lanes_that_the_engine_queues_go_ahead(
    layer: str, count: int, ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = QueueingEngine()
    with running(engine, max_batch=2) as worker:
        first = worker.submit(pixel(0), Plan(), FOREVER)
        assert engine.entered.wait(30)
        made = decisions(worker, monkeypatch)
        rest = [worker.submit(pixel(value), Plan(layer=layer or None), FOREVER) for value in range(1, count + 1)]
        until(lambda: count in dict(made))
        assert dict(made)[count] == ahead
        until(lambda: engine.handed_over == [1, count][: 1 + ahead])
        engine.open.set()
        found = [future.result(30).outcome.predictions[0].index for future in (first, *rest)]
        assert found == [*range(count + 1)]
        assert engine.handed_over == [1, count]


def test_the_cost_of_a_queued_batch_excludes_its_wait_in_the_engine() -> None:
    engine = QueueingEngine()
    with running(engine, max_batch=1) as worker:
        worker.submit(pixel(0), Plan(), FOREVER)
        assert engine.entered.wait(30)
        ahead = worker.submit(pixel(1), Plan(), FOREVER)
        until(lambda: engine.handed_over == [1, 1])
        time.sleep(0.5)
        engine.open.set()
        assert ahead.result(30).queue_s >= 0.5
        assert worker.seconds_for({"": 1}) < 0.5  # the cost excludes the time that the batch waited


def test_a_stopped_worker_finishes_the_batch_queued_in_the_engine() -> None:
    engine = QueueingEngine()
    with running(engine, max_batch=1) as worker:
        futures = [worker.submit(pixel(value), Plan(), FOREVER) for value in range(5)]
        until(lambda: len(engine.handed_over) == 2)
    assert [future.result(0).outcome.predictions[0].index for future in futures] == [*range(5)]


def test_no_batch_is_queued_in_the_engine_after_memory_ran_out(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = QueueingEngine()
    with running(engine, max_batch=2) as worker:
        worker._cap.lower(2)
        worker.submit(pixel(0), Plan(), FOREVER)
        assert engine.entered.wait(30)
        made = decisions(worker, monkeypatch)
        rest = [worker.submit(pixel(value), Plan(), FOREVER) for value in (1, 2)]
        until(lambda: 2 in dict(made))
        assert not dict(made)[2]
        assert engine.handed_over == [1]
        engine.open.set()
        assert [future.result(30).batch_size for future in rest] == [1, 1]
