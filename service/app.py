"""Composition root: the app around the networks that `loading` loads, its routes, its one error handler, its end."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from difflib import get_close_matches
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from pellucid.errors import MethodNotAllowed, NotFound, PellucidError
from pellucid.parts.option_types import invalid

from .config import Settings
from .flow.networks import Service
from .http import openapi
from .http.access import Gate
from .http.middleware import AccessControl, Calls, PageHeaders, RequestContext
from .http.problem_json import error_response
from .loading import assemble
from .protocols import kserve_v1, kserve_v2, torchserve
from .routes import atlas, catalogue, health, pages, v1
from .telemetry.metrics import Call

if TYPE_CHECKING:
    from .protocols.kserve_grpc import Server as GrpcServer

log = logging.getLogger("pellucid")

ASSETS = "/assets/docs"
# Of a path that is none, so much is compared with those that there are.
_LONGEST_PATH = 256
# Threads have so long to end once nobody waits for them.
_END_S = 5.0

DESCRIPTION = """\
Predictions, the weight of every channel, grids of feature maps, and Grad-CAM masks, from one forward pass.

Send images as `multipart/form-data` (parts named `images`), as the bytes of one image, or as JSON with base64. The POST
routes under /v1, except /v1/compare, reply with the same envelope, and each fills its own part of it. Errors are
`application/problem+json` and say what is allowed.
"""


def create_app(settings: Settings | None = None, on_death: Callable[[], None] = lambda: None) -> FastAPI:
    """The service as an ASGI app, its networks loaded; their workers run during the app's lifespan.

    ``on_death`` is called, in another thread, should the thread that runs a network end by an error: the app can only
    answer 503 from then on, and whoever owns the process had better end it.

    Raises ValueError: no such network, device or engine.
    """
    settings = settings or Settings()
    return build(assemble(settings, on_death), settings, _observers(settings))


def build(service: Service, settings: Settings, observers: Sequence[Callable[[Call], None]] = ()) -> FastAPI:
    """The routes, pages, errors and gates around a service whose workers have not been started yet.

    ``observers`` are told each request at its end, besides the metrics and the log. Raises ValueError for API keys, or
    a rate, that can't be read.
    """
    gate = settings.gate()
    calls = Calls((service.metrics.record, *observers))
    grpc_server = _grpc_server(settings, service, gate, calls)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for network in service.networks.values():
            network.worker.start()
        if grpc_server is not None:
            await grpc_server.start()
        service.ready = True
        yield
        service.ready = False
        await _stop(service)
        if grpc_server is not None:
            await grpc_server.stop()

    app: FastAPI = FastAPIOffline(
        title="Pellucid",
        version=version("pellucid"),
        summary="What a convolutional network sees in an image, and why.",
        description=DESCRIPTION,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        openapi_tags=[
            {"name": "predict", "description": "What is in the picture."},
            {"name": "explain", "description": "Why the network says so."},
            {"name": "models", "description": "What is served, and every name that a request may use."},
            {"name": "protocols", "description": "The same in the protocols of KServe, Triton and TorchServe."},
            {"name": "health", "description": "Probes for an orchestrator."},
        ],
        lifespan=lifespan,
        generate_unique_id_function=openapi.operation_id,
        static_url=ASSETS,
        redoc_url=None,
        redirect_slashes=False,
        # The service tells of its requests itself; FastAPI would ask for each of them whether it is to.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    _watch(service)
    # FastAPI searches a router that it includes twice for each request.
    app.router.routes += v1.router(service).routes
    for routes in (kserve_v1, kserve_v2, torchserve, catalogue, atlas, health):
        app.include_router(routes.router(service))

    app.include_router(pages.redoc(ASSETS))
    app.include_router(pages.playground())

    for kind in (PellucidError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _on_error)
    # The last is the outermost: everything has an id, and a page of another origin may read also why it is refused.
    app.add_middleware(AccessControl, gate=gate, docs=settings.docs, metrics=settings.metrics)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key", "X-Request-ID"],
            expose_headers=["Retry-After", "Server-Timing", "X-Request-ID", *openapi.PICTURE_HEADERS],
            max_age=3600,
        )
    app.add_middleware(RequestContext, serving=partial(getattr, service, "ready"), calls=calls)
    app.add_middleware(PageHeaders)  # around all: a failure's reply has them too
    openapi.secure(app, required=gate.keyed)
    app.state.service, app.state.grpc_server = service, grpc_server
    return app


async def _stop(service: Service) -> None:
    """Let what was accepted finish, then end the workers, and the pool, which their results are drawn in, last.

    Whatever does not finish in time is left to end with the process: its threads are waited for in a thread of their
    own, since the loop has still to send replies, and not for long, since what they still do is for nobody.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(service.grace_s):
            await service.admission.empty()
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def end() -> None:
        for network in service.networks.values():
            network.worker.stop()
        for network in service.networks.values():
            network.pool.shutdown()
        with suppress(RuntimeError):  # the loop may have gone
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=end, name="stop", daemon=True).start()
    try:
        async with asyncio.timeout(_END_S):
            await ended.wait()
    except TimeoutError:
        log.error("the engine or a decoder did not end within %g s", _END_S)


