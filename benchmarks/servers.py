"""The servers that are compared, each a process of its own that stands still while another is measured."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks.load import post
from benchmarks.photographs import SAMPLES

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Spec:
    """How a server is started and asked.

    ``command`` gets the port as its last argument or, where it is ours, in the environment. ``routes`` are the paths
    and what they are asked to accept, by the name that the routes have in the tables. Bodies are the photograph's
    bytes, or ``multipart``: LitServe reads every other body as JSON. ``python`` runs it; one that takes the network
    ``exported`` gets the folder of `benchmarks.rivals.exported` before the port. ``int8``: it serves the network
    compiled with int8. It runs in ``root``.
    """

    name: str
    command: tuple[str, ...]
    ready: str
    routes: Mapping[str, tuple[str, str]]
    multipart: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    python: str = sys.executable
    exported: bool = False
    int8: bool = False
    root: Path = ROOT

    def requests(self, route: str, photographs: list[bytes]) -> list[bytes]:
        """One HTTP request for each photograph."""
        path, accept = self.routes[route]
        return [post(path, *self._body(photograph), accept) for photograph in photographs]

    def _body(self, photograph: bytes) -> tuple[bytes, str]:
        if not self.multipart:
            return photograph, "image/jpeg"
        head = b'--part\r\nContent-Disposition: form-data; name="image"; filename="photograph.jpg"\r\n'
        return head + b"Content-Type: image/jpeg\r\n\r\n" + photograph + b"\r\n--part--\r\n", (
            "multipart/form-data; boundary=part"
        )


_PNG, _JSON = "image/png", "application/json"
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # of each thread or process that runs the network: there are several
_RIVAL_ROUTES = {"predict": ("/predict", _JSON), "grad-cam": ("/grad-cam", _PNG)}
SPECS = {
    spec.name: spec
    for spec in (
        Spec(
            "pellucid",
            ("-m", "service"),
            "/readyz",
            {
                "predict": ("/v1/predict", _JSON),
                "grad-cam": ("/v1/grad-cam", _PNG),
                "explain": ("/v1/explain", _JSON),
            },
        ),
        Spec("pellucid-int8", ("-m", "service"), "/readyz", {"predict": ("/v1/predict", _JSON)}, int8=True),
        Spec(
            "fastapi",
            ("-m", "benchmarks.rivals.fastapi_gradcam"),
            "/health",
            _RIVAL_ROUTES,
            environment=_ONE_THREAD,
        ),
        Spec(
            "litserve",
            ("-m", "benchmarks.rivals.litserve_captum"),
            "/health",
            _RIVAL_ROUTES,
            multipart=True,
            environment=_ONE_THREAD,
        ),
        Spec(
            "openvino-xai",
            ("-m", "benchmarks.rivals.openvino_xai"),
            "/health",
            {"predict": ("/predict", _JSON), "grad-cam": ("/recipro-cam", _PNG)},
            python=str(ROOT / ".venv-xai" / "bin" / "python"),
            exported=True,
        ),
        Spec(
            "mosec",
            ("-m", "benchmarks.rivals.mosec_openvino"),
            "/",
            {"predict": ("/predict", _JSON)},
            environment=_ONE_THREAD,
            exported=True,
        ),
    )
}


class Server:
    """A running server. ``paused`` ones have all their processes stopped, so that they take no time from others."""

    def __init__(self, spec: Spec, **settings: str) -> None:
        """Start it and wait until it says that it is ready, up to two minutes. Raises RuntimeError with its log."""
        self.spec = spec
        self.port = _free_port()
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the server
        command = [spec.python, *spec.command]
        if spec.exported:
            command.append(_exported().name)
        environment = {**os.environ, **spec.environment, **settings}
        if spec.int8:
            environment["PELLUCID_MODEL"] = str(Path(_rounded().name, "lite0.pellucid"))
        if spec.command == ("-m", "service"):
            environment |= {"PELLUCID_HOST": "127.0.0.1", "PELLUCID_PORT": str(self.port)}
        else:
            command.append(str(self.port))
        started = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            cwd=spec.root,
            env=environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._wait_until_ready(started + 120)
        self.started_in = time.perf_counter() - started

    def _wait_until_ready(self, until: float) -> None:
        while time.perf_counter() < until:
            if self.process.poll() is not None:
                break
            with suppress(OSError):
                if self._answer("GET", self.spec.ready, timeout=5)[0] == 200:
                    return
            time.sleep(0.01)
        self.stop()
        self._log.seek(0)
        raise RuntimeError(f"{self.spec.name} did not start: {self._log.read()[-2000:]}")

    def _answer(self, method: str, path: str, *, timeout: float) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def meter(self) -> Callable[[], Counter[str]]:
        """What reads the seconds of processor time that all its processes of now have used."""
        parent = psutil.Process(self.process.pid)
        return partial(used, [("server", each) for each in (parent, *parent.children(recursive=True))])

    def pause(self) -> None:
        os.killpg(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End the server and all that it started."""
        if self.process.poll() is None:
            self.resume()
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # workers that outlive it
        self.process.wait()

    def ask(self, request: bytes, timeout: float) -> tuple[int, bytes]:
        """Status and body of one answer. Raises TimeoutError."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            connection.sendall(request)
            response = http.client.HTTPResponse(connection)
            response.begin()
            return response.status, response.read()

    def top_classes(self, photographs: list[bytes]) -> list[int]:
        """The class that it finds in each photograph: servers are only compared if they do the same work."""
        found = []
        for request in self.spec.requests("predict", photographs):
            status, body = self.ask(request, 60)
            if status != 200:
                raise RuntimeError(f"{self.spec.name} answered {status}: {body[:200]!r}")
            reply: dict[str, Any] = json.loads(body)
            found.append(int(reply.get("results", [reply])[0]["predictions"][0]["index"]))
        return found


def used(processes: list[tuple[str, psutil.Process]]) -> Counter[str]:
    """Seconds of processor time that each part has used since its start."""
    spent: Counter[str] = Counter()
    for part, process in processes:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            spent[part] += times.user + times.system
    return spent


def quiet(server: Server, request: bytes, restart: Callable[[], Server]) -> Server:
    """The server once it has worked off what was left to do, or a new one where that takes longer than a start."""
    try:
        server.ask(request, max(5.0, server.started_in))
        return server
    except OSError:
        server.stop()
        return restart()


@cache
def _exported() -> tempfile.TemporaryDirectory[str]:
    """The network for rivals without torch, written once and kept as long as this process."""
    folder = tempfile.TemporaryDirectory()
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.rivals.exported", folder.name]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder


@cache
def _rounded() -> tempfile.TemporaryDirectory[str]:
    """The service's network in int8, compiled once and kept as long as this process."""
    folder = tempfile.TemporaryDirectory()
    out = ["--int8", str(SAMPLES), "--out", str(Path(folder.name, "lite0.pellucid"))]
    subprocess.run([sys.executable, "-m", "service", "compile", "lite0", *out], cwd=ROOT, check=True)
    return folder


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
