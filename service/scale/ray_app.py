"""The service as a Ray Serve application. A replica is one process with one engine, and the app that `serve` runs.

    serve run pellucid.service.scale.ray_app:app model=lite0

What Ray does, and what differs behind its proxy, is in docs/how-to/scaling.md.
"""

# No `from __future__ import annotations`: Ray looks at the builder's annotation as it stands.

import math
import os
import threading
import time
import warnings
from typing import Any, Final

import ray
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from ray import serve
from ray.serve.metrics import Gauge
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import process
from ..app import create_app
from ..config import Settings
from ..flow.networks import Service
from ..telemetry import logs

# Ray counts a replica as stopped once its lifespan has ended: after the grace, the engine may take so much longer.
_END_S: Final = 10.0
# A core that works on so many requests has some 60 % of what it can do to do: time for another replica to start.
_BUSY: Final = 2
# Ray's agents are read every ten seconds by default.
_EVERY_S: Final = 5.0


class Replica:
    """One process with one engine: the app of these settings on the processors, or the GPU, that Ray gave it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __serve_build_asgi_app__(self) -> Any:
        """Load the networks; Ray runs the app's lifespan. Raises what ``create_app`` raises, and Ray tries again."""
        settings = own_share(self._settings, ray.get_runtime_context().get_assigned_resources())
        logs.configure(settings.log_level, settings.log_format)
        process.give_back_large_blocks()
        app: FastAPI = create_app(settings)
        process.settle()
        self._service: Service = app.state.service
        export(self._service.metrics.registry)
        app.add_middleware(BehindProxy)
        return app

    def check_health(self) -> None:
        """Ray asks now and then, and starts another replica in place of one that raises EngineDown."""
        self._service.require_engines()


def own_share(settings: Settings, resources: dict[str, float]) -> Settings:
    """The settings with as many threads as a replica has processors, and on the GPU if it has one; what was set stays.

    ``resources`` are those that Ray assigned. Without this each replica would take the whole machine for its own.
    """
    cpus = max(1, math.floor(resources.get("CPU", 1)))
    return settings.model_copy(
        update={
            "threads": settings.threads or cpus,
            "decode_threads": settings.decode_threads or max(2, cpus),
            "grpc_port": None,  # Ray's proxy forwards HTTP, and replicas of one machine would share the port
            "device": ("cuda" if resources.get("GPU") else "cpu") if settings.device == "auto" else settings.device,
        }
    )


def app(settings: Settings) -> serve.Application:
    """The application; ``settings`` are the arguments of `serve run` or of the YAML file over ``PELLUCID_*``.

    What a deployment may be told (replicas, processors, GPUs, autoscaling) is Ray's own: `deployments` in the file.
    """
    if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") != "1":
        warnings.warn("Ray's own proxy is slow: start Ray with RAY_SERVE_ENABLE_HA_PROXY=1 for HAProxy", stacklevel=1)
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name="Pellucid",
        # A replica refuses by itself what would come too late, so it is given more than it takes; Ray's own queue knows
        # no deadlines, and ends.
        max_ongoing_requests=2 * settings.max_in_flight,
        max_queued_requests=settings.max_in_flight,
        graceful_shutdown_timeout_s=settings.grace_s + _END_S,
        autoscaling_config={"min_replicas": 1, "max_replicas": 8, "target_ongoing_requests": _BUSY},
        logging_config={"enable_access_log": False},  # the app has its own
        health_check_period_s=5,
        health_check_timeout_s=15,
    )
    application: serve.Application = deployment.bind(settings)
    return application


def export(registry: CollectorRegistry) -> None:
    """Copy every sample into Ray's metrics now and then, for as long as the process lives.

    Behind a proxy that chooses a replica, ``/metrics`` would be another one's each time. Counters and histograms become
    gauges of the same value and labels, which ``rate`` and ``histogram_quantile`` don't mind.
    """
    gauges: dict[str, Gauge] = {}

    def copy() -> None:
        while True:
            for family in registry.collect():
                for sample in family.samples:
                    if sample.name not in gauges:
                        gauges[sample.name] = Gauge(sample.name, family.documentation, tuple(sample.labels))
                    gauges[sample.name].set(sample.value, dict(sample.labels))
            time.sleep(_EVERY_S)

    threading.Thread(target=copy, name="metrics", daemon=True).start()


class BehindProxy:
    """Pure ASGI: the proxy gives each request an id and writes it into the answer, where it would stand twice.

    Where the app takes another, since a caller may send anything as one, both are sent: the app's is in the log.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        known = Headers(scope=scope).get("x-request-id") if scope["type"] == "http" else None

        async def send_once(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if headers.get("x-request-id") == known:
                    del headers["X-Request-ID"]
            await send(message)

        await self._app(scope, receive, send_once)
