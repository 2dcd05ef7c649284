"""Waiting for a caller's body, and for its answer while the caller is there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from pellucid.errors import DeadlineExceeded

from ..dispatch.admission import Place
from . import body as intake

# So long the rest of a body may take whose deadline has passed.
_LATE_BODY_S = 0.5

T = TypeVar("T")
B = TypeVar("B", bound=intake.Intake)


async def read(
    request: Request,
    limits: intake.Limits,
    place: Place,
    deadline: float,
    reader: Callable[[Request, intake.Limits, Callable[[int], None]], Awaitable[B]],
) -> B:
    """The body, whole by the deadline, its bytes held in ``place`` as they come."""
    try:
        async with asyncio.timeout(max(0, deadline - time.monotonic())):
            return await reader(request, limits, lambda size: place.hold(size=size))
    except TimeoutError as error:
        with suppress(RuntimeError):  # raised where it is whole after all, but not taken apart yet
            await spend(request, limits, _LATE_BODY_S)
        raise DeadlineExceeded("The body was not whole by the deadline.", headers={"Connection": "close"}) from error


async def spend(request: Request, limits: intake.Limits, seconds: float) -> None:
    """Read what a caller still sends, and keep none of it: closed while it sends, it would not see the answer."""
    received = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                received += len(chunk)
                if received > limits.body_bytes:
                    return


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, or ClientDisconnect as soon as the caller has gone, ``work`` cancelled."""
    task = asyncio.current_task()
    assert task is not None
    left = False

    async def gone() -> None:
        nonlocal left
        while (await request.receive())["type"] != "http.disconnect":
            pass
        left = True
        task.cancel()

    leaving = asyncio.ensure_future(gone())
    try:
        return await work
    except asyncio.CancelledError:
        if left and task.uncancel() == 0:  # else the server cancels as well
            raise ClientDisconnect from None
        raise
    finally:
        leaving.cancel()
