"""The flow that all POST routes share: negotiate, read, plan, admit, run, reply."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from pellucid.decode.image import identify
from pellucid.errors import DeadlineExceeded, Draining, EngineDown, PellucidError, UnknownModel, UnknownName
from pellucid.parts.option_types import Options
from pellucid.trust.trials import Design
from pellucid.types import DecodedImage, Outcome, Plan, Prepared, Upload

from ..dispatch.admission import Admission, Place
from ..dispatch.forecast import Forecast
from ..http.problems import problem
from ..telemetry.call import Call
from ..telemetry.metrics import Metrics
from . import body as intake
from . import disconnect as waiting
from . import forms, provenance, reply, trust_trials
from .joint import Joint, all_or_none
from .run import Pipeline, Stages

# Of the pictures that are kept to be drawn over: RGB.
_BYTES_PER_PIXEL = 3
# A caller who is refused is read on for so long, so that the refusal is not lost with a connection cut in mid-send.
_LINGER_S = 2.0
# So many classes take microseconds to write down.
_FEW = 20

T = TypeVar("T")
B = TypeVar("B", bound=intake.Intake)

log = logging.getLogger(__name__)


@dataclass
class Service:
    """What the routers work with: the served networks by name, the default first, the door, the limits, the metrics.

    ``ready`` is false while draining; then what was accepted has ``grace_s`` seconds.
    """

    pipelines: dict[str, Pipeline]
    admission: Admission
    forecast: Forecast
    limits: intake.Limits
    metrics: Metrics
    timeout_ms: int
    grace_s: float = 20.0
    ready: bool = False

    def pipeline(self, name: str | None) -> Pipeline:
        """The network of that name, or the default. Raises UnknownName."""
        if name is None:
            return next(iter(self.pipelines.values()))
        if name not in self.pipelines:
            raise UnknownName.among("model", name, [*self.pipelines])
        return self.pipelines[name]

    def addressed(self, name: str) -> Pipeline:
        """The network of that name, which stands in a path. Raises UnknownModel."""
        if name not in self.pipelines:
            served = [*self.pipelines]
            raise UnknownModel(f"No model {name!r} is served. Served are {', '.join(served)}.", allowed=served)
        return self.pipelines[name]

    def require_engines(self) -> None:
        """Raise EngineDown where a network does not answer."""
        for name, pipeline in self.pipelines.items():
            if fault := pipeline.worker.fault:
                raise EngineDown(f"{name}: {fault}")

    def require_ready(self) -> None:
        """Raise Draining while no work is taken, and EngineDown."""
        if not self.ready:
            raise Draining("The service is starting up or shutting down.")
        self.require_engines()


@dataclass(frozen=True, slots=True)
class Order(Generic[T]):
    """What a request turned out to ask of a network, and how its answer is written.

    ``form`` makes an image's entry, in the pool, of the picture, its outcome, and, where the options have a design,
    what was measured of each map; ``reply`` makes the answer of all entries in their order. ``failed`` makes the entry
    of an image that failed beside others; without it the request fails as its image does.
    """

    pipeline: Pipeline
    plan: Plan
    options: Options
    form: Callable[..., T]
    reply: Callable[[Sequence[T]], Response]
    failed: Callable[[Upload | Prepared, PellucidError], T] | None = None
    timeout_ms: int | None = None


async def answer(
    request: Request,
    service: Service,
    options: Options,
    *,
    pictures: bool = True,
    numbers: bool = False,
) -> Response:
    """The reply to a POST of images."""
    media_type = reply.negotiate(", ".join(request.headers.getlist("accept")), pictures, numbers)
    request_id: str = request.state.request_id

    def order(body: intake.Intake) -> Order[reply.Entry]:
        merged = options.merged(body.fields)
        pipeline = service.pipeline(merged.model)
        plan = merged.plan(pipeline, len(body.uploads))
        if media_type != reply.JSON:
            forms.require_one_picture(len(body.uploads), plan, merged, media_type)
        origin = None
        if merged.provenance:
            origin = provenance.of_reply(request.scope["route"].path, merged, plan, pipeline)

        def failure(image: Upload | Prepared, error: PellucidError) -> reply.Entry:
            assert isinstance(image, Upload)
            return reply.failure(identify(image), problem(error, request_id))

        as_json = media_type == reply.JSON
        return Order(
            pipeline,
            plan,
            merged,
            partial(forms.written, options=merged, labels=pipeline.spec.labels, media_type=media_type, origin=origin),
            partial(reply.envelope, pipeline.spec.name, request_id, origin) if as_json else forms.file,
            failure if as_json else None,
            merged.timeout_ms,
        )

    return await serve(request, service, options.timeout_ms, intake.read, order)


async def serve(
    request: Request,
    service: Service,
    timeout_ms: int | None,
    read: Callable[[Request, intake.Limits, Callable[[int], None]], Awaitable[B]],
    order: Callable[[B], Order[Any] | Joint],
    *,
    any_type: bool = False,
) -> Response:
    """The way of every request with images, whatever protocol it speaks: ``read`` its body, and do its ``order``.

    ``timeout_ms`` is what is known before the body is; ``any_type`` says that the body's type need not be told.
    """
    if not service.ready:
        await waiting.spend(request, service.limits, _LINGER_S)
        raise Draining("The service is starting up or shutting down.")
    arrived = time.monotonic()

    def deadline_by(chosen_ms: int | None) -> float:
        return arrived + min(chosen_ms or service.timeout_ms, service.timeout_ms) / 1000

    with service.admission.enter(intake.announced(request, service.limits, any_type=any_type)) as place:
        body = await waiting.read(request, service.limits, place, deadline_by(timeout_ms), read)
        asked = order(body)
        call: Call = request.state.call
        deadline = deadline_by(asked.timeout_ms)
        if isinstance(asked, Joint):
            return await _joint(request, service, place, call, asked, deadline)
        images = body.uploads
        kept = _BYTES_PER_PIXEL * (asked.options.picture_side or 0) ** 2
        place.hold(images=len(images), size=kept * len(images))
        call.model = asked.pipeline.spec.name
        call.stages = stages = [Stages(call.model) for _ in images]
        with service.forecast.expect(asked.pipeline.worker, asked.plan, len(images), deadline) as answered:
            work = _Work(asked, deadline, call, stages, answered, service.forecast, asyncio.Semaphore(1))
            response = await waiting.while_connected(request, work.reply(images))
    if timing := Stages.header(stages):
        response.headers["Server-Timing"] = timing
    return response


async def _joint(
    request: Request, service: Service, place: Place, call: Call, asked: Joint, deadline: float
) -> Response:
    """The reply to what takes several passes, each of which counts at the door as an image does."""
    place.hold(images=len(asked.sides))
    call.model = asked.sides[0].pipeline.spec.name
    call.stages = stages = [Stages(side.pipeline.spec.name) for side in asked.sides]
    with ExitStack() as expected:
        answered = [
            expected.enter_context(service.forecast.expect(side.pipeline.worker, side.plan, 1, deadline))
            for side in asked.sides
        ]
        response = await waiting.while_connected(request, asked.reply(deadline, stages, answered))
    if timing := Stages.header(stages):
        response.headers["Server-Timing"] = timing
    return response


@dataclass(frozen=True, slots=True)
class _Work:
    """An order that is being done, until ``deadline``.

    ``answered`` is the forecast's; ``trying`` lets the maps of one image be tried at a time.
    """

    order: Order[Any]
    deadline: float
    call: Call
    stages: Sequence[Stages]
    answered: Callable[[float], None]
    forecast: Forecast
    trying: asyncio.Semaphore

    async def reply(self, images: Sequence[Upload | Prepared]) -> Response:
        """The reply to a request: of one image, or of all, of which one's failure need not be that of the others."""
        if len(images) == 1:
            entries = [await self._one(images[0], self.stages[0])]
        elif self.order.failed is not None:
            entries = await asyncio.gather(*map(self._one_of_several, images, self.stages))
        else:
            entries = await self._all_or_none(images)
        return self.order.reply(entries)

    async def _all_or_none(self, images: Sequence[Upload | Prepared]) -> list[Any]:
        """The entries of all; the first error names its image and stops the others."""
        each = zip(images, self.stages, strict=True)
        return await all_or_none([(f"Image {number}", self._one(*one)) for number, one in enumerate(each)])

    async def _one_of_several(self, image: Upload | Prepared, times: Stages) -> Any:
        try:
            return await self._one(image, times)
        except Exception as error:
            if not isinstance(error, PellucidError):  # nobody foresaw it: its neighbours are not to suffer
                log.exception("request %s failed on one of its images", self.call.request_id)
                error = PellucidError("The service failed on this image; its log has the cause under the request's id.")
            self.call.problems.append(error.slug)
            assert self.order.failed is not None
            return await asyncio.to_thread(self.order.failed, image, error)

    async def _one(self, image: Upload | Prepared, times: Stages) -> Any:
        try:
            async with asyncio.timeout(max(0, self.deadline - time.monotonic())):
                return await self._computed(image, times)
        except TimeoutError as error:
            raise DeadlineExceeded("The answer was not ready by the deadline.") from error

    async def _computed(self, image: Upload | Prepared, times: Stages) -> Any:
        order = self.order
        try:
            side = order.options.picture_side
            if design := order.options.design:
                return await self._tried(image, side, design, times)
            brief = order.plan.predicts_alone and order.plan.top_k <= _FEW
            run = order.pipeline.run
            return await run(image, order.plan, side, order.form, self.deadline, times, brief=brief)
        finally:
            times.over = True
            self.answered(sum(times.seconds.get(stage, 0.0) for stage in ("decode", "render")))

    def _untried(self) -> int:
        """How many images' maps are still to be tried; an image that failed has none."""
        return sum("trust" not in times.seconds and not times.over for times in self.stages)

    async def _tried(self, image: Upload | Prepared, side: int | None, design: Design, times: Stages) -> Any:
        """The entry of an image whose maps are tried before they are drawn."""
        pipeline = self.order.pipeline

        def both(decoded: DecodedImage, outcome: Outcome) -> tuple[DecodedImage, Outcome]:
            return decoded, outcome

        decoded, outcome = await pipeline.run(image, self.order.plan, side, both, self.deadline, times, brief=True)
        async with self.trying:
            with times.timed("trust"):
                found = await trust_trials.examined(
                    pipeline, self.forecast, decoded, outcome, design, self.deadline, self._untried
                )
        with times.timed("render"):
            return await asyncio.wrap_future(pipeline.pool.submit(self.order.form, decoded, outcome, found))
