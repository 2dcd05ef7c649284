"""Raw figures -> the tables of the pages. Pure: dictionaries in, Markdown out."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any, Final

Figures = dict[str, Any]
_UNANSWERED = "\\* Some callers got no answer in all of the measured time: what those waited is not in the percentile."

TITLES = {
    "pellucid": "Pellucid",
    "pellucid-int8": "Pellucid in int8",
    "fastapi": "FastAPI, torch, pytorch-grad-cam",
    "litserve": "LitServe, torch, captum",
    "openvino-xai": "OpenVINO XAI, ReciproCAM",
    "mosec": "mosec, OpenVINO",
}
# The routes that the README compares.
_IN_WORDS: Final = {"grad-cam": "Grad-CAM", "predict": "predictions"}
# What names a cell of the raw figures. The other fields are measured.
_NAMES = ("route", "callers", "server", "plan", "batch", "request", "discipline", "load", "cache", "kind")
SCALED = {"alone": "one process without Ray", "haproxy": "Ray, HAProxy", "proxy": "Ray, its own proxy"}
DISCIPLINES = {"served": "greedy, as served", "greedy": "greedy, one batch at a time", "window": "10 ms window"}


def fill(page: str, name: str, content: str, by: str = "make bench") -> str:
    """The page with ``content`` between its marks of that name, which say who writes it.

    Raises ValueError if it has none.
    """
    opening = f"<!-- {name}: written by `{by}` -->\n"
    before, found, rest = page.partition(opening)
    if not found or "<!-- end -->" not in rest:
        raise ValueError(f"the page has no marks for {name}")
    return f"{before}{opening}\n{content}\n\n<!-- end -->{rest.partition('<!-- end -->')[2]}"


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; columns of numbers are aligned right."""
    head, *lines = [list(header), *map(list, rows)]
    right = [all(line[n][:1].isdigit() or line[n] == "-" for line in lines) for n in range(len(head))]
    rule = ["--:" if aligned else "---" for aligned in right]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


def machine_kind(machine: Figures) -> str:
    """The processor, its cores and what it computes in."""
    flags = [flag for flag in ("amx_bf16", "avx512_bf16", "avx512_vnni", "avx512f", "avx2") if flag in machine["flags"]]
    return f"{machine['processor']}, {machine['cores']} cores ({', '.join(flags[:2])})"


def machine_line(machine: Figures) -> str:
    """The machine in words."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    settings = "".join(f", {name}={value}" for name, value in machine["settings"].items())
    return (
        f"{machine_kind(machine)}, {machine['memory_gib']:.0f} GiB, {machine['system']}, Python {machine['python']}, "
        f"{versions}{settings}; load average before the run {machine['load_average']:.1f}, measured {machine['date']}."
    )


def summary(figures: Figures) -> dict[str, dict[str, float]]:
    """Name of a cell -> the median over rounds of each of its numbers: what the history keeps."""
    values: dict[str, dict[str, list[float]]] = {}
    for kind in ("ceiling", "cells", "served", "starts"):
        for cell in figures.get(kind, ()):
            name = " ".join(str(cell[each]) for each in _NAMES if each in cell) or kind
            for field, value in cell.items():
                if field not in (*_NAMES, "round") and isinstance(value, (int, float, list)):
                    found = [each for each in (value if isinstance(value, list) else [value]) if each == each]  # no NaN
                    values.setdefault(name, {}).setdefault(field, []).extend(found)
    return {
        name: {field: float(f"{statistics.median(found):.4g}") for field, found in cell.items() if found}
        for name, cell in values.items()
    }


def medians(cells: list[Figures]) -> dict[tuple[str, int, str], dict[str, float]]:
    """(route, callers, server) -> medians over rounds; of refusals, errors and answers the sums."""
    grouped: dict[tuple[str, int, str], list[Figures]] = {}
    for cell in cells:
        grouped.setdefault((cell["route"], cell["callers"], cell["server"]), []).append(cell)
    found = {}
    for key, rounds in grouped.items():
        answered = [each for each in rounds if each["answers"]]
        found[key] = {
            "rate": statistics.median(each["rate"] for each in rounds),
            "p50_ms": statistics.median([each["p50_ms"] for each in answered] or [0.0]),
            "p99_ms": statistics.median([each["p99_ms"] for each in answered] or [0.0]),
            "core_ms": statistics.median([each["core_ms"] for each in answered] or [0.0]),
            **{name: float(sum(each[name] for each in rounds)) for name in ("refused", "errors", "answers")},
            "unanswered": float(max(each["unanswered"] for each in rounds)),
        }
    return found


def ceiling_rate(figures: Figures, decoder: str = "rate") -> float:
    """Images a second without HTTP: the service's way (``rate``) or the plain one (``plain``)."""
    rates: list[float] = [each[decoder] for each in figures["ceiling"]]
    return statistics.median(rates)


