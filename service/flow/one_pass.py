"""One pass: decode, queue, infer, write. Pictures are decoded and drawn in a pool, never on the event loop."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from pellucid.decode.image import decode, tiling_of
from pellucid.decode.region import placed
from pellucid.decode.tensor import as_decoded
from pellucid.errors import PellucidError
from pellucid.parts.option_types import Options
from pellucid.types import DecodedImage, Finished, Outcome, Plan, Prepared, Tiling, Upload

from ..telemetry.metrics import Stages
from .networks import Served
from .tiles import TiledJob

T = TypeVar("T")

# Bytes of a pixel of the source picture: RGB.
_BYTES_PER_PIXEL: Final = 3


@dataclass(eq=False, slots=True)
class Ask:
    """One pass: an image, the network, what to compute, and the options by which its outcome is written.

    ``name`` begins the texts of errors, unless it is empty. ``side`` is the longer side of the source picture that is
    kept to be drawn, by default that of the options. ``tiling``: how the network sees an image with the view ``whole``,
    once it is known. ``left`` says whether the caller has left. ``times`` is filled in while it runs.
    """

    image: Upload | Prepared
    network: Served
    plan: Plan
    options: Options
    name: str = ""
    tiling: Tiling | None = None
    side: int | None = None
    left: Callable[[], bool] = lambda: False
    times: Stages = field(init=False)

    def __post_init__(self) -> None:
        self.side = self.side or self.options.picture_side
        self.times = Stages(self.network.spec.name)

    def find_tiling(self) -> None:
        """Set ``tiling`` by the file's header."""
        if isinstance(self.image, Upload):
            network, view = self.network, self.options.seen(self.network.spec, self.network.sizes)
            self.tiling = tiling_of(self.image, network.spec.preprocess, network.max_pixels, network.max_side, view)

    @property
    def tiles(self) -> int:
        """In how many tiles the network sees the image."""
        return len(self.tiling.corners) if self.tiling else 1

    @property
    def sized(self) -> Plan:
        """The plan with the size of what the network sees at once."""
        return replace(self.plan, size=self.tiling.tile) if self.tiling else self.plan

    @property
    def passes(self) -> int:
        """The images that the engine runs: the tiles, and before them the tiles once more to find the class."""
        return self.tiles * (2 if self.tiles > 1 and self.network.tiles.needs_class(self.plan) else 1)

    @property
    def picture_bytes(self) -> int:
        """The most bytes that the source picture takes, if it is kept to be drawn over."""
        return _BYTES_PER_PIXEL * (self.side or 0) ** 2


def run(
    ask: Ask, write: Callable[[Ask, DecodedImage, Outcome], T], deadline: float, *, in_engine_thread: bool
) -> asyncio.Future[T]:
    """What ``write`` makes of one pass. The future raises PellucidError.

    ``write`` runs in the pool, or ``in_engine_thread``, where it takes less time than a change of threads.

    Each stage starts the next one from its own thread, and the last one resolves the future. So the event loop wakes
    up once for each image, not for each stage. Cancelling the future cancels the stages that have not started.
    """
    loop, network, times = asyncio.get_running_loop(), ask.network, ask.times
    context = copy_context()  # of the caller, for the engine's thread
    answer: asyncio.Future[T] = loop.create_future()  # other threads only read whether it is cancelled
    ask.left = answer.cancelled
    # A weak reference: the job holds the picture, and a cycle would keep both until a garbage collection.
    running: list[weakref.ref[Future[Finished]]] = []

    def decoding() -> None:
        if answer.cancelled():
            return
        with times.timed("decode"):
            if isinstance(ask.image, Prepared):
                image = as_decoded(ask.image)
            else:
                image = decode(
                    ask.image,
                    network.spec.preprocess,
                    network.max_pixels,
                    ask.side,
                    network.max_side,
                    ask.options.seen(network.spec, network.sizes),
                )
        plan: Plan = placed(ask.plan, image, network.spec)
        job: Future[Finished] = (
            network.worker.submit(image.pixels, plan, deadline)
            if image.tiling is None
            else TiledJob(network, image, plan, deadline)
        )
        running.append(weakref.ref(job))
        if answer.cancelled():  # cancelled before the job existed
            job.cancel()
        job.add_done_callback(lambda job: following(image, job))

    def following(image: DecodedImage, job: Future[Finished]) -> None:
        if job.cancelled():
            return
        if in_engine_thread or job.exception() is not None:  # nothing to draw, or the pool may be closed
            settling(rendering, image, job)
        else:
            context.run(network.pool.submit, settling, rendering, image, job)

    def rendering(image: DecodedImage, job: Future[Finished]) -> None:
        finished = job.result()
        outcome = finished.outcome
        times.batch_size = finished.batch_size
        times.seconds |= {"queue": finished.queue_s, "infer": outcome.infer_s, "explain": outcome.explain_s}
        if answer.cancelled():
            return
        with times.timed("render"):
            written = write(ask, image, outcome)
        settle(answer.set_result, written)

    def settling(stage: Callable[..., None], *args: Any) -> None:
        """Run a stage. Its error becomes the future's."""
        try:
            stage(*args)
        except BaseException as error:
            if isinstance(error, PellucidError):  # its traceback's frames hold the upload
                error.__cause__ = error.__context__ = error.__traceback__ = None
            settle(answer.set_exception, error)

    def settle(setter: Callable[[Any], None], value: Any) -> None:
        def unless_cancelled() -> None:
            if not answer.done():
                setter(value)

        with suppress(RuntimeError):  # the loop may be closed
            loop.call_soon_threadsafe(unless_cancelled)

    def leaving(answer: asyncio.Future[T]) -> None:
        if answer.cancelled() and running and (job := running[0]()):
            job.cancel()

    answer.add_done_callback(leaving)
    network.pool.submit(settling, decoding)
    return answer


async def together(*works: Coroutine[Any, Any, Any]) -> list[Any]:
    """The results of all. The first error stops the others, and is raised once they have ended."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
