"""The figures as a picture."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report import DISCIPLINES, TITLES, Figures, ceiling_rate, latency_by_load, medians

COLOURS = {
    "pellucid": "#0b6e99",
    "pellucid-int8": "#7fc4de",
    "fastapi": "#d9730d",
    "litserve": "#6b6b6b",
    "openvino-xai": "#6940a5",
    "mosec": "#2e8b57",
}
_STYLES = {"served": "o-", "greedy": "s--", "window": "^-"}


def draw(parts: dict[str, Figures], path: Path) -> bool:
    """One panel for each route, requests a second by callers, and one for latency by load; those that were measured.

    False, and no picture, where none was.
    """
    service, batching = parts.get("service"), parts.get("batching")
    routes = list(dict.fromkeys(cell["route"] for cell in service["cells"])) if service else []
    count = len(routes) + (batching is not None)
    if not count:
        return False
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(3.4 * count, 3.2), layout="constrained")
        axes = list(figure.subplots(1, count, squeeze=False)[0])
        for route in routes:
            assert service is not None
            _throughput(axes.pop(0), service, route)
        if batching is not None:
            _latency(axes.pop(0), batching)
        if routes:  # every server has predictions, which come first
            legend = figure.axes[0].get_legend_handles_labels()
            figure.legend(*legend, loc="outside lower left", ncols=len(legend[1]), frameon=False, fontsize=7)
        figure.savefig(path, dpi=160)
    return True


def _throughput(ax: Axes, figures: Figures, route: str) -> None:
    found = medians(figures["cells"])
    ax.axhline(ceiling_rate(figures), color="black", linewidth=0.8, linestyle=":", label="ceiling: no HTTP, predict")
    for server, colour in COLOURS.items():
        rates = {key[1]: cell["rate"] for key, cell in found.items() if (key[0], key[2]) == (route, server)}
        if rates:
            ax.plot([*rates], [*rates.values()], "o-", color=colour, label=TITLES[server])
    crowds = sorted({callers for name, callers, _ in found if name == route})
    ax.set_xscale("log", base=2)
    ax.set_xticks(crowds, [str(callers) for callers in crowds])
    ax.set_ylim(bottom=0)
    ax.set_xlabel("callers")
    ax.set_ylabel("requests a second")
    ax.set_title(route)


def _latency(ax: Axes, figures: Figures) -> None:
    means = latency_by_load(figures["cells"])
    loads = [each["load"] for each in figures["theory"]]
    for name, title in DISCIPLINES.items():
        ax.plot(loads, [means[name, load] for load in loads], _STYLES[name], label=title, markersize=4)
    bounds = [each["bound_ms"] for each in figures["theory"]]
    ax.plot(loads, bounds, ":", color="black", label="bound (Inoue 2021)")
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_formatter("{x:.0%}")
    ax.set_xlabel("offered load, of one batch at a time")
    ax.set_ylabel("mean latency, ms")
    ax.set_title("batching")
    ax.legend(frameon=False, fontsize=7)
