"""What is too large is refused before it costs anything."""

from __future__ import annotations

import asyncio
import encodings
import gc
import time
import weakref
from base64 import b64encode
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest

from pellucid.errors import InvalidOption
from pellucid.parts import option_types
from pellucid.parts.predictions import PredictOptions
from pellucid.schemas import Problem
from pellucid.types import Upload
from tests.flow.stub import BLACK, running
from tests.support import encoded, envelope, problem

MIB = 2**20


def _refused(**request: object) -> Problem:
    async def send() -> httpx.Response:
        async with running(max_body_mib=1, max_images=2, max_megapixels=1, max_side_pixels=2000) as stub:
            response = await stub.client.post("/v1/predict", **request)  # type: ignore[arg-type]
            assert stub.engine.sizes == []
            return response

    return problem(asyncio.run(send()), 413, "content-too-large")


@pytest.mark.parametrize("content_type", ["image/png", "application/json"])
def test_a_body_that_announces_too_much_is_refused(content_type: str) -> None:
    body = b"x" * (MIB + 1)
    assert "1 MiB" in _refused(content=body, headers={"Content-Type": content_type}).detail


def test_a_multipart_body_that_announces_too_much_is_refused() -> None:
    assert "1 MiB" in _refused(files={"images": b"x" * MIB}).detail


def test_a_body_that_announces_nothing_is_counted_as_it_arrives() -> None:
    async def unannounced() -> AsyncIterator[bytes]:
        for _ in range(32):
            yield b"x" * 65536

    assert "1 MiB" in _refused(content=unannounced(), headers={"Content-Type": "image/png"}).detail


def test_too_many_parts_are_refused() -> None:
    assert "2 images" in _refused(files=[("images", ("a.png", BLACK))] * 3).detail


def test_too_many_images_in_json_are_refused() -> None:
    assert "2 images" in _refused(json={"images": [b64encode(BLACK).decode()] * 3}).detail


@pytest.mark.parametrize("file_format", ["PNG", "GIF", "WEBP"])
def test_too_many_pixels_are_refused(file_format: str) -> None:
    huge = encoded(np.zeros((1001, 1000, 3), np.uint8), file_format)
    assert "1000 x 1001" in _refused(files={"images": huge}).detail


def test_pixels_are_counted_from_the_header_before_decoding() -> None:
    """A torn file of too many pixels would be undecodable, had it been decoded."""
    header = encoded(np.zeros((1001, 1000, 3), np.uint8))[:100]
    assert "1000 x 1001" in _refused(files={"images": header}).detail


def test_a_side_that_is_too_long_is_refused() -> None:
    assert "2001 x 1" in _refused(files={"images": encoded(np.zeros((1, 2001), np.uint8))}).detail


@pytest.mark.parametrize("filler", [b"[],", b"{},", b'"",', b"0,"])
def test_json_of_too_many_values_is_refused_before_they_are_made(filler: bytes) -> None:
    body = b'{"images": [' + filler * 10_001 + b'""]}'
    assert "10000 values" in _refused(content=body, headers={"Content-Type": "application/json"}).detail


def test_json_that_is_nested_too_deep_is_refused() -> None:
    body = {"images": [b64encode(BLACK).decode()], "target": [[]]}
    for _ in range(16):
        body = {**body, "target": [body["target"]]}
    assert "deeper than 16" in _refused(json=body).detail


@pytest.mark.parametrize("headers", [b"X: y\r\n" * 8, b"X: " + b"y" * 5000 + b"\r\n"], ids=["many", "long"])
def test_a_part_with_too_much_of_headers_is_refused(headers: bytes) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n' + headers + b"\r\na\r\n--x--\r\n"
    assert "headers" in _refused(content=part, headers={"Content-Type": "multipart/form-data; boundary=x"}).detail


def test_a_large_upload_stays_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def to_disk(*_: object, **__: object) -> None:
        raise AssertionError("something is written to a disk")

    async def send() -> httpx.Response:
        async with running() as stub:
            stub.engine.gate.set()
            return await stub.client.post("/v1/predict", files={"images": ("a.png", BLACK + bytes(4 * MIB))})

    monkeypatch.setattr("tempfile.SpooledTemporaryFile.rollover", to_disk)
    monkeypatch.setattr("tempfile.TemporaryFile", to_disk)
    envelope(asyncio.run(send()))


@pytest.mark.parametrize("charset", ["raw_unicode_escape", "utf-7", "undefined", "utf-16", "no-such-codec"])
def test_a_charset_of_names_is_neither_looked_up_nor_used(charset: str) -> None:
    """Some codecs make text that no JSON can hold; and Python never forgets the name of one that there isn't."""

    async def send() -> httpx.Response:
        async with running() as stub:
            stub.engine.gate.set()
            part = b'--"x\r\nContent-Disposition: form-data; name="images"; filename="\\ud800+2AA-"\r\n\r\n'
            headers = {"Content-Type": f'multipart/form-data; charset={charset}; boundary="\\"x"'}
            content = part + BLACK + b'\r\n--"x--\r\n'
            return await stub.client.post("/v1/predict", content=content, headers=headers)

    (result,) = envelope(asyncio.run(send())).results
    assert result.image.filename == "\\ud800+2AA-"
    assert "no-such-codec" not in vars(encodings)["_cache"]


def test_a_name_as_long_as_a_body_is_not_compared_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    def noting(name: str, *_: object, **__: object) -> list[str]:
        compared.append(name)
        return []

    monkeypatch.setattr(option_types, "get_close_matches", noting)
    for name in ("x" * MIB, "targe"):
        with pytest.raises(InvalidOption, match="Unknown option"):
            PredictOptions().merged({name: 1})
    assert list(map(len, compared)) == [256, 5]


@pytest.mark.parametrize("value", ["x" * MIB, ["x" * MIB] * 9, {"x": "x" * MIB}, {"x" * MIB: [[["x"]]]}])
def test_a_value_as_long_as_a_body_is_shown_in_short(value: object) -> None:
    with pytest.raises(InvalidOption, match="top_k") as refused:
        PredictOptions().merged({"top_k": value})
    assert len(str(refused.value)) < 300


def test_a_body_that_is_refused_is_freed_with_the_answer_and_not_by_the_collector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[weakref.ref[Upload]] = []

    class Noted(Upload):
        def __init__(self, data: bytes) -> None:
            super().__init__(data)
            seen.append(weakref.ref(self))

    async def scene() -> None:
        async with running() as stub:
            png = {"Content-Type": "image/png"}
            problem(
                await stub.client.post("/v1/predict", content=BLACK[:8] + b"x" * 99, headers=png),
                422,
                "undecodable-image",
            )
            until = time.monotonic() + 30
            while seen[0]() is not None and time.monotonic() < until:  # the threads let go of it a moment later
                await asyncio.to_thread(time.sleep, 0.001)
            assert seen[0]() is None

    monkeypatch.setattr("service.flow.bodies.Upload", Noted)
    gc.disable()
    try:
        asyncio.run(scene())
    finally:
        gc.enable()
