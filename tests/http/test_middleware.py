"""What a request's end is called when it never came to an answer."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from service.http.middleware import Calls, RequestContext
from service.telemetry.metrics import Call


@pytest.mark.parametrize(("stopping", "status", "sent"), [(False, 499, []), (True, 503, [503])])
def test_who_cancels_a_request_while_the_service_runs_has_lost_its_caller(
    stopping: bool, status: int, sent: list[int]
) -> None:
    told: list[Call] = []
    answers: list[int] = []

    async def never(_: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    async def receive() -> Message:
        raise AssertionError("nobody sends")

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answers.append(message["status"])

    async def cancelled() -> None:
        scope = {"type": "http", "method": "POST", "path": "/v1/predict", "headers": []}
        context = RequestContext(never, lambda: not stopping, Calls([told.append]))
        task = asyncio.ensure_future(context(scope, receive, send))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(cancelled())
    assert [call.status for call in told] == [status]
    assert answers == sent
