"""A closed loop of callers: each sends a request, waits for the answer, and sends the next.

Not wrk: its percentiles count refusals as answers and are changed by its correction for coordinated omission, and its
callers can't wait for as long as Retry-After says. wrk is the check that this one is no bottleneck (see wrk.py).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import uvloop

# Refusals that tell when to come again.
_REFUSED = (429, 503)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after: *(\d+)\r\n", re.IGNORECASE)


@dataclass
class Load:
    """What the callers saw in the measured time.

    ``latencies`` are seconds from a request's first byte sent to its answer's last byte, of answers with 200 alone.
    ``statuses`` counts all answers, ``lost`` connections that broke, ``timeouts`` requests given up, ``unanswered``
    callers that got no 200 at all. ``cpu`` is the generator's own share of one core, ``spent`` the seconds of processor
    time of each part of the server.
    """

    seconds: float
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    lost: int = 0
    timeouts: int = 0
    unanswered: int = 0
    cpu: float = 0.0
    spent: Counter[str] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Answers with 200 a second."""
        return len(self.latencies) / self.seconds

    @property
    def refused(self) -> int:
        """Answers that say when to come again."""
        return sum(self.statuses[status] for status in _REFUSED)

    @property
    def errors(self) -> int:
        """All that is neither an answer nor an honest refusal."""
        wrong = sum(count for status, count in self.statuses.items() if status not in (200, *_REFUSED))
        return wrong + self.lost + self.timeouts


def post(path: str, body: bytes, content_type: str, accept: str) -> bytes:
    """A whole HTTP/1.1 request, ready to be sent as often as wanted on a connection that is kept."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {accept}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def run(
    port: int,
    requests: Sequence[bytes],
    callers: int,
    seconds: float,
    *,
    lead_in: float = 1.0,
    give_up_after: float = 30.0,
    meter: Callable[[], Counter[str]] = Counter,
) -> Load:
    """Load a server on 127.0.0.1 for ``lead_in`` seconds that are not measured, then ``seconds`` that are.

    ``meter`` reads the processor time that the server's parts have used.
    """
    return uvloop.run(_run(port, requests, callers, seconds, lead_in, give_up_after, meter))


async def _run(
    port: int,
    requests: Sequence[bytes],
    callers: int,
    seconds: float,
    lead_in: float,
    give_up_after: float,
    meter: Callable[[], Counter[str]],
) -> Load:
    load = Load(seconds)
    begin = time.perf_counter() + lead_in
    window = (begin, begin + seconds)
    crowd = [_Caller(port, requests, number, load, window) for number in range(callers)]
    for caller in crowd:
        caller.connect()
    await asyncio.sleep(lead_in)
    used, before = time.process_time(), meter()
    while (now := time.perf_counter()) < window[1]:
        for caller in crowd:
            caller.give_up(now - give_up_after)
        await asyncio.sleep(min(0.25, window[1] - now))
    load.cpu, load.spent = (time.process_time() - used) / seconds, meter() - before
    load.unanswered = sum(not caller.answered for caller in crowd)
    for caller in crowd:
        caller.stop()
    return load


class _Caller(asyncio.Protocol):
    """One caller on a connection of its own. Photographs come round in turn, each caller beginning at another."""

    def __init__(
        self, port: int, requests: Sequence[bytes], number: int, load: Load, window: tuple[float, float]
    ) -> None:
        self._port, self._requests, self._next = port, requests, number
        self._load, self._window = load, window
        self._transport: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._head = b""
        self._left = 0  # bytes of the body that have not come yet
        self._sent = 0.0  # when the request that waits for an answer was sent; 0 where none does
        self._status = 0
        self._retry_after = 0
        self._stopped = False
        self.answered = False

    def connect(self) -> None:
        self._connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self._port)
        except OSError:
            self._broke()

    def give_up(self, sent_before: float) -> None:
        """Break off a request that was sent before then."""
        if self._sent and self._sent < sent_before and self._transport is not None:
            self._sent = 0
            self._load.timeouts += self._counts()
            self._transport.abort()

    def stop(self) -> None:
        self._stopped = True
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._head, self._left = b"", 0
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._sent and not self._stopped:
            self._broke()
        elif not self._stopped:
            self.connect()

    def data_received(self, data: bytes) -> None:
        if self._left:
            self._left -= len(data)
        else:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._head[: end + 4]
            self._status = int(head[9:12])
            length, retry_after = _LENGTH.search(head), _RETRY_AFTER.search(head)
            if length is None:
                raise ValueError("an answer without Content-Length")
            self._retry_after = int(retry_after[1]) if retry_after else 0
            self._left = int(length[1]) - (len(self._head) - len(head))
            self._head = b""
        if self._left == 0:
            self._done()

    def _done(self) -> None:
        now = time.perf_counter()
        self.answered = self.answered or self._status == 200
        if self._counts():
            self._load.statuses[self._status] += 1
            if self._status == 200:
                self._load.latencies.append(now - self._sent)
        self._sent = 0
        if self._status in _REFUSED:
            asyncio.get_running_loop().call_later(self._retry_after, self._send)
        else:
            self._send()

    def _send(self) -> None:
        if self._stopped or self._transport is None:
            return
        self._sent = time.perf_counter()
        self._transport.write(self._requests[self._next % len(self._requests)])
        self._next += 1

    def _broke(self) -> None:
        self._sent = 0
        self._load.lost += self._counts()
        asyncio.get_running_loop().call_later(0.1, self.connect)

    def _counts(self) -> bool:
        return self._window[0] <= time.perf_counter() < self._window[1]
