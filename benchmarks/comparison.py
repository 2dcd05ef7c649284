"""The service against the ceiling and its rivals: same photographs, same callers, rounds taken in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks import wrk
from benchmarks.ceiling import Ceiling
from benchmarks.load import Load, run
from benchmarks.photographs import photographs
from benchmarks.servers import SPECS, Server, Spec, quiet

ROUTES = ("predict", "grad-cam", "explain")
CALLERS = (1, 16, 64, 512)
CHECKED = 16  # callers of the check against wrk


@dataclass(frozen=True)
class Choice:
    """What is measured, and for how long."""

    servers: Sequence[str] = tuple(SPECS)
    routes: Sequence[str] = ROUTES
    callers: Sequence[int] = CALLERS
    seconds: float = 3.0
    rounds: int = 3

    def cells(self) -> list[tuple[str, int, Spec]]:
        """All that is loaded in a round, in turn: servers are neighbours in time where their figures are compared."""
        specs = [SPECS[name] for name in self.servers]
        return [
            (route, callers, spec)
            for route in self.routes
            for callers in self.callers
            for spec in specs
            if route in spec.routes
        ]


def compare(choice: Choice, say: Callable[[str], None]) -> dict[str, Any]:
    """Raw figures of all rounds: ``ceiling`` a list, ``cells`` a list with one entry a round, route, crowd, server."""
    pictures = photographs()
    lead_in = min(1.0, choice.seconds / 2)
    ceilings: list[dict[str, float]] = []
    cells: list[dict[str, Any]] = []
    checks: list[dict[str, float]] = []
    with ExitStack() as stack:
        ceiling = stack.enter_context(Ceiling())
        running: dict[str, Server] = {}
        stack.callback(_stop, running)
        classes: dict[str, list[int]] = {}
        for name in choice.servers:
            running[name] = Server(SPECS[name])
            classes[name] = running[name].top_classes(pictures)
            running[name].pause()
            say(f"{name}: ready after {running[name].started_in:.1f} s, sees {classes[name]}")
        for number in range(choice.rounds):
            measured = None
            for route, callers, spec in choice.cells():
                if measured != route:
                    ceilings.append(ceiling.measure(choice.seconds))
                    rate, plain = ceilings[-1]["rate"], ceilings[-1]["plain"]
                    say(f"round {number + 1}: ceiling {rate:.0f}/s, {plain:.0f}/s the plain way")
                    measured = route
                server = running[spec.name]
                server.resume()
                requests = spec.requests(route, pictures)
                server = running[spec.name] = quiet(server, requests[0], partial(Server, spec))
                load = run(server.port, requests, callers, choice.seconds, lead_in=lead_in, meter=server.meter())
                server.pause()
                cell = {"round": number, "route": route, "callers": callers, "server": spec.name, **figures(load)}
                cells.append(cell)
                say(
                    f"round {number + 1}: {route:8} {callers:3} callers, {spec.name:12} {cell['rate']:6.1f}/s, "
                    f"p50 {cell['p50_ms']:.0f} ms, p99 {cell['p99_ms']:.0f} ms, {cell['core_ms']:.2f} core-ms, "
                    f"{cell['refused']} refused, {cell['errors']} errors"
                )
            if wrk.installed() and "pellucid" in running:
                try:
                    checks.append(_check(running["pellucid"], pictures, choice.seconds))
                    say(f"round {number + 1}: {checks[-1]}")
                except ValueError as error:  # no reason to lose what was measured
                    say(f"round {number + 1}: wrk could not check: {error}")
    return {
        "engine": ceiling.engine,
        "top_classes": classes,
        "ceiling": ceilings,
        "cells": cells,
        "generator": checks,
    }


def _stop(running: dict[str, Server]) -> None:
    for server in running.values():
        server.stop()


def _check(server: Server, pictures: list[bytes], seconds: float) -> dict[str, float]:
    """Our callers and wrk's, one after the other, on predictions."""
    requests = server.spec.requests("predict", pictures)
    server.resume()
    own = run(server.port, requests, CHECKED, seconds).rate
    path, accept = server.spec.routes["predict"]
    others = wrk.rate(server.port, path, accept, pictures, CHECKED, seconds)
    server.pause()
    return {"own": own, "wrk": others}


def figures(load: Load) -> dict[str, Any]:
    """A cell's figures; latencies and processor time for an answer are NaN where nothing was answered."""
    p50, p99 = np.percentile(load.latencies or [np.nan], (50, 99)) * 1000
    return {
        "rate": load.rate,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "core_ms": sum(load.spent.values()) * 1000 / (len(load.latencies) or np.nan),
        "answers": len(load.latencies),
        "refused": load.refused,
        "errors": load.errors,
        "statuses": dict(load.statuses),
        "unanswered": load.unanswered,
        "generator_cpu": load.cpu,
    }
