"""What a connection may send, and how long it may take, on a server of small limits; and how that server stops."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

import httpx
import pytest
import uvicorn
from packaging.requirements import Requirement
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from pellucid.schemas import Problem
from service.cli import _bound, _Server
from service.commands import start
from service.config import Settings
from service.http.connection import BoundedProtocol, ConnectionLimits
from tests.support import LIGHT, REPOSITORY, Server, photograph, serving

# Releases that passed all tests here. 0.48.0 did not.
TRIED = ("0.50.0", "0.52.0", "0.53.0", "0.54.0")
TYPED = "Host: test\r\nContent-Type: image/jpeg\r\n"


def test_the_releases_of_uvicorn_that_are_installed_were_tried() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    (required,) = (Requirement(text) for text in extras["serve"] if text.startswith("uvicorn"))
    assert all(required.specifier.contains(release) for release in (*TRIED, uvicorn.__version__))
    assert not any(required.specifier.contains(release) for release in ("0.49.0", "0.55.0"))


@pytest.fixture(scope="module")
def small() -> Iterator[Server]:
    limits = {"HEAD_KIB": "4", "HEADERS": "20", "CONNECTIONS": "4", "BODY_MIB": "1"}
    settings = {f"PELLUCID_MAX_{name}": value for name, value in limits.items()}
    with serving(**LIGHT, **settings, PELLUCID_HEAD_TIMEOUT_S="1", PELLUCID_TIMEOUT_MS="20000") as server:
        yield server


def _connect(server: Server) -> socket.socket:
    return socket.create_connection((server.host, server.port), timeout=60)


def _answer(connection: socket.socket) -> tuple[bytes, bytes]:
    """All that a server says until it closes: status line with headers, and body."""
    head, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
    return head, body


def _refusal(connection: socket.socket, status: int) -> Problem:
    head, body = _answer(connection)
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"application/problem+json" in head
    assert b"connection: close" in head.lower()
    return Problem.model_validate_json(body)


def test_a_caller_whose_body_is_late_may_send_it_whole_and_is_told(small: Server) -> None:
    data = photograph("cat")
    with _connect(small) as caller:
        caller.sendall(f"POST /v1/predict?timeout_ms=1 HTTP/1.1\r\n{TYPED}Content-Length: {len(data)}\r\n\r\n".encode())
        for start in range(0, len(data), 8192):
            caller.sendall(data[start : start + 8192])
            time.sleep(0.01)
        assert _refusal(caller, 504).type == "urn:pellucid:problem:deadline-exceeded"


@pytest.mark.parametrize(
    "head",
    [
        f"GET /livez HTTP/1.1\r\nX: {'y' * 5000}\r\n\r\n",
        f"GET /livez HTTP/1.1\r\nX: {'y' * 5000}",  # and never an end
        f"GET /{'y' * 5000} HTTP/1.1\r\n\r\n",
        "GET /livez HTTP/1.1\r\n" + "X: y\r\n" * 21 + "\r\n",
    ],
    ids=["large", "endless", "path", "many"],
)
def test_a_head_that_is_too_large_is_refused(small: Server, head: str) -> None:
    with _connect(small) as caller:
        caller.sendall(head.encode())
        assert _refusal(caller, 431).type == "urn:pellucid:problem:head-too-large"


def test_what_is_no_http_is_a_problem_too(small: Server) -> None:
    with _connect(small) as caller:
        caller.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert _refusal(caller, 400).type == "urn:pellucid:problem:malformed-request"


@pytest.mark.parametrize("begun", ["", "GET /livez HTTP/1.1\r\nX: "])
def test_a_head_that_does_not_come_is_not_waited_for(small: Server, begun: str) -> None:
    with _connect(small) as caller:
        caller.sendall(begun.encode())
        assert "1 seconds" in _refusal(caller, 408).detail


def test_a_connection_too_many_is_told_to_come_again(small: Server) -> None:
    held = [_connect(small) for _ in range(4)]
    for connection in held:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    with _connect(small) as one_more:
        head, _ = _answer(one_more)
    assert head.startswith(b"HTTP/1.1 503")
    assert b"retry-after: 1" in head.lower()
    held[0].sendall(b"GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
    assert b'pellucid_refused_total{reason="not-ready"} 1.0' in _answer(held[0])[1]
    for connection in held:
        connection.close()


def test_a_connection_whose_body_is_refused_is_not_used_again(small: Server) -> None:
    """By a client that keeps connections: the rest of a body beyond the limit is not read, so the connection ends."""
    with httpx.Client(base_url=small.url, timeout=60) as client:
        for size in (2**20 + 1, 2**21 + 2**20):
            told = client.post("/v1/predict", content=bytes(size), headers={"Content-Type": "image/jpeg"})
            assert (told.status_code, told.headers["connection"]) == (413, "close")
            assert client.get("/livez").status_code == 200


def test_a_body_that_is_refused_is_not_taken_for_ever(small: Server) -> None:
    with _connect(small) as caller:
        caller.sendall(f"POST /v1/predict HTTP/1.1\r\n{TYPED}Content-Length: {2**40}\r\n\r\n".encode())
        assert caller.recv(65536).startswith(b"HTTP/1.1 413")
        with pytest.raises(ConnectionError):
            caller.sendall(bytes(2**26))


UPGRADE = "Host: test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"


@pytest.mark.parametrize("cut", [None, 0, 7])
def test_a_request_that_would_rather_speak_http_2_is_served_whole(small: Server, cat: bytes, cut: int | None) -> None:
    """As `curl --http2` and Java's client ask; the body comes with the head, or later."""
    head = f"POST /v1/predict?top_k=1 HTTP/1.1\r\n{UPGRADE}{TYPED}Content-Length: {len(cat)}\r\n\r\n".encode()
    probe = f"GET /livez HTTP/1.1\r\n{UPGRADE}\r\n".encode()
    last = b"GET /readyz HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
    with _connect(small) as caller:
        if cut is None:
            caller.sendall(head + cat + probe + last)
        else:
            caller.sendall(head + cat[:cut])
            time.sleep(0.05)
            caller.sendall(cat[cut:] + probe + last)
        said = b"".join(iter(lambda: caller.recv(65536), b""))
    assert said.count(b"HTTP/1.1 200 OK") == 3
    assert said.count(b'{"status":"ok"}') == 2
    assert b'"predictions":[{"index"' in said


