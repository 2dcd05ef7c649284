"""One connection: bounds on what uvicorn leaves unbounded, namely heads, their time, and callers who don't read."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any, ClassVar, Final
from uuid import uuid4

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.api.reply import PROBLEM, problem
from service.errors import Draining, HeadTimeout, HeadTooLarge, MalformedRequest, PellucidError

log = logging.getLogger(__name__)

# A caller must read so many bytes of a reply between two looks, so many seconds apart.
_LEAST_READ: Final = 64 * 1024
_LOOK_S: Final = 10.0
# A stopping server waits so long for a request that may be on its way over an idle connection, to refuse it in words.
_LINGER_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """``head_bytes`` are those of the request's line and headers; ``unread_bytes`` of a body follow its refusal."""

    head_bytes: int
    headers: int
    head_s: float
    connections: int
    unread_bytes: int


class BoundedProtocol(HttpToolsProtocol):
    """httptools takes heads of any size, for any time, and a reply waits for its reader for ever: not here.

    Subclass it with ``limits``; uvicorn makes the instances.
    """

    limits: ClassVar[ConnectionLimits]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._outside_body = 0
        self._unread = 0
        self._timer: asyncio.TimerHandle | None = None
        self._refusal: PellucidError | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse a connection too many, and wait for the head of a request."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse(Draining(f"{self.limits.connections} connections are open; no more are taken."))
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer."""
        self._head_is_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what is no body: heads, but also what frames a body in chunks and may follow it."""
        self._outside_body += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._outside_body > self.limits.head_bytes:
            self._refuse(self._too_large())
        elif self._idle():
            self._await_head()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._unread = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count the headers; the error leaves through ``send_400_response``."""
        super().on_header(name, value)
        if len(self.headers) > self.limits.headers:
            self._refusal = HeadTooLarge(f"More than {self.limits.headers} headers are not taken.")
            raise self._refusal

    def on_headers_complete(self) -> None:
        """The head is whole: measure it."""
        self._head_is_there()
        self._outside_body = 0
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.limits.head_bytes:
            self._refusal = self._too_large()
            raise self._refusal
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body; of one that has been refused, only so much."""
        self._outside_body = 0
        super().on_body(body)
        if self.cycle.response_complete:
            self._unread += len(body)
            if self._unread > self.limits.unread_bytes:
                self.transport.abort()

    def on_response_complete(self) -> None:
        """See that the reply is read, too."""
        super().on_response_complete()
        waiting = self.transport.get_write_buffer_size()
        if waiting:
            self.loop.call_later(_LOOK_S, self._look, waiting)

    def send_400_response(self, msg: str) -> None:
        """uvicorn's answer to a head that it can't read, as a problem."""
        self._refuse(self._refusal or MalformedRequest("The request is not HTTP/1.1."))

    def shutdown(self) -> None:
        """Close, but let a request that is on its way be told."""
        if self._idle():
            self.loop.call_later(_LINGER_S, super().shutdown)
        else:
            super().shutdown()

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _too_large(self) -> HeadTooLarge:
        return HeadTooLarge(f"A request's line and headers may have {self.limits.head_bytes // 1024} KiB together.")

    def _await_head(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.limits.head_s, self._late)

    def _head_is_there(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self._refuse(HeadTimeout(f"No whole request came within {self.limits.head_s:g} seconds."))

    def _look(self, waited: int) -> None:
        waiting = self.transport.get_write_buffer_size()
        if waiting > max(0, waited - _LEAST_READ):
            self.transport.abort()
        elif waiting:
            self.loop.call_later(_LOOK_S, self._look, waiting)

    def _refuse(self, error: PellucidError) -> None:
        """Send a problem past the application, and close."""
        if not self._idle():  # a reply is under way, which nothing may be written into
            self.transport.abort()
            return
        request_id = uuid4().hex
        log.info("refused a connection: %d %s", error.status, request_id)
        body = orjson.dumps(problem(error, request_id))
        headers = {
            **error.headers,
            "Content-Type": PROBLEM,
            "Content-Length": str(len(body)),
            "X-Request-ID": request_id,
            "Connection": "close",
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(STATUS_LINE[error.status] + lines.encode() + b"\r\n" + body)
        self.transport.close()
