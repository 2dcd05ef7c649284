"""What is served: the networks by name, and the limits of the process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Final, Protocol, TypeVar

from pellucid.atlas.file import Atlas
from pellucid.errors import Draining, EngineDown, UnknownModel, UnknownName
from pellucid.network.spec import ONE_SIZE, ModelSpec, NetworkSpec, OutputSpec, Sizes
from pellucid.parts.option_types import Options
from pellucid.types import MethodSpec, Outcome, Plan, Prediction, Tiling

from ..dispatch.admission import Admission, Forecast
from ..dispatch.cost import CostModel, MethodTimes
from ..dispatch.worker import Worker
from ..telemetry.drift import Drift
from ..telemetry.metrics import Metrics
from .bodies import Limits

T = TypeVar("T")

# The weight of older trials beside the latest: trials are rare, and one in a busy minute is soon forgotten.
_FORGETTING: Final = 0.7
# Plans that are kept, of options that requests share.
_PLANS: Final = 64


class Tiles(Protocol):
    """What ``pellucid.explain.tiles`` does. The flow gets it with a network, as it gets the engine."""

    def needs_class(self, plan: Plan) -> bool: ...

    def predicting(self, plan: Plan) -> Plan: ...

    def with_class(self, plan: Plan, outcomes: Sequence[Outcome]) -> Plan: ...

    def of_tile(self, plan: Plan, network: NetworkSpec, spec: ModelSpec, tiling: Tiling) -> Plan: ...

    def merged(self, outcomes: Sequence[Outcome], plan: Plan, tiling: Tiling, output: OutputSpec) -> Outcome: ...

    def scores(self, outcomes: Sequence[Outcome], plan: Plan) -> tuple[Prediction, ...]: ...


@dataclass(frozen=True)
class Served:
    """One served network.

    ``engine`` describes the engine for people. ``runtime`` is the part of ``schemas.Provenance`` about the engine and
    versions. ``pool`` decodes and draws. ``tiles`` merges the outcomes of a picture in tiles. ``sizes`` are the sizes
    of pixels on which the network runs. ``trials`` is the measured seconds of a trust trial at the network's own
    size, ``times`` that of methods.
    ``atlas`` says what its channels answer to, and ``drift`` how far pictures lie from those of the atlas.
    ``atlas_tag`` is a digest of the atlas, the network with its labels, and the version.
    """

    spec: ModelSpec
    network: NetworkSpec
    methods: tuple[MethodSpec, ...]
    engine: str
    worker: Worker
    pool: Executor
    tiles: Tiles
    max_pixels: int
    max_side: int
    sizes: Sizes = ONE_SIZE
    runtime: Mapping[str, Any] = field(default_factory=dict)
    times: MethodTimes = field(default_factory=lambda: MethodTimes((), ""))
    atlas: Atlas | None = None
    atlas_tag: str = ""
    drift: Drift | None = None
    trials: CostModel = field(default_factory=lambda: CostModel(_FORGETTING))

    @cached_property
    def planned(self) -> Callable[[Options, int], Plan]:
        """``options.plan(self, images)``, computed once for an object that many requests share."""
        return lru_cache(_PLANS)(lambda options, images: options.plan(self, images))

    def in_pool(self, function: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        """Call the function in a thread of the pool."""
        return asyncio.wrap_future(self.pool.submit(function, *arguments))


@dataclass
class Service:
    """The served networks by name, the default first, and what they share.

    ``ready`` is false while draining; then accepted requests have ``grace_s`` seconds.
    """

    networks: dict[str, Served]
    admission: Admission
    forecast: Forecast
    limits: Limits
    metrics: Metrics
    timeout_ms: int
    grace_s: float = 20.0
    ready: bool = False

    def network(self, name: str | None) -> Served:
        """The network of that name, or the default. Raises UnknownName."""
        if name is None:
            return next(iter(self.networks.values()))
        if name not in self.networks:
            raise UnknownName.among("model", name, [*self.networks])
        return self.networks[name]

    def addressed(self, name: str) -> Served:
        """The network that a path names. Raises UnknownModel."""
        if name not in self.networks:
            served = [*self.networks]
            raise UnknownModel(f"No model {name!r} is served. Served are {', '.join(served)}.", allowed=served)
        return self.networks[name]

    def require_model_ready(self, name: str) -> None:
        """Raise UnknownModel, and for this network alone what ``require_ready`` raises."""
        self.addressed(name)
        self.require_ready(name)

    def require_engines(self, *names: str) -> None:
        """Raise EngineDown if a network, of these or of all, does not answer."""
        for name in names or self.networks:
            if fault := self.networks[name].worker.fault:
                raise EngineDown(f"{name}: {fault}")

    def require_ready(self, *names: str) -> None:
        """Raise Draining while no work is taken, and EngineDown, of these networks or of all."""
        if not self.ready:
            raise Draining("The service is starting up or shutting down.")
        self.require_engines(*names)
