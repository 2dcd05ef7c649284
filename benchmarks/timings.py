"""What an explanation costs the service beside a prediction, as a caller is told: Server-Timing of a running server.

HTTP alone, one caller, one image a request, so every batch is one of 1. Two processes of the same code can differ in
speed as long as they run, so several are started.
"""

from __future__ import annotations

import http.client
import json
import re
import statistics
import time
from collections.abc import Callable
from typing import Any, Final

from benchmarks.photographs import photographs
from benchmarks.servers import SPECS, Server

LAYERS: Final = ("head", "blocks.9", "blocks.4", "stem")
FIVE: Final = (285, 281, 282, 967, 657)
# At which several methods share one gradient.
MIDDLE: Final = "blocks.4"
_STARTS: Final = 3
_STAGES: Final = re.compile(r"(?:infer|explain)[^,]*;dur=([\d.]+)")


def measure(rounds: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Raw figures: of each request the seconds of the engine and of the whole, in each round; all take turns."""
    cells: dict[str, dict[str, list[float]]] = {}
    for _ in range(_STARTS):
        _of_one_process(cells, rounds)
    for name, cell in cells.items():
        engine, whole = (statistics.median(cell[part]) * 1000 for part in ("engine", "whole"))
        say(f"over HTTP, {name}: engine {engine:.2f} ms, whole request {whole:.2f} ms")
    return [{"request": name, **cell} for name, cell in cells.items()]


def _of_one_process(cells: dict[str, dict[str, list[float]]], rounds: int) -> None:
    pictures = photographs()
    server = Server(SPECS["pellucid"])
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        paths = requests(_sharing(connection))
        for number in range(-1, rounds):  # the first one builds graphs and warms up
            picture = pictures[number % len(pictures)]
            for name, path in paths.items():
                _ask(connection, path, picture)  # what ran before leaves its threads spinning, its values in the caches
                times = _ask(connection, path, picture)
                if number >= 0:
                    for part, seconds in times.items():
                        cells.setdefault(name, {"engine": [], "whole": []})[part].append(seconds)
    finally:
        connection.close()
        server.stop()


def _sharing(connection: http.client.HTTPConnection) -> list[str]:
    """The methods that need one gradient."""
    connection.request("GET", "/v1/models/lite0")
    details = json.loads(connection.getresponse().read())["method_details"]
    # best has a gradient, but chooses its layers
    return [method["name"] for method in details if method["needs"] == "gradient" and method["at"]]


def requests(sharing: list[str]) -> dict[str, str]:
    """What is asked for, by its name in the table; ``sharing`` are the methods that need one gradient."""
    five = "".join(f"&target={index}" for index in FIVE)
    paths = {"predict": "/v1/predict"}
    for layer in LAYERS:
        paths[f"grad-cam, 1 class, {layer}"] = f"/v1/grad-cam?layer={layer}"
        paths[f"grad-cam, 5 classes, {layer}"] = f"/v1/grad-cam?layer={layer}{five}"
    paths[f"all methods of one gradient, {MIDDLE}"] = f"/v1/grad-cam?layer={MIDDLE}&method={','.join(sharing)}"
    paths["attention, gates' effects"] = "/v1/attention?effects=true"
    paths["all four parts"] = "/v1/explain"
    return paths


def _ask(connection: http.client.HTTPConnection, path: str, picture: bytes) -> dict[str, float]:
    """Seconds of one request: ``engine`` as Server-Timing tells it, ``whole`` until its answer was read."""
    started = time.perf_counter()
    connection.request("POST", path, picture, {"Content-Type": "image/jpeg", "Accept": "application/json"})
    response = connection.getresponse()
    body = response.read()
    whole = time.perf_counter() - started
    if response.status != 200:
        raise RuntimeError(f"{path} answered {response.status}: {body[:200]!r}")
    return {"engine": engine_seconds(response.headers["Server-Timing"]), "whole": whole}


def engine_seconds(timing: str) -> float:
    """Server-Timing -> what the image took in the engine: the pass that predicts and what explains."""
    return sum(float(milliseconds) for milliseconds in _STAGES.findall(timing)) / 1000
