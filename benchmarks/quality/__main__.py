"""Measure what maps are worth and write docs/quality.md: `make quality`, some ten minutes on two cores."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Final

import typer

import pellucid
from benchmarks import machine, methods
from benchmarks.quality import boxes as labelled
from benchmarks.quality import calibration, faithfulness, plot, report, views
from benchmarks.quality.measure import Effort, Network, measure
from benchmarks.quality.scenes import Scene, composed, recognised, spread
from benchmarks.report import Figures, fill, machine_line
from benchmarks.servers import ROOT
from pellucid.errors import PellucidError
from service.config import Settings

RESULTS: Final = ROOT / "benchmarks" / "results"
# An early one, a middle one, and the default one of the default network. The libraries are compared at all but the
# first: no gate follows there, behind which their hooks would see another value.
LAYERS: Final = "blocks.4,blocks.9,head"
_SHOWN: Final = 6
_PLOTS: Final = (
    "![Each method's pointing game, energy in the box, deletion and insertion by layer, and energy by cost]"
    "(images/quality.png)\n\n"
    "![Scenes with their true boxes, and each method's map at the default layer or the pixels](images/quality-maps.jpg)"
)
_QUICK: Final = Effort(scenes=2, curves=1, passes=96, least=1)
_BEGUN: Final = time.perf_counter()

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def main(
    boxes: Annotated[
        Path | None, typer.Option(help="A folder of pictures with boxes, in place of the composed ones.")
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(help="A folder of folders, one for each class, named by its number: top 1 by view."),
    ] = None,
    only_views: Annotated[bool, typer.Option("--views", help="Of --boxes: compare the views alone.")] = False,
    calibrate: Annotated[
        Path | None, typer.Option(help="A folder of pictures: how often trust is right. Nothing else is measured.")
    ] = None,
    faithful: Annotated[
        Path | None, typer.Option(help="A folder of pictures: how faithful maps are. Nothing else is measured.")
    ] = None,
    layers: Annotated[str, typer.Option(help="From early to late, between commas; for the default network.")] = LAYERS,
    quick: Annotated[bool, typer.Option("--quick", help="Try that all works: no figure is worth anything.")] = False,
) -> None:
    """Composed scenes fill the page; a folder of one's own, and a quick run, get a page of their own."""
    settings = Settings()
    described = machine.describe()
    chosen = [layer.strip() for layer in layers.split(",")]
    if calibrate is not None:
        pictures = sorted(path for path in calibrate.rglob("*.*") if path.is_file())
        written = calibration.page(calibration.measure(pictures, settings, _say))
        about = f"`{settings.model}`, {len(pictures)} pictures. {machine_line(described)}"
        _fill("trust.md", {"calibration": f"{written}\n\n{about}"}, "make quality CALIBRATE=folder")
        return
    if faithful is not None:
        lines = RESULTS / "faithfulness.jsonl"
        faithfulness.measure(faithful, chosen, settings, lines, _say)
        written = f"{faithfulness.page(lines)} `{settings.model}`. {machine_line(described)}"
        _fill("quality.md", {"faithfulness": written}, "make quality FAITHFUL=folder")
        return
    if boxes is not None and only_views:
        print(_views(settings, boxes, classes))
        return
    network = Network(settings)
    unknown = set(chosen) - set(network.engine.network.by_name)
    if unknown:
        raise typer.BadParameter(
            f"{network.spec.name} has no layer {', '.join(sorted(unknown))}: name some by --layers"
        )
    scenes = _scenes(boxes, network, settings)
    found = spread(recognised(scenes, network.best))
    if not found:
        raise typer.BadParameter("the network recognises none of these: no class is among its five best")
    _say(f"of {len(scenes)} scenes the network recognises {len(found)}")
    figures, heat_maps = measure(network, found, chosen, _QUICK if quick else Effort(), _say)
    figures["machine"], figures["composed"] = described, len(scenes)
    agreement = {} if quick else methods.agreements()
    figures["agreement"] = agreement
    own = quick or boxes is not None
    folder = RESULTS / ("quick" if quick else "boxes" if boxes is not None else "quality")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "quality.json").write_text(json.dumps(figures) + "\n", "utf-8")
    images = folder if own else ROOT / "docs" / "images"
    plot.scores(figures, images / "quality.png")
    shown = min(_SHOWN, len(heat_maps))
    plot.maps(found[:shown], heat_maps[:shown], chosen[-1], network.spec.labels, images / "quality-maps.jpg")
    parts = contents(figures)
    if boxes is not None and not quick:
        parts["views"] = _views(settings, boxes, classes)
    if own:
        text = "\n\n".join(parts.values())
        (folder / "quality.md").write_text(text + "\n", "utf-8")
        print(text)
        _say(f"written: {folder / 'quality.md'}")
        return
    _fill("quality.md", {**parts, "plots": _PLOTS}, "make quality")
    _say("written: docs/images/quality.png, docs/images/quality-maps.jpg")


def _fill(name: str, parts: dict[str, str], by: str) -> None:
    page = ROOT / "docs" / name
    text = page.read_text("utf-8")
    for mark, written in parts.items():
        text = fill(text, mark, written, by)
    page.write_text(text, "utf-8")
    _say(f"written: docs/{name}")


def contents(figures: Figures) -> dict[str, str]:
    """What stands between the page's marks, by their names."""
    about = f"{report.scenes(figures)} Of {figures['composed']} scenes, those whose class is among the five best."
    overview = report.overview(figures, figures["agreement"])
    return {
        "overview": f"{overview}\n\n{about}\n\n{machine_line(figures['machine'])}",
        "layers": report.layers(figures),
        "libraries": report.libraries(figures),
    }


def _views(settings: Settings, boxes: Path, classes: Path | None) -> str:
    network = pellucid.open(settings.model, precision="fp32")
    return views.page(
        network.spec.name, views.measure(network, boxes, labelled.boxes_of(boxes, network.spec), classes, _say)
    )


def _scenes(boxes: Path | None, network: Network, settings: Settings) -> list[Scene]:
    try:
        if boxes is not None:
            return labelled.read(boxes, network.spec, settings.max_megapixels * 10**6, network.best)
        return composed(network.spec)
    except KeyError as error:
        raise typer.BadParameter(f"{network.spec.name} has no class {error}: point it at pictures by --boxes") from None
    except (OSError, ValueError, PellucidError) as error:
        raise typer.BadParameter(str(error)) from None


def _say(line: str) -> None:
    print(f"{time.perf_counter() - _BEGUN:4.0f} s  {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    app()
