"""Composition root: settings -> network -> engine -> worker -> routers. The one place that sees every part."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from difflib import get_close_matches
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.responses import Response
from threadpoolctl import threadpool_limits

from pellucid.atlas.content import AtlasError
from pellucid.atlas.file import Atlas
from pellucid.atlas.file import read as read_atlas
from pellucid.engine import Engine as NetworkEngine
from pellucid.errors import MethodNotAllowed, NotFound, PellucidError, Unexplainable
from pellucid.explain import tiles
from pellucid.explain.methods import choices
from pellucid.network import names
from pellucid.network.file import CompiledNetwork, load
from pellucid.network.spec import NetworkSpec, PreprocessSpec
from pellucid.parts.option_types import invalid
from pellucid.render import typeface
from pellucid.runtime import choose, cores
from pellucid.types import Batch, Plan, Tap

from .config import Settings
from .dispatch.admission import Admission, Forecast
from .dispatch.cost import MethodTimes
from .dispatch.engine import Engine
from .dispatch.turns import FairPool
from .dispatch.worker import Worker
from .flow.bodies import Limits
from .flow.networks import Served, Service
from .flow.provenance import versions
from .http import openapi
from .http.access import Gate, Keys, rate_of
from .http.middleware import AccessControl, Calls, PageHeaders, RequestContext, allow_origins
from .http.problem_json import error_response
from .protocols import kserve_v1, kserve_v2, torchserve
from .routes import atlas, catalogue, health, pages, v1
from .telemetry.drift import Drift
from .telemetry.metrics import Call, Metrics

if TYPE_CHECKING:
    from .protocols.kserve_grpc import Server as GrpcServer

log = logging.getLogger("pellucid")

ASSETS = "/assets/docs"
# Of a path that is none, so much is compared with those that there are.
_LONGEST_PATH = 256
# Up to this batch the first feature maps find their memory ready.
_WARM_MAPS = 1
# How often each method's cost is measured at the start, and the most seconds that all may take.
_MEASURED = 3
_MEASURING_S = 0.5
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
    return build(_assemble(settings, on_death), settings, _observers(settings))


def build(service: Service, settings: Settings, observers: Sequence[Callable[[Call], None]] = ()) -> FastAPI:
    """The routes, pages, errors and gates around a service whose workers have not been started yet.

    ``observers`` are told each request at its end, besides the metrics and the log. Raises ValueError for API keys, or
    a rate, that can't be read.
    """
    keys = Keys.of(settings.api_keys.get_secret_value() if settings.api_keys else "", settings.api_keys_file)
    gate = Gate(keys, rate_of(settings.rate_limit))
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
        allow_origins(app, settings.cors_origins, openapi.PICTURE_HEADERS)
    app.add_middleware(RequestContext, stopping=service.draining, calls=calls)
    app.add_middleware(PageHeaders)  # around all: a failure's reply has them too
    openapi.secure(app, required=bool(keys))
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
    door = service.admission
    service.metrics.watch_door(lambda: door.in_flight, lambda: door.bytes_in_flight)
    for name, network in service.networks.items():
        service.metrics.watch_model(
            name,
            network.engine,
            network.spec.weights_sha256 or "",
            waiting=partial(getattr, network.worker, "waiting"),
            cap=partial(getattr, network.worker, "batch_cap"),
            up=partial(getattr, network.worker, "well"),
        )
        if (drift := network.drift) is not None:
            for gate in drift.gates:
                service.metrics.watch_gate(name, gate, partial(drift.of, gate))


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


def _assemble(settings: Settings, on_death: Callable[[], None]) -> Service:
    available = cores.available()
    decoders = settings.decode_threads or max(2, available)
    threadpool_limits(1, "blas")  # numpy's own threads would only get into the way of the pool's
    if settings.font:
        typeface.use(settings.font)
    pool = FairPool(decoders, "pictures")
    metrics = Metrics(version("pellucid"))
    cache = Path(settings.cache_dir).expanduser() if settings.cache_dir else None
    source_of: dict[str, str] = {}
    compiled = []
    for source in dict.fromkeys((settings.model, *settings.models)):
        compiled.append(load(names.find(source, cache)))
        if (other := source_of.setdefault(name := compiled[-1].model.name, source)) != source:
            raise ValueError(
                f"{other} and {source} both have the name {name}: give one another, by `pellucid compile --name` for a "
                "compiled file, or by `name` in the .toml beside a checkpoint"
            )
    atlases = atlases_for(compiled, settings.atlases)
    networks = [
        _served(network, atlases.get(network.model.name), settings, cache, pool, metrics, on_death)
        for network in compiled
    ]
    forecast = Forecast(decoders)
    return Service(
        networks={network.spec.name: network for network in networks},
        admission=Admission(
            settings.max_in_flight,
            settings.max_in_flight_mib * 2**20,
            forecast.seconds_for,
        ),
        limits=Limits(
            settings.max_body_mib * 2**20,
            min(settings.max_images, settings.max_in_flight),
            settings.max_json_values,
            settings.max_json_depth,
        ),
        forecast=forecast,
        metrics=metrics,
        timeout_ms=settings.timeout_ms,
        grace_s=settings.grace_s,
    )


def atlases_for(networks: Sequence[CompiledNetwork], files: Sequence[str]) -> dict[str, Atlas]:
    """The atlases in the files by the name of their network.

    Raises AtlasError, which names the file, if a file is no atlas of these networks or its network has one already.
    """
    found: dict[str, Atlas] = {}
    for file in files:
        path, errors = Path(file).expanduser(), []
        for network in networks:
            try:
                atlas = read_atlas(path, network)
            except AtlasError as error:
                errors.append(error)
                continue
            if (name := network.model.name) in found:
                raise AtlasError(f"{path.name}: {name} already has an atlas")
            found[name] = atlas
        if len(errors) == len(networks):
            raise errors[0]
    return found


def _served(
    compiled: CompiledNetwork,
    atlas: Atlas | None,
    settings: Settings,
    cache: Path | None,
    pool: FairPool,
    metrics: Metrics,
    on_death: Callable[[], None],
) -> Served:
    """One network of the catalogue, loaded onto the device and warm."""
    started = time.perf_counter()
    spec = compiled.model
    runtime = choose.create(
        compiled,
        engine=settings.engine,
        device=settings.device,
        precision=settings.precision,
        threads=settings.threads or cores.available(),
        cache=cache,
    )
    engine: Engine = NetworkEngine(compiled, runtime)
    max_batch = settings.max_batch or runtime.paying_batch
    batches = {*range(1, min(max_batch, runtime.paying_batch) + 1), max_batch}
    _warm_up(engine, compiled.spec, spec.preprocess, sorted(batches))
    methods = choices(compiled.spec, compiled.model.output)
    times = MethodTimes(methods, compiled.spec.default_layer)
    _measure(engine, times, spec.preprocess)
    took_s = time.perf_counter() - started
    log.info(
        "%s runs on %s, up to %d images in a batch, ready after %.1f s",
        spec.name,
        runtime.info.description,
        max_batch,
        took_s,
    )
    worker = Worker(
        engine,
        max_batch,
        hang_limit_s=settings.hang_limit_s,
        on_batch=metrics.batches(spec.name),
        on_single=times.observe,
        on_death=on_death,
    )
    return Served(
        spec=spec,
        network=compiled.spec,
        methods=methods,
        engine=runtime.info.description,
        worker=worker,
        pool=pool,
        tiles=tiles,
        max_pixels=settings.max_megapixels * 1_000_000,
        max_side=settings.max_side_pixels,
        sizes=compiled.sizes,
        atlas=atlas,
        atlas_tag="" if atlas is None else _tag(version("pellucid"), atlas.digest, compiled.digest, repr(spec)),
        drift=Drift(atlas.medians, atlas.about.sampled) if atlas is not None and atlas.gates else None,
        runtime={"engine": runtime.info.as_json(), "versions": versions()},
        times=times,
    )


def _tag(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _warm_up(engine: Engine, network: NetworkSpec, preprocess: PreprocessSpec, batches: Sequence[int]) -> None:
    """Run what most requests ask for, so that the first of them finds its graphs built and the memory pools filled.

    Batches of these sizes, side by side, since OpenVINO prepares for each size once; in threads that end with it, and
    what they hold with them.
    """
    layer = network.default_layer or None
    channels, *size = preprocess.shape
    everything = Plan(gates=True, layer=layer, taps=tuple(map(Tap, network.feature_layers)))
    usual = [plan for plan in (Plan(layer=layer), everything) if _explains(engine, plan)] or [Plan()]
    for plan in (Plan(), *usual):
        for alone in (False, True):
            engine.prepare(plan, alone, keep=True)
    with ThreadPoolExecutor(engine.slots) as pool:
        for count in batches:
            # Each size takes 20 MB of every model: feature maps are seldom asked for by as many callers at once.
            for plan in usual if count <= _WARM_MAPS else usual[:1]:
                batch = Batch(np.zeros((count, *size, channels), preprocess.depth), (plan,) * count)
                if count == 1:  # alone it has all cores, by a graph of its own
                    pool.submit(engine.run, batch).result()
                list(pool.map(engine.run, [batch] * engine.slots))


def _measure(engine: Engine, times: MethodTimes, preprocess: PreprocessSpec) -> None:
    """Measure what the methods cost here that need no further models, as long as it takes no noticeable time."""
    channels, *size = preprocess.shape
    black = np.zeros((1, *size, channels), preprocess.depth)
    end = time.perf_counter() + _MEASURING_S
    for plan in [plan for plan in times.plans() if _explains(engine, plan) and engine.ready(plan)]:
        for number in range(_MEASURED):
            started = time.perf_counter()
            if started > end and number:
                break
            engine.run(Batch(black, (plan,)))
            times.observe(plan, time.perf_counter() - started)


def _explains(engine: Engine, plan: Plan) -> bool:
    """Whether the network has the gradients that a plan needs."""
    try:
        engine.lane(plan)
    except Unexplainable:
        return False
    return True
