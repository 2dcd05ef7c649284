"""A request has a span, with a child span for each stage of each image."""

from __future__ import annotations

import asyncio

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.telemetry.metrics import STAGES
from service.telemetry.traces import Traces
from tests.flow.stub import BLACK, POISON, running

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def spans(*images: bytes) -> list[ReadableSpan]:
    """The spans of one prediction of ``images``, and of a health check, which has none."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    async def play() -> None:
        async with running(Traces(provider).record) as stub:
            stub.engine.gate.set()
            stub.engine.seconds = 0.01
            files = [("images", ("image.png", data)) for data in images]
            headers = {"X-Request-ID": "abc", "traceparent": f"00-{TRACE}-{CALLER}-01"}
            await stub.client.post("/v1/predict", files=files, headers=headers)
            await stub.client.get("/livez")

    asyncio.run(play())
    provider.shutdown()
    return list(exporter.get_finished_spans())


def test_a_request_is_a_span_of_the_callers_trace_with_a_child_for_each_stage() -> None:
    *stages, request = spans(BLACK, BLACK)
    assert request.name == "POST /v1/predict"
    assert request.parent is not None
    assert request.context is not None
    assert (f"{request.context.trace_id:032x}", f"{request.parent.span_id:016x}") == (TRACE, CALLER)
    assert request.attributes is not None
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["pellucid.request_id"] == "abc"
    passed = [stage for stage in STAGES if stage != "trust"]  # not requested
    assert [span.name for span in stages] == [*passed, *passed]
    for image in (stages[:5], stages[5:]):
        assert all(span.parent == request.context for span in image)
        times = [time for span in image for time in (span.start_time, span.end_time)]
        assert times == sorted(times)  # type: ignore[type-var]
        assert (request.start_time or 0) <= (times[0] or 0)
        assert (times[-1] or 0) <= (request.end_time or 0)


def test_a_failed_request_is_marked_and_has_the_stages_that_it_reached() -> None:
    *stages, request = spans(POISON)
    assert [span.name for span in stages] == ["decode"]
    assert not request.status.is_ok
