"""OpenTelemetry traces: a span for each request that has images, and below it one for each stage of each image."""

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

from service.telemetry.call import STAGES, Call


def exporting() -> Traces:
    """Traces that go where the ``OTEL_EXPORTER_OTLP_*`` variables say, over HTTP."""
    name = {"service.name": os.environ.get("OTEL_SERVICE_NAME", "pellucid"), "service.version": version("pellucid")}
    provider = TracerProvider(resource=Resource.create(name))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Traces(provider)


class Traces:
    """Makes a request's spans when it is over, from the times that were taken anyway: none of it is in its way."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer: Tracer = provider.get_tracer("pellucid")

    def record(self, call: Call) -> None:
        """Trace a request that is over; part of the caller's trace where ``traceparent`` names one."""
        if not call.stages:
            return
        origin = time.time_ns() - round((time.perf_counter()) * 1e9)  # of perf_counter, in nanoseconds since 1970

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
                began = image.begun.get(stage, ended)  # the engine's stages follow one another without a gap
                ended = began + image.seconds[stage]
                of: dict[str, int | str] = {"pellucid.image": number, "pellucid.model": image.model}
                child = self._tracer.start_span(stage, inside, attributes=of, start_time=at(began))
                if stage == "infer":
                    child.set_attribute("pellucid.batch_images", image.batch_size)
                child.end(at(ended))
        span.end(at(call.began + call.seconds))
