"""What was made to do harm: small files that promise or become large pictures, and bodies that are no requests."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any, Final

from PIL import Image

from tests.fuzz.seeds import SEEDS

JSON: Final = {"Content-Type": "application/json"}


def png(width: int, height: int, *, bits: int = 8, kind: int = 6, rows: int | None = None, **extra: bytes) -> bytes:
    """A PNG of zeros with so many ``rows`` in it (all that it promises, if none are given), and ``extra`` chunks."""
    row = 1 + (width * bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind] + 7) // 8
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(row)) for _ in range(height if rows is None else rows)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    chunks = (
        (b"IHDR", head),
        *((name.encode(), data) for name, data in extra.items()),
        (b"IDAT", packed),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def tiff(*tags: tuple[int, int, int, int], following: int = 0, data: bytes = b"") -> bytes:
    """A TIFF of these entries (tag, type, count, value) and the offset of the directory that follows."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", following) + data


def _grey_tiff(width: int, height: int, compression: int, count: int, *more: tuple[int, int, int, int]) -> bytes:
    data = zlib.compress(bytes(10_000_000), 9)
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1)]
    tags += [(273, 4, 1, 14 + 12 * (8 + len(more))), (278, 4, 1, height), (279, 4, 1, count or len(data)), *more]
    return tiff(*tags, data=data)


def _bmp(width: int, height: int, bits: int = 24, compression: int = 0, colours: int = 0) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, colours, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(head), 0, 0, 54) + head + bytes(1000)


def _jpeg(width: int, height: int) -> bytes:
    """A JPEG whose frame header says that it is larger than it is."""
    data = SEEDS["jpeg"]
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def _scans() -> bytes:
    """A progressive JPEG whose last scan comes ten thousand times."""
    data = SEEDS["jpeg progressive"]
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * 10_000 + data[-2:]


def _gif(width: int, height: int) -> bytes:
    """A small frame on a canvas of this size."""
    data = SEEDS["gif"]
    return data[:6] + struct.pack("<HH", width, height) + data[10:]


def gif_of_a_large_frame() -> bytes:
    """A small canvas with a frame of 65535 x 65535, which is to be cleared after it was shown."""
    control = b"!\xf9\x04" + bytes((2 << 2, 0, 0, 0, 0))
    frame = b"," + struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0) + b"\x08\x01\0\0;"
    return b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x80, 0, 0) + bytes(6) + control + frame


