"""What a browser is told of every reply: to take it for what it says it is, and to load nothing from elsewhere."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# As ASGI has headers: nothing is to be encoded for each reply.
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
_INLINE_SCRIPT: Final = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
# Swagger UI and Redoc write styles into the page as they go.
_STYLED_BY_SCRIPT: Final = ("/docs", "/redoc")


class PageHeaders:
    """Pure ASGI. A page's Content-Security-Policy allows our own files, and its own inline scripts by their hashes."""

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
                stated = b"content-security-policy" in headers  # the playground states its own
                if not stated and headers.get(b"content-type", b"").startswith(b"text/html"):
                    start = message  # held back until the page is whole
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