def _watch(service: Service) -> None:
    """Let the metrics ask for what changes by itself."""
    metrics, door = service.metrics, service.admission
    metrics.images.set_function(lambda: door.in_flight)
    metrics.bytes.set_function(lambda: door.bytes_in_flight)
    for name, network in service.networks.items():
        metrics.models.labels(name, network.engine, network.spec.weights_sha256 or "").set(1)
        for gauge, value in ((metrics.waiting, "waiting"), (metrics.cap, "batch_cap"), (metrics.up, "well")):
            gauge.labels(name).set_function(partial(getattr, network.worker, value))
        if (drift := network.drift) is not None:
            for gate in drift.gates:
                metrics.drift.labels(name, gate).set_function(partial(drift.of, gate))


async def _on_error(request: Request, error: Exception) -> Response:
    """The one error handler: every error that is raised on purpose leaves as problem+json."""
    if isinstance(error, RequestValidationError):
        error = invalid(error.errors())
    if isinstance(error, HTTPException):
        error = _of_routing(request, error)
    assert isinstance(error, PellucidError)
    request.state.call.problems.append(error.slug)
    return error_response(request.scope, error)


def _of_routing(request: Request, error: HTTPException) -> PellucidError:
    """Starlette's 404 and 405, with what there is instead."""
    headers = dict(error.headers or {})
    if error.status_code == 405:
        methods = headers.get("Allow", "").split(", ")
        return MethodNotAllowed(
            f"{request.url.path} takes {' or '.join(methods)}, not {request.method}.", allowed=methods, headers=headers
        )
    paths = [*request.app.openapi()["paths"]]
    close = get_close_matches(request.url.path[:_LONGEST_PATH], paths, n=1)
    guess = f" Did you mean {close[0]}?" if close else ""
    return NotFound(f"There is nothing at {request.url.path}.{guess}", allowed=paths, headers=headers)


def _observers(settings: Settings) -> tuple[Callable[[Call], None], ...]:
    if not settings.tracing:
        return ()
    try:
        from .telemetry import traces  # of an optional package
    except ImportError as error:
        raise ValueError("PELLUCID_TRACING needs OpenTelemetry: pip install 'pellucid[otel]'") from error
    return (traces.exporting().record,)


def _grpc_server(settings: Settings, service: Service, gate: Gate, calls: Calls) -> GrpcServer | None:
    if settings.grpc_port is None:
        return None
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # or gRPC's core writes a line about each wrong call
    try:
        from .protocols.kserve_grpc import Server  # of an optional package
    except ImportError as error:
        raise ValueError("PELLUCID_GRPC_PORT needs gRPC: pip install 'pellucid[grpc]'") from error
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return Server(service, gate, calls, f"{host}:{settings.grpc_port}", settings.max_connections)