def test_more_requests_than_are_kept_waiting_are_not_taken(small: Server) -> None:
    """Each that waits is kept in memory; those that were taken are answered, and then the caller is told."""
    with _connect(small) as caller:
        caller.sendall(b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n" * 1000)
        said = b"".join(iter(lambda: caller.recv(65536), b""))
    assert said.count(b"HTTP/1.1 200 OK") == 17
    assert b"HTTP/1.1 429 " in said
    assert b"retry-after: 1" in said.lower()


@pytest.mark.parametrize("framing", ["zz\r\nabc", "ffffffffffffffffff\r\nabc", "1\r\nabc\r\n"])
def test_a_body_that_is_framed_wrongly_is_told_so(small: Server, framing: str) -> None:
    with _connect(small) as caller:
        caller.sendall(f"POST /v1/predict HTTP/1.1\r\n{TYPED}Transfer-Encoding: chunked\r\n\r\n{framing}".encode())
        assert _refusal(caller, 400).type == "urn:pellucid:problem:malformed-request"
    _is_empty(small)


def test_what_follows_a_whole_request_costs_it_nothing(small: Server, cat: bytes) -> None:
    with _connect(small) as caller:
        head = f"POST /v1/predict?top_k=1 HTTP/1.1\r\n{TYPED}Content-Length: {len(cat)}\r\n\r\n".encode()
        caller.sendall(head + cat + b"\0 no request\r\n\r\n")
        said = b"".join(iter(lambda: caller.recv(65536), b""))
    assert said.startswith(b"HTTP/1.1 200 OK")
    assert b'"predictions":[{"index"' in said
    assert said.count(b"HTTP/1.1 400 ") == 1
    assert said.endswith(b"}")
    _is_empty(small)


def _is_empty(server: Server) -> None:
    metrics = httpx.get(f"{server.url}/metrics").text
    assert "pellucid_in_flight_images 0.0" in metrics
    assert "pellucid_in_flight_bytes 0.0" in metrics


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: +5\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding: chunked, gzip\r\n",
        "X: a\r\n b\r\nContent-Length: 5\r\n",
        "X: a\rContent-Length: 5\r\n",
    ],
)
def test_a_request_that_two_servers_could_read_in_two_ways_is_refused(small: Server, headers: str) -> None:
    with _connect(small) as caller:
        caller.sendall(f"POST /v1/predict HTTP/1.1\r\n{TYPED}{headers}\r\nabcde".encode())
        assert _refusal(caller, 400).type == "urn:pellucid:problem:malformed-request"


