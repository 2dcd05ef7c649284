"""Many pictures at once: in order, not too many, and a broken one harms no other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import httpx
import pytest

from pellucid.client import ApiError, AsyncClient, Client, Explained
from pellucid.client.images import ImageSource
from tests.client.scripted import both, refusal, reply
from tests.support import SAMPLES


def explain_many(
    client_type: type[Client] | type[AsyncClient], url: str, images: Sequence[ImageSource], transport: Any, **how: Any
) -> list[Explained]:
    """All of them, whichever client it is."""
    if issubclass(client_type, Client):
        with client_type(url, transport=transport, timeout_s=200) as client:
            return list(client.explain_many(images, **how))

    async def run() -> list[Explained]:
        async with (
            client_type(url, transport=transport, timeout_s=200) as client,
            aclosing(client.explain_many(images, **how)) as explained,
        ):
            return [one async for one in explained]

    return asyncio.run(run())


@both
def test_a_broken_picture_has_its_error_and_the_others_their_results(
    client_type: type[Client] | type[AsyncClient], server: str, cat: bytes
) -> None:
    images: list[ImageSource] = [SAMPLES / "coffee.jpg", b"no picture", SAMPLES / "nowhere.jpg", cat]
    told: list[tuple[int, int]] = []
    explained = explain_many(
        client_type,
        server,
        images,
        None,
        concurrency=2,
        progress=lambda *done: told.append(done),
        include="predictions",
        top_k=1,
    )
    assert [one.source for one in explained] == images
    coffee, broken, missing, tabby = explained
    for one, label in ((coffee, "espresso"), (tabby, "Egyptian cat")):
        assert one.error is None
        assert one.result is not None
        assert one.result.predictions is not None
        assert one.result.predictions[0].label == label
        assert one.result.grad_cam is None
    assert isinstance(broken.error, ApiError)
    assert broken.error.kind == "unsupported-media-type"
    assert isinstance(missing.error, FileNotFoundError)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


class Tangled(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Answers two requests at a time, the later first, and counts how many are with it."""

    def __init__(self) -> None:
        self.most = 0
        self.inside = 0
        self.pairs = threading.Barrier(2, timeout=60)
        self.second_answered = threading.Event()

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.inside += 1
        self.most = max(self.most, self.inside)
        number = int(request.read().partition(b"number ")[2][:1])
        self.pairs.wait()
        if number % 2 == 0:
            assert self.second_answered.wait(60)
            self.second_answered.clear()
        else:
            self.second_answered.set()
        self.inside -= 1
        return reply(predictions=[{"index": number, "label": "", "probability": 1, "logit": 1}])

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._answer(request)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        return await asyncio.to_thread(self._answer, request)


@both
def test_results_keep_the_order_whichever_is_done_first(client_type: type[Client] | type[AsyncClient]) -> None:
    transport = Tangled()
    images = [f"number {number}".encode() for number in range(2)]
    explained = explain_many(client_type, "http://stub", images, transport, concurrency=2)
    assert [one.result.predictions[0].index for one in explained if one.result and one.result.predictions] == [0, 1]
    assert transport.most == 2


@both
def test_no_more_than_so_many_are_asked_at_once(client_type: type[Client] | type[AsyncClient]) -> None:
    inside: list[bytes] = []
    most = 0
    lock = threading.Lock()

    def respond(request: httpx.Request) -> httpx.Response:
        nonlocal most
        with lock:
            inside.append(request.content)
            most = max(most, len(inside))
        threading.Event().wait(0.002)
        with lock:
            inside.remove(request.content)
        return refusal(422)

    images = [str(number).encode() for number in range(12)]
    explained = explain_many(client_type, "http://stub", images, httpx.MockTransport(respond), concurrency=3)
    assert len(explained) == 12
    assert 1 <= most <= 3


def test_what_nobody_takes_is_not_asked_for() -> None:
    asked: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return refusal(422)

    with Client("http://stub", transport=httpx.MockTransport(respond)) as client:
        explained = client.explain_many([b""] * 100, concurrency=4)
        next(explained)
        explained.close()
    assert len(asked) <= 5


def test_progress_that_fails_is_the_callers_own_error() -> None:
    def broken(done: int, total: int) -> None:
        raise ZeroDivisionError

    with (
        Client("http://stub", transport=httpx.MockTransport(lambda _: refusal(422))) as client,
        pytest.raises(ZeroDivisionError),
    ):
        list(client.explain_many([b""], progress=broken))
