"""Around every request: id, access log, a problem in place of a stack trace, CORS, and headers for browsers."""

from __future__ import annotations

import asyncio
import logging
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from random import getrandbits
from typing import Final

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pellucid.errors import Draining, PellucidError

from ..telemetry.call import NO_ROUTE, Call
from ..telemetry.logs import Refusals
from .problem_json import error_response

log = logging.getLogger("pellucid.access")

_ID: Final = re.compile(r"[\w.-]{1,64}", re.ASCII)
# Already encoded as ASGI headers.
_EVERY_REPLY: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)
_NOTHING: Final = ((b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),)
_PAGE: Final = (
    "default-src 'none'; script-src 'self'{scripts}; style-src 'self'{styles}; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; manifest-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
# Of replies to requests that were turned away.
_REFUSED: Final = (429, 503)
_INLINE_SCRIPT: Final = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
# Swagger UI and Redoc insert inline styles at run time.
_STYLED_BY_SCRIPT: Final = ("/docs", "/redoc")


def allow_origins(app: Starlette, origins: Sequence[str], headers: Iterable[str]) -> None:
    """Let scripts of these origins call the service (CORS) and read these headers of its replies."""
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Type", "X-API-Key", "X-Request-ID"],
        expose_headers=["Retry-After", "Server-Timing", "X-Request-ID", *headers],
        max_age=3600,
    )


class RequestContext:
    """Pure ASGI, so that routes see a disconnect. Each callback in ``tell`` gets each request when it has ended.

    While ``stopping()`` is true, replies close their connections.
    """

    def __init__(self, app: ASGIApp, stopping: Callable[[], bool], tell: Sequence[Callable[[Call], None]] = ()) -> None:
        self._app = app
        self._stopping = stopping
        self._tell = tell
        self._refusals = Refusals()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        sent = headers.get("x-request-id", "")
        # Not a secret, so no random bytes from the operating system.
        request_id = sent if _ID.fullmatch(sent) else f"{getrandbits(128):032x}"
        call = Call(request_id, scope["method"], headers.get("traceparent", ""))
        # Without the prefix of a proxy.
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        scope.setdefault("state", {}).update(request_id=request_id, call=call, path=path)
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

        # GET routes answer HEAD: the server leaves out the body.
        inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        try:
            await self._app(inner, receive, send_with_id)
        except ClientDisconnect:
            status = status or 499  # the client is gone; 499 is nginx's code for that
        except asyncio.CancelledError:  # the grace period is over, or Ray's proxy lost the client
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
            # The route's template, not the path, into which a client can put anything, even a line break.
            call.end(getattr(inner.get("route"), "path", NO_ROUTE), status)
            self._log(call)
            for tell in self._tell:
                tell(call)

    def _log(self, call: Call) -> None:
        more = self._refusals.sample(call.problems[0]) if call.status in _REFUSED and call.problems else {}
        if more is not None:
            told = {**call.fields(), **more}
            log.info(" ".join(f"{name}={value}" for name, value in told.items()), extra={"fields": told})


class PageHeaders:
    """Pure ASGI: security headers. A page may load files of this service, and run its inline scripts by hash."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start: Message = {}
        page = b""

        async def send_with_headers(message: Message) -> None:
            nonlocal start, page
            if message["type"] == "http.response.start":
                headers = dict(message["headers"])
                stated = b"content-security-policy" in headers  # the playground sets its own
                if not stated and headers.get(b"content-type", b"").startswith(b"text/html"):
                    start = message  # sent once the page is complete
                    return
                message["headers"] = [*message["headers"], *_EVERY_REPLY, *(() if stated else _NOTHING)]
            elif start:
                page += message.get("body", b"")
                if message.get("more_body", False):
                    return
                policy = (b"content-security-policy", _policy(page, scope["path"]).encode())
                start["headers"] = [*start["headers"], *_EVERY_REPLY, policy]
                await send(start)
                message = {"type": "http.response.body", "body": page}
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _policy(page: bytes, path: str) -> str:
    hashes = (b64encode(sha256(script).digest()).decode() for script in _INLINE_SCRIPT.findall(page))
    scripts = "".join(f" 'sha256-{digest}'" for digest in hashes)
    return _PAGE.format(scripts=scripts, styles=" 'unsafe-inline'" if path.endswith(_STYLED_BY_SCRIPT) else "")
