"""Either client before a service that says what the test wants."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from pellucid.client import AsyncClient, Client

Respond = Callable[[httpx.Request], httpx.Response]

PREDICTIONS = {"predictions": [{"index": 0, "label": "dark", "probability": 0.75, "logit": 1.5}]}
INFO = {"filename": None, "format": None, "width": None, "height": None, "sha256": "0"}


def reply(**parts: Any) -> httpx.Response:
    """A reply about one image."""
    return httpx.Response(200, json={"model": "stub", "request_id": "1", "results": [{"image": INFO, **parts}]})


def refusal(status: int, **headers: str) -> httpx.Response:
    body = {"type": "urn:pellucid:problem:some-kind", "title": "No", "status": status, "detail": "Not so."}
    return httpx.Response(status, json={**body, "request_id": "r1", "allowed": ["so"]}, headers=headers)


def ask(
    client_type: type[Client] | type[AsyncClient], respond: Respond, image: Any = b"picture", **settings: Any
) -> Any:
    """What ``predict`` returns or raises, whichever client it is."""
    transport = httpx.MockTransport(respond)
    if issubclass(client_type, Client):
        with client_type("http://stub", transport=transport, **settings) as client:
            return client.predict(image, top_k=1)

    async def run() -> Any:
        async with client_type("http://stub", transport=transport, **settings) as client:
            return await client.predict(image, top_k=1)

    return asyncio.run(run())


both = pytest.mark.parametrize("client_type", [Client, AsyncClient])
