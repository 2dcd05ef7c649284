"""Around every request: its id, one line in the log, and a problem in place of a stack trace."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from typing import Final
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.reply import problem_response
from service.errors import Draining, PellucidError

log = logging.getLogger("pellucid.access")

_ID: Final = re.compile(r"[\w.-]{1,64}")


class RequestContext:
    """Pure ASGI, so that a caller's leaving stays visible to the routes.

    ``stopping`` says whether connections are to end with the reply that they wait for.
    """

    def __init__(self, app: ASGIApp, stopping: Callable[[], bool]) -> None:
        self._app = app
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        sent = Headers(scope=scope).get("x-request-id", "")
        request_id = sent if _ID.fullmatch(sent) else uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                if self._stopping():
                    headers["Connection"] = "close"
            await send(message)

        # The server sends no body in answer to HEAD, so whatever answers GET answers it.
        inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        try:
            await self._app(inner, receive, send_with_id)
        except ClientDisconnect:
            status = status or 499  # nobody is there to be answered; the log uses nginx's number for it
        except asyncio.CancelledError:  # the server's grace has ended
            if status:
                raise
            error = Draining("The service is shutting down.")
            await problem_response(error, request_id)(scope, receive, send_with_id)
        except Exception:
            log.exception("request %s failed", request_id)
            if status:
                raise
            failure = PellucidError("The service failed; its log has the cause under this request's id.")
            await problem_response(failure, request_id)(scope, receive, send_with_id)
        finally:
            took = (time.perf_counter() - started) * 1000
            log.info("%s %s %d %.1f ms %s", scope["method"], scope["path"], status, took, request_id)
