"""Seconds from process start to ready, and memory at rest and under load."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import Any

import psutil

from benchmarks.load import post, run
from benchmarks.photographs import photographs
from benchmarks.servers import SPECS, Server

CALLERS = 16
# What follows the load: Grad-CAM at each block, for so many seconds each, which needs as many subgraphs.
BLOCKS = ("stem", *(f"blocks.{number}" for number in range(16)), "head")
_BLOCK_S = 1.0


def measure(seconds: float, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Raw figures of each round: a start with an empty cache folder, then one with the folder that it left."""
    found = []
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            for kind in ("cold", "warm"):
                cell = {"round": number, "cache": kind, **_one(cache, seconds, BLOCKS if kind == "warm" else ())}
                found.append(cell)
                say(
                    f"round {number + 1}: {kind} cache, ready after {cell['ready_s']:.1f} s, "
                    f"{cell['ready_mib']:.0f} MiB at ready, {cell['load_mib']:.0f} MiB under load"
                    + (f", {cell['walk_mib']:.0f} MiB at all blocks" if "walk_mib" in cell else "")
                )
    return {"starts": found}


def _one(cache: str, seconds: float, blocks: Sequence[str]) -> dict[str, float]:
    """One start, then all four parts requested by 16 callers, then Grad-CAM at these blocks in turn."""
    spec = SPECS["pellucid"]
    server = Server(spec, PELLUCID_CACHE_DIR=cache)
    try:
        process = psutil.Process(server.process.pid)
        at_ready = _resident(process)
        seen = [at_ready]
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.1):
                seen.append(_resident(process))

        watching = threading.Thread(target=watch)
        watching.start()
        run(server.port, spec.requests("explain", photographs()), CALLERS, seconds)
        loaded = max(seen)
        for block in blocks:
            path = f"/v1/grad-cam?layer={block}"
            requests = [post(path, photograph, "image/jpeg", "image/png") for photograph in photographs()]
            run(server.port, requests, CALLERS, _BLOCK_S)
        over.set()
        watching.join()
        found = {"ready_s": server.started_in, "ready_mib": at_ready, "load_mib": loaded}
        return found | ({"walk_mib": max(seen)} if blocks else {})
    finally:
        server.stop()


def _resident(process: psutil.Process) -> float:
    """MiB of memory that a process and those that it started have in use."""
    return sum(float(each.memory_info().rss) for each in (process, *process.children(recursive=True))) / 2**20
