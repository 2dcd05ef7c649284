"""What is known of a request when it has ended, and Prometheus metrics.

Each app has its own registry, because several apps may run in one process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

STAGES: Final = ("decode", "queue", "infer", "explain", "trust", "render")
# The reported route of a path without a route. Clients choose paths freely, and must not create new series of metrics.
NO_ROUTE: Final = "other"
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class StageTimes(Protocol):
    """One image's network, its seconds by stage, and the start times of stages (``time.perf_counter``)."""

    model: str
    seconds: dict[str, float]
    begun: dict[str, float]
    batch_size: int


@dataclass(slots=True)
class Call:
    """The facts about one request, filled in while it is served.

    ``problems`` are the slugs of the errors in the reply, at most one for each image. ``traceparent`` is the W3C
    header. Never put contents of a body, a key or a filename in here.
    """

    request_id: str
    method: str
    traceparent: str = ""
    route: str = NO_ROUTE
    status: int = 0
    seconds: float = 0
    model: str = ""
    stages: Sequence[StageTimes] = ()
    problems: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)

    def end(self, route: str, status: int) -> None:
        """Record the end of the request."""
        self.route, self.status = route, status
        self.seconds = time.perf_counter() - self.began

    def fields(self) -> dict[str, Any]:
        """The fields of the request's log line."""
        fields: dict[str, Any] = {
            "request_id": self.request_id,
            "method": self.method,
            "route": self.route,
            "status": self.status,
            "ms": round(self.seconds * 1000, 1),
            "images": len(self.stages),
        }
        if self.model:
            fields["model"] = self.model
        if self.problems:
            fields["problems"] = sorted(set(self.problems))
        return fields


class Metrics:
    """The metrics of one app. Labels have few values: route templates, served networks, kinds of errors."""

    def __init__(self, version: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # or each series gets another, with its time of creation
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "pellucid_requests", "Requests answered, by the route's template.", ("route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "pellucid_request_seconds",
            "Seconds from a request's head to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._stages = Histogram(
            "pellucid_stage_seconds",
            "Seconds that an image spent in each stage.",
            ("model", "stage"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._refused = Counter(
            "pellucid_refused",
            "Failed requests, and failed images of requests with several, by the kind of error.",
            ("reason",),
            registry=registry,
        )
        self._batches = Histogram(
            "pellucid_batch_images", "Images in each forward pass.", ("model",), buckets=_SIZES, registry=registry
        )
        self._waiting = Gauge(
            "pellucid_queue_images",
            "Images that wait for the engine, not counting a batch that is queued inside it.",
            ("model",),
            registry=registry,
        )
        self._cap = Gauge(
            "pellucid_batch_limit_images",
            "Current limit of images in a batch. It is below the setting for a while after memory ran out.",
            ("model",),
            registry=registry,
        )
        self._up = Gauge(
            "pellucid_engine_up", "0 if the engine hangs or has ended, else 1.", ("model",), registry=registry
        )
        self._drift = Gauge(
            "pellucid_gate_drift",
            "How far the gate's weights in about the last 100 pictures lie from the atlas, 0 to 1. NaN before 100 "
            "pictures. Only requests that read gates count.",
            ("model", "gate"),
            registry=registry,
        )
        self._images = Gauge("pellucid_in_flight_images", "Images accepted and not yet answered.", registry=registry)
        self._bytes = Gauge(
            "pellucid_in_flight_bytes", "Bytes held for requests that are not yet answered.", registry=registry
        )
        self._models = Gauge(
            "pellucid_model_info",
            "1 for each served network.",
            ("model", "engine", "weights_sha256"),
            registry=registry,
        )
        Info("pellucid_build", "Version of Pellucid.", registry=registry).info({"version": version})
        # Looking up labelled children costs more than counting, so they are cached. There are few of them.
        self._requests_of = lru_cache(1024)(self._requests.labels)
        self._seconds_of = lru_cache(1024)(self._seconds.labels)
        self._stages_of = lru_cache(1024)(self._stages.labels)

    def record(self, call: Call) -> None:
        """Count a finished request."""
        self._requests_of(call.route, str(call.status)).inc()
        self._seconds_of(call.route).observe(call.seconds)
        for reason in call.problems:
            self._refused.labels(reason).inc()
        for image in call.stages:
            for stage, seconds in image.seconds.items():
                self._stages_of(image.model, stage).observe(seconds)

    def refuse(self, reason: str) -> None:
        """Count an error that was sent before there was a request, such as one too many connections."""
        self._refused.labels(reason).inc()

    def batches(self, model: str) -> Callable[[int], None]:
        """A callback that records the size of a batch of this network."""
        return self._batches.labels(model).observe

    def watch_model(
        self,
        model: str,
        engine: str,
        weights_sha256: str,
        *,
        waiting: Callable[[], float],
        cap: Callable[[], float],
        up: Callable[[], float],
    ) -> None:
        """Report a served network. The functions are called for each scrape."""
        self._models.labels(model, engine, weights_sha256).set(1)
        for gauge, value in ((self._waiting, waiting), (self._cap, cap), (self._up, up)):
            gauge.labels(model).set_function(value)

    def watch_gate(self, model: str, gate: str, drift: Callable[[], float]) -> None:
        """Report the drift of a gate. The function is called for each scrape."""
        self._drift.labels(model, gate).set_function(drift)

    def watch_door(self, images: Callable[[], float], size: Callable[[], float]) -> None:
        """Report the images and bytes in flight. The functions are called for each scrape."""
        self._images.set_function(images)
        self._bytes.set_function(size)

    def page(self, accept: str) -> tuple[bytes, str]:
        """All metrics and their media type. OpenMetrics if ``accept`` prefers it, else Prometheus's text format."""
        try:
            encode, media_type = choose_encoder(accept)
        except (TypeError, ValueError):  # the version in ``accept`` is not a number
            encode, media_type = choose_encoder("")
        return encode(self.registry), media_type
