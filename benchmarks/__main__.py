"""`python -m benchmarks` measures all parts and writes the report; a part's name measures that part alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import comparison, machine, report
from benchmarks.servers import SPECS

RESULTS = Path(__file__).with_name("results")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)

Seconds = Annotated[float, typer.Option(help="Measured seconds of each cell.")]
Rounds = Annotated[int, typer.Option(min=1, help="Rounds, taken in turn; figures are medians of them.")]


def say(line: str) -> None:
    """Progress, as it happens."""
    print(line, file=sys.stderr, flush=True)


def keep(part: str, figures: dict[str, Any]) -> None:
    """Raw figures of a part, with the machine that they are of."""
    RESULTS.mkdir(exist_ok=True)
    figures = {"machine": machine.describe(), **figures}
    (RESULTS / f"{part}.json").write_text(json.dumps(figures, indent=1) + "\n", "utf-8")


def _split(names: str, known: tuple[str, ...]) -> list[str]:
    chosen = [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in known:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(known)}")
    return chosen


@app.callback()
def main() -> None:
    """Parts can be measured alone."""


@app.command()
def service(
    servers: Annotated[str, typer.Option(help="Which, between commas.")] = ",".join(SPECS),
    routes: Annotated[str, typer.Option(help="Which, between commas.")] = ",".join(comparison.ROUTES),
    callers: Annotated[str, typer.Option(help="How many at once, between commas.")] = "1,16,64,512",
    seconds: Seconds = 4.0,
    rounds: Rounds = 3,
) -> None:
    """The service against the in-process ceiling and its rivals."""
    choice = comparison.Choice(
        _split(servers, tuple(SPECS)),
        _split(routes, comparison.ROUTES),
        [int(number) for number in callers.split(",")],
        seconds,
        rounds,
    )
    keep("service", comparison.compare(choice, say))
    print(report.comparison_table(json.loads((RESULTS / "service.json").read_text("utf-8"))))


if __name__ == "__main__":
    app()
