"""What of an answer changes behind Ray's proxy."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BehindProxy:
    """Pure ASGI: the proxy gives each request an id and writes it into the answer, where it would stand twice.

    Where the app takes another, since a caller may send anything as one, both are sent: the app's is in the log.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        known = Headers(scope=scope).get("x-request-id") if scope["type"] == "http" else None

        async def send_once(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if headers.get("x-request-id") == known:
                    del headers["X-Request-ID"]
            await send(message)

        await self._app(scope, receive, send_once)
