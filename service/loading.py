"""Loads the networks of the settings: file -> runtime -> engine, warm and measured -> worker."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from pellucid.atlas.content import AtlasError
from pellucid.atlas.file import Atlas
from pellucid.atlas.file import read as read_atlas
from pellucid.engine import Engine as NetworkEngine
from pellucid.errors import Unexplainable
from pellucid.explain import tiles
from pellucid.explain.methods import choices
from pellucid.network import names
from pellucid.network.file import CompiledNetwork, load
from pellucid.network.spec import NetworkSpec, PreprocessSpec
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
from .telemetry.drift import Drift
from .telemetry.metrics import Metrics

log = logging.getLogger("pellucid")

# Up to this batch the first feature maps find their memory ready.
_WARM_MAPS = 1
# How often each method's cost is measured at the start, and the most seconds that all may take.
_MEASURED = 3
_MEASURING_S = 0.5


def assemble(settings: Settings, on_death: Callable[[], None]) -> Service:
    """The networks of the settings, and what they share. ``on_death``: see Worker. Raises ValueError."""
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
    atlases = _atlases_for(compiled, settings.atlases)
    networks = [
        _served(network, atlases.get(network.model.name), settings, cache, pool, metrics, on_death)
        for network in compiled
    ]
    forecast = Forecast(decoders)
    return Service(
        networks={network.spec.name: network for network in networks},
        admission=Admission(settings.max_in_flight, settings.max_in_flight_mib * 2**20, forecast.seconds_for),
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


def _atlases_for(networks: Sequence[CompiledNetwork], files: Sequence[str]) -> dict[str, Atlas]:
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
