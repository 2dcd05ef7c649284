"""Over gRPC, Triton's client gets the answers and the sentences that KServe's protocol v2 has over HTTP."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import sys
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from tritonclient.grpc import service_pb2 as triton

from models.lite0 import PREPROCESS
from service.protocols import kserve_grpc
from service.protocols.kserve_messages import MESSAGES
from tests.flow.stub import Stub, running
from tests.support import LIGHT, Server, serving

MODEL = "lite0"
INFER = "/inference.GRPCInferenceService/ModelInfer"
PIXELS = np.random.default_rng(0).integers(0, 256, (2, *PREPROCESS.size, 3), np.uint8)


@pytest.fixture(scope="module")
def clients(process: Server) -> Iterator[tuple[Any, Any]]:
    """Triton's clients over gRPC and HTTP."""
    with (
        over_grpc.InferenceServerClient(process.grpc) as ours,
        over_http.InferenceServerClient(f"{process.host}:{process.port}", network_timeout=200) as theirs,
    ):
        yield ours, theirs


def asked(module: Any, name: str, values: Any, outputs: Sequence[Any] = (), **options: Any) -> dict[str, Any]:
    """The arguments of ``infer`` for one of the two modules of Triton's client."""
    if name == "image":
        values = np.array(values, dtype=object)
    tensor = module.InferInput(name, list(values.shape), {"O": "BYTES", "u": "UINT8", "f": "FP32"}[values.dtype.kind])
    tensor.set_data_from_numpy(values)
    return {"inputs": [tensor], "outputs": outputs or None, **options}


def message(*images: bytes, **fields: Any) -> Any:
    """A request with typed contents."""
    tensor = {"name": "image", "datatype": "BYTES", "shape": [len(images)], "contents": {"bytes_contents": images}}
    return triton.ModelInferRequest(**{"model_name": MODEL, "inputs": [tensor], **fields})


def channel(server: Server) -> Any:
    return grpc.insecure_channel(server.grpc)


def sent(server: Server, request: bytes, method: str = INFER, **options: Any) -> Any:
    with channel(server) as open_channel:
        return open_channel.unary_unary(method)(request, **options)


