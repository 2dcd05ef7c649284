"""Around every request: id, access log, API key and rate, a problem in place of a stack trace, and headers."""

from __future__ import annotations

import asyncio
import logging
import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from hashlib import sha256
from random import getrandbits
from typing import Final, Literal

from fastapi.routing import iter_route_contexts
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pellucid.errors import Draining, NotFound, PellucidError

from ..telemetry.logs import Refusals
from ..telemetry.metrics import NO_ROUTE, Call
from .access import Gate
from .problem_json import error_response

log = logging.getLogger("pellucid.access")

Access = Literal["open", "key", "off"]
PROBES: Final = {"/livez", "/readyz", "/v2/health/live", "/v2/health/ready"}
# Prefixes of the rate-limited paths.
LIMITED: Final = ("/v1/", "/v2", "/predictions/", "/explanations/", "/mcp")
_DOCS: Final = {"/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"}

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


class Calls:
    """What every protocol does around a request: its id, its log line, and ``tell``, which get it when it has ended."""

    def __init__(self, tell: Sequence[Callable[[Call], None]] = ()) -> None:
        self._tell = tell
        self._refusals = Refusals()

    def begin(self, method: str, headers: Headers) -> Call:
        """A request. Its id is the client's if that is well formed."""
        sent = headers.get("x-request-id", "")
        # Not a secret, so no random bytes from the operating system.
        request_id = sent if _ID.fullmatch(sent) else f"{getrandbits(128):032x}"
        return Call(request_id, method, headers.get("traceparent", ""))

    def failed(self, call: Call) -> PellucidError:
        """Log the exception that is being handled, and return the error for the client."""
        log.exception("request %s failed", call.request_id, extra={"fields": {"request_id": call.request_id}})
        return PellucidError("The service failed; its log has the cause under this request's id.")

    def end(self, call: Call, route: str, status: int) -> None:
        call.end(route, status)
        more = self._refusals.sample(call.problems[0]) if status in _REFUSED and call.problems else {}
        if more is not None:
            told = {**call.fields(), **more}
            log.info(" ".join(f"{name}={value}" for name, value in told.items()), extra={"fields": told})
        for tell in self._tell:
            tell(call)


class RequestContext:
    """Pure ASGI, so that routes see a disconnect. Unless ``serving()``, replies close their connections."""

    def __init__(self, app: ASGIApp, serving: Callable[[], bool], calls: Calls) -> None:
        self._app = app
        self._serving = serving
        self._calls = calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = self._calls.begin(scope["method"], Headers(scope=scope))
        request_id = call.request_id
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
                if not self._serving():
                    sending["Connection"] = "close"
            await send(message)

        # GET routes answer HEAD: the server leaves out the body.
        inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        try:
            await self._app(inner, receive, send_with_id)
        except ClientDisconnect:
            status = status or 499  # the client is gone; 499 is nginx's code for that
        except asyncio.CancelledError:  # the grace period is over, or Ray's proxy lost the client
            if status or self._serving():
                status = status or 499
                raise
            stopped = Draining("The service is shutting down.")
            call.problems.append(stopped.slug)
            await error_response(scope, stopped)(scope, receive, send_with_id)
        except Exception:
            error = self._calls.failed(call)
            if status:
                raise
            call.problems.append(error.slug)
            await error_response(scope, error)(scope, receive, send_with_id)
        finally:
            # The route's template, not the path, into which a client can put anything, even a line break.
            self._calls.end(call, getattr(inner.get("route"), "path", NO_ROUTE), status)


class AccessControl:
    """Pure ASGI: answers 401 without a valid key, and 429 above the rate, before the body is read.

    Probes and the files of the pages are always open.
    """

    def __init__(self, app: ASGIApp, gate: Gate, docs: Access = "open", metrics: Access = "key") -> None:
        self._app = app
        self._gate = gate
        self._access: dict[str, Access] = {**dict.fromkeys(_DOCS, docs), "/metrics": metrics}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._require(scope)
            except PellucidError as error:
                scope["state"]["call"].problems.append(error.slug)
                scope["route"] = self._route(scope)
                await error_response(scope, error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _route(self, scope: Scope) -> BaseRoute | None:
        """The route that a refused request would have reached, for the log and the metrics."""
        found = iter_route_contexts(getattr(scope.get("app", self._app), "routes", ()))
        return next((one.original_route for one in found if one.original_route.matches(scope)[0] != Match.NONE), None)

    def _require(self, scope: Scope) -> None:
        path: str = scope["state"]["path"]
        if path == "/" or path in PROBES or path.startswith("/assets/"):
            return
        access = self._access.get(path, "key")
        if access == "off":
            raise NotFound(f"There is nothing at {path}.")
        caller = (scope.get("client") or ("unknown",))[0]
        if not self._gate.open:
            headers, limited = Headers(scope=scope), path.startswith(LIMITED)
            caller = self._gate.enter(headers, caller, key=access == "key", rate=limited)
        scope["state"]["caller"] = caller


class PageHeaders:
    """Pure ASGI: security headers. A page may load files of this service, and run its inline scripts by hash."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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
