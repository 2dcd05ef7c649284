"""One connection: limits that uvicorn lacks, on heads and on clients that don't read; and what a disconnect cancels."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Final
from uuid import uuid4

import httptools
import orjson
from starlette.requests import ClientDisconnect, Request
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from pellucid.errors import Draining, HeadTimeout, HeadTooLarge, MalformedRequest, PellucidError, QueueFull

from ..telemetry.logs import Refusals
from .problem_json import PROBLEM, problem

log = logging.getLogger(__name__)

# A client must read this many bytes of a reply in this many seconds.
_LEAST_READ: Final = 64 * 1024
_LOOK_S: Final = 10.0
# A stopping server keeps an idle connection open this long, so that a request on its way gets a 503 and not a reset.
_LINGER_S: Final = 0.5
# Pipelined requests that may wait behind the current one: each takes memory, and uvicorn reads on after every reply.
_MOST_WAITING: Final = 16


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """``head_bytes``: request line and headers. ``unread_bytes``: what is received of a body after its refusal."""

    head_bytes: int
    headers: int
    head_s: float
    connections: int
    unread_bytes: int


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with limits. httptools accepts heads of any size at any speed, and a reply waits forever.

    Subclass it with ``limits``; uvicorn creates the instances.
    """

    limits: ClassVar[ConnectionLimits]
    refusals: ClassVar[Refusals] = Refusals()

    @staticmethod
    def refused(kind: str) -> None:
        """Called with the kind of each error that is sent without calling the application."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._outside_body = 0
        self._unread = 0
        self._timer: asyncio.TimerHandle | None = None
        self._reader: asyncio.TimerHandle | None = None
        self._refusal: PellucidError | None = None
        self._in_head = False
        self._upgrading = False
        self._data = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse the connection above the limit, or start the timer for the head of a request."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse(Draining(f"{self.limits.connections} connections are open. No more are accepted."))
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        self._reader_reads()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count the bytes outside bodies: heads, the framing of chunks, and trailers."""
        if self._refusal is not None:  # the parser has stopped within a message
            return
        self._outside_body += len(data)
        self._data = data
        super().data_received(data)
        self._data = b""
        if self.transport.is_closing() or self._refusal is not None:
            return
        if self._outside_body > self.limits.head_bytes:
            self._refuse(self._too_large())
        elif self._idle():
            self._await_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._unread = 0
        self._in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count the headers. The error is sent by ``send_400_response``.

        Trailers are ignored: a proxy in front has not checked them as headers.
        """
        if not self._in_head:
            return
        super().on_header(name, value)
        if len(self.headers) > self.limits.headers:
            self._refusal = HeadTooLarge(f"A request may have at most {self.limits.headers} headers.")
            raise self._refusal

    def on_headers_complete(self) -> None:
        """The head is complete: check its size."""
        self._head_is_there()
        if (
            not self.transport.get_write_buffer_size()
        ):  # the watched reply has been read; the next one gets a timer of its own
            self._reader_reads()
        self._in_head = False
        self._outside_body = 0
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.limits.head_bytes:
            self._refusal = self._too_large()
            raise self._refusal
        if len(self.pipeline) >= _MOST_WAITING:
            self._refusal = QueueFull(f"More than {_MOST_WAITING} requests wait on this connection.", 1)
            raise self._refusal
        self._upgrading = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        if not self._upgrading:
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self._upgrading:
            super().on_message_complete()

    def _unsupported_upgrade_warning(self) -> None:
        """Ignore an Upgrade header, which some clients send with each request to ask for HTTP/2.

        httptools treats all bytes after such a head, even a body, as the other protocol. So a new parser gets the head
        without the header, and the bytes after it. uvicorn calls this in its handler of httptools' exception.
        """
        asked = sys.exception()
        assert isinstance(asked, httptools.HttpParserUpgrade)
        version = self.parser.get_http_version().encode()
        kept = b"".join(b"%s: %s\r\n" % header for header in self.headers if header[0] != b"upgrade")
        head = b"%s %s HTTP/%s\r\n%s\r\n" % (self.parser.get_method(), self.url, version, kept)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self.data_received(head + self._data[asked.args[0] :])

    def on_body(self, body: bytes) -> None:
        """Take a chunk of the body. After a refusal, close the connection once too much has come."""
        self._outside_body = 0
        super().on_body(body)
        if self.cycle.response_complete:
            self._unread += len(body)
            if self._unread > self.limits.unread_bytes:
                self.transport.abort()

    def on_response_complete(self) -> None:
        """Start the timer for the client to read the reply."""
        last = not self.pipeline
        super().on_response_complete()
        self._await_reader()
        if self._refusal is not None and last and not self.transport.is_closing():
            self._tell(self._refusal)

    def pause_writing(self) -> None:
        """The reply fills the write buffer: start the timer for the client to read it."""
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        """The client has read: restart the timer for the rest."""
        self._reader_reads()
        super().resume_writing()
        self._await_reader()

    def send_400_response(self, msg: str) -> None:
        """Answer a head that httptools can't parse with a problem."""
        self._refuse(self._refusal or MalformedRequest("The request is not HTTP/1.1."))

    def shutdown(self) -> None:
        """Close. An idle connection stays open for a moment, so that a request on its way gets an answer."""
        if self._idle():
            self.loop.call_later(_LINGER_S, super().shutdown)
        else:
            super().shutdown()

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _too_large(self) -> HeadTooLarge:
        return HeadTooLarge(f"The request line and headers may have {self.limits.head_bytes // 1024} KiB together.")

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
            self._refuse(HeadTimeout(f"The headers did not arrive within {self.limits.head_s:g} seconds."))

    def _await_reader(self) -> None:
        waiting = self.transport.get_write_buffer_size()
        if waiting and self._reader is None:
            self._reader = self.loop.call_later(_LOOK_S, self._look, waiting)

    def _reader_reads(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

    def _look(self, waited: int) -> None:
        self._reader = None
        if self.transport.get_write_buffer_size() > max(0, waited - _LEAST_READ):
            self.transport.abort()
        else:
            self._await_reader()

    def _refuse(self, error: PellucidError) -> None:
        """Stop reading, and send the error after the replies to complete requests."""
        self._refusal = error
        if self.pipeline:
            if self.cycle.more_body:  # the last request will never be complete
                self.pipeline.popleft()
        elif self._idle():
            self._tell(error)
        elif self.cycle.more_body:
            if self.cycle.response_started:
                self.transport.abort()
                return
            self.cycle.disconnected = True  # the application waits for the rest of the body
            self.cycle.message_event.set()
            self._tell(error)

    def _tell(self, error: PellucidError) -> None:
        """Send a problem without calling the application, and close."""
        request_id = uuid4().hex
        self.refused(error.slug)
        more = self.refusals.sample(error.slug)
        if more is not None:
            fields = {"request_id": request_id, "status": error.status, "problems": [error.slug], **more}
            log.info(
                "refused a connection: %s", " ".join(f"{k}={v}" for k, v in fields.items()), extra={"fields": fields}
            )
        body = orjson.dumps(problem(error, request_id))
        headers = {
            **error.headers,
            "Content-Type": PROBLEM,
            "Content-Length": str(len(body)),
            "X-Content-Type-Options": "nosniff",
            "X-Request-ID": request_id,
            "Connection": "close",
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(STATUS_LINE[error.status] + lines.encode() + b"\r\n" + body)
        self.transport.close()


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
