"""Around every request: its id, one line in the log, and a problem in place of a stack trace."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from random import getrandbits
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pellucid.errors import Draining, PellucidError

from ..telemetry.call import NO_ROUTE, Call
from .problems import error_response

log = logging.getLogger("pellucid.access")

_ID: Final = re.compile(r"[\w.-]{1,64}", re.ASCII)


class RequestContext:
    """Pure ASGI, so that a caller's leaving stays visible to the routes. ``tell`` is told each request at its end.

    ``stopping`` says whether connections are to end with the reply that they wait for.
    """

    def __init__(self, app: ASGIApp, stopping: Callable[[], bool], tell: Sequence[Callable[[Call], None]] = ()) -> None:
        self._app = app
        self._stopping = stopping
        self._tell = tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        sent = headers.get("x-request-id", "")
        # No secret, so the operating system need not be asked for chance.
        request_id = sent if _ID.fullmatch(sent) else f"{getrandbits(128):032x}"
        call = Call(request_id, scope["method"], headers.get("traceparent", ""))
        scope.setdefault("state", {}).update(request_id=request_id, call=call)
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                sending = MutableHeaders(scope=message)
                sending["X-Request-ID"] = request_id
                if self._stopping():
                    sending["Connection"] = "close"
            await send(message)

        # The server sends no body in answer to HEAD, so whatever answers GET answers it.
        inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        try:
            await self._app(inner, receive, send_with_id)
        except ClientDisconnect:
            status = status or 499  # nobody is there to be answered; the log uses nginx's number for it
        except asyncio.CancelledError:  # the server's grace has ended, or a proxy (Ray's) has lost the caller
            if status or not self._stopping():
                status = status or 499
                raise
            stopped = Draining("The service is shutting down.")
            call.problems.append(stopped.slug)
            await error_response(scope, stopped)(scope, receive, send_with_id)
        except Exception:
            log.exception("request %s failed", request_id, extra={"fields": {"request_id": request_id}})
            if status:
                raise
            error = PellucidError("The service failed; its log has the cause under this request's id.")
            call.problems.append(error.slug)
            await error_response(scope, error)(scope, receive, send_with_id)
        finally:
            # The route's template, not the path: a caller may write anything into that, also a line's end.
            call.end(getattr(inner.get("route"), "path", NO_ROUTE), status)
            told = call.fields()
            log.info(" ".join(f"{name}={value}" for name, value in told.items()), extra={"fields": told})
            for tell in self._tell:
                tell(call)
