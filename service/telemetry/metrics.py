"""What is known of a request when it has ended, and Prometheus metrics.

Each app has its own registry, because several apps may run in one process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Final

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


@dataclass(slots=True)
class Stages:
    """Seconds that an image spent in each stage of ``model``, and the size of its batch.

    ``begun``: when the stages that are timed here began, by ``time.perf_counter``. ``over``: whether the image's part
    of the reply is written or has failed.
    """

    model: str
    seconds: dict[str, float] = field(default_factory=dict)
    begun: dict[str, float] = field(default_factory=dict)
    batch_size: int = 0
    over: bool = False

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Time a stage. A stage that fails has no time."""
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
    stages: Sequence[Stages] = ()
    problems: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)

    def end(self, route: str, status: int) -> None:
        self.route, self.status = route, status
        self.seconds = time.perf_counter() - self.began

    def fields(self) -> dict[str, Any]:
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
        counter, histogram = partial(Counter, registry=registry), partial(Histogram, registry=registry)
        gauge = partial(Gauge, registry=registry)
        ProcessCollector(registry=registry)
        self._requests = counter(
            "pellucid_requests", "Requests answered, by the route's template.", ("route", "status")
        )
        about = "Seconds from a request's head to the end of its answer."
        self._seconds = histogram("pellucid_request_seconds", about, ("route",), buckets=_SECONDS)
        about = "Seconds that an image spent in each stage."
        self._stages = histogram("pellucid_stage_seconds", about, ("model", "stage"), buckets=_SECONDS)
        about = "Failed requests, and failed images of requests with several, by the kind of error."
        self._refused = counter("pellucid_refused", about, ("reason",))
        self._batches = histogram("pellucid_batch_images", "Images in each forward pass.", ("model",), buckets=_SIZES)
        # The app gives these their values, or the functions that are called for each scrape.
        about = "Images that wait for the engine, not counting a batch that is queued inside it."
        self.waiting = gauge("pellucid_queue_images", about, ("model",))
        about = "Current limit of images in a batch. It is below the setting for a while after memory ran out."
        self.cap = gauge("pellucid_batch_limit_images", about, ("model",))
        self.up = gauge("pellucid_engine_up", "0 if the engine hangs or has ended, else 1.", ("model",))
        about = (
            "How far the gate's weights in about the last 100 pictures lie from the atlas, 0 to 1. NaN before 100 "
            "pictures. Only requests that read gates count."
        )
        self.drift = gauge("pellucid_gate_drift", about, ("model", "gate"))
        self.images = gauge("pellucid_in_flight_images", "Images accepted and not yet answered.")
        self.bytes = gauge("pellucid_in_flight_bytes", "Bytes held for requests that are not yet answered.")
        self.models = gauge("pellucid_model_info", "1 for each served network.", ("model", "engine", "weights_sha256"))
        Info("pellucid_build", "Version of Pellucid.", registry=registry).info({"version": version})
        # Looking up labelled children costs more than counting, so they are cached. There are few of them.
        self._requests_of = lru_cache(1024)(self._requests.labels)
        self._seconds_of = lru_cache(1024)(self._seconds.labels)
        self._stages_of = lru_cache(1024)(self._stages.labels)

    def record(self, call: Call) -> None:
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

    def page(self, accept: str) -> tuple[bytes, str]:
        """All metrics and their media type. OpenMetrics if ``accept`` prefers it, else Prometheus's text format."""
        try:
            encode, media_type = choose_encoder(accept)
        except (TypeError, ValueError):  # the version in ``accept`` is not a number
            encode, media_type = choose_encoder("")
        return encode(self.registry), media_type
