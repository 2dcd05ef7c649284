"""A fake engine whose batches wait for an event, and a worker that runs it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from pellucid.types import Batch, Outcome, Pixels, Plan, Prediction
from service.dispatch.worker import Worker

POISON = 255
FOREVER = time.monotonic() + 3600


class EchoEngine:
    """Predicts the value of the first pixel as the class. A batch blocks until ``open`` is set. Fails on POISON."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.batches: list[int] = []
        self.threads: set[int] = set()

    @property
    def slots(self) -> int:
        return 1

    def queues(self, lane: str) -> bool:
        return False

    @property
    def size(self) -> tuple[int, int]:
        return 1, 1

    def lane(self, plan: Plan) -> str:
        return plan.layer or ""

    def ready(self, plan: Plan) -> bool:
        return True

    def prepare(self, plan: Plan, alone: bool = False, keep: bool = False) -> None:
        raise NotImplementedError

    def run(self, batch: Batch) -> list[Outcome]:
        self.entered.set()
        assert self.open.wait(30)
        self.threads.add(threading.get_ident())
        values = batch.pixels[:, 0, 0, 0].tolist()
        if POISON in values:
            raise RuntimeError("poisoned")
        self.batches.append(len(values))
        return [Outcome((Prediction(value, 1.0, 0.0),), (), (), (), 0.0, 0.0) for value in values]


def pixel(value: int) -> Pixels:
    return np.full((1, 1, 3), value, np.uint8)


@contextmanager
def running(engine: EchoEngine, max_batch: int = 8, **options: Any) -> Iterator[Worker]:
    worker = Worker(engine, max_batch, **options)
    worker.start()
    yield worker
    engine.open.set()
    worker.stop()


def until(happened: Callable[[], bool]) -> None:
    """Wait until ``happened()`` is true, at most 30 s."""
    late = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < late, "timed out"
        time.sleep(0.001)