def _frames(count: int) -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("L", (8, 8), index % 256) for index in range(count)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def _webp(width: int, height: int) -> bytes:
    """A canvas of this size in the header of an animation."""
    data = bytearray(SEEDS["webp animated"])
    data[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(data)


def _exif(body: bytes) -> bytes:
    """A JPEG with this EXIF block."""
    block = b"Exif\0\0" + body
    return b"\xff\xd8\xff\xe1" + struct.pack(">H", len(block) + 2) + block + SEEDS["jpeg"][2:]


def pictures() -> dict[str, bytes]:
    """Files by name. None takes a server long: what is large is refused by its header."""
    bomb = zlib.compress(bytes(50_000_000), 9)
    return {
        "png promising 900 million pixels": png(30_000, 30_000, bits=1, kind=0, rows=10),
        "png of the largest sides": png(2**31 - 1, 2**31 - 1, rows=0),
        "png of no width": png(0, 10),
        "png of one row that is all": png(30_000, 1),
        "png with no pixels": png(3000, 3000, rows=0),
        "png of 12 million pixels": png(4000, 3000, bits=1, kind=0),
        "png with a profile of 50 MB": png(8, 8, iCCP=b"x\0\0" + bomb),
        "png with text of 50 MB": png(8, 8, zTXt=b"x\0\0" + bomb),
        "png with EXIF that is none": png(8, 8, eXIf=b"II*\0\xff\xff\xff\xff"),
        "tiff promising too much": _grey_tiff(65_000, 65_000, 8, 0),
        "tiff whose strip is no end": _grey_tiff(2000, 2000, 8, 0xFFFFFFFF),
        "tiff of deflated zeros": _grey_tiff(2500, 4000, 8, 0),
        "tiff of 60000 samples": _grey_tiff(10, 10, 1, 100, (277, 3, 1, 60_000)),
        "tiff with a tag of 4 GB": _grey_tiff(10, 10, 1, 100, (700, 1, 0xFFFFFFFF, 8)),
        "tiff whose directory follows itself": tiff((256, 4, 1, 8), (257, 4, 1, 8), following=8),
        "tiff without a tag": tiff(),
        "bmp of the largest sides": _bmp(2**31 - 1, 2**31 - 1),
        "bmp of the least sides": _bmp(-(2**31), -(2**31)),
        "bmp of run lengths without end": _bmp(5000, 5000, 8, 1, 256),
        "bmp of 4 billion colours": _bmp(10, 10, 8, 0, 2**32 - 1),
        "jpeg of the largest sides": _jpeg(65_500, 65_500),
        "jpeg of no height": _jpeg(40, 0),
        "jpeg of one column": _jpeg(1, 65_500),
        "jpeg of ten thousand scans": _scans(),
        "jpeg with EXIF in a circle": _exif(tiff((0x8769, 4, 1, 8), (0x8825, 4, 1, 8), following=8)),
        "jpeg with EXIF of all bits": _exif(b"MM\0*" + b"\xff" * 60_000),
        "jpeg turned by words": _exif(tiff((0x0112, 2, 4, 0x41414141))),
        "jpeg turned by 65535": _exif(tiff((0x0112, 3, 1, 65_535))),
        "gif of the largest sides": _gif(65_535, 65_535),
        "gif of no size": _gif(0, 0),
        "gif of one frame of the largest sides": gif_of_a_large_frame(),
        "gif of 2000 frames": _frames(2000),
        "webp of the largest sides": _webp(2**24, 2**24),
        "webp of another canvas": _webp(7000, 2000),
        "a start of each, and no more": b"".join(data[:16] for data in SEEDS.values()),
        "svg with an entity": b'<!DOCTYPE s [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg>&a;</svg>',
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100000 100000\n",
        "zeros": bytes(1_000_000),
        "one byte": b"\xff",
    }


def large_pictures() -> dict[str, bytes]:
    """Files by name that are served or refused after as much work as a picture can ask for."""
    buffer = io.BytesIO()
    Image.new("RGB", (8000, 8000)).save(buffer, "JPEG", progressive=True)
    webp = io.BytesIO()
    Image.new("RGBA", (5600, 5600)).save(webp, "WEBP", lossless=True, method=0)
    return {
        "png of 64 million pixels with alpha": png(8000, 8000),
        "png of 64 million pixels of 16 bits": png(8000, 8000, bits=16, kind=6),
        "png of 64 million pixels that ends early": png(8000, 8000, rows=7000),
        "jpeg of 64 million pixels": buffer.getvalue(),
        "webp of 31 million pixels": webp.getvalue(),
    }


def _part(head: str, body: bytes = b"") -> bytes:
    return b"--x\r\n" + head.encode("latin-1") + b"\r\n\r\n" + body + b"\r\n"


def requests() -> Iterator[tuple[str, dict[str, Any]]]:
    """Bodies by name that are no requests, as arguments of ``httpx.Client.post``."""
    bodies = {
        "an array in an array, 100000 deep": b"[" * 100_000,
        "an object in an object, 50000 deep": b'{"images":' * 50_000,
        "a million values": b'{"images":[' + b"0," * 1_000_000 + b"0]}",
        "a thousand images": b'{"images":[' + b'"aaaa",' * 1000 + b'"aaaa"]}',
        "a number without end": b'{"images":["aaaa"],"top_k":' + b"9" * 100_000 + b"}",
        "no numbers": b'{"images":["aaaa"],"opacity":NaN}',
        "half a surrogate": rb'{"images":["\ud800"]}',
        "no UTF-8": b'{"images":["\xff\xfe"]}',
        "a key twice": b'{"images":["aaaa"],"images":null}',
        "a key of a megabyte": b'{"' + b"k" * 1_000_000 + b'":1}',
        "base64 that is none": b'{"images":["%%%%"]}',
        "nothing": b"",
        "null": b"null",
        "half an object": b'{"images":["',
    }
    for name, body in bodies.items():
        yield f"json: {name}", {"content": body, "headers": JSON}
    file = 'Content-Disposition: form-data; name="images"; filename="a.png"'
    parts = {
        "no end": _part(file, SEEDS["png"]),
        "no head": b"--x\r\n\r\n\r\n--x--\r\n",
        "no parts": b"--x--\r\n",
        "an empty file": _part(file) + b"--x--\r\n",
        "ten thousand parts": _part(file, b"a") * 10_000 + b"--x--\r\n",
        "ten thousand fields": _part('Content-Disposition: form-data; name="f"', b"a") * 10_000 + b"--x--\r\n",
        "a name of 100000 letters": _part(file.replace("a.png", "a" * 100_000), SEEDS["png"]) + b"--x--\r\n",
        "a name with zeros": _part(file.replace("a.png", "\0\\..\xff"), SEEDS["png"]) + b"--x--\r\n",
        "a hundred headers": _part(file + "\r\nA: b" * 100, SEEDS["png"]) + b"--x--\r\n",
        "another boundary": _part(file, SEEDS["png"]).replace(b"--x", b"--y"),
        "nothing but dashes": b"-" * 100_000,
    }
    for name, body in parts.items():
        yield f"parts: {name}", {"content": body, "headers": {"Content-Type": "multipart/form-data; boundary=x"}}
    for kind in (
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "application/json; charset=none",
        "a",
        "image/*",
    ):
        yield f"type {kind}", {"content": SEEDS["png"], "headers": {"Content-Type": kind}}
    packed = {"Content-Type": "image/png", "Content-Encoding": "gzip"}
    yield "a packed body", {"content": SEEDS["png"], "headers": packed}


# Bytes that are no HTTP, or just so; the connection may be closed without an answer.
RAW: Final = (
    b"\0" * 1000,
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nab",
    b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 5000 + b"\r\n",
    b"GET /%00%ff/../..//etc/passwd HTTP/1.1\r\nHost: \xff\r\n\r\n",
    b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Type: \0\r\nContent-Length: 0\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)