def refused(server: Server, request: bytes, **options: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as error:
        sent(server, request, **options)
    return error.value


@asynccontextmanager
async def listening(**settings: Any) -> AsyncIterator[tuple[Stub, str]]:
    """A stub of the app in this process, and its address for gRPC."""
    async with running(grpc_port=0, **settings) as stub:
        server = stub.app.state.grpc_server
        yield stub, f"127.0.0.1:{server.port}"
        await server._server.stop(None)  # the process goes on, and a server that runs at its end writes to stderr


def test_both_protobufs_fit_and_live_in_one_process() -> None:
    nested = {
        "TensorMetadata": triton.ModelMetadataResponse.TensorMetadata,
        "InferInputTensor": triton.ModelInferRequest.InferInputTensor,
        "InferRequestedOutputTensor": triton.ModelInferRequest.InferRequestedOutputTensor,
        "InferOutputTensor": triton.ModelInferResponse.InferOutputTensor,
        "Parameter": triton.ModelInferRequest.ParametersEntry,
    }
    for name, ours in MESSAGES.items():
        theirs = nested.get(name) or getattr(triton, name)
        told = [
            {field.name: (field.number, field.type, field.is_repeated) for field in kind.DESCRIPTOR.fields}
            for kind in (ours, theirs)
        ]
        assert told[0] == told[1], name


def test_health_and_metadata_are_those_of_http(clients: tuple[Any, Any]) -> None:
    ours, theirs = clients
    assert ours.is_server_live()
    assert ours.is_server_ready()
    assert ours.is_model_ready(MODEL)
    assert ours.get_server_metadata(as_json=True) == theirs.get_server_metadata()
    metadata = ours.get_model_metadata(MODEL, as_json=True)
    for tensor in metadata["inputs"] + metadata["outputs"]:
        tensor["shape"] = [int(size) for size in tensor["shape"]]  # protobuf's JSON has 64 bits as text
    assert metadata == theirs.get_model_metadata(MODEL)
    with pytest.raises(over_grpc.InferenceServerException, match="No model 'lite9' is served") as error:
        ours.is_model_ready("lite9")
    assert error.value.status() == "StatusCode.NOT_FOUND"


@pytest.mark.parametrize(
    ("name", "outputs", "parameters"),
    [
        ("image", {}, {"top_k": 3}),
        (
            "image",
            dict.fromkeys(("heat_map", "heat_map_classes", "activation", "gate:blocks.15.gate"), 0),
            {"target": '["tabby", "Egyptian cat"]'},
        ),
        ("image", {"heat_map": 0}, {"method": "layercam", "layer": "blocks.10", "timeout_ms": 100_000}),
        ("image", {"logits": 4}, {}),
        ("pixels", {}, {}),
        ("normalized", {"labels": 0, "heat_map": 0}, {}),
    ],
)
def test_answers_are_those_of_http_to_the_bit(
    clients: tuple[Any, Any], cat: bytes, coffee: bytes, name: str, outputs: dict[str, int], parameters: dict[str, Any]
) -> None:
    values: Any = {"image": [cat, coffee], "pixels": PIXELS}.get(name)
    if values is None:
        mean, std = np.array(PREPROCESS.mean, np.float32), np.array(PREPROCESS.std, np.float32)
        values = (PIXELS[:1].astype(np.float32) / np.float32(255) - mean) / std
        values = np.ascontiguousarray(values.transpose(0, 3, 1, 2), np.float32)
    answers = []
    for module, client in zip((over_grpc, over_http), clients, strict=True):
        if module is over_http and "target" in parameters:  # JSON has lists
            parameters = {"target": json.loads(parameters["target"])}
        wanted = [module.InferRequestedOutput(each, class_count=classes) for each, classes in outputs.items()]
        request = asked(module, name, values, wanted, parameters=parameters, request_id="mine")
        answers.append(client.infer(MODEL, **request))
    ours, theirs = answers
    assert ours.get_response().id == theirs.get_response()["id"] == "mine"
    told = theirs.get_response()["outputs"]
    assert [(each.name, each.datatype, list(each.shape)) for each in ours.get_response().outputs] == [
        (each["name"], each["datatype"], each["shape"]) for each in told
    ]
    for each in told:
        np.testing.assert_array_equal(ours.as_numpy(each["name"]), theirs.as_numpy(each["name"]))


@pytest.mark.parametrize("name", ["image", "pixels"])
def test_typed_contents_get_typed_contents(process: Server, clients: tuple[Any, Any], cat: bytes, name: str) -> None:
    contents = {"uint_contents": PIXELS[0].ravel().tolist()}
    pixels = {"name": name, "datatype": "UINT8", "shape": PIXELS[:1].shape, "contents": contents}
    request, values = (message(cat), [cat]) if name == "image" else (message(inputs=[pixels]), PIXELS[:1])
    reply = triton.ModelInferResponse.FromString(sent(process, request.SerializeToString()))
    assert not reply.raw_output_contents
    raw = clients[0].infer(MODEL, **asked(over_grpc, name, values))
    for output in reply.outputs:
        kind = {"INT64": "int64", "BYTES": "bytes", "FP32": "fp32"}[output.datatype]
        typed = np.array(getattr(output.contents, f"{kind}_contents")).reshape(output.shape)
        np.testing.assert_array_equal(typed, raw.as_numpy(output.name))


@pytest.mark.parametrize(
    ("name", "values", "options"),
    [
        ("image", [b""], {}),
        ("image", [b"no picture"], {}),
        ("image", [b"?"] * 33, {}),
        ("picture", PIXELS, {}),
        ("pixels", PIXELS.astype(np.float32), {}),
        ("pixels", PIXELS[:, :8, :8], {}),
        ("normalized", np.full((1, 3, 224, 224), np.nan, np.float32), {}),
        ("pixels", PIXELS, {"parameters": {"topk": 3}}),
        ("pixels", PIXELS, {"parameters": {"layer": "blocks.10,head"}}),
        ("pixels", PIXELS, {"parameters": {"target": "tabbie"}, "outputs": ("heat_map",)}),
        ("pixels", PIXELS, {"outputs": ("clases",)}),
        ("pixels", PIXELS, {"parameters": {"timeout_ms": 0}}),
    ],
)
def test_refusals_have_the_sentence_of_http(
    clients: tuple[Any, Any], name: str, values: Any, options: dict[str, Any]
) -> None:
    told = []
    for module, client in zip((over_grpc, over_http), clients, strict=True):
        outputs = [*map(module.InferRequestedOutput, options.get("outputs", ()))]
        with pytest.raises(over_grpc.InferenceServerException) as error:
            client.infer(MODEL, **asked(module, name, values, outputs, parameters=options.get("parameters")))
        told.append(error.value)
    assert told[0].message() == told[1].message()
    assert told[0].status() == "StatusCode.INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("request_of", "code", "said"),
    [
        (lambda cat: message(cat, model_name="lite9"), "NOT_FOUND", "No model 'lite9' is served"),
        (lambda cat: message(cat, model_name="é" * 20_000), "NOT_FOUND", "No model 'éé"),
        (lambda cat: message(cat, model_version="2"), "NOT_FOUND", "no versions here"),
        (lambda cat: message(cat, inputs=[]), "INVALID_ARGUMENT", "inputs"),
        (lambda cat: message(cat, raw_input_contents=[cat]), "INVALID_ARGUMENT", "not both"),
        (
            lambda cat: message(inputs=[{"name": "image"}], raw_input_contents=[cat] * 2),
            "INVALID_ARGUMENT",
            "2 tensors",
        ),
        (
            lambda cat: message(
                inputs=[{"name": "pixels", "datatype": "UINT8", "contents": {"uint_contents": [1] * PIXELS.size}}]
            ),
            "INVALID_ARGUMENT",
            "raw_input_contents",
        ),
        (
            lambda cat: message(
                inputs=[{"name": "pixels", "datatype": "UINT8", "shape": [1], "contents": {"uint_contents": [300]}}]
            ),
            "INVALID_ARGUMENT",
            "[N, 224, 224, 3]",
        ),
    ],
)
def test_wrong_messages_are_refused(
    process: Server, cat: bytes, request_of: Callable[[bytes], Any], code: str, said: str
) -> None:
    error = refused(process, request_of(cat).SerializeToString(), metadata=(("x-request-id", "mine"),))
    assert error.code().name == code
    assert said in error.details()
    assert ("x-request-id", "mine") in error.trailing_metadata()


