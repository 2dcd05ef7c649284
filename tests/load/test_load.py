"""64 callers at once, all routes, images and kinds of body: every answer is the one that the request gets alone.

Batches of one size round differently from those of another, and a gradient jumps at a ReLU's kink. So what is
differentiated through one is asked for with its provenance, for which the service promises the same bits; all else,
which has no jumps, is compared after batches of any size.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import pytest

from pellucid.schemas import Reply
from tests.support import ROUTES, difference, photograph, serving

CALLERS = 64
REQUESTS = 192  # three of each caller
EXACT = {"provenance": 1}
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "/v1/predict": [{}, {"top_k": 10}],
    "/v1/attention": [EXACT, {"target": "espresso", "effects": 0}],
    "/v1/feature-maps": [{"layers": "head", "count": 4, "tile": 28}, {"layers": "stem", "channels": "1,5", "tile": 56}],
    "/v1/grad-cam": [
        {},
        {"target": ["281", "tabby", "missile"], "max_side": 64},
        {"layer": "blocks.10", "signed": 1, **EXACT},
    ],
    "/v1/what-if": [
        {"mute": "3", "max_side": 64},
        {"layer": "blocks.10", "scale": "5:2", "max_side": 64, **EXACT},
    ],
    "/v1/channels": [{"layer": "blocks.10", "box": "120,60,250,200", "count": 5, **EXACT}],
    "/v1/explain": [{"include": "predictions,grad_cam"}, {"count": 4, "tile": 28, "max_side": 128, "overlay": 1}],
}


@dataclass
class Seen:
    """What the callers saw, and how long they took together."""

    took: float = 0
    seconds: list[float] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def _requests() -> Iterator[dict[str, Any]]:
    """Every route with each of its options and images, by all kinds of body in turn, and some with several images."""
    pictures = {name: photograph(name) for name in ("cat", "coffee", "rocket")}
    for route in ROUTES:
        for turn, options in enumerate(OPTIONS[route]):
            for number, (name, data) in enumerate(pictures.items()):
                encoded = {"data": b64encode(data).decode(), "filename": f"{name}.jpg"}
                bodies: list[dict[str, Any]] = [
                    {"files": {"images": (f"{name}.jpg", data)}},
                    {"content": data, "headers": {"Content-Type": "image/jpeg"}},
                    {"json": {"images": [encoded]}},
                ]
                yield {"url": route, "params": options, **bodies[(turn + number) % len(bodies)]}
        several = [("images", (f"{name}.jpg", data)) for name, data in pictures.items()]
        yield {"url": route, "params": OPTIONS[route][0], "files": several}


async def _answer(client: httpx.AsyncClient, request: dict[str, Any]) -> httpx.Response:
    response = await client.post(**request)
    assert response.status_code == 200, response.text
    return response


async def _load(url: str) -> Seen:
    """Each request alone, then all of them by many callers in a shuffled order."""
    seen = Seen()
    requests = list(_requests())
    limits = httpx.Limits(max_connections=CALLERS)
    async with httpx.AsyncClient(base_url=url, timeout=240, limits=limits) as client:
        alone: list[Any] = []
        for request in requests:
            response = await _answer(client, request)
            Reply.model_validate_json(response.content, strict=True)
            alone.append(response.json()["results"])
        order = [number % len(requests) for number in range(REQUESTS)]
        random.Random(0).shuffle(order)
        waiting = iter(order)

        async def call() -> None:
            for number in waiting:
                started = time.perf_counter()
                response = await _answer(client, requests[number])
                seen.seconds.append(time.perf_counter() - started)
                batch = re.search(r"batch of (\d+)", response.headers["server-timing"])
                assert batch is not None
                seen.batches.append(int(batch[1]))
                if found := difference(response.json()["results"], alone[number]):
                    seen.wrong.append(f"{requests[number]['url']} {requests[number]['params']}{found}")

        started = time.perf_counter()
        await asyncio.gather(*(call() for _ in range(CALLERS)))
        seen.took = time.perf_counter() - started
    return seen


def test_under_load_every_answer_is_its_solo_answer(capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"PELLUCID_PRECISION": "fp32", "PELLUCID_TIMEOUT_MS": "200000"}
    with serving(**settings, PELLUCID_THREADS="2") as server:  # two batches side by side
        assert_answers_under_load_are_solo_answers(server.url, capsys)


def assert_answers_under_load_are_solo_answers(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the server at ``url``, which must be exact and patient; what it took is printed."""
    seen = asyncio.run(_load(url))
    p50, p99 = np.percentile(seen.seconds, [50, 99]) * 1000
    with capsys.disabled():
        print(f"\n{REQUESTS} requests of {CALLERS} callers: {REQUESTS / seen.took:.1f} a second")
        print(f"p50 {p50:.0f} ms, p99 {p99:.0f} ms, batch sizes {dict(sorted(Counter(seen.batches).items()))}")
    assert len(seen.seconds) == REQUESTS
    assert seen.wrong == []
    assert np.mean(seen.batches) > 1
