"""Replies that are kept: the same asked of the same picture is computed once, and nobody learns who else asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import numpy as np
import pytest

from service.api.cache import ReplyCache
from service.api.reply import Entry
from service.types import ImageInfo
from tests.api.stub import BLACK, POISON, Stub, running
from tests.support import encoded, envelope, problem

GREY = encoded(np.full((8, 8, 3), 90, np.uint8))


def play(scene: Callable[[Stub], Awaitable[None]], **settings: Any) -> None:
    async def run() -> None:
        async with running(**{"cache_mib": 1, **settings}) as stub:
            await scene(stub)

    asyncio.run(run())


async def sent(stub: Stub, image: bytes, name: str = "image.png", etag: str = "", **options: Any) -> httpx.Response:
    headers = {"If-None-Match": etag} if etag else {}
    return await stub.client.post("/v1/predict", files={"images": (name, image)}, params=options, headers=headers)


def test_the_same_is_computed_once_and_told_to_each_under_its_own_name_and_id() -> None:
    async def scene(stub: Stub) -> None:
        stub.engine.gate.set()
        first, second = await sent(stub, BLACK, "mine.png"), await sent(stub, BLACK, "yours.png")
        assert stub.worker.submitted == 1
        assert (first.headers["cache-status"], second.headers["cache-status"]) == (
            "pellucid; fwd=miss",
            "pellucid; hit",
        )
        assert "server-timing" not in second.headers
        mine, yours = envelope(first), envelope(second)
        assert mine.request_id != yours.request_id
        one, other = (reply.model_dump()["results"][0] for reply in (mine, yours))
        assert one.pop("image")["filename"] == "mine.png"
        assert other.pop("image") == {**envelope(first).results[0].image.model_dump(), "filename": "yours.png"}
        assert one == other
        page = (await stub.client.get("/metrics")).text
        assert 'pellucid_cache_images_total{result="hit"} 1.0' in page
        assert 'pellucid_cache_images_total{result="miss"} 1.0' in page

    play(scene)


def test_another_picture_and_other_options_are_not_the_same() -> None:
    async def scene(stub: Stub) -> None:
        stub.engine.gate.set()
        tags = {(await sent(stub, image, top_k=top_k)).headers["etag"] for image in (BLACK, GREY) for top_k in (1, 2)}
        assert (len(tags), stub.worker.submitted) == (4, 4)
        # What does not change the answer is no part of it.
        assert (await sent(stub, GREY, top_k=1, timeout_ms=9000, model="stub")).headers["etag"] in tags
        assert stub.worker.submitted == 4

    play(scene)


def test_of_several_images_those_that_are_missing_are_computed() -> None:
    async def scene(stub: Stub) -> None:
        stub.engine.gate.set()
        await sent(stub, BLACK)
        both = await stub.predict(BLACK, GREY)
        assert stub.worker.submitted == 2
        assert [result.image.filename for result in envelope(both).results] == ["image.png"] * 2
        assert both.headers["cache-status"] == "pellucid; fwd=miss"

    play(scene)


def test_what_is_asked_twice_at_once_is_computed_once() -> None:
    async def scene(stub: Stub) -> None:
        calls = [asyncio.create_task(sent(stub, BLACK)) for _ in range(5)]
        await stub.engine_is_busy()
        await stub.until(in_flight=5)
        stub.engine.gate.set()
        for call in calls:
            envelope(await call)
        assert stub.worker.submitted == 1

    play(scene)


def test_a_caller_who_leaves_takes_nobody_with_it() -> None:
    async def scene(stub: Stub) -> None:
        leaving = asyncio.create_task(sent(stub, BLACK))
        await stub.engine_is_busy()
        staying = asyncio.create_task(sent(stub, BLACK))
        await stub.until(in_flight=2)
        leaving.cancel()
        stub.engine.gate.set()
        envelope(await staying)

    play(scene)


def test_errors_are_not_kept() -> None:
    async def scene(stub: Stub) -> None:
        stub.engine.gate.set()
        for _ in range(2):
            failed = await sent(stub, POISON)
            problem(failed, 500, "inference-failed")
            assert "etag" not in failed.headers
        several = await stub.predict(BLACK, b"no picture")
        assert "etag" not in several.headers
        assert stub.engine.sizes.count(1) >= 2

    play(scene)


def test_whoever_has_the_reply_is_told_so_and_nothing_is_computed() -> None:
    async def scene(stub: Stub) -> None:
        stub.engine.gate.set()
        etag = (await sent(stub, BLACK)).headers["etag"]
        assert etag.startswith('W/"')
        for known in (etag, f'"other", {etag}', etag.removeprefix("W/")):
            told = await sent(stub, BLACK, etag=known)
            problem(told, 412, "already-known")
            assert told.headers["etag"] == etag
        envelope(await sent(stub, BLACK, etag='"other"'))
        envelope(await sent(stub, BLACK, etag="*"))
        envelope(await sent(stub, GREY, etag=etag))
        assert stub.worker.submitted == 2

    play(scene)


def test_unless_replies_are_kept_there_is_no_tag_and_none_is_heeded() -> None:
    async def scene(stub: Stub) -> None:
        stub.engine.gate.set()
        for _ in range(2):
            response = await sent(stub, BLACK, etag="*")
            envelope(response)
            assert not {"etag", "cache-status"} & set(response.headers)
        assert stub.worker.submitted == 2

    play(scene, cache_mib=0)


@pytest.mark.parametrize(("size", "kept"), [(3000, {"b", "c"}), (100, set())])
def test_bytes_are_bounded_and_the_oldest_goes_first(size: int, kept: set[str]) -> None:
    cache = ReplyCache(size)

    async def compute() -> Entry:
        return Entry(ImageInfo(None, ""), bytes(400))

    async def fill() -> None:
        for key in "abc":
            assert (await cache.entry(key, compute)).content == bytes(400)

    asyncio.run(fill())
    assert {key for key in "abc" if key in cache} == kept
    assert cache.size <= size