def test_what_follows_a_body_in_chunks_is_no_header(small: Server) -> None:
    with _connect(small) as caller:
        body = "5\r\nabcde\r\n0\r\nX-Request-ID: trailer\r\n\r\n"
        caller.sendall(f"POST /nothing HTTP/1.1\r\n{TYPED}Transfer-Encoding: chunked\r\n\r\n{body}".encode())
        assert b"trailer" not in caller.recv(65536)


@pytest.mark.parametrize("whole", [True, False], ids=["at once", "in pieces"])
def test_a_caller_who_does_not_read_the_reply_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    monkeypatch.setattr("service.http.connection._LOOK_S", 0.05)
    ended = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1 if whole else 256):
            await send({"type": "http.response.body", "body": bytes(2**26 if whole else 2**18), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    class Protocol(BoundedProtocol):
        limits = ConnectionLimits(head_bytes=4096, headers=20, head_s=60, connections=4, unread_bytes=0)

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            ended.set()

    async def scene() -> None:
        config, state = uvicorn.Config(app, log_config=None), ServerState()
        server = await asyncio.get_running_loop().create_server(lambda: Protocol(config, state, {}), "127.0.0.1")
        async with server:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2], limit=1024)
            writer.write(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            await asyncio.wait_for(ended.wait(), 60)
            writer.transport.abort()
            await asyncio.gather(*state.tasks)

    asyncio.run(scene())


class Pipe(asyncio.Transport):
    """Keeps what is written until the caller reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = 0
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.kept += len(data)

    def get_write_buffer_size(self) -> int:
        return self.kept

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close


def test_a_caller_who_reads_each_reply_keeps_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply is in the buffer at every look, but each time it is another one."""
    monkeypatch.setattr("service.http.connection._LOOK_S", 1.0)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a reply"})

    class Protocol(BoundedProtocol):
        limits = ConnectionLimits(head_bytes=4096, headers=20, head_s=60, connections=4, unread_bytes=0)

    async def scene() -> None:
        state, pipe = ServerState(), Pipe()
        protocol = Protocol(uvicorn.Config(app, log_config=None), state, {})
        protocol.connection_made(pipe)
        for _ in range(3):
            protocol.data_received(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            await asyncio.gather(*state.tasks)
            assert pipe.kept > 0
            await asyncio.sleep(0.6)
            pipe.kept = 0  # the caller reads
        assert not pipe.closed
        protocol.connection_lost(None)

    asyncio.run(scene())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_connections_that_wait_as_the_port_closes_are_answered(loop: Literal["asyncio", "uvloop"], cat: bytes) -> None:
    """The kernel has completed them and taken their bytes, but the loop has not accepted them yet."""
    pytest.importorskip(loop)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            pass
        headers = [(b"content-length", b"0"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body"})

    async def scene(server: Any, listener: socket.socket) -> list[bytes]:
        server.lifespan = config.lifespan_class(config)
        await server.startup([listener])
        callers = [socket.create_connection(listener.getsockname(), timeout=60) for _ in range(20)]
        for caller in callers:
            caller.sendall(f"POST / HTTP/1.1\r\n{TYPED}Content-Length: {len(cat)}\r\n\r\n".encode() + cat)
        await server.shutdown([listener])
        answers = []
        for caller in callers:
            with caller:
                answers.append(_answer(caller)[0].partition(b"\r\n")[0])
        return answers

    settings = Settings(port=0)
    config = start.uvicorn_config(app, settings, loop=loop, lifespan="off")
    config.load()
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        answers = runner.run(scene(_Server(config, None, 0), _bound(settings)))
    assert answers == [b"HTTP/1.1 503 Service Unavailable"] * 20


@pytest.mark.usefixtures("frozen_heap")  # a caller who connects and pauses as the port closes is cut off unheard
def test_a_stopped_server_loses_nothing_that_it_let_in_and_refuses_the_rest_in_words(cat: bytes) -> None:
    """64 callers who never stop asking; then SIGTERM. Whoever got through is answered, all others are told to wait."""
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []

    async def call(client: httpx.AsyncClient, all_asked: asyncio.Event, stopped: asyncio.Event) -> None:
        while True:
            if sum(outcomes.values()) >= 64:
                all_asked.set()
            try:
                response = await client.post("/v1/predict", content=cat, headers={"Content-Type": "image/jpeg"})
            except httpx.ConnectError:
                return  # nobody listens any more
            except httpx.TransportError as error:
                wrong.append(f"{error!r}")
                return
            outcomes[f"{response.status_code} {'after' if stopped.is_set() else 'before'}"] += 1
            if response.status_code == 503:
                if not (response.headers.get("retry-after") and response.headers["connection"] == "close"):
                    wrong.append(f"{response.headers}")
            elif response.status_code != 200:
                wrong.append(response.text)

    async def scene(server: Server) -> None:
        all_asked, stopped = asyncio.Event(), asyncio.Event()
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:
            callers = [asyncio.create_task(call(client, all_asked, stopped)) for _ in range(64)]
            await all_asked.wait()
            server.process.send_signal(signal.SIGTERM)
            stopped.set()
            ready = await asyncio.to_thread(httpx.get, f"{server.url}/readyz")
            assert ready.status_code == 503
            await asyncio.gather(*callers)

    with serving(**LIGHT, PELLUCID_DRAIN_DELAY_S="1", PELLUCID_TIMEOUT_MS="60000", PELLUCID_GRACE_S="60") as server:
        asyncio.run(scene(server))
        began = time.monotonic()
        assert server.process.wait(timeout=60) == 0
        assert time.monotonic() - began < 30
    assert wrong == []
    assert set(outcomes) == {"200 before", "200 after", "503 after"}


def test_what_outlasts_the_grace_is_told_and_the_process_ends_in_order() -> None:
    photo = photograph("cat")
    settings = {"GRACE_S": "1", "TIMEOUT_MS": "60000", "DRAIN_DELAY_S": "600"}  # SIGINT skips the delay
    with (
        serving(**LIGHT, **{f"PELLUCID_{name}": value for name, value in settings.items()}) as server,
        _connect(server) as caller,
    ):
        caller.sendall(f"POST /v1/predict HTTP/1.1\r\n{TYPED}Content-Length: {len(photo)}\r\n\r\n".encode())
        caller.sendall(photo[:100])
        httpx.get(f"{server.url}/readyz").raise_for_status()
        server.process.send_signal(signal.SIGINT)
        assert "shutting down" in _refusal(caller, 503).detail
        assert server.process.wait(timeout=60) == 0


def test_a_second_sigterm_skips_the_delay() -> None:
    with serving(**LIGHT, PELLUCID_DRAIN_DELAY_S="600") as server:
        server.process.send_signal(signal.SIGTERM)
        while httpx.get(f"{server.url}/readyz").status_code == 200:
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=60) == 0
