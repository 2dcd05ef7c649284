"""Every figure in one run with what it is compared with.

Without a command: the parts one after the other, and the report. Stop what else runs on the machine first.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import batching as batching_part
from benchmarks import commits, comparison, machine, plot, targets
from benchmarks import cost as cost_part
from benchmarks import report as tables
from benchmarks import scaling as scaling_part
from benchmarks import start as start_part
from benchmarks.servers import ROOT, SPECS

RESULTS = Path(__file__).with_name("results")
TRIAL = RESULTS / "quick"
PICTURE = ROOT / "docs" / "images" / "performance.png"
_SHOWN = "![Requests a second by callers, for each route; mean latency by offered load](../images/performance.png)"
_BEGUN = time.perf_counter()
PARTS = ("service", "cost", "batching", "start", "scaling")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, invoke_without_command=True, help=__doc__)

Seconds = Annotated[float, typer.Option(min=0.5, help="Measured seconds of each cell.")]
Rounds = Annotated[int, typer.Option(min=1, help="Rounds, taken in turn; figures are medians of them.")]


@app.callback()
def everything(
    context: typer.Context,
    parts: Annotated[str, typer.Option(help="Which, between commas.")] = ",".join(PARTS),
    quick: Annotated[bool, typer.Option("--quick", help="Try that all works: no figure is worth anything.")] = False,
) -> None:
    """The parts with their defaults, and the report; quick ones are kept and drawn apart, and fill no page."""
    if context.invoked_subcommand is not None:
        return
    chosen = _split(parts, PARTS)
    for part in chosen:
        if quick:
            _try(part)
        else:
            _measure(part)
        _say(f"{part}: done")
    if quick:
        plot.draw(_kept(TRIAL), TRIAL / "performance.png")
    else:
        report()


def _measure(part: str) -> None:
    measure: dict[str, Callable[[], None]] = {
        "service": service,
        "cost": cost,
        "batching": batching,
        "start": start,
        "scaling": scaling,
    }
    measure[part]()


def _try(part: str) -> None:
    choice = comparison.Choice(callers=(1, 16), seconds=0.5, rounds=1)
    measure: dict[str, Callable[[], tables.Figures]] = {
        "service": lambda: comparison.compare(choice, _say),
        "cost": lambda: cost_part.measure(1, _say),
        "batching": lambda: batching_part.measure(0.5, 1, _say),
        "start": lambda: start_part.measure(0.5, 1, _say),
        "scaling": lambda: scaling_part.measure(0.5, 1, _say),
    }
    _keep(part, measure[part], TRIAL)


@app.command()
def service(
    servers: Annotated[str, typer.Option(help="Which, between commas.")] = ",".join(SPECS),
    routes: Annotated[str, typer.Option(help="Which, between commas.")] = ",".join(comparison.ROUTES),
    callers: Annotated[str, typer.Option(help="How many at once, between commas.")] = "1,16,64,512",
    seconds: Seconds = 3.0,
    rounds: Rounds = 3,
) -> None:
    """The service against the in-process ceiling and its rivals."""
    choice = comparison.Choice(
        _split(servers, tuple(SPECS)),
        _split(routes, comparison.ROUTES),
        [int(number) for number in _split(callers)],
        seconds,
        rounds,
    )
    _keep("service", lambda: comparison.compare(choice, _say))


@app.command()
def cost(rounds: Rounds = 10) -> None:
    """What an explanation costs the engine."""
    _keep("cost", lambda: cost_part.measure(rounds, _say))


@app.command()
def batching(seconds: Seconds = 4.0, rounds: Rounds = 2) -> None:
    """Mean latency against offered load, beside a fixed window and the closed-form bound."""
    _keep("batching", lambda: batching_part.measure(seconds, rounds, _say))


@app.command()
def start(seconds: Seconds = 4.0, rounds: Rounds = 2) -> None:
    """Seconds from process start to ready, and memory."""
    _keep("start", lambda: start_part.measure(seconds, rounds, _say))


@app.command()
def scaling(seconds: Seconds = 4.0, rounds: Rounds = 3) -> None:
    """One replica of Ray Serve against two, and against none: what its proxy costs."""
    _keep("scaling", lambda: scaling_part.measure(seconds, rounds, _say))


@app.command()
def compare(
    base: str, head: str = "HEAD", seconds: Seconds = 0.8, rounds: Annotated[int, typer.Option(min=2)] = 8
) -> None:
    """Two commits in turn: which cells differ by more than noise. Changes that are not committed are not measured."""
    _keep("commits", lambda: commits.measure((base, head), seconds, rounds, _say))


@app.command()
def report() -> None:
    """Write what was measured last into the pages on performance and scaling, the README and the plot."""
    parts = _kept(RESULTS)
    content = {part: f"{tables.machine_line(parts[part]['machine'])}\n\n{_table(part, parts[part])}" for part in parts}
    content["targets"] = targets.targets(parts)
    if plot.draw(parts, PICTURE):
        content["plot"] = _SHOWN
    for name, written in content.items():
        page = ROOT / "docs" / ("how-to/scaling.md" if name == "scaling" else "explanation/performance.md")
        page.write_text(tables.fill(page.read_text("utf-8"), name, written), "utf-8")
    if "service" in parts:
        readme = ROOT / "README.md"
        said = tables.in_words(parts["service"])
        readme.write_text(tables.fill(readme.read_text("utf-8"), "benchmarks", said), "utf-8")
    _say("written: docs/explanation/performance.md, docs/how-to/scaling.md, README.md, docs/images/performance.png")


def _table(part: str, figures: tables.Figures) -> str:
    write = {
        "service": tables.comparison,
        "cost": tables.cost,
        "batching": tables.batching,
        "start": tables.starts,
        "scaling": tables.scaling,
        "commits": commits.written,
    }
    return write[part](figures)


def _keep(part: str, measure: Callable[[], tables.Figures], folder: Path = RESULTS) -> None:
    """Measure a part, keep its raw figures with the machine that they are of, and print its tables."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {"machine": machine.describe(), **measure()}
    (folder / f"{part}.json").write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    if part in PARTS:
        here = figures["machine"]
        line = {name: here[name] for name in ("commit", "date", "load_average")}
        line |= {"machine": tables.machine_kind(here), "part": part, "cells": tables.summary(figures)}
        with (folder / "history.jsonl").open("a", encoding="utf-8") as history:
            history.write(json.dumps(line) + "\n")
    written = [tables.machine_line(figures["machine"]), _table(part, figures)]
    if part not in ("batching", "scaling", "commits"):
        written.append(targets.targets({part: figures}))
    print("\n", "\n\n".join(written), "\n", sep="", flush=True)


def _kept(folder: Path) -> dict[str, tables.Figures]:
    """The raw figures of every part that was measured."""
    parts = {part: json.loads(file.read_text("utf-8")) for part in PARTS if (file := folder / f"{part}.json").exists()}
    if not all("core_ms" in cell for cell in parts.get("service", {"cells": ()})["cells"]):
        raise typer.BadParameter("an earlier version wrote service.json, without core-ms: measure service anew")
    return parts


def _say(line: str) -> None:
    """Progress, as it happens, with the time since the start."""
    print(f"{time.perf_counter() - _BEGUN:4.0f} s  {line}", file=sys.stderr, flush=True)


def _split(names: str, known: tuple[str, ...] | None = None) -> list[str]:
    chosen = [name.strip() for name in names.split(",")]
    for name in chosen:
        if known is not None and name not in known:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(known)}")
    return chosen


if __name__ == "__main__":
    app()
