"""The flow that all POST routes share: negotiate, read, plan, admit, run, reply."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from service.api import intake, reply
from service.api.options import ExplainOptions, Options, Part
from service.api.pipeline import Pipeline, Stages
from service.api.plan import Look, bound_drawing, resolve
from service.decode.image import identify
from service.dispatch.admission import Admission, Place
from service.dispatch.forecast import Forecast
from service.errors import DeadlineExceeded, Draining, PellucidError, UnknownName
from service.telemetry.call import Call
from service.telemetry.metrics import Metrics
from service.types import Plan, Upload

# Of the pictures that are kept to be drawn over: RGB.
_BYTES_PER_PIXEL = 3
# A caller who is refused is read on for so long, so that the refusal is not lost with a connection cut in mid-send.
_LINGER_S = 2.0
# So long the rest of a body may take whose deadline has passed.
_LATE_BODY_S = 0.5

T = TypeVar("T")

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


async def answer(
    request: Request, service: Service, options: Options, parts: frozenset[Part], *, pictures: bool = True
) -> Response:
    """The reply to a POST of images. ``parts`` are what the route fills; /v1/explain's options choose among them."""
    if not service.ready:
        await _spend(request, service.limits, _LINGER_S)
        raise Draining("The service is starting up or shutting down.")
    arrived = time.monotonic()

    def deadline_by(chosen: Options) -> float:
        return arrived + min(chosen.timeout_ms or service.timeout_ms, service.timeout_ms) / 1000

    media_type = reply.negotiate(", ".join(request.headers.getlist("accept")), pictures)
    with service.admission.enter(intake.announced(request, service.limits)) as place:
        body = await _read(request, service.limits, place, deadline_by(options))
        options = options.merged(body.fields)
        pipeline = service.pipeline(options.model)
        if isinstance(options, ExplainOptions):
            parts &= frozenset(options.include)
        plan, look = resolve(options, parts, pipeline.spec, pipeline.network, pipeline.methods)
        bound_drawing(len(body.uploads), plan, look)
        if media_type != reply.JSON:
            reply.require_one_picture(len(body.uploads), plan, look, media_type)
            look = replace(look, media_type=media_type)
        kept = _BYTES_PER_PIXEL * look.max_side**2 if look.overlay else 0
        place.hold(images=len(body.uploads), size=kept * len(body.uploads))
        call: Call = request.state.call
        stages = [Stages() for _ in body.uploads]
        call.model, call.stages = pipeline.spec.name, stages
        deadline = deadline_by(options)
        with service.forecast.expect(pipeline.worker, plan, len(body.uploads), deadline) as answered:
            work = _Work(pipeline, plan, look, deadline, call, stages, answered)
            response = await _while_connected(request, work.reply(body.uploads, media_type))
    response.headers["Server-Timing"] = Stages.header(stages)
    return response


@dataclass(frozen=True, slots=True)
class _Work:
    """What one request has the pipeline do, until ``deadline``. ``answered`` is the forecast's."""

    pipeline: Pipeline
    plan: Plan
    look: Look
    deadline: float
    call: Call
    stages: Sequence[Stages]
    answered: Callable[[float], None]

    async def reply(self, uploads: Sequence[Upload], media_type: str) -> Response:
        """The reply to a request: the envelope of all results, or the one picture that it asks for."""
        if media_type != reply.JSON:
            return await self._one(uploads[0], self.stages[0], partial(reply.picture, media_type=media_type))
        if len(uploads) == 1:
            results = [await self._one(uploads[0], self.stages[0], reply.fragment)]
        else:
            results = await asyncio.gather(*map(self._one_of_several, uploads, self.stages))
        return reply.envelope(self.call.model, self.call.request_id, results)

    async def _one_of_several(self, upload: Upload, times: Stages) -> orjson.Fragment:
        try:
            return await self._one(upload, times, reply.fragment)
        except Exception as error:
            if not isinstance(error, PellucidError):  # nobody foresaw it: its neighbours are not to suffer
                log.exception("request %s failed on one of its images", self.call.request_id)
                error = PellucidError("The service failed on this image; its log has the cause under the request's id.")
            self.call.problems.append(error.slug)
            info = await asyncio.to_thread(identify, upload)
            return reply.failure(info, reply.problem(error, self.call.request_id))

    async def _one(self, upload: Upload, times: Stages, form: Callable[[dict[str, Any]], T]) -> T:
        try:
            async with asyncio.timeout(max(0, self.deadline - time.monotonic())):
                return await self.pipeline.run(upload, self.plan, self.look, form, self.deadline, times)
        except TimeoutError as error:
            raise DeadlineExceeded("The answer was not ready by the deadline.") from error
        finally:
            self.answered(sum(times.seconds.get(stage, 0.0) for stage in ("decode", "render")))


async def _read(request: Request, limits: intake.Limits, place: Place, deadline: float) -> intake.Intake:
    """The body, whole by the deadline, its bytes held in ``place`` as they come."""
    try:
        async with asyncio.timeout(max(0, deadline - time.monotonic())):
            return await intake.read(request, limits, lambda size: place.hold(size=size))
    except TimeoutError as error:
        with suppress(RuntimeError):  # raised where it is whole after all, but not taken apart yet
            await _spend(request, limits, _LATE_BODY_S)
        raise DeadlineExceeded("The body was not whole by the deadline.", headers={"Connection": "close"}) from error


async def _spend(request: Request, limits: intake.Limits, seconds: float) -> None:
    """Read what a caller still sends, and keep none of it: closed while it sends, it would not see the answer."""
    received = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                received += len(chunk)
                if received > limits.body_bytes:
                    return


async def _while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, or ClientDisconnect as soon as the caller has gone, ``work`` cancelled."""
    task = asyncio.current_task()
    assert task is not None
    left = False

    async def gone() -> None:
        nonlocal left
        while (await request.receive())["type"] != "http.disconnect":
            pass
        left = True
        task.cancel()

    leaving = asyncio.ensure_future(gone())
    try:
        return await work
    except asyncio.CancelledError:
        if left and task.uncancel() == 0:  # else the server cancels as well
            raise ClientDisconnect from None
        raise
    finally:
        leaving.cancel()
