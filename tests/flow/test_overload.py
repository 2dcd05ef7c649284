"""Full queues, deadlines, callers who leave, failures and shutting down, with an engine held by the hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from service import app
from tests.flow.stub import BLACK, POISON, Stub, running
from tests.support import envelope, problem


def _with_stub(scene: Callable[[Stub], Awaitable[None]], **settings: int) -> None:
    async def play() -> None:
        async with running(**settings) as stub:
            await scene(stub)

    asyncio.run(play())


def test_a_full_queue_is_told_with_when_to_come_again() -> None:
    async def scene(stub: Stub) -> None:
        waiting = [stub.predict() for _ in range(3)]
        await stub.until(in_flight=3)
        refused = await stub.predict()
        problem(refused, 429, "queue-full")
        assert int(refused.headers["retry-after"]) >= 1
        stub.engine.gate.set()
        for response in await asyncio.gather(*waiting):
            envelope(response)
        assert stub.service.admission.in_flight == 0
        envelope(await stub.predict())

    _with_stub(scene, max_in_flight=3)


def test_a_request_of_several_images_takes_a_place_for_each() -> None:
    async def scene(stub: Stub) -> None:
        waiting = stub.predict(BLACK, BLACK)
        await stub.until(in_flight=2)
        problem(await stub.predict(BLACK, BLACK), 429, "queue-full")
        stub.engine.gate.set()
        envelope(await waiting)

    _with_stub(scene, max_in_flight=3)


async def _slowly(*chunks: bytes, then: asyncio.Event) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    await then.wait()


PNG = {"Content-Type": "image/png"}


def test_a_full_service_refuses_before_it_reads() -> None:
    async def scene(stub: Stub) -> None:
        waiting = stub.predict()
        await stub.until(in_flight=1)
        never = asyncio.Event()
        problem(await stub.client.post("/v1/predict", content=_slowly(then=never), headers=PNG), 429, "queue-full")
        stub.engine.gate.set()
        envelope(await waiting)

    _with_stub(scene, max_in_flight=1)


def test_bodies_are_held_up_to_so_many_bytes_together() -> None:
    async def scene(stub: Stub) -> None:
        arrived = asyncio.Event()
        content = _slowly(BLACK, bytes(2**20 - len(BLACK)), then=arrived)
        slow = asyncio.create_task(stub.client.post("/v1/predict", content=content, headers=PNG))
        await stub.until(bytes_in_flight=2**20)
        refused = await stub.client.post("/v1/predict", content=b"x", headers=PNG)
        assert "MiB" in problem(refused, 429, "queue-full").detail
        arrived.set()
        stub.engine.gate.set()
        envelope(await slow)
        assert stub.service.admission.bytes_in_flight == 0
        envelope(await stub.predict())

    _with_stub(scene, max_in_flight_mib=1)


def test_pictures_that_are_kept_to_be_drawn_over_are_counted() -> None:
    async def scene(stub: Stub) -> None:
        response = await stub.client.post(
            "/v1/grad-cam", params={"overlay": True, "max_side": 4096}, content=BLACK, headers=PNG
        )
        problem(response, 429, "queue-full")

    _with_stub(scene, max_in_flight_mib=40)


def test_a_body_that_comes_too_slowly_is_given_up_at_the_deadline_and_takes_no_place() -> None:
    async def scene(stub: Stub) -> None:
        stub.engine.gate.set()
        never = asyncio.Event()
        slow = [
            asyncio.create_task(
                stub.client.post("/v1/predict?timeout_ms=2000", content=_slowly(BLACK, then=never), headers=PNG)
            )
            for _ in range(8)
        ]
        await stub.until(bytes_in_flight=8 * len(BLACK))
        envelope(await stub.predict())
        for response in await asyncio.gather(*slow):
            assert "body" in problem(response, 504, "deadline-exceeded").detail
            assert response.headers["connection"] == "close"
        assert stub.service.admission.bytes_in_flight == 0

    _with_stub(scene, max_in_flight=1)


def test_whatever_waits_is_taken_as_one_batch_up_to_the_largest() -> None:
    async def scene(stub: Stub) -> None:
        first = stub.predict()
        await stub.engine_is_busy()
        waiting = [stub.predict() for _ in range(7)]
        await stub.until(submitted=8)
        stub.engine.gate.set()
        responses = await asyncio.gather(first, *waiting)
        assert stub.engine.sizes == [1, 4, 3]
        told = [response.headers["server-timing"] for response in responses]
        assert [sum(f"batch of {size}" in timing for timing in told) for size in (1, 4, 3)] == [1, 4, 3]

    _with_stub(scene, max_batch=4)


def test_a_deadline_that_passes_in_the_queue_costs_the_engine_nothing() -> None:
    async def scene(stub: Stub) -> None:
        first = stub.predict()
        await stub.engine_is_busy()
        problem(await stub.predict(timeout_ms=20), 504, "deadline-exceeded")
        stub.engine.gate.set()
        envelope(await first)
        envelope(await stub.predict())
        assert stub.engine.sizes == [1, 1]

    _with_stub(scene)


def test_no_caller_may_name_a_longer_deadline_than_the_operators() -> None:
    async def scene(stub: Stub) -> None:
        problem(await stub.predict(timeout_ms=600_000), 504, "deadline-exceeded")

    _with_stub(scene, timeout_ms=20)


def test_a_caller_who_leaves_costs_the_engine_nothing_and_frees_the_place() -> None:
    async def scene(stub: Stub) -> None:
        first = stub.predict()
        await stub.engine_is_busy()
        leave = asyncio.Event()
        sent: list[Any] = []
        leaving = asyncio.create_task(_raw_post(stub, leave, sent))
        await stub.until(submitted=2)
        leave.set()
        await leaving
        assert sent == []
        assert stub.service.admission.in_flight == 1
        stub.engine.gate.set()
        envelope(await first)
        envelope(await stub.predict())
        assert stub.engine.sizes == [1, 1]

    _with_stub(scene)


def test_a_caller_who_leaves_within_the_body_is_no_error() -> None:
    async def scene(stub: Stub) -> None:
        leave = asyncio.Event()
        leave.set()
        sent: list[Any] = []
        await _raw_post(stub, leave, sent, whole=False)
        assert sent == []
        assert stub.service.admission.in_flight == 0

    _with_stub(scene)


async def _raw_post(stub: Stub, leave: asyncio.Event, sent: list[Any], whole: bool = True) -> None:
    """POST one image, whole or only begun, as a server would, and report the caller gone when told to."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/predict",
        "query_string": b"",
        "headers": [(b"content-type", b"image/png")],
    }
    body = [{"type": "http.request", "body": BLACK, "more_body": not whole}]

    async def receive() -> dict[str, Any]:
        if body:
            return body.pop()
        await leave.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await stub.app(scope, receive, send)