def test_what_is_no_message_or_method_is_refused(process: Server, client: httpx.Client) -> None:
    # Fields of two bytes each, that would become objects; a number that does not end.
    for wrong in (b"\xff", b"\x32\x00" * 2**20, b"\xff" * 2**20):
        assert refused(process, wrong, timeout=5).code() is grpc.StatusCode.INVALID_ARGUMENT
    too_large = refused(process, bytes(33 * 2**20))
    assert too_large.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    # A message may unpack to any size, so none is unpacked.
    assert refused(process, b"", compression=grpc.Compression.Gzip).code() is grpc.StatusCode.UNIMPLEMENTED
    streaming = refused(process, b"", method=f"{INFER.rpartition('/')[0]}/ModelStreamInfer")
    assert streaming.code() is grpc.StatusCode.UNIMPLEMENTED


def test_the_deadline_of_the_call_counts_and_a_cancelled_call_leaves_nothing(
    process: Server, client: httpx.Client, cat: bytes
) -> None:
    request = message(*[cat] * 32).SerializeToString()
    assert refused(process, request, timeout=0.02).code().name in ("DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")
    with channel(process) as open_channel:
        call = open_channel.unary_unary(INFER).future(request)
        time.sleep(0.05)
        call.cancel()
    late = time.monotonic() + 60
    while "\npellucid_in_flight_images 0.0\n" not in (told := client.get("/metrics").text):
        assert time.monotonic() < late
    assert f'pellucid_requests_total{{route="{INFER}",status="499"}}' in told


