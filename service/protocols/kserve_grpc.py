"""KServe's protocol v2 over gRPC. A message becomes what the HTTP route makes of its body, and takes the same path.

gRPC is HTTP/2: a call has headers and an address, so keys, rates and `serve` see it as a request. The message is read
after these have admitted the call, as a body is.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

import grpc.aio
import numpy as np
from google.protobuf.message import DecodeError
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive

from pellucid.errors import (
    ContentTooLarge,
    DeadlineExceeded,
    MalformedRequest,
    PellucidError,
    QueueFull,
    Unavailable,
    UnknownModel,
)

from ..flow import bodies
from ..flow.networks import Service
from ..flow.serve import serve
from ..http.access import Gate
from ..http.middleware import Calls
from . import kserve_tensors as tensors
from . import kserve_v2
from .kserve_messages import MESSAGES, require_few

_SERVICE: Final = "inference.GRPCInferenceService"
_OPEN: Final = {"ServerLive", "ServerReady"}
# The metadata that are read, as the headers of HTTP.
_HEADERS: Final = {"authorization", "x-api-key", "x-request-id", "traceparent"}
# HTTP's status -> gRPC's. Other refusals are INVALID_ARGUMENT.
_CODES: Final = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
# Datatype -> the field of typed contents.
_CONTENTS: Final = {
    "BYTES": "bytes_contents",
    "UINT8": "uint_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
}
# The most seconds in which the last replies are sent when the server stops.
_SENDING_S: Final = 1.0
# So much of a message arrives before it is read.
_AHEAD: Final = 2**18
# Requests of all methods but ModelInfer hold at most a name and a version.
_SHORT: Final = 1024
_SHORT_S: Final = 5.0
# A message of at most so many bytes is parsed at once: it takes less time than the way to a thread.
_SMALL: Final = 2**18
# A message that takes longer is given up while other calls wait for a turn to be read.
_TURN_S: Final = 1.0
# Bytes of an error's sentence; gRPC limits the metadata, in which it is sent.
_DETAIL: Final = 1024
# A connection without calls is closed after so long, one without HTTP/2 after the second.
_IDLE_MS: Final = 300_000
_HANDSHAKE_MS: Final = 10_000

_Run: TypeAlias = Callable[[Request, Any], Awaitable[Response]]
_Hold: TypeAlias = Callable[[int], None]


class Server:
    """The server of one event loop."""

    def __init__(self, service: Service, gate: Gate, calls: Calls, address: str, most_calls: int) -> None:
        """``address`` is HOST:PORT; port 0 takes a free one.

        gRPC refuses more than ``most_calls`` at once, and as many connections.
        """
        self._service = service
        self._gate = gate
        self._calls = calls
        self._address = address
        self._most_calls = most_calls
        self._server: Any = None
        self._sending: set[asyncio.Future[Any]] = set()
        # gRPC reports the size of a message once all of it is in memory. So a read reserves the largest size, and the
        # number of reads at once is limited: together they reserve at most half of the bytes in flight.
        self._largest = min(service.limits.body_bytes, service.admission.most_bytes)
        self._turns = asyncio.Semaphore(max(1, service.admission.most_bytes // self._largest // 2))
        self._waiting = 0
        self.port = 0

    async def start(self) -> None:
        """Listen. Raises RuntimeError if the port is in use."""
        self._server = grpc.aio.server(
            maximum_concurrent_rpcs=self._most_calls,
            options=(
                ("grpc.max_receive_message_length", self._service.limits.body_bytes),
                # gRPC does not limit what a compressed message unpacks to, so only `identity` is accepted.
                ("grpc.compression_enabled_algorithms_bitset", 1),
                ("grpc.so_reuseport", 0),
                # A photograph arrives in one piece. By default, each 64 KiB wait for a round trip.
                ("grpc.http2.lookahead_bytes", _AHEAD),
                ("grpc.http2.bdp_probe", 0),
                ("grpc.max_allowed_incoming_connections", self._most_calls),
                ("grpc.max_connection_idle_ms", _IDLE_MS),
                ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
            ),
        )
        runs: dict[str, _Run] = {name: partial(self._told, name, tell) for name, tell in self._tells().items()}
        # A handler of streams reads the one message when it wants to, and as bytes.
        handlers = {
            name: grpc.stream_unary_rpc_method_handler(partial(self._answer, name, run))
            for name, run in (runs | {"ModelInfer": self._infer}).items()
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
        self.port = self._server.add_insecure_port(self._address)
        await self._server.start()

    async def stop(self) -> None:
        """Wait until the last replies are sent. The connections close with the process.

        gRPC's own stop answers calls that come meanwhile with CANCELLED, which clients don't retry. On a closed
        connection they get UNAVAILABLE.
        """
        if self._sending:
            await asyncio.wait(self._sending, timeout=_SENDING_S)

    async def _answer(self, method: str, run: _Run, _: Any, context: Any) -> bytes:
        """The reply to one call. Does what RequestContext and AccessControl do around a request of HTTP."""
        metadata = (pair for pair in context.invocation_metadata() or () if pair[0] in _HEADERS)
        headers = Headers(raw=[(name.encode(), value.encode("latin-1", "replace")) for name, value in metadata])
        call = self._calls.begin("POST", headers)
        trailing = {"x-request-id": call.request_id}
        path = f"/{_SERVICE}/{method}"
        status, error = 499, None  # as long as the call may be cancelled
        try:
            checked = method not in _OPEN
            caller = self._gate.enter(headers, _host(context.peer()), key=checked, rate=checked)
            state = {"call": call, "caller": caller}
            scope = {"type": "http", "method": "POST", "path": path, "headers": headers.raw, "state": state}
            response: Response = await run(Request(scope, _no_body()), context)
            status = 200
            trailing |= {name: value for name, value in response.headers.items() if name == "server-timing"}
        except PellucidError as refused:
            error = refused.with_traceback(None)  # its frames hold the message, and this one holds the error
        except Exception:
            error = self._calls.failed(call)
        finally:
            if error is not None:
                status = error.status
                call.problems.append(error.slug)
            self._calls.end(call, path, status)
        if error is not None:
            trailing |= {name.lower(): value for name, value in error.headers.items() if name != "Connection"}
            code = _CODES.get(error.status, grpc.StatusCode.INVALID_ARGUMENT)
            detail = error.detail.encode()[:_DETAIL].decode(errors="ignore")
            await context.abort(code, detail, (*trailing.items(),))  # raises
        context.set_trailing_metadata((*trailing.items(),))
        sent = asyncio.get_running_loop().create_future()
        self._sending.add(sent)
        sent.add_done_callback(self._sending.discard)
        context.add_done_callback(sent.set_result)
        return bytes(response.body)

    async def _infer(self, request: Request, context: Any) -> Response:
        route = _Infer(self._service, partial(self._read, context), context.time_remaining())
        return await serve(request, self._service, kserve_v2.InferOptions(), route)

    async def _told(self, name: str, tell: Callable[[Any], dict[str, Any]], _: Request, context: Any) -> Response:
        message = b"" if name in _OPEN else await self._short(name, context)
        asked = _parsed(f"{name}Request", message)
        if getattr(asked, "version", ""):
            raise _no_version(asked.version)
        return Response(MESSAGES[f"{name}Response"](**tell(asked)).SerializeToString())

    async def _short(self, name: str, context: Any) -> bytes:
        try:
            async with asyncio.timeout(min(_SHORT_S, self._service.timeout_ms / 1000)):
                message = await self._read(context, lambda _: None)
        except TimeoutError as error:
            raise DeadlineExceeded("The message did not arrive in full in time.") from error
        if len(message) > _SHORT:
            raise ContentTooLarge(f"A message of {name} is larger than {_SHORT} bytes.")
        return message

    async def _read(self, context: Any, hold: _Hold) -> bytes:
        """The one message of a call. ``hold`` gets the largest size, and once the message is read, the difference.

        Raises MalformedRequest, QueueFull, and what ``hold`` raises.
        """
        self._waiting += 1
        async with AsyncExitStack() as turn:
            try:
                await turn.enter_async_context(self._turns)
            finally:
                self._waiting -= 1
            hold(self._largest)
            reading = asyncio.ensure_future(context.read())
            turn.callback(reading.cancel)
            while not (await asyncio.wait({reading}, timeout=_TURN_S))[0]:
                if self._waiting:
                    raise QueueFull("The message arrived too slowly, while others waited.", _TURN_S)
            message: bytes = reading.result()
            # gRPC has told the client that a message is too large, and ends the messages here.
            if message is grpc.aio.EOF:
                raise MalformedRequest("The call has no message, or one that is too large.")
            hold(len(message) - self._largest)
            return message

    def _tells(self) -> dict[str, Callable[[Any], dict[str, Any]]]:
        """Method -> the fields of its reply to a message."""
        service = self._service
        return {
            "ServerLive": lambda _: {"live": _holds(service.require_engines)},
            "ServerReady": lambda _: {"ready": _holds(service.require_ready)},
            "ModelReady": lambda asked: {"ready": _holds(partial(service.require_model_ready, asked.name))},
            "ServerMetadata": lambda _: kserve_v2.server_metadata().model_dump(),
            "ModelMetadata": lambda asked: kserve_v2.metadata(service.addressed(asked.name)).model_dump(),
        }


class _Infer(kserve_v2.Infer):
    """A request in protobuf. The reply has typed contents if the request has, else raw ones."""

    def __init__(
        self, service: Service, message: Callable[[_Hold], Awaitable[bytes]], remaining_s: float | None
    ) -> None:
        self._service = service
        self._message = message
        self._typed = False
        if remaining_s is not None:
            self.longest_ms = remaining_s * 1000

    async def read(self, request: Request, limits: bodies.Limits, hold: _Hold) -> bodies.Body:
        message = await self._message(hold)
        if len(message) <= _SMALL:  # a photograph: a thread would take longer than this
            return self._parsed(message, limits)
        return await asyncio.to_thread(self._parsed, message, limits)

    def _parsed(self, message: bytes, limits: bodies.Limits) -> bodies.Body:
        pixels = max(math.prod(network.spec.preprocess.shape) for network in self._service.networks.values())
        require_few(message, "ModelInferRequest", limits.json_values + pixels)
        request = _parsed("ModelInferRequest", message)
        if request.model_version:
            raise _no_version(request.model_version)
        self.served = self._service.addressed(request.model_name)
        raw: Sequence[bytes] = request.raw_input_contents
        self._typed = not raw
        inputs = [_input(tensor, raw) for tensor in request.inputs]
        if raw and len(raw) != len(inputs):
            raise MalformedRequest(f"raw_input_contents has {len(raw)} tensors, and inputs has {len(inputs)}.")
        said = {
            "id": request.id or None,
            "parameters": _values(request.parameters, limits) | {"binary_data_output": True},
            "inputs": [tensor for tensor, _ in inputs],
            "outputs": [
                {"name": each.name, "parameters": {**_values(each.parameters, limits), "binary_data": True}}
                for each in request.outputs
            ],
        }
        return self.understood(tensors.validated(said), b"".join(behind for _, behind in inputs), limits)

    def reply(self, asks: Sequence[Any], written: Sequence[dict[str, tensors.Written]]) -> Response:
        reply = MESSAGES["ModelInferResponse"](model_name=self.served.spec.name, id=self.request_id or "")
        for name, first in written[0].items():
            shape = [len(written), *first.shape]
            output = reply.outputs.add(name=name, datatype=first.datatype, shape=shape)
            data = b"".join(entry[name].data for entry in written)
            if not self._typed:
                reply.raw_output_contents.append(data)
                continue
            contents = getattr(output.contents, _CONTENTS[first.datatype])
            if first.datatype == "BYTES":
                contents.extend(tensors.split(data, name, len(data)))
            else:
                contents.extend(np.frombuffer(data, tensors.DTYPES[first.datatype]).tolist())
        return Response(reply.SerializeToString())


def _input(tensor: Any, raw: Sequence[bytes]) -> tuple[dict[str, Any], bytes]:
    """An input as the protocol's JSON has it, and the bytes behind the JSON. Raises MalformedRequest."""
    said = {"name": tensor.name, "shape": [*tensor.shape], "datatype": tensor.datatype}
    if tensor.parameters:
        raise MalformedRequest(f"{tensor.name}: a tensor takes no parameters.")
    typed: Sequence[Any] = getattr(tensor.contents, _CONTENTS.get(tensor.datatype, "bytes_contents"))
    if raw and typed:
        raise MalformedRequest(f"{tensor.name}: a tensor has either contents or raw_input_contents, not both.")
    if not raw and tensor.datatype != "BYTES":
        return {**said, "data": [*typed]}, b""
    data = b"".join(raw) if raw else tensors.joined(typed)
    return {**said, "parameters": {"binary_data_size": len(data)}}, data


