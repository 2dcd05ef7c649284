"""The flow that all POST routes share: negotiate, read, plan, admit, run, reply."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from service.api import intake, reply
from service.api.options import Options, Part
from service.api.pipeline import Pipeline, Stages
from service.api.plan import bound_drawing, resolve
from service.decode.image import identify
from service.dispatch.admission import Admission
from service.dispatch.forecast import Forecast
from service.errors import DeadlineExceeded, Draining, PellucidError, UnknownName
from service.telemetry.call import Call
from service.telemetry.metrics import Metrics
from service.types import Upload

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass
class Service:
    """What the routers work with: the served networks by name, the default first, the door, the limits, the metrics.

    ``ready`` is false while draining.
    """

    pipelines: dict[str, Pipeline]
    admission: Admission
    forecast: Forecast
    limits: intake.Limits
    metrics: Metrics
    timeout_ms: int
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
        raise Draining("The service is starting up or shutting down.")
    arrived = time.monotonic()
    options.take_one(request.query_params.multi_items())
    media_type = reply.negotiate(request.headers.get("accept"), pictures)
    body = await intake.read(request, service.limits)
    options = options.merged(body.fields)
    pipeline = service.pipeline(options.model)
    parts = parts & frozenset(getattr(options, "include", parts))
    plan, look = resolve(options, parts, pipeline.spec, pipeline.network, pipeline.methods)
    bound_drawing(len(body.uploads), plan, look)
    if media_type != reply.JSON:
        reply.require_one_picture(len(body.uploads), plan, look, media_type)
        look = replace(look, media_type=media_type)
    deadline = arrived + min(options.timeout_ms or service.timeout_ms, service.timeout_ms) / 1000
    request_id: str = request.state.request_id
    call: Call = request.state.call
    stages = [Stages() for _ in body.uploads]
    call.model, call.stages = pipeline.spec.name, stages

    async def one(upload: Upload, times: Stages, form: Callable[[dict[str, Any]], T]) -> T:
        try:
            async with asyncio.timeout(max(0, deadline - time.monotonic())):
                return await pipeline.run(upload, plan, look, form, deadline, times)
        except TimeoutError as error:
            raise DeadlineExceeded("The answer was not ready by the deadline.") from error
        finally:
            answered(sum(times.seconds.get(stage, 0.0) for stage in ("decode", "render")))

    async def one_of_several(upload: Upload, times: Stages) -> orjson.Fragment:
        try:
            return await one(upload, times, reply.fragment)
        except Exception as error:
            if not isinstance(error, PellucidError):  # nobody foresaw it: its neighbours are not to suffer
                log.exception("request %s failed on one of its images", request_id)
                error = PellucidError("The service failed on this image; its log has the cause under the request's id.")
            call.problems.append(error.slug)
            return reply.failure(identify(upload), reply.problem(error, request_id))

    async def whole() -> Response:
        if media_type != reply.JSON:
            return await one(body.uploads[0], stages[0], partial(reply.picture, media_type=media_type))
        if len(body.uploads) == 1:
            results = [await one(body.uploads[0], stages[0], reply.fragment)]
        else:
            results = await asyncio.gather(*map(one_of_several, body.uploads, stages))
        return reply.envelope(pipeline.spec.name, request_id, results)

    with (
        service.admission.enter(len(body.uploads), sum(len(upload.data) for upload in body.uploads)),
        service.forecast.expect(pipeline.worker, plan, len(body.uploads), deadline) as answered,
    ):
        response = await _while_connected(request, whole())
    response.headers["Server-Timing"] = Stages.header(stages)
    return response


async def _while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, or ClientDisconnect as soon as the caller has gone, ``work`` cancelled."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        working.cancel()
        leaving.cancel()
