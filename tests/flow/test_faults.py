"""The network fails, hangs, ends or is asked for more than it can do: what each caller is told."""

from __future__ import annotations

import asyncio
import gc
import math
import time
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any

import pytest

from pellucid.types import Finished, Pixels, Plan
from tests.flow.stub import BLACK, POISON, Stub, running
from tests.support import envelope, problem


def _with_stub(scene: Callable[[Stub], Awaitable[None]], **settings: Any) -> None:
    async def play() -> None:
        async with running(**settings) as stub:
            await scene(stub)

    asyncio.run(play())


def test_one_poisoned_picture_in_a_batch_of_eight_leaves_seven_right_answers() -> None:
    async def scene(stub: Stub) -> None:
        blocker = stub.predict()
        await stub.engine_is_busy()
        eight = [stub.predict(POISON if number == 5 else BLACK) for number in range(8)]
        await stub.until(submitted=9)
        stub.engine.gate.set()
        envelope(await blocker)
        for number, response in enumerate(await asyncio.gather(*eight)):
            if number == 5:
                problem(response, 500, "inference-failed")
            else:
                envelope(response)
        assert stub.engine.sizes[:2] == [1, 8]  # they did share a batch

    _with_stub(scene, max_batch=8)


def test_an_engine_that_hangs_fails_the_probes_and_everybody_at_once() -> None:
    async def scene(stub: Stub) -> None:
        waiting = [stub.predict() for _ in range(3)]
        for response in await asyncio.gather(*waiting):
            problem(response, 503, "engine-down")
            assert int(response.headers["retry-after"]) >= 1
        for probe in ("/livez", "/readyz"):
            problem(await stub.client.get(probe), 503, "engine-down")
        decoded = stub.worker.submitted
        problem(await stub.predict(), 503, "engine-down")
        assert stub.worker.submitted == decoded
        stub.engine.gate.set()
        await stub.recovered()
        envelope(await stub.predict())
        assert (await stub.client.get("/livez")).status_code == 200

    _with_stub(scene, hang_limit_s=0.2)


def test_each_caller_of_an_engine_that_hangs_reads_an_error_of_its_own() -> None:
    async def scene(stub: Stub) -> None:
        files = [("images", ("image.png", BLACK))] * 2
        asked = [stub.client.post("/v1/compare", files=files, params={"target": "dark"}) for _ in range(4)]
        for response in await asyncio.gather(*asked):
            detail = problem(response, 503, "engine-down").detail
            assert detail in ("The first picture: The engine hangs.", "The second picture: The engine hangs.")

    _with_stub(scene, hang_limit_s=0.2)


def test_an_engine_whose_thread_has_ended_fails_the_probes_and_everybody() -> None:
    async def scene(stub: Stub) -> None:
        stub.engine.gate.set()
        stub.engine.broken = SystemExit("the end")
        problem(await stub.predict(), 503, "engine-down")
        assert await asyncio.to_thread(stub.died.wait, 10)
        for probe in ("/livez", "/readyz"):
            problem(await stub.client.get(probe), 503, "engine-down")
        problem(await stub.predict(), 503, "engine-down")

    _with_stub(scene)


def test_what_can_not_be_answered_by_its_deadline_is_refused_before_it_is_decoded() -> None:
    async def scene(stub: Stub) -> None:
        stub.engine.seconds = 0.1
        stub.engine.gate.set()
        envelope(await stub.predict())
        stub.engine.gate.clear()
        waiting = [stub.predict() for _ in range(20)]
        await stub.until(submitted=21)
        refused = await stub.predict(timeout_ms=500)
        problem(refused, 429, "too-late")
        assert int(refused.headers["retry-after"]) == 3  # 21 images of 0.1 s and a quarter, less half a second
        assert stub.worker.submitted == 21
        stub.engine.gate.set()
        for response in await asyncio.gather(*waiting):
            envelope(response)

    _with_stub(scene, timeout_ms=60_000)


@pytest.mark.usefixtures("frozen_heap")
def test_at_twice_the_capacity_what_is_let_in_is_answered_in_time_and_no_capacity_is_lost() -> None:
    seconds, batch, rounds = 0.02, 8, 100  # the engine takes this long for each image

    async def scene(stub: Stub) -> None:
        stub.engine.gate.set()
        stub.engine.seconds = seconds
        for size in (1, batch, 4, batch):  # it has been seen at work
            envelope(await stub.predict(*[BLACK] * size))
        stub.engine.sizes.clear()
        begun = time.monotonic()
        tasks = []
        for number in range(2 * rounds):  # two images in the time of one, whether or not answers come
            await asyncio.sleep(begun + number * seconds / 2 - time.monotonic())
            tasks.append(stub.predict(timeout_ms=800))
        responses = await asyncio.gather(*tasks)
        took = time.monotonic() - begun
        statuses = Counter(response.status_code for response in responses)
        assert set(statuses) == {200, 429}
        for response in responses:
            if response.status_code == 429:
                problem(response, 429, "too-late")
                assert int(response.headers["retry-after"]) >= 1
        assert sum(stub.engine.sizes) == statuses[200]  # nothing was computed for nobody
        possible = math.floor(took / (stub.engine.busy_s / sum(stub.engine.sizes)))
        assert statuses[200] >= 0.9 * possible

    _with_stub(scene, max_batch=batch, timeout_ms=60_000)


def test_pixels_are_freed_with_the_answer_and_not_by_the_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[weakref.ref[Any]] = []

    async def scene(stub: Stub) -> None:
        stub.engine.gate.set()
        submit = stub.worker.submit

        def noting(pixels: Pixels, plan: Plan, deadline: float) -> Future[Finished]:
            seen.append(weakref.ref(pixels))
            return submit(pixels, plan, deadline)

        monkeypatch.setattr(stub.worker, "submit", noting)
        gc.disable()
        try:
            envelope(await stub.predict())
            until = time.monotonic() + 30
            while seen[0]() is not None and time.monotonic() < until:  # the threads let go of it a moment later
                await asyncio.to_thread(time.sleep, 0.001)
            assert seen[0]() is None
        finally:
            gc.enable()

    _with_stub(scene)
