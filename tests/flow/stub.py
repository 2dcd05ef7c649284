"""The whole app around an engine that the test holds by the hand: what is limited, queued, dropped, drained."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI

from pellucid.explain import tiles
from pellucid.explain.methods import METHODS
from pellucid.network.spec import LayerSpec, ModelSpec, NetworkSpec, PreprocessSpec
from pellucid.types import Batch, Finished, InputPixels, Outcome, Plan, Prediction
from service.app import build
from service.config import Settings
from service.dispatch.admission import Admission, Forecast
from service.dispatch.worker import Worker
from service.flow.bodies import Limits
from service.flow.networks import Served, Service
from service.telemetry.metrics import Call, Metrics
from tests.support import encoded

BLACK = encoded(np.zeros((8, 8, 3), np.uint8))
POISON = encoded(np.full((8, 8, 3), 255, np.uint8))

_SPEC = ModelSpec(
    name="stub",
    title="Nothing at all",
    labels=("dark", "light"),
    preprocess=PreprocessSpec((8, 8), 8, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    source="this test",
)
_NETWORK = NetworkSpec((LayerSpec("only", "Conv2d", (1, 2, 2)),), (), "only", "there is no other", ("only",))


@dataclass
class HeldEngine:
    """Runs batches while the gate is open, notes their sizes, and fails on a white picture.

    Each image takes ``seconds``; ``busy_s`` is how long all have taken. Raises ``broken``, if there is one.
    """

    gate: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)
    sizes: list[int] = field(default_factory=list)
    seconds: float = 0
    busy_s: float = 0
    broken: BaseException | None = None

    @property
    def slots(self) -> int:
        return 1

    def queues(self, lane: str) -> bool:
        return False

    @property
    def size(self) -> tuple[int, int]:
        return _SPEC.preprocess.size

    def lane(self, plan: Plan) -> str:
        return ""

    def ready(self, plan: Plan) -> bool:
        return True

    def prepare(self, plan: Plan, alone: bool = False, keep: bool = False) -> None:
        raise NotImplementedError

    def run(self, batch: Batch) -> list[Outcome]:
        self.sizes.append(len(batch.plans))
        self.entered.set()
        assert self.gate.wait(60)
        started = time.monotonic()
        time.sleep(self.seconds * len(batch.plans))
        self.busy_s += time.monotonic() - started
        if self.broken:
            raise self.broken
        if batch.pixels.max() == 255:
            raise RuntimeError("a white picture")
        dark = Prediction(0, 1.0, 2.0)
        return [Outcome((dark,), (), (), (), 0.0, 0.0, scored=(dark,) * len(plan.scored)) for plan in batch.plans]


class CountingWorker(Worker):
    """Counts what it was given."""

    submitted = 0

    def submit(self, pixels: InputPixels, plan: Plan, deadline: float) -> Future[Finished]:
        future = super().submit(pixels, plan, deadline)
        self.submitted += 1
        return future


@dataclass
class Stub:
    """An app, its engine, and a client of it."""

    app: FastAPI
    engine: HeldEngine
    service: Service
    worker: CountingWorker
    client: httpx.AsyncClient
    died: threading.Event

    def predict(self, *images: bytes, **options: Any) -> asyncio.Task[httpx.Response]:
        """Send images; the task ends with the response."""
        files = [("images", ("image.png", data)) for data in images or (BLACK,)]
        return asyncio.create_task(self.client.post("/v1/predict", files=files, params=options))

    async def engine_is_busy(self) -> None:
        await asyncio.to_thread(self.engine.entered.wait, 60)
        assert self.engine.entered.is_set()

    async def recovered(self) -> None:
        """Wait for the engine to be well again."""

        def watch() -> None:
            while self.worker.fault:
                time.sleep(0.001)

        await asyncio.to_thread(watch)

    async def until(self, *, in_flight: int = 0, submitted: int = 0, bytes_in_flight: int = 0) -> None:
        """Wait for that many images, or bytes, to have been let in, or to have reached the engine's queue."""
        door = self.service.admission
        late = time.monotonic() + 60

        def watch() -> None:
            while (
                door.in_flight < in_flight
                or door.bytes_in_flight < bytes_in_flight
                or self.worker.submitted < submitted
            ):
                assert time.monotonic() < late, "what was to be let in has not been, or has left again"
                time.sleep(0.001)

        await asyncio.to_thread(watch)


@asynccontextmanager
async def running(*observers: Callable[[Call], None], **settings: Any) -> AsyncIterator[Stub]:
    """The app around a stub network. The engine's gate is shut, and opened at the end."""
    chosen = Settings(**settings)
    engine = HeldEngine()
    died = threading.Event()
    metrics = Metrics("0")
    worker = CountingWorker(
        engine,
        chosen.max_batch or 4,
        hang_limit_s=chosen.hang_limit_s,
        on_batch=metrics.batches("stub"),
        on_death=died.set,
    )
    pool = ThreadPoolExecutor(2)
    pixels, side = chosen.max_megapixels * 1_000_000, chosen.max_side_pixels
    served = Served(_SPEC, _NETWORK, (METHODS["grad-cam"].spec,), "by hand", worker, pool, tiles, pixels, side)
    forecast = Forecast(2)
    service = Service(
        {"stub": served},
        Admission(chosen.max_in_flight, chosen.max_in_flight_mib * 2**20, forecast.seconds_for),
        forecast,
        Limits(chosen.max_body_mib * 2**20, chosen.max_images, chosen.max_json_values, chosen.max_json_depth),
        metrics,
        chosen.timeout_ms,
    )
    app = build(service, chosen, observers)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://stub") as client,
        app.router.lifespan_context(app),
    ):
        try:
            yield Stub(app, engine, service, worker, client, died)
        finally:
            engine.gate.set()