def _values(parameters: Sequence[Any], limits: bodies.Limits) -> dict[str, Any]:
    """The parameters by name. The protocol has no lists, so a list is text in JSON. Raises ContentTooLarge."""
    values: dict[str, Any] = {}
    for each in parameters:
        choice = each.value.WhichOneof("choice")
        values[each.key] = value = getattr(each.value, choice) if choice else None
        if isinstance(value, str) and value.startswith("["):
            with suppress(MalformedRequest):
                values[each.key] = bodies.from_json(value.encode(), limits)
    return values


def _parsed(name: str, message: bytes) -> Any:
    try:
        return MESSAGES[name].FromString(message)
    except DecodeError as error:
        raise MalformedRequest(f"The message is no {name} of {_SERVICE}.") from error


def _no_version(version: str) -> UnknownModel:
    return UnknownModel(f"Networks have no versions here, so there is no version {version[:40]!r}.")


def _holds(require: Callable[[], None]) -> bool:
    try:
        require()
    except Unavailable:
        return False
    return True


def _host(peer: str) -> str:
    """The address of the client, as HTTP has it. ``peer``: ``ipv4:ADDRESS:PORT`` or ``ipv6:%5BADDRESS%5D:PORT``."""
    return unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]") or "unknown"


def _no_body() -> Receive:
    """The message is read elsewhere, and a client that leaves cancels the call."""
    ended = False

    async def receive() -> Message:
        nonlocal ended
        if ended:
            await asyncio.Event().wait()
        ended = True
        return {"type": "http.request"}

    return receive