def comparison(figures: Figures) -> str:
    """Requests a second, latencies and ratios of the service and its rivals, with what must be known beside them."""
    ceiling, plain = ceiling_rate(figures), ceiling_rate(figures, "plain")
    found = medians(figures["cells"])
    rows = []
    for (route, callers, server), cell in found.items():
        ours = found.get((route, callers, "pellucid"))
        faster = ours["rate"] / cell["rate"] if ours and cell["rate"] and server != "pellucid" else None
        rows.append(
            (
                route,
                str(callers),
                TITLES[server],
                f"{cell['rate']:.1f}",
                f"{cell['rate'] / ceiling:.2f}",
                f"{cell['rate'] / plain:.2f}",
                "-" if faster is None else f"{faster:.1f}",
                _latency(cell, "p50_ms"),
                _latency(cell, "p99_ms"),
                f"{cell['core_ms']:.1f}" if cell["answers"] else "-",
                f"{cell['refused']:.0f}",
                f"{cell['errors']:.0f}",
            )
        )
    header = ("route", "callers", "server", "req/s", "of the ceiling", "of the plain one", "Pellucid × faster")
    lines = [
        f"The ceiling is {ceiling:.0f} images a second ({figures['engine']}), {plain:.0f} the plain way.",
        _agreement(figures["top_classes"]),
        table((*header, "p50 ms", "p99 ms", "core-ms", "429", "errors"), rows),
        _UNANSWERED,
    ]
    if figures["generator"]:
        own, others = (statistics.median(each[name] for each in figures["generator"]) for name in ("own", "wrk"))
        lines.append(f"The same load by wrk (predict, 16 callers): {others:.0f} requests a second, by ours {own:.0f}.")
    return "\n\n".join(filter(None, lines))


def _agreement(classes: dict[str, list[int]]) -> str:
    """In how many photographs each rival finds the top class that the service finds."""
    ours = classes.get("pellucid", [])
    same = [
        f"{TITLES[server]} in {sum(a == b for a, b in zip(ours, theirs, strict=True))}"
        for server, theirs in classes.items()
        if ours and server != "pellucid"
    ]
    return f"The same top class as Pellucid's, of {len(ours)} photographs: {', '.join(same)}." if same else ""


def _latency(cell: dict[str, float], name: str) -> str:
    return f"{cell[name]:.0f}{'*' if cell['unanswered'] else ''}" if cell["answers"] else "-"


def in_words(figures: Figures) -> str:
    """Rates beside each rival's, for 16 callers, as a list."""
    found = medians(figures["cells"])
    servers = dict.fromkeys(server for _, _, server in found)
    servers.pop("pellucid-int8", None)  # not the default
    rates = {each: [found.get((route, 16, each), {"rate": 0.0})["rate"] for route in _IN_WORDS] for each in servers}
    ours = rates.pop("pellucid")
    rows = [["**Pellucid**", *(f"**{rate:.0f}**" for rate in ours)]]
    for server, theirs in rates.items():
        compared = zip(ours, theirs, strict=True)
        cells = (_fewer(our, its) for our, its in compared)
        rows.append([TITLES[server], *cells])
    shown = table(["requests a second", *_IN_WORDS.values()], rows).replace("\n", "\n  ")
    return (
        "- **It answers more requests a second.** Here 16 callers send photographs to two cores, and all servers run\n"
        f"  EfficientNet-Lite0 with gates ([all figures](docs/explanation/performance.md)):\n\n  {shown}"
    )


def _fewer(ours: float, theirs: float) -> str:
    """A rival's rate beside ours."""
    if not theirs or not ours:
        return f"{theirs:.0f}" if theirs else "none"
    if ours / theirs >= 1.05:
        return f"{theirs:.0f}, {ours / theirs:.1f} times fewer"
    return f"{theirs:.0f}, {f'{theirs / ours:.1f} times more' if theirs / ours >= 1.05 else 'as many'}"


