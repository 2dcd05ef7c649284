"""`trust=true`: a map is tried by the worker that serves everybody, in time or not at all."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import httpx
import numpy as np
import pytest

from pellucid.errors import DeadlineExceeded, TooCostly
from pellucid.schemas import ModelDetail, Trust
from pellucid.trust.perturbations import Design, Perturbations
from pellucid.types import DecodedImage, Explanation, Finished, ImageInfo, InputPixels, Outcome, Plan, Prediction
from service.dispatch.admission import Forecast
from service.flow.trust_trials import estimate, examined
from tests.flow.stub import BLACK, POISON, HeldEngine, Stub, running
from tests.support import envelope, explained, post, present, problem

FEW = {"trust": True, "trust_steps": 2, "trust_maps": 4}


def trusted(client: httpx.Client, image: bytes, **options: object) -> list[Trust]:
    maps = explained(client, "/v1/grad-cam", image, **{**FEW, **options}).grad_cam or []
    return [each.trust for each in maps if each.trust]


def test_the_network_follows_its_map_of_an_espresso(client: httpx.Client, coffee: bytes) -> None:
    (found,) = trusted(client, coffee, trust_steps=4, trust_maps=8, target="espresso")
    assert found.finding == "follows"
    assert found.p_value < 0.1
    assert found.beaten == found.random_maps == 8
    assert "'espresso'" in found.sentence
    assert [curve.test for curve in found.curves] == ["deletion", "insertion", "road"]
    deletion, insertion, road = found.curves
    whole = deletion.map[0]
    assert road.map[0] == insertion.map[-1] == insertion.gaussian[-1] == whole
    assert deletion.random.mean[0] == pytest.approx(whole)
    assert deletion.map[-1] == pytest.approx(deletion.random.max[-1])  # nothing is left of either
    assert 0 <= present(found.confidence).map.drop <= 1
    assert len(found.sanity.correlations) == 5


def test_the_same_request_has_the_same_numbers_and_not_of_other_targets(client: httpx.Client, rocket: bytes) -> None:
    both = trusted(client, rocket, target=["missile", "projectile"])
    again = trusted(client, rocket, target="missile")
    assert again[0].advantage == pytest.approx(both[0].advantage, abs=1e-4)
    assert again[0].curves[0].auc.random == pytest.approx(both[0].curves[0].auc.random, abs=1e-4)
    assert both[0].sanity.correlations == pytest.approx(again[0].sanity.correlations, abs=1e-3)
    assert (both[0].cost.passes, again[0].cost.passes) == (3 + 11 * 7, 3 + 6 * 7)


def test_the_cost_is_said_beforehand(client: httpx.Client) -> None:
    detail = ModelDetail.model_validate_json(client.get("/v1/models/lite0").content)
    assert detail.trust.passes == Design().passes(targets=1)


def test_what_can_not_be_tried_in_time_is_refused_with_what_it_would_take(client: httpx.Client, cat: bytes) -> None:
    asked = post(client, "/v1/grad-cam", cat, trust=True, trust_steps=32, trust_maps=32, timeout_ms=3000)
    found = problem(asked, 422, "too-costly")
    assert "trust_steps" in found.detail
    assert "2281 passes" in found.detail
    assert found.detail.endswith("or for a longer `timeout_ms`.")


def test_a_picture_alone_can_not_hold_it(client: httpx.Client, cat: bytes) -> None:
    problem(post(client, "/v1/grad-cam", cat, accept="image/png", **FEW), 406, "not-acceptable")


def test_without_it_nothing_is_tried(client: httpx.Client, cat: bytes) -> None:
    (result,) = envelope(post(client, "/v1/grad-cam", cat)).model_dump(exclude_unset=True)["results"]
    assert "trust" not in result["grad_cam"][0]


IMAGE = DecodedImage(ImageInfo(None, ""), np.zeros((8, 8, 3), np.uint8), (0, 0, 8, 8))
HEAT = np.arange(4, dtype=np.float32).reshape(2, 2)
OUTCOME = Outcome((), (), (Explanation(Prediction(0, 1.0, 2.0), ("only",), "grad-cam", HEAT),), (), 0.0, 0.0)


LARGE = DecodedImage(ImageInfo(None, ""), np.zeros((16, 16, 3), np.uint8), (0, 0, 16, 16))


async def trial(stub: Stub, seconds: float, image: DecodedImage = IMAGE) -> None:
    (network,) = stub.service.networks.values()
    deadline = asyncio.get_running_loop().time() + seconds
    await examined(network, stub.service.forecast, image, Plan(), OUTCOME, Design(2, 4), deadline, lambda: 1)


def test_no_more_than_a_batch_of_a_maps_pictures_waits_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with running(max_batch=4) as stub:
            sent: list[Any] = []
            waiting: list[int] = []
            submit = stub.worker.submit

            def counting(*arguments: Any) -> Any:
                sent.append(submit(*arguments))
                waiting.append(sum(not future.done() for future in sent))
                return sent[-1]

            monkeypatch.setattr(stub.worker, "submit", counting)
            stub.engine.gate.set()
            await trial(stub, 60)
            assert len(sent) > 4 >= max(waiting)
            stub.engine.gate.clear()
            task = asyncio.create_task(trial(stub, 60))
            await stub.engine_is_busy()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            stub.engine.gate.set()
            assert stub.service.forecast.seconds_for(1) == 0  # what is left of it counts for nobody

    asyncio.run(main())


def test_trials_of_large_pictures_count_by_their_pixels_without_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = threading.Event()

    def compiling(*_: object, **__: object) -> None:
        time.sleep(0.2)
        compiled.set()

    monkeypatch.setattr(HeldEngine, "lane", lambda _, plan: "@16x16 x4.000" if plan.size == (16, 16) else "")
    monkeypatch.setattr(HeldEngine, "ready", lambda _, plan: plan.size is None or compiled.is_set())
    monkeypatch.setattr(HeldEngine, "prepare", compiling)

    async def main() -> None:
        async with running(max_batch=4) as stub:
            (network,) = stub.service.networks.values()
            stub.engine.gate.set()
            stub.engine.seconds = 0.05
            with pytest.raises(TooCostly):  # 51 passes of 50 ms
                await trial(stub, 2, LARGE)
            assert sum(stub.engine.sizes) <= 8  # no more were run than the forecast needs
            assert estimate(network, 40, Plan()) < 1  # half a second, as four of them are one pass of the large picture

    asyncio.run(main())


def test_trials_are_tried_again_soon_after_slow_ones() -> None:
    async def main() -> None:
        async with running(max_batch=4) as stub:
            stub.engine.gate.set()
            stub.engine.seconds = 0.01
            await trial(stub, 60)  # 51 passes of 10 ms
            stub.engine.seconds = 0
            for _ in range(16):
                with suppress(TooCostly):
                    await trial(stub, 0.3)
                    return
            pytest.fail("every trial is refused")

    asyncio.run(main())


def test_trials_end_at_the_deadline() -> None:
    async def main() -> None:
        async with running(max_batch=4) as stub:
            stub.engine.gate.set()
            stub.engine.seconds = 0.2
            with pytest.raises((TooCostly, DeadlineExceeded)):
                await trial(stub, 1)
            assert sum(stub.engine.sizes) <= 12
            assert isinstance(stub.service.forecast, Forecast)

    asyncio.run(main())


def test_trials_end_with_the_first_error_and_leave_none_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = threading.Event()
    picture = Perturbations.picture

    def held(trials: Perturbations, number: int) -> InputPixels:
        assert number < 4 or drawn.wait(30)  # the second batch is still made when the first has failed
        return picture(trials, number)

    def late(*_: object) -> Future[Finished]:
        failed: Future[Finished] = Future()
        failed.set_exception(DeadlineExceeded("Late."))
        return failed

    async def main() -> None:
        unread: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unread.append(context["message"]))
        monkeypatch.setattr(Perturbations, "picture", held)
        async with running(max_batch=4) as stub:
            monkeypatch.setattr(stub.worker, "submit", late)
            try:
                with pytest.raises(DeadlineExceeded):
                    await asyncio.wait_for(trial(stub, 60), 60)
            finally:
                drawn.set()
        gc.collect()
        await asyncio.sleep(0)
        assert unread == []

    asyncio.run(main())


def test_images_that_can_not_be_decoded_are_no_trials_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []

    async def counting(*arguments: Any, advice: str) -> tuple[()]:
        left = arguments[-1]
        counted.append(left())
        late = time.monotonic() + 30

        def watch() -> None:
            while left() != 1:
                assert time.monotonic() < late, "images that have failed still count"
                time.sleep(0.001)

        await asyncio.to_thread(watch)
        return ()

    monkeypatch.setattr("service.flow.trust_trials.examined", counting)

    async def main() -> None:
        async with running() as stub:
            stub.engine.gate.set()
            files = [("images", ("image.png", data)) for data in (BLACK, b"no picture", BLACK[:40], POISON)]
            response = await stub.client.post("/v1/grad-cam", files=files, params={"trust": True})
            assert response.status_code == 200, response.text
            assert ["error" in each for each in response.json()["results"]] == [False, True, True, True]

    asyncio.run(main())
    assert len(counted) == 1
