"""What the tests of the HTTP side share: a server, requests to it, its replies as types and its pictures as arrays."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tempfile
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import httpx
import numpy as np
from PIL import Image
from pydantic import BaseModel

from pellucid.network import names
from pellucid.schemas import Picture, Problem, Reply, Result
from pellucid.types import Pixels

REPOSITORY = Path(__file__).parents[1]
SAMPLES = REPOSITORY / "service" / "web" / "samples"
PARTS = {
    "/v1/predict": {"predictions"},
    "/v1/attention": {"attention"},
    "/v1/feature-maps": {"feature_maps"},
    "/v1/grad-cam": {"grad_cam"},
    "/v1/what-if": {"what_if"},
    "/v1/channels": {"channels"},
    "/v1/explain": {"predictions", "attention", "feature_maps", "grad_cam"},
}
ROUTES = tuple(PARTS)

# On any free port, which a stopped server closes without a delay; by one thread, as several files are tested at once.
_DEFAULTS = {
    "PELLUCID_HOST": "127.0.0.1",
    "PELLUCID_PORT": "0",
    "PELLUCID_DRAIN_DELAY_S": "0",
    "PELLUCID_THREADS": "1",
}

# What starts soonest, for tests to which it does not matter which network runs.
LIGHT = {"PELLUCID_MODEL": "lite0-plain"}

S = TypeVar("S", bound=BaseModel)
T = TypeVar("T")


@dataclass(frozen=True)
class Server:
    """A process that serves, and where; over gRPC at ``grpc``, HOST:PORT."""

    process: subprocess.Popen[str]
    log: IO[str]
    host: str
    port: int
    grpc: str = ""

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def logged(self) -> list[str]:
        """All lines of the log, once the process has been told to end and did."""
        self.process.wait(timeout=60)  # it writes where this reads
        self.log.seek(0)
        return self.log.read().splitlines()


@contextmanager
def serving(**settings: str) -> Iterator[Server]:
    """`python -m service` on a free port until the context ends; it must then stop in order, with exit code 0."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PELLUCID_")}
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            [sys.executable, "-m", "service"],
            cwd=REPOSITORY,
            env={**environment, **_DEFAULTS, **settings},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            said = next((line for line in process.stdout if "serves at " in line), None)
            if said is None:
                log.seek(0)
                raise AssertionError(f"the server did not start: {log.read()}")
            told = httpx.URL(said.partition("serves at ")[2].partition(";")[0])
            assert told.port is not None
            grpc = next(process.stdout).split()[-1] if "PELLUCID_GRPC_PORT" in settings else ""
            server = Server(process, log, told.host, told.port, grpc)
            assert httpx.get(f"{server.url}/readyz").json() == {"status": "ok"}
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(timeout=60)
        log.seek(0)
        assert code == 0, log.read()


def resident() -> int:
    """The memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def photograph(name: str) -> bytes:
    """One of the shipped photographs: cat, coffee, rocket."""
    return (SAMPLES / f"{name}.jpg").read_bytes()


def post(
    client: httpx.Client, route: str, *images: bytes, accept: str = "application/json", **options: Any
) -> httpx.Response:
    """The response to images sent as multipart parts, options in the query."""
    parts = [("images", (f"{number}.jpg", data)) for number, data in enumerate(images)]
    return client.post(route, params=options, files=parts, headers={"Accept": accept})


def parsed(response: httpx.Response, schema: type[S]) -> S:
    """A 200 of JSON that holds exactly what the schema says."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    return schema.model_validate_json(response.content, strict=True)


def present(value: T | None) -> T:
    """A field that replies of other networks lack."""
    assert value is not None
    return value


def envelope(response: httpx.Response) -> Reply:
    """A reply of a POST route, its id that of the header."""
    reply = parsed(response, Reply)
    assert reply.request_id == response.headers["x-request-id"]
    return reply


def explained(client: httpx.Client, route: str, image: bytes, **options: Any) -> Result:
    """What a route finds in one image."""
    (result,) = envelope(post(client, route, image, **options)).results
    assert isinstance(result, Result)
    return result


def problem(response: httpx.Response, status: int, slug: str) -> Problem:
    """An error as every route must give it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    found = Problem.model_validate_json(response.content, strict=True)
    assert found.type == f"urn:pellucid:problem:{slug}"
    assert found.status == status
    assert found.title
    assert found.detail
    assert found.request_id == response.headers["x-request-id"]
    return found


def decoded(picture: Picture) -> Pixels:
    """A picture's pixels, grey or RGB, after its media type and size have been compared with what it says of itself."""
    return decoded_bytes(b64decode(picture.data, validate=True), picture.media_type, (picture.width, picture.height))


def decoded_bytes(data: bytes, media_type: str, size: tuple[int, int] | None = None) -> Pixels:
    with Image.open(io.BytesIO(data)) as image:
        assert Image.MIME[str(image.format)] == media_type
        assert size in (None, image.size)
        return np.asarray(image.convert("RGB") if image.mode == "P" else image)


def encoded(pixels: Pixels, file_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file_format)
    return buffer.getvalue()


def difference(one: Any, other: Any, where: str = "") -> str | None:
    """Where two replies' results differ by more than arithmetic in another order explains; None if nowhere.

    Numbers may differ by a thousandth, pictures by two levels (a colour map turns those into at most a dozen), and a
    share of zeros by one position of a 7 x 7 map.
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if set(one) != set(other):
            return f"{where}: {set(one) ^ set(other)}"
        if "media_type" in one:
            return _picture_difference(one, other, where)
        pairs = [(f"{where}.{key}", one[key], other[key]) for key in one]
    elif isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            return f"{where}: {len(one)} and {len(other)} entries"
        pairs = [(f"{where}[{index}]", *entries) for index, entries in enumerate(zip(one, other, strict=True))]
    else:
        return _value_difference(one, other, where)
    return next((found for name, left, right in pairs if (found := difference(left, right, name))), None)


def _value_difference(one: Any, other: Any, where: str) -> str | None:
    if isinstance(one, float) or isinstance(other, float):
        # An activation within rounding of a ReLU's kink turns a gradient through all layers by some thousandths: a
        # recorded reply may come from another processor. Where both replies can be asked for, ask with provenance.
        tolerance = 0.021 if ".zeros[" in where else (1e-2 if ".effects[" in where else 1e-3) * max(1.0, abs(one))
        return None if abs(one - other) <= tolerance else f"{where}: {one} and {other}"
    return None if one == other else f"{where}: {one!r} and {other!r}"


def _picture_difference(one: Mapping[str, Any], other: Mapping[str, Any], where: str) -> str | None:
    if one == other:
        return None
    left, right = (decoded(Picture.model_validate(picture)).astype(int) for picture in (one, other))
    if left.shape != right.shape:
        return f"{where}: {left.shape} and {right.shape}"
    largest = int(np.abs(left - right).max())
    return None if largest <= (2 if left.ndim == 2 else 12) else f"{where}: levels differ by {largest}"


def compiled(name: str) -> Path:
    """The compiled network of that name, from the cache that serves and tests share; compiled if it is not there."""
    return names.find(name, progress=False)