def cost(figures: Figures) -> str:
    """Engine time of each plan and each request, and beside a prediction's."""
    times = {(cell["plan"], cell["batch"]): statistics.median(cell["seconds"]) * 1000 for cell in figures["cells"]}
    sizes = sorted({size for _, size in times})
    rows = []
    for plan in dict.fromkeys(plan for plan, _ in times):
        row = [plan]
        for size in sizes:
            row += [f"{times[plan, size]:.2f}", f"{times[plan, size] / times['predict', size]:.2f}"]
        rows.append(row)
    header = [text for size in sizes for text in (f"batch of {size}, ms", "of predict")]
    return f"{figures['engine']}.\n\n{table(['engine time', *header], rows)}\n\n{_served(figures['served'])}"


def _served(cells: list[Figures]) -> str:
    """Milliseconds of each request over HTTP: of the engine, as Server-Timing tells it, and of the whole."""
    times = {cell["request"]: [statistics.median(cell[part]) * 1000 for part in ("engine", "whole")] for cell in cells}
    predict, _ = times["predict"]
    rows = [
        (name, f"{engine:.2f}", f"{engine / predict:.2f}", f"{whole:.2f}") for name, (engine, whole) in times.items()
    ]
    return table(("over HTTP", "engine, ms", "of predict", "whole request, ms"), rows)


def batching(figures: Figures) -> str:
    """Mean latency by offered load."""
    means = latency_by_load(figures["cells"])
    rows = [
        (
            f"{each['load']:.0%}",
            *(f"{means[name, each['load']]:.1f}" for name in DISCIPLINES),
            f"{each['simulated_ms']:.1f}",
            f"{each['bound_ms']:.1f}",
        )
        for each in figures["theory"]
    ]
    fitted = (
        f"A batch of n takes {figures['a_ms']:.2f} + {figures['b_ms']:.2f}·n ms, so one batch at a time can do "
        f"{figures['capacity']:.0f} images a second in batches of {figures['max_batch']}; as served, up to "
        f"{figures['slots']} batches run side by side."
    )
    header = ("offered load", *DISCIPLINES.values(), "simulated a + b·n", "bound (Inoue)")
    return f"{fitted}\n\n{table(header, rows)}"


def latency_by_load(cells: list[Figures]) -> dict[tuple[str, float], float]:
    """(discipline, load) -> the median over rounds of the mean latency in ms."""
    grouped: dict[tuple[str, float], list[float]] = {}
    for cell in cells:
        grouped.setdefault((cell["discipline"], cell["load"]), []).append(cell["mean_ms"])
    return {key: statistics.median(values) for key, values in grouped.items()}


def starts(figures: Figures) -> str:
    """Seconds to ready and memory, by the state of the cache."""
    rows = []
    for kind in ("cold", "warm"):
        cells = [cell for cell in figures["starts"] if cell["cache"] == kind]
        ready_s = statistics.median(cell["ready_s"] for cell in cells)
        memory = [[cell[name] for cell in cells if name in cell] for name in ("ready_mib", "load_mib", "walk_mib")]
        rows.append(
            (f"{kind} cache", f"{ready_s:.1f}", *(f"{statistics.median(of):.0f}" if of else "-" for of in memory))
        )
    titles = ("start", "ready after, s", "resident at ready, MiB", "most under load, MiB", "most at all blocks, MiB")
    return table(titles, rows)


def scaling(figures: Figures) -> str:
    """Requests a second, latency, and milliseconds of processor time for a request, with and without Ray."""
    grouped: dict[tuple[str, str], list[Figures]] = {}
    for cell in figures["cells"]:
        grouped.setdefault((cell["route"], cell["kind"]), []).append(cell)
    rows = []
    for (route, kind), rounds in sorted(grouped.items(), key=lambda item: item[0][0], reverse=True):
        beside = statistics.median(each["rate"] for each in grouped[route, "alone"])
        rate, p50, p99 = (statistics.median(each[name] for each in rounds) for name in ("rate", "p50_ms", "p99_ms"))
        spent = [statistics.median(each["cpu_ms"][part] for each in rounds) for part in ("replicas", "proxy", "rest")]
        first = (route, SCALED[kind], f"{rate:.0f}", f"{rate / beside:.2f}", f"{p50:.1f}", f"{p99:.1f}")
        rows.append((*first, *(f"{each:.2f}" for each in spent), str(sum(each["errors"] for each in rounds))))
    header = ("route", "server", "req/s", "of one process", "p50 ms", "p99 ms")
    return table((*header, "CPU ms in the service", "in the proxy", "in the rest of Ray", "errors"), rows)
