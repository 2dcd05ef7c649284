"""OpenTelemetry traces: a span for each request with images, with a child span for each stage of each image."""

from __future__ import annotations

import os
import time
from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .metrics import STAGES, Call


def exporting() -> Traces:
    """Traces exported over OTLP/HTTP, configured by the ``OTEL_EXPORTER_OTLP_*`` environment variables."""
    name = {"service.name": os.environ.get("OTEL_SERVICE_NAME", "pellucid"), "service.version": version("pellucid")}
    provider = TracerProvider(resource=Resource.create(name))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Traces(provider)


class Traces:
    """Makes a request's spans after it has ended, from times that were measured anyway. This adds no latency."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer: Tracer = provider.get_tracer("pellucid")

    def record(self, call: Call) -> None:
        """Trace a finished request. It joins the caller's trace if it has a ``traceparent``."""
        if not call.stages:
            return
        origin = time.time_ns() - round((time.perf_counter()) * 1e9)  # perf_counter's zero, in ns since 1970

        def at(moment: float) -> int:
            return origin + round(moment * 1e9)

        span = self._tracer.start_span(
            f"{call.method} {call.route}",
            TraceContextTextMapPropagator().extract({"traceparent": call.traceparent}),
            SpanKind.SERVER,
            {
                "http.request.method": call.method,
                "http.route": call.route,
                "http.response.status_code": call.status,
                "pellucid.request_id": call.request_id,
                "pellucid.model": call.model,
                "pellucid.images": len(call.stages),
            },
            start_time=at(call.began),
        )
        if call.status >= 500:
            span.set_status(StatusCode.ERROR)
        inside = set_span_in_context(span)
        for number, image in enumerate(call.stages):
            ended = call.began
            for stage in STAGES:
                if stage not in image.seconds:
                    continue
                began = image.begun.get(stage, ended)  # stages without a start time follow the previous one directly
                ended = began + image.seconds[stage]
                attributes: dict[str, int | str] = {"pellucid.image": number, "pellucid.model": image.model}
                child = self._tracer.start_span(stage, inside, attributes=attributes, start_time=at(began))
                if stage == "infer":
                    child.set_attribute("pellucid.batch_images", image.batch_size)
                child.end(at(ended))
        span.end(at(call.began + call.seconds))
