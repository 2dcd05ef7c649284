"""One upload -> its result: decode, run, render. Pictures are decoded and drawn in a pool, never on the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from models.spec import ModelSpec, NetworkSpec
from service.api.plan import Look
from service.api.reply import result
from service.decode.image import decode
from service.dispatch.worker import Worker
from service.telemetry.call import STAGES
from service.types import Finished, Plan, Upload

T = TypeVar("T")


@dataclass(slots=True)
class Stages:
    """Seconds that an image spent in each stage, and the size of the batch that it ran in.

    ``begun``: when the stages that are timed here began, by ``time.perf_counter``.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    begun: dict[str, float] = field(default_factory=dict)
    batch_size: int = 0

    @staticmethod
    def header(images: Sequence[Stages]) -> str:
        """Server-Timing (W3C): milliseconds by stage, of the slowest of several images."""
        entries = []
        for stage in STAGES:
            times = [image.seconds[stage] for image in images if stage in image.seconds]
            if times:
                note = f';desc="batch of {max(image.batch_size for image in images)}"' if stage == "infer" else ""
                entries.append(f"{stage}{note};dur={max(times) * 1000:.2f}")
        return ", ".join(entries)


@dataclass(frozen=True)
class Pipeline:
    """One served network and the way through it. ``engine`` says what runs it, for people to read."""

    spec: ModelSpec
    network: NetworkSpec
    methods: tuple[str, ...]
    engine: str
    worker: Worker
    pool: Executor
    max_pixels: int

    async def run(
        self,
        upload: Upload,
        plan: Plan,
        look: Look,
        form: Callable[[dict[str, Any]], T],
        deadline: float,
        stages: Stages,
    ) -> T:
        """The result for one image in the ``form`` in which it is sent. Raises PellucidError.

        Cancelling this cancels the job: what has not started is not done.
        """
        side = look.max_side if look.overlay else None
        image = await self._in_pool(stages, "decode", decode, upload, self.spec.preprocess, self.max_pixels, side)
        job = self.worker.submit(image.pixels, plan, deadline)
        finished: Finished = await asyncio.wrap_future(job)
        outcome = finished.outcome
        stages.batch_size = finished.batch_size
        stages.seconds |= {"queue": finished.queue_s, "infer": outcome.infer_s, "explain": outcome.explain_s}
        return await self._in_pool(stages, "render", lambda: form(result(image, outcome, look, self.spec.labels)))

    async def _in_pool(self, stages: Stages, stage: str, work: Callable[..., T], *args: Any) -> T:
        def timed() -> tuple[T, float]:
            stages.begun[stage] = started = time.perf_counter()
            value = work(*args)
            return value, time.perf_counter() - started

        value, stages.seconds[stage] = await asyncio.get_running_loop().run_in_executor(self.pool, timed)
        return value
