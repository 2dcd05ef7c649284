"""``pellucid bench``: pictures a second and latency of each route."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from pellucid.client import ApiError

from .session import ApiKey, AsJson, Timeout, Url, explained_errors, misused, print_json, session

SAMPLE: Final = Path(__file__).parents[1] / "web" / "samples" / "cat.jpg"
_ROUTES: Final = ("predict", "attention", "feature-maps", "grad-cam", "explain")


@dataclass
class _Tally:
    """The seconds of each answer, and the number of errors by status."""

    seconds: list[float] = field(default_factory=list)
    refused: Counter[int] = field(default_factory=Counter)
    took: float = 0

    def as_json(self, route: str) -> dict[str, Any]:
        cuts = statistics.quantiles(self.seconds * 2, n=100, method="inclusive") if self.seconds else [0.0] * 99
        return {
            "route": f"/v1/{route}",
            "answers": len(self.seconds),
            "per_second": round(len(self.seconds) / self.took, 2),
            "p50_ms": round(cuts[49] * 1000, 1),
            "p99_ms": round(cuts[98] * 1000, 1),
            "refused": dict(self.refused),
        }


def bench(
    image: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Photograph to send.")] = SAMPLE,
    route: Annotated[
        list[str] | None,
        typer.Option(help=f"One of {', '.join(_ROUTES)}; may be repeated. Default: all, one after the other."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds for each route.")] = 5,
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="Number of concurrent callers.")] = 8,
    timeout: Timeout = 60,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Measure how fast each route answers: a probe with one photograph, not a benchmark.

    With --url, over HTTP. Without it, a service in this process answers, so the cost of HTTP is left out.
    """
    routes = route or list(_ROUTES)
    for name in routes:
        if name not in _ROUTES:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(_ROUTES)}.", param_hint="--route")
    data = image.read_bytes()

    async def run() -> list[dict[str, Any]]:
        async with session(url, api_key, timeout_s=timeout, retries=0) as client:
            asks = [partial(getattr(client, name.replace("-", "_")), data) for name in routes]
            done = [await _probe(ask, seconds, concurrency) for ask in asks]
            return [tally.as_json(name) for tally, name in zip(done, routes, strict=True)]

    with explained_errors(url):
        rows = asyncio.run(run())
    if as_json:
        print_json(rows)
        return
    table = Table(box=None, pad_edge=False)
    for column in ("route", "answers", "a second", "p50 ms", "p99 ms", "refused"):
        table.add_column(column, justify="left" if column == "route" else "right")
    for row in rows:
        refused = ", ".join(f"{status}: {count}" for status, count in row["refused"].items())
        table.add_row(
            *(str(row[key]) for key in ("route", "answers", "per_second", "p50_ms", "p99_ms")), refused or "0"
        )
    Console().print(table)


async def _probe(ask: Callable[[], Awaitable[Any]], seconds: float, concurrency: int) -> _Tally:
    """Run callers side by side until the time is over. Each sends its next request after a reply."""
    await ask()  # warm up: the first request compiles
    tally = _Tally()
    started = time.perf_counter()

    async def call() -> None:
        while (begun := time.perf_counter()) < started + seconds:
            try:
                await ask()
            except ApiError as error:
                if misused(error):
                    raise
                tally.refused[error.status] += 1
                await asyncio.sleep(min(error.retry_after_s or 0, seconds / 10))  # as a caller who follows Retry-After
            else:
                tally.seconds.append(time.perf_counter() - begun)

    await asyncio.gather(*(call() for _ in range(concurrency)))
    tally.took = time.perf_counter() - started
    return tally
