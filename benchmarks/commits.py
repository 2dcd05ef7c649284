"""Two commits in turn, in one run: which figures of the service differ by more than noise.

A process keeps its speed for as long as it lives, so every round starts both servers anew. In a round each cell is
loaded in the order A B B A, in the next in the order B A A B, so that drift falls on both alike. The commit that is
loaded first also starts first. A round gives one ratio of the two commits. The interval is Student's of the ratios'
logarithms over rounds, at 95 % for all cells together (Bonferroni), so one run in twenty of two equal commits flags a
cell.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from benchmarks.comparison import ROUTES
from benchmarks.load import run
from benchmarks.photographs import photographs
from benchmarks.report import Figures, table
from benchmarks.servers import ROOT, SPECS, Server, Spec

CALLERS = (1, 16)
MEASURES = ("req/s", "core-ms")
_CONFIDENCE, _LEAD_IN_S = 0.95, 0.2
_DEPENDENCIES = ("pyproject.toml", "constraints.txt")


def measure(commits: Sequence[str], seconds: float, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Raw figures: ``cells`` with requests a second and core-ms of each commit (0, 1), a cell for each round."""
    hashes = [_git("rev-parse", "--short", f"{commit}^{{commit}}").decode().strip() for commit in commits]
    if _git("diff", "--name-only", *hashes, "--", *_DEPENDENCIES):
        say("their dependencies differ: both run with the packages that are installed here")
    pictures, cells = photographs(), []
    with ExitStack() as stack:
        specs = [stack.enter_context(_unpacked(commit)) for commit in hashes]
        for spec in specs:
            Server(spec).stop()  # which compiles its network
        for number in range(rounds):
            cells += [{"round": number, **cell} for cell in _round(specs, pictures, seconds, number % 2)]
            say(f"round {number + 1} of {rounds}: done")
    return {"commits": hashes, "cells": cells}


def _round(specs: Sequence[Spec], pictures: list[bytes], seconds: float, first: int) -> Iterator[dict[str, Any]]:
    """One round with new processes. The commit ``first`` starts first, and begins and ends each cell."""
    with ExitStack() as stack:
        servers = {}
        for side in (first, 1 - first):
            servers[side] = Server(specs[side])
            stack.callback(servers[side].stop)
            servers[side].top_classes(pictures)
            servers[side].pause()
        for route in ROUTES:
            for callers in CALLERS:
                answers, spent = [0, 0], [0.0, 0.0]
                for side in (first, 1 - first, 1 - first, first):
                    server = servers[side]
                    server.resume()
                    requests = server.spec.requests(route, pictures)
                    load = run(server.port, requests, callers, seconds, lead_in=_LEAD_IN_S, meter=server.meter())
                    server.pause()
                    if load.errors or not load.latencies:
                        raise RuntimeError(f"{route}, {callers} callers: {load.errors} errors")
                    answers[side] += len(load.latencies)
                    spent[side] += sum(load.spent.values())
                rates = [count / (2 * seconds) for count in answers]
                costs = [used * 1000 / count for used, count in zip(spent, answers, strict=True)]
                yield {"route": route, "callers": callers, "req/s": rates, "core-ms": costs}


def differences(cells: list[Figures]) -> Iterator[tuple[str, float, float, float, float, float]]:
    """Raw figures -> what each figure is, its median for both commits, their ratio, and the interval of the ratio."""
    grouped: dict[str, list[list[float]]] = {}
    for cell in cells:
        for name in MEASURES:
            what = f"{cell['route']}, {cell['callers']} caller{'s' * (cell['callers'] > 1)}, {name}"
            grouped.setdefault(what, []).append(cell[name])
    for what, pairs in grouped.items():
        logs, rounds = np.log([head / base for base, head in pairs]), len(pairs)
        most = t.ppf(1 - (1 - _CONFIDENCE) / (2 * len(grouped)), rounds - 1) * logs.std(ddof=1) / np.sqrt(rounds)
        ratios = np.exp(logs.mean() + most * np.array((0, -1, 1))).tolist()
        yield what, *np.median(pairs, 0).tolist(), *ratios


def written(figures: Figures) -> str:
    """What differs between the two commits, and by how much."""
    rows = [
        (
            what,
            f"{base:.2f}",
            f"{head:.2f}",
            *(f"{each:.3f}" for each in ratios),
            "" if ratios[1] <= 1 <= ratios[2] else "**differs**",
        )
        for what, base, head, *ratios in differences(figures["cells"])
    ]
    return table(("what", *figures["commits"], "ratio", "at least", "at most", ""), rows)


@contextmanager
def _unpacked(commit: str) -> Iterator[Spec]:
    """The service of a commit: its own files, its own cache. What is installed gives the packages alone."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "code")
        with tarfile.open(fileobj=io.BytesIO(_git("archive", commit))) as archive:
            archive.extractall(root, filter="data")
        for name in ("models", "service"):  # an installed package has these two inside
            (root / "pellucid" / name).symlink_to(root / name)
        environment = {"PYTHONPATH": str(root), "PELLUCID_CACHE_DIR": str(Path(folder, "cache"))}
        yield replace(SPECS["pellucid"], root=root, environment=environment)


def _git(*arguments: str) -> bytes:
    return subprocess.run(("git", *arguments), cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
