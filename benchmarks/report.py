"""Raw figures -> the tables of the page. Pure: it reads dictionaries and returns Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

TITLES = {
    "pellucid": "Pellucid",
    "fastapi": "FastAPI + torch + pytorch-grad-cam",
    "litserve": "LitServe, batched, torch + captum",
}


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; columns whose cells are numbers are aligned right."""
    lines = [list(header), *map(list, rows)]
    right = [all(line[n][:1].isdigit() or line[n] == "-" for line in lines[1:]) for n in range(len(lines[0]))]
    rule = ["--:" if aligned else "---" for aligned in right]
    return "\n".join("| " + " | ".join(line) + " |" for line in (lines[0], rule, *lines[1:]))


def medians(cells: list[dict[str, Any]]) -> dict[tuple[str, int, str], dict[str, float]]:
    """(route, callers, server) -> the median over rounds of each figure; refusals and errors are sums over rounds."""
    grouped: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for cell in cells:
        grouped.setdefault((cell["route"], cell["callers"], cell["server"]), []).append(cell)
    found = {}
    for key, rounds in grouped.items():
        found[key] = {name: statistics.median(r[name] for r in rounds) for name in ("rate", "p50_ms", "p99_ms")}
        found[key] |= {name: float(sum(r[name] for r in rounds)) for name in ("refused", "errors", "answers")}
        found[key]["unanswered"] = max(r["unanswered"] for r in rounds)
    return found


def comparison_table(figures: dict[str, Any]) -> str:
    """Requests a second, latencies and ratios of the service and its rivals."""
    ceiling = statistics.median(each["rate"] for each in figures["ceiling"])
    found = medians(figures["cells"])
    rows = []
    for (route, callers, server), cell in found.items():
        ours = found.get((route, callers, "pellucid"))
        rows.append(
            (
                route,
                str(callers),
                TITLES[server],
                f"{cell['rate']:.1f}",
                f"{cell['rate'] / ceiling:.2f}",
                f"{ours['rate'] / cell['rate']:.1f}" if ours and cell["rate"] and server != "pellucid" else "-",
                _latency(cell, "p50_ms", callers),
                _latency(cell, "p99_ms", callers),
                f"{cell['refused']:.0f}",
                f"{cell['errors']:.0f}",
            )
        )
    header = ("route", "callers", "server", "req/s", "of ceiling", "Pellucid is × faster", "p50 ms", "p99 ms")
    return table((*header, "refused (429)", "errors"), rows)


def _latency(cell: dict[str, float], name: str, callers: int) -> str:
    """With a star where some callers were not answered at all in the time: what they waited is not in it."""
    if not cell["answers"]:
        return "-"
    return f"{cell[name]:.0f}{'*' if cell['unanswered'] else ''}"
