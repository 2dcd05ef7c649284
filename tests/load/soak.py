"""Good and bad traffic for some minutes: what the process holds at the end is what it held after warming up.

    python -m tests.load.soak MINUTES

Before them, a minute and a half warms the service up, until all that is kept has been built once. Memory, threads and
file descriptors are read while the service is quiet.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import random
import struct
import sys
import time
import zlib
from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx
from PIL import Image

from tests.load.level import Level, level
from tests.support import ROUTES, Server, photograph, serving

CALLERS = 24
# More memory at the end than after the warm-up, as a share of that: allocators keep a little of each new worst case.
MEMORY_BOUND = 0.05
# Pools start their threads when they are first needed.
THREADS_BOUND = 2
DESCRIPTORS_BOUND = 2
# The longest deadline and then the five seconds for which an idle connection is kept.
_QUIET_S = 16
_WARM_UP_S = 90
SETTINGS = {"PELLUCID_MAX_IN_FLIGHT": "16", "PELLUCID_LOG_LEVEL": "warning", "PELLUCID_THREADS": "0"}


@dataclass
class Traffic:
    """Callers of a server, and what they were answered. Seeded: each run sends the same in the same order."""

    server: Server
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    answers: Counter[str] = field(default_factory=Counter)

    async def run(self, seconds: float) -> None:
        """Call for so long."""
        end = time.monotonic() + seconds
        limits = httpx.Limits(max_connections=CALLERS)
        async with httpx.AsyncClient(base_url=self.server.url, timeout=60, limits=limits) as client:
            layers = [layer["name"] for layer in (await client.get("/v1/models/lite0")).json()["layers"]]
            kinds = (self._good, self._good, self._new_layers, self._bad, self._broken, self._late, self._leaving)

            async def caller() -> None:
                while time.monotonic() < end:
                    await self.chance.choice(kinds)(client, layers)

            await asyncio.gather(*(caller() for _ in range(CALLERS)))

    async def _post(self, client: httpx.AsyncClient, kind: str, route: str, **request: Any) -> None:
        try:
            response = await client.post(route, **request)
        except httpx.TransportError:  # refused, or late, while it was still being sent
            self.answers[f"{kind} closed"] += 1
        else:
            self.answers[f"{kind} {response.status_code}"] += 1

    def _photograph(self) -> bytes:
        return photograph(self.chance.choice(("cat", "coffee", "rocket")))

    async def _good(self, client: httpx.AsyncClient, _: list[str]) -> None:
        images = [("images", (f"{n}.jpg", self._photograph())) for n in range(self.chance.choice((1, 1, 1, 3)))]
        await self._post(client, "good", self.chance.choice(ROUTES), files=images)

    async def _new_layers(self, client: httpx.AsyncClient, layers: list[str]) -> None:
        """A graph that was not built before, often with a backward pass."""
        options = {"layers": self.chance.sample(layers, 2), "layer": self.chance.choice(layers), "tile": 28}
        await self._post(client, "good", "/v1/explain", params=options, files={"images": ("a.jpg", self._photograph())})

    async def _bad(self, client: httpx.AsyncClient, _: list[str]) -> None:
        """What no picture is: cut off, turned in some bits, of a size that nobody could hold, text, nothing."""
        whole = self._photograph()
        flipped = bytearray(whole)
        for _bit in range(20):
            flipped[self.chance.randrange(len(flipped))] ^= 1 << self.chance.randrange(8)
        data = self.chance.choice((whole[: len(whole) // 2], bytes(flipped), _bomb(), _huge(), b"no picture", b""))
        await self._post(client, "bad", "/v1/predict", content=data, headers={"Content-Type": "image/jpeg"})

    async def _broken(self, client: httpx.AsyncClient, _: list[str]) -> None:
        """What no request is."""
        image = b64encode(self._photograph()).decode()
        requests: tuple[dict[str, Any], ...] = (
            {"json": {"images": [image, "%%%"]}},
            {"json": {"images": [image], "no_option": 1}},
            {"content": b"[" * 100_000, "headers": {"Content-Type": "application/json"}},
            {"content": b"--x\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
            {"content": bytes(1000), "headers": {"Content-Type": "text/plain"}},
            # Not on a connection for others: so much of a refused body is not read on, and ends it.
            {"content": bytes(40 * 2**20), "headers": {"Content-Type": "image/png", "Connection": "close"}},
            {"params": {"target": "no such class"}, "files": {"images": ("a.jpg", self._photograph())}},
        )
        await self._post(client, "broken", "/v1/grad-cam", **self.chance.choice(requests))

    async def _late(self, client: httpx.AsyncClient, _: list[str]) -> None:
        options = {"timeout_ms": self.chance.choice((1, 5, 20, 100))}
        await self._post(client, "late", "/v1/explain", params=options, files={"images": ("a.jpg", self._photograph())})

    async def _leaving(self, _: httpx.AsyncClient, __: list[str]) -> None:
        """Hang up in the middle of the body, or before the answer."""
        data = self._photograph()
        sent = data if self.chance.random() < 0.5 else data[: len(data) // 2]
        _reader, writer = await asyncio.open_connection(self.server.host, self.server.port)
        head = f"POST /v1/explain HTTP/1.1\r\nHost: soak\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}"
        writer.write(f"{head}\r\n\r\n".encode() + sent)
        await writer.drain()
        await asyncio.sleep(self.chance.random() / 20)
        writer.transport.abort()
        self.answers["left"] += 1


@cache
def _bomb() -> bytes:
    """A PNG of 30000 x 30000 black pixels in some hundred bytes."""
    head = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


@cache
def _huge() -> bytes:
    """A picture of 24 million pixels, which is served."""
    buffer = io.BytesIO()
    Image.new("L", (6000, 4000)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


async def _quiet(server: Server) -> Level:
    """The level once nothing is in flight and connections are closed."""
    await asyncio.sleep(_QUIET_S)
    async with httpx.AsyncClient(base_url=server.url) as client:
        page = (await client.get("/metrics")).text
    assert "pellucid_in_flight_images 0.0" in page, "images are still in flight, but nobody waits for them"
    return level(server)


async def _soak(seconds: float, said: Callable[[str], Any]) -> list[str]:
    """What was wrong; empty where nothing was."""
    with serving(**SETTINGS) as server:
        traffic = Traffic(server)
        await traffic.run(_WARM_UP_S)
        warm = await _quiet(server)
        said(f"after the warm-up: {warm}")
        await traffic.run(seconds)
        end = await _quiet(server)
        said(f"at the end:        {end}")
        said(f"answers: {dict(sorted(traffic.answers.items()))}")
        never = ("good closed", "bad closed", *(f"{kind} 500" for kind in ("good", "bad", "broken", "late")))
        wrong = [f"{traffic.answers[name]} answers were {name}" for name in never if traffic.answers[name]]
        if end.memory_mib > warm.memory_mib * (1 + MEMORY_BOUND):
            wrong.append(f"memory grew by {end.memory_mib - warm.memory_mib:.0f} MiB")
        if end.threads > warm.threads + THREADS_BOUND:
            wrong.append(f"{end.threads - warm.threads} threads were left behind")
        if end.descriptors > warm.descriptors + DESCRIPTORS_BOUND:
            wrong.append(f"{end.descriptors - warm.descriptors} file descriptors were left open")
        return wrong


def main() -> None:
    """Soak for the minutes that are given, say what was held, and fail where a bound was passed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("minutes", type=float)
    wrong = asyncio.run(_soak(parser.parse_args().minutes * 60, print))
    print("\n".join(wrong) or "nothing grew")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