def test_clients_that_send_nothing_slowly_or_too_much_leave_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kserve_grpc, "_SHORT_S", 0.2)
    monkeypatch.setattr(kserve_grpc, "_TURN_S", 0.2)
    channels: list[grpc.aio.Channel] = []
    address = ""

    def call(method: str, *sent: bytes) -> Any:
        """A call in a connection of its own, which sends a message or nothing."""
        channels.append(grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]))
        kind = channels[-1].unary_unary if sent else channels[-1].stream_unary
        return kind(INFER.replace("ModelInfer", method))(*sent)

    async def code(method: str, *sent: bytes) -> str:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call(method, *sent)
        return str(error.value.code().name)

    async def scene() -> None:
        nonlocal address
        async with listening(max_connections=9, max_in_flight_mib=64) as (stub, address):
            # Health needs no key, so it waits for no message and reads none.
            for sent in (), (bytes(2**25),):
                assert triton.ServerLiveResponse.FromString(await call("ServerLive", *sent)).live
            assert await code("ModelReady", bytes(2000)) == "INVALID_ARGUMENT"
            assert await code("ModelReady") == "DEADLINE_EXCEEDED"
            # The largest message is reserved, half of the bytes, so the next call waits for its turn to be read.
            slow = call("ModelInfer")
            await stub.until(bytes_in_flight=2**25)
            assert await code("ModelInfer", b"") == "NOT_FOUND"
            assert await slow.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "too slowly" in await slow.details()
            assert not stub.service.admission.bytes_in_flight
            above = [call("ServerLive", b"") for _ in range(9)]
            assert {await each.code() for each in above} == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
            await asyncio.gather(*(each.close() for each in channels))

    asyncio.run(scene())


def test_a_message_that_is_refused_is_freed_with_the_answer_and_not_by_the_collector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[weakref.ref[Any]] = []

    class Noted(kserve_grpc._Infer):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            seen.append(weakref.ref(self))

    async def scene() -> None:
        async with listening() as (_, address):
            async with grpc.aio.insecure_channel(address) as open_channel:
                with pytest.raises(grpc.aio.AioRpcError):
                    await open_channel.unary_unary(INFER)(b"")
            until = time.monotonic() + 30
            while seen[0]() is not None and time.monotonic() < until:
                await asyncio.to_thread(time.sleep, 0.001)
            assert seen[0]() is None

    monkeypatch.setattr(kserve_grpc, "_Infer", Noted)
    gc.disable()
    try:
        asyncio.run(scene())
    finally:
        gc.enable()


def test_keys_rates_and_a_stop_hold_as_over_http(cat: bytes) -> None:
    key = "a-key-that-is-long-enough"
    keyed = {"metadata": (("authorization", f"Bearer {key}"),)}
    request = message(cat, model_name="lite0-plain").SerializeToString()
    settings = {"PELLUCID_GRPC_PORT": "0", "PELLUCID_API_KEYS": key, "PELLUCID_RATE_LIMIT": "8/hour"}
    with serving(**LIGHT, **settings) as server, channel(server) as open_channel:
        live = f"{INFER.rpartition('/')[0]}/ServerLive"
        assert triton.ServerLiveResponse.FromString(sent(server, b"", live)).live
        for metadata in ((), (("x-api-key", "another-key-that-is-long-enough"),)):
            unknown = refused(server, request, metadata=metadata)
            assert unknown.code() is grpc.StatusCode.UNAUTHENTICATED
        assert httpx.get(f"{server.url}/v2", headers={"x-api-key": key}).status_code == 200
        infer = open_channel.unary_unary(INFER)
        infer(request, **keyed)
        calls: list[Future[bytes]] = [infer.future(request, **keyed) for _ in range(6)]
        with pytest.raises(grpc.RpcError) as above:
            infer(request, **keyed)
        assert above.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert int(dict(above.value.trailing_metadata())["retry-after"]) > 3000
        server.process.send_signal(signal.SIGTERM)
        assert all(triton.ModelInferResponse.FromString(call.result(60)).outputs for call in calls)


def test_a_missing_package_and_a_port_in_use_end_the_start(process: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    in_use = pytest.raises(AssertionError, match=rf"PELLUCID_GRPC_PORT: can't listen on {process.grpc}")
    with in_use, serving(**LIGHT, PELLUCID_GRPC_PORT=process.grpc.rpartition(":")[2]):
        pass

    async def start() -> None:
        async with running(grpc_port=0):
            pass

    monkeypatch.setitem(sys.modules, "service.protocols.kserve_grpc", None)
    with pytest.raises(ValueError, match=r"pip install 'pellucid\[grpc\]'"):
        asyncio.run(start())
