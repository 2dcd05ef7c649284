"""Mean latency against offered load: batches as greedy as ours, beside a window of 10 ms and the closed-form bound."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from benchmarks.engine import inputs, load_engine
from benchmarks.queueing import fit, mean_latency_bound, simulate
from pellucid.types import Batch, Finished, Job, Pixels, Plan
from service.config import Settings
from service.dispatch.batcher import Batcher
from service.dispatch.engine import Engine
from service.dispatch.worker import SPARE, Worker

WINDOW_S = 0.010
LOADS = (0.1, 0.3, 0.5, 0.7, 0.9)
SIZES = (1, 2, 4, 6, 8)


class WindowBatcher(Batcher):
    """What most servers do: the first request waits up to a fixed time for company."""

    def _next_batch(self, limit: int) -> list[Job]:
        """See Batcher; the plans are all alike here, so there is one lane."""
        ((jobs,),) = (lane.values() for lane in self._lanes.values())
        left = next(iter(jobs)).submitted + WINDOW_S - time.monotonic()
        self._changed.wait_for(lambda: len(jobs) >= limit or self._closed, max(0.0, left))
        return super()._next_batch(limit)


class WindowWorker(Worker):
    """The service's worker with the window in place of its batcher."""

    def __init__(self, engine: Engine, max_batch: int) -> None:
        super().__init__(engine, max_batch)
        self._batcher = WindowBatcher(self._costs.predict, spare=SPARE)


def measure(seconds: float, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Raw figures: a and b of the engine, and for each load and discipline the mean latency of each round."""
    settings = Settings()
    engine, spec = load_engine(settings)
    one_at_a_time, _ = load_engine(settings, slots=1)  # each batch on all cores: the queue that the theory is of
    images = inputs(spec)
    for alone in (False, True):  # compiling is not latency
        engine.prepare(Plan(top_k=5), alone)
    most = settings.max_batch or engine.paying_batch
    sizes = [size for size in SIZES if size <= most]
    a, b = fit(sizes, _service_times(one_at_a_time, images, sizes))
    capacity = most / (a + b * most)
    say(f"a + b·n: {a * 1000:.2f} + {b * 1000:.2f}·n ms, {capacity:.0f} images a second in batches of {most}")
    disciplines: dict[str, tuple[type[Worker], Engine]] = {
        "greedy": (Worker, one_at_a_time),
        "window": (WindowWorker, one_at_a_time),
        "served": (Worker, engine),
    }
    cells = []
    for number in range(rounds):
        for load in LOADS:
            for name, (kind, runner) in disciplines.items():
                worker = kind(runner, most)
                worker.start()
                latencies = _offer(worker, images, load * capacity, seconds, seed=number)
                worker.stop()
                mean = statistics.fmean(latencies)
                cells.append({"round": number, "load": load, "discipline": name, "mean_ms": mean * 1000})
                say(f"round {number + 1}: {load:.0%} of capacity, {name}: {mean * 1000:.1f} ms")
    theory = [
        {
            "load": load,
            "bound_ms": mean_latency_bound(load * capacity, a, b) * 1000,
            "simulated_ms": simulate(load * capacity, a, b, requests=200_000, max_batch=most) * 1000,
        }
        for load in LOADS
    ]
    fitted = {"a_ms": a * 1000, "b_ms": b * 1000, "capacity": capacity, "max_batch": most}
    return {"engine": engine.info.description, "slots": engine.slots, **fitted, "cells": cells, "theory": theory}


def _service_times(engine: Engine, images: Pixels, sizes: list[int]) -> list[float]:
    """Median seconds of a batch of each size, the sizes in turn."""
    times: dict[int, list[float]] = {size: [] for size in sizes}
    for number in range(40):
        for size in sizes:
            batch = Batch(images[:size], (Plan(top_k=5),) * size)
            started = time.perf_counter()
            engine.run(batch)
            if number >= 5:  # the first ones warm up
                times[size].append(time.perf_counter() - started)
    return [statistics.median(times[size]) for size in sizes]


def _offer(worker: Worker, images: Pixels, rate: float, seconds: float, seed: int) -> list[float]:
    """Poisson arrivals at ``rate``, whether answers come or not; seconds from when each was due to its answer."""
    draw = random.Random(seed)
    latencies: list[float] = []
    answered = threading.Semaphore(0)
    due = started = time.perf_counter()
    sent = 0
    while (due := due + draw.expovariate(rate)) < started + seconds:
        time.sleep(max(0.0, due - time.perf_counter()))

        def done(job: Future[Finished], due: float = due) -> None:
            latencies.append(time.perf_counter() - due)
            job.result()
            answered.release()

        worker.submit(images[sent % len(images)], Plan(top_k=5), time.monotonic() + 60).add_done_callback(done)
        sent += 1
    for _ in range(sent):
        answered.acquire()
    return latencies
