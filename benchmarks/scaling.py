"""One replica of one core behind HAProxy and behind Ray's own proxy, and the same service without Ray."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import psutil

from benchmarks.comparison import figures
from benchmarks.load import run
from benchmarks.photographs import photographs
from benchmarks.servers import ROOT, SPECS, Server, Spec, used

ROUTES, CALLERS = ("predict", "grad-cam"), 16
_REPLICA, _PROXIES = "ray::ServeReplica", ("ray::ProxyActor", "ray::HAProxyManager", "/haproxy -db")
_OURS = SPECS["pellucid"]
_SHARE = {"PELLUCID_THREADS": "1", "PELLUCID_DECODE_THREADS": "1"}
KINDS = ("alone", "haproxy", "proxy")
_SHIPPED = dict(re.findall(r"(RAY_SERVE_\w+)=(\S+)", (ROOT / "deploy" / "ray" / "Dockerfile").read_text("utf-8")))


def _spec(kind: str) -> Spec:
    if kind == "alone":
        return _OURS
    command, settings = ("-m", "benchmarks.ray_server"), _SHIPPED if kind == "haproxy" else {}
    return Spec(kind, command, _OURS.ready, _OURS.routes, environment=settings)


def measure(seconds: float, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Raw figures of each round, in which all take turns; each is started anew, since an idle cluster is not idle."""
    cells = []
    for number in range(rounds):
        for kind in KINDS:
            spec = _spec(kind)
            server = Server(spec, **_SHARE)
            try:
                for route in ROUTES:
                    cell = {"round": number, "kind": kind, "route": route, **_cell(server, route, seconds)}
                    cells.append(cell)
                    say(f"round {number + 1}: {kind}, {route}, {cell['rate']:.0f} requests a second")
            finally:
                server.stop()
    return {"cells": cells}


def _cell(server: Server, route: str, seconds: float) -> dict[str, Any]:
    """What the callers saw, and milliseconds of processor time that a request took in each kind of process."""
    processes = _processes(server)
    _pin(processes)
    requests = server.spec.requests(route, photographs())
    load = run(server.port, requests, CALLERS, seconds, meter=partial(used, processes))
    answered = max(1, len(load.latencies))
    spent = {part: load.spent[part] * 1000 / answered for part in ("replicas", "proxy", "rest")}
    return {**figures(load), "cpu_ms": spent}


def _processes(server: Server) -> list[tuple[str, psutil.Process]]:
    """All of a server's processes, by part. Without Ray there is one."""
    parent = psutil.Process(server.process.pid)
    if server.spec is _OURS:
        return [("replicas", parent)]
    found = []
    for process in (parent, *parent.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            title = " ".join(process.cmdline())
            part = "replicas" if _REPLICA in title else "proxy" if any(map(title.count, _PROXIES)) else "rest"
            found.append((part, process))
    return found


def _pin(processes: list[tuple[str, psutil.Process]]) -> None:
    """Give each replica one core of its own; what stands before them takes what it finds."""
    cores = sorted(os.sched_getaffinity(0))
    replicas = [process for part, process in processes if part == "replicas"]
    for core, replica in zip(cores, replicas, strict=False):
        for thread in replica.threads():
            with suppress(ProcessLookupError):
                os.sched_setaffinity(thread.id, {core})
