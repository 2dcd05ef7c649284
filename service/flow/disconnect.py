"""A caller who leaves: the work for it is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

T = TypeVar("T")


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
