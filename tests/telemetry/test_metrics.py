"""The metrics count requests, images and batches, and clients cannot create new series."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.flow.stub import BLACK, POISON, Stub, running
from tests.support import REPOSITORY, envelope, post, problem

Samples = dict[str, float]


def _with_stub(scene: Callable[[Stub], Awaitable[None]], **settings: Any) -> None:
    async def play() -> None:
        async with running(**settings) as stub:
            await scene(stub)

    asyncio.run(play())


def samples(page: str) -> Samples:
    """Parse the page: ``name{label=value}`` -> value, with labels in alphabetical order."""
    return {
        f"{sample.name}{{{','.join(f'{name}={value}' for name, value in sorted(sample.labels.items()))}}}": sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


async def read(stub: Stub) -> Samples:
    response = await stub.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    return samples(response.text)


def test_requests_are_counted_by_route_and_status_and_refusals_by_reason() -> None:
    async def scene(stub: Stub) -> None:
        stub.engine.gate.set()
        envelope(await stub.predict())
        envelope(await stub.predict(BLACK, b"no picture", POISON))
        await stub.predict(b"no picture")
        await stub.client.get("/v1/models/stub")
        await stub.client.head("/v1/models/other")
        seen = await read(stub)
        assert seen["pellucid_requests_total{route=/v1/predict,status=200}"] == 2
        assert seen["pellucid_requests_total{route=/v1/predict,status=415}"] == 1
        assert seen["pellucid_requests_total{route=/v1/models/{name},status=200}"] == 1
        assert seen["pellucid_requests_total{route=/v1/models/{name},status=404}"] == 1
        assert seen["pellucid_refused_total{reason=unsupported-media-type}"] == 2
        assert seen["pellucid_refused_total{reason=inference-failed}"] == 1
        assert seen["pellucid_refused_total{reason=unknown-model}"] == 1
        assert seen["pellucid_request_seconds_count{route=/v1/predict}"] == 3

    _with_stub(scene)


def test_refused_requests_are_counted_for_their_route() -> None:
    async def scene(stub: Stub) -> None:
        for key in ("", "k" * 20, "k" * 20):
            await stub.client.get("/v1/models/stub", headers={"X-API-Key": key})
        seen = await read(stub)
        name = "pellucid_requests_total{{route=/v1/models/{{name}},status={}}}"
        assert [seen[name.format(status)] for status in (401, 200, 429)] == [1, 1, 1]

    _with_stub(scene, api_keys="k" * 20, rate_limit="1/hour", metrics="open")


@pytest.mark.parametrize("wanted", ["application/openmetrics-text;version=x", "text/plain;version=a.b"])
def test_an_invalid_version_gets_the_default_format(wanted: str) -> None:
    async def scene(stub: Stub) -> None:
        response = await stub.client.get("/metrics", headers={"Accept": wanted})
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")

    _with_stub(scene)


def test_unknown_paths_do_not_create_series() -> None:
    async def scene(stub: Stub) -> None:
        for path in ("/a", "/b", "/v1/predict/c", "/assets/docs/d"):
            await stub.client.get(path)
            await stub.client.request("BREW", path)
        routes = {name for name in await read(stub) if name.startswith("pellucid_requests_total")}
        assert len(routes) <= 3, routes
        assert all("route=other" in name for name in routes)

    _with_stub(scene)


def test_every_image_is_timed_in_every_stage_and_every_batch_is_counted() -> None:
    async def scene(stub: Stub) -> None:
        first = stub.predict()
        await stub.engine_is_busy()
        waiting = [stub.predict() for _ in range(3)]
        await stub.until(submitted=4)
        busy = await read(stub)
        assert busy["pellucid_queue_images{model=stub}"] == 3
        assert busy["pellucid_in_flight_images{}"] == 4
        assert busy["pellucid_in_flight_bytes{}"] > 4 * len(BLACK)  # the request bodies
        stub.engine.gate.set()
        await asyncio.gather(first, *waiting)
        idle = await read(stub)
        for gauge in ("queue_images{model=stub}", "in_flight_images{}", "in_flight_bytes{}"):
            assert idle[f"pellucid_{gauge}"] == 0
        for stage in ("decode", "queue", "infer", "explain", "render"):
            assert idle[f"pellucid_stage_seconds_count{{model=stub,stage={stage}}}"] == 4
        assert idle["pellucid_stage_seconds_sum{model=stub,stage=queue}"] > 0
        assert idle["pellucid_batch_images_bucket{le=1.0,model=stub}"] == 1
        assert idle["pellucid_batch_images_bucket{le=4.0,model=stub}"] == 2
        assert idle["pellucid_batch_images_sum{model=stub}"] == 4

    _with_stub(scene)


def test_an_engine_that_is_down_is_reported() -> None:
    async def scene(stub: Stub) -> None:
        assert (await read(stub))["pellucid_engine_up{model=stub}"] == 1
        stub.engine.gate.set()
        stub.engine.broken = SystemExit()
        await stub.predict()
        seen = await read(stub)
        assert seen["pellucid_engine_up{model=stub}"] == 0
        assert seen["pellucid_refused_total{reason=engine-down}"] == 1

    _with_stub(scene)


def test_apps_in_one_process_have_separate_metrics() -> None:
    async def scene(stub: Stub) -> None:
        async with running() as other:
            await other.client.get("/livez")
            assert "pellucid_requests_total{route=/livez,status=200}" in await read(other)
        assert "pellucid_requests_total{route=/livez,status=200}" not in await read(stub)

    _with_stub(scene)


def test_the_documented_metrics_are_those_of_the_server(client: httpx.Client, cat: bytes) -> None:
    envelope(post(client, "/v1/predict", cat))
    problem(post(client, "/v1/predict", b"no picture"), 415, "unsupported-media-type")
    operations = (REPOSITORY / "docs" / "reference" / "settings.md").read_text("utf-8")
    documented = {
        name: labels.replace("`", "").replace(" ", "")
        for name, labels in re.findall(r"^\| `(pellucid_\w+)` \|([^|]*)\|", operations, re.MULTILINE)
    }
    shown = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        if family.name.startswith("pellucid_"):
            name = {"counter": f"{family.name}_total", "info": f"{family.name}_info"}.get(family.type, family.name)
            shown[name] = ",".join(sorted({key for sample in family.samples for key in sample.labels} - {"le"}))
    assert shown.pop("pellucid_gate_drift") == ""  # the server has no atlas
    assert documented.pop("pellucid_gate_drift") == "gate,model"
    assert documented == shown
    assert "process_resident_memory_bytes" in client.get("/metrics").text