def test_a_picture_on_which_the_network_fails_never_fails_its_neighbours() -> None:
    async def scene(stub: Stub) -> None:
        stub.engine.gate.set()
        entries = envelope(await stub.predict(BLACK, POISON, BLACK)).model_dump()["results"]
        assert ["error" in entry for entry in entries] == [False, True, False]
        assert entries[1]["error"]["type"] == "urn:pellucid:problem:inference-failed"
        problem(await stub.predict(POISON), 500, "inference-failed")

    _with_stub(scene)


def test_a_failure_inside_the_service_is_a_problem_without_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(stub: Stub) -> None:
        monkeypatch.setattr("service.flow.one_pass.decode", _broken)
        found = problem(await stub.predict(), 500, "internal-error")
        assert "secret" not in found.model_dump_json()
        assert stub.service.admission.in_flight == 0

    _with_stub(scene)


def _broken(*_: Any) -> None:
    raise RuntimeError("secret")


def test_a_batch_that_nobody_waits_for_does_not_keep_the_service_from_stopping(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(app, "_END_S", 0.05)

    async def scene(stub: Stub) -> None:
        left = stub.predict()
        await stub.engine_is_busy()
        stub.service.ready = False
        left.cancel()  # as the server does when the grace is over
        problem(await left, 503, "not-ready")
        await app._stop(stub.service)

    _with_stub(scene)
    assert "did not end within 0.05 s" in caplog.text


@pytest.mark.parametrize("path", ["/readyz", "/v1/predict"])
def test_a_service_that_drains_says_so(path: str) -> None:
    async def scene(stub: Stub) -> None:
        stub.service.ready = False
        method = "GET" if path == "/readyz" else "POST"
        response: httpx.Response = await stub.client.request(method, path)
        problem(response, 503, "not-ready")
        assert int(response.headers["retry-after"]) >= 1
        assert (await stub.client.get("/livez")).status_code == 200

    _with_stub(scene)
