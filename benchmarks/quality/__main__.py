"""Measure what maps are worth: `make quality` writes tables and pictures of two pages in docs/explanation."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer

from benchmarks import machine
from benchmarks.quality import calibration, damage, faithfulness, measure, plot, pointing, report
from benchmarks.quality.run import Run
from benchmarks.report import Figures, fill, machine_line
from benchmarks.servers import ROOT
from service.config import Settings

RESULTS: Final = ROOT / "benchmarks" / "results"
# An early one, a middle one, a late one and the default one of the default network. Other libraries are compared at the
# middle and the default one, which no gate follows, so that their hooks see the same value.
LAYERS: Final = "blocks.4,blocks.9,blocks.13,head"
_QUICK_PICTURES: Final = 8


@dataclass(frozen=True)
class Part:
    """``measure`` yields the records that are kept; ``page`` makes the marked blocks of a page from them alone.

    ``needs``: the option whose data is measured.
    """

    measure: Callable[[Run], Iterable[Figures]]
    page: Callable[[Sequence[Figures]], dict[str, str]]
    needs: str = ""
    written: str = "quality.md"


PARTS: Final = {
    "pointing": Part(pointing.measure, pointing.page, "boxes"),
    "faithfulness": Part(faithfulness.measure, faithfulness.page, "pictures"),
    "damage": Part(damage.measure, damage.page, "pictures"),
    "calibration": Part(calibration.measure, calibration.page, "pictures", "trust.md"),
    "scenes": Part(measure.measure, report.page),
}
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def main(
    boxes: Annotated[Path | None, typer.Option(help="A folder of photographs with boxes: where maps point.")] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(help="A folder of photographs: how faithful and robust maps are, and how often trust is right."),
    ] = None,
    parts: Annotated[str, typer.Option(help="Which to measure, between commas.")] = ",".join(PARTS),
    layers: Annotated[str, typer.Option(help="From early to late, between commas; for the default network.")] = LAYERS,
    from_results: Annotated[bool, typer.Option("--from-results", help="Measure nothing, write the pages.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Try that all works: no figure is worth anything.")] = False,
) -> None:
    """Without data of yours: costs, curves and other libraries on composed scenes.

    Blocks of a quick run and of another network are printed, not written.
    """
    names = [name.strip() for name in parts.split(",")]
    if unknown := set(names) - set(PARTS):
        raise typer.BadParameter(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    settings = Settings()
    kept = not quick and settings.model == pointing.NETWORKS[0]
    folder = RESULTS / "quality" if kept else RESULTS / "quick"
    folder.mkdir(parents=True, exist_ok=True)
    images = ROOT / "docs" / "images" if kept else folder
    paths = sorted(path for path in pictures.rglob("*.*") if path.is_file()) if pictures else []
    np.random.default_rng(0).shuffle(paths)
    chosen = [layer.strip() for layer in layers.split(",")]
    run = Run(settings, chosen, boxes, paths[: _QUICK_PICTURES if quick else None], images, quick)
    if unknown := set(chosen) - set(run.served[0].network.by_name):
        raise typer.BadParameter(f"the network has no layer {', '.join(sorted(unknown))}: name some by --layers")
    about = {"model": settings.model, "machine": machine.describe()}
    data = {"": True, "boxes": boxes is not None, "pictures": bool(paths)}
    for name in names:
        if name == "damage" and settings.model != damage.GATES[0]:
            run.say(f"damage: left out, because it compares {' with '.join(damage.GATES)}")
            continue
        part, path = PARTS[name], folder / f"{name}.jsonl.gz"
        if data[part.needs] and not from_results:
            run.say(name)
            lines = [json.dumps(record) + "\n" for record in chain([about], part.measure(run))]
            with gzip.open(path, "wt", encoding="utf-8") as file:  # whole or not at all
                file.writelines(lines)
        if path.exists():
            _write(part, path, images if kept else None)


def _write(part: Part, path: Path, images: Path | None) -> None:
    """The part's blocks, of the figures in its file, into its page; to be read here if there are no ``images``."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        about, *records = map(json.loads, file)
    blocks = {
        mark: f"{block} `{about['model']}`. {machine_line(about['machine'])}"
        for mark, block in part.page(records).items()
    }
    if images is None:
        print("\n\n".join(blocks.values()))
        return
    page = ROOT / "docs" / "explanation" / part.written
    text = page.read_text("utf-8")
    for mark, block in blocks.items():
        text = fill(text, mark, block, "make quality")
    page.write_text(text, "utf-8")
    if part is PARTS["pointing"]:
        plot.scores(pointing.by_method(records), images / "quality.png")


if __name__ == "__main__":
    app()
