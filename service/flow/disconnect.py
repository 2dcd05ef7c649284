"""Cancels the work for a client that disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect, Request


@asynccontextmanager
async def connected(request: Request) -> AsyncIterator[None]:
    """Cancel what runs inside as soon as the client has disconnected, and raise ClientDisconnect."""
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
        yield
    except BaseException:  # also an error that was raised as the client left: nobody can read it
        if left and task.uncancel() == 0:  # else the server cancels as well
            raise ClientDisconnect from None
        raise
    finally:
        leaving.cancel()
