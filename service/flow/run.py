"""One upload -> its result: decode, run, render. Pictures are decoded and drawn in a pool, never on the event loop."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from pellucid.decode.image import decode
from pellucid.decode.tensor import as_decoded
from pellucid.errors import PellucidError
from pellucid.network.spec import ModelSpec, NetworkSpec
from pellucid.types import DecodedImage, Finished, MethodSpec, Outcome, Plan, Prepared, Upload

from ..dispatch.cost import CostModel
from ..dispatch.worker import Worker
from ..telemetry.call import STAGES

T = TypeVar("T")

# What older trials took counts so much beside the latest: there are few, and one in a busy minute is soon forgotten.
_FORGETTING: Final = 0.7


@dataclass(slots=True)
class Stages:
    """Seconds that an image spent in each stage on its way through ``model``, and the size of the batch that it ran in.

    ``begun``: when the stages that are timed here began, by ``time.perf_counter``. ``over``: whether the image's part
    of the reply is there, or has failed.
    """

    model: str
    seconds: dict[str, float] = field(default_factory=dict)
    begun: dict[str, float] = field(default_factory=dict)
    batch_size: int = 0
    over: bool = False

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Take the time of a stage that does not fail."""
        self.begun[stage] = started = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - started

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
    """One served network and the way through it. ``engine`` says what runs it, for people to read;
    ``runtime`` what of it decides the bits of an answer, as ``schemas.Provenance`` has it. ``trials`` learns what it
    takes to try maps, from the first picture that is made to the last that is scored.
    """

    spec: ModelSpec
    network: NetworkSpec
    methods: tuple[MethodSpec, ...]
    engine: str
    worker: Worker
    pool: Executor
    max_pixels: int
    max_side: int
    runtime: Mapping[str, Any] = field(default_factory=dict)
    trials: CostModel = field(default_factory=lambda: CostModel(_FORGETTING))

    def run(
        self,
        upload: Upload | Prepared,
        plan: Plan,
        picture_side: int | None,
        form: Callable[[DecodedImage, Outcome], T],
        deadline: float,
        stages: Stages,
        *,
        brief: bool = False,
    ) -> asyncio.Future[T]:
        """The result for one image in the ``form`` in which it is sent. It raises PellucidError.

        ``picture_side`` asks for the source picture too, as ``decode`` does. Where the ``form`` is ``brief``, the
        engine's thread makes it: handing it to another would cost more.

        Each stage starts the next from its own thread, and the last settles the answer: the event loop is woken once
        for each image, not for each stage. Cancelling the answer cancels the job: what has not started is not done.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()  # other threads only ask whether it is cancelled
        # Weakly, since the job holds the picture until it is answered: a ring would keep it for the collector.
        running: list[weakref.ref[Future[Finished]]] = []

        def decoding() -> None:
            if answer.cancelled():
                return
            with stages.timed("decode"):
                if isinstance(upload, Prepared):
                    image = as_decoded(upload)
                else:
                    image = decode(upload, self.spec.preprocess, self.max_pixels, picture_side, self.max_side)
            job = self.worker.submit(image.pixels, plan, deadline)
            running.append(weakref.ref(job))
            if answer.cancelled():  # before the job was there to be cancelled
                job.cancel()
            job.add_done_callback(lambda job: following(image, job))

        def following(image: DecodedImage, job: Future[Finished]) -> None:
            if job.cancelled():
                return
            if brief or job.exception() is not None:  # nothing to draw, and the pool may be closed by now
                settling(rendering, image, job)
            else:
                self.pool.submit(settling, rendering, image, job)

        def rendering(image: DecodedImage, job: Future[Finished]) -> None:
            finished = job.result()
            outcome = finished.outcome
            stages.batch_size = finished.batch_size
            stages.seconds |= {"queue": finished.queue_s, "infer": outcome.infer_s, "explain": outcome.explain_s}
            if answer.cancelled():
                return
            with stages.timed("render"):
                formed = form(image, outcome)
            settle(answer.set_result, formed)

        def settling(stage: Callable[..., None], *args: Any) -> None:
            """Run a stage; what it raises is the answer."""
            try:
                stage(*args)
            except BaseException as error:
                if isinstance(error, PellucidError):  # the frames of its traceback hold the upload, and the answer it
                    error.__cause__ = error.__context__ = error.__traceback__ = None
                settle(answer.set_exception, error)

        def settle(setter: Callable[[Any], None], value: Any) -> None:
            def unless_cancelled() -> None:
                if not answer.done():
                    setter(value)

            with suppress(RuntimeError):  # the loop may have gone
                loop.call_soon_threadsafe(unless_cancelled)

        def leaving(answer: asyncio.Future[T]) -> None:
            if answer.cancelled() and running and (job := running[0]()):
                job.cancel()

        answer.add_done_callback(leaving)
        self.pool.submit(settling, decoding)
        return answer
