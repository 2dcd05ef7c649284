"""Measure what maps are worth and write docs/explanation/quality.md: `make quality`, some ten minutes on two cores."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Final

import typer

import pellucid
from benchmarks import machine, methods
from benchmarks.quality import calibration, faithfulness, plot, pointing, report
from benchmarks.quality.boxes import Folder
from benchmarks.quality.measure import Effort, Network, measure
from benchmarks.quality.scenes import composed, recognised
from benchmarks.report import Figures, fill, machine_line
from benchmarks.servers import ROOT
from pellucid.network.spec import NetworkSpec
from service.config import Settings

RESULTS: Final = ROOT / "benchmarks" / "results"
IMAGES: Final = ROOT / "docs" / "images"
# Measured on photographs: of the first, every method.
NETWORKS: Final = ("lite0", "lite0-plain", "lite2")
# An early one, a middle one, a late one and the default one of the default network. Other libraries are compared at the
# middle and the default one, which no gate follows, so that their hooks see the same value.
LAYERS: Final = "blocks.4,blocks.9,blocks.13,head"
_SHOWN: Final = 6
_QUICK: Final = Effort(scenes=2, curves=1, passes=96, least=1)
_BEGUN: Final = time.perf_counter()

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def main(
    boxes: Annotated[Path | None, typer.Option(help="A folder of photographs with boxes: where maps point.")] = None,
    classes: Annotated[
        Path | None,
        typer.Option(help="With --boxes: a folder of folders, one for each class, named by its number: top 1 by view."),
    ] = None,
    calibrate: Annotated[
        Path | None, typer.Option(help="A folder of pictures: how often trust is right. Nothing else is measured.")
    ] = None,
    faithful: Annotated[
        Path | None, typer.Option(help="A folder of pictures: how faithful maps are. Nothing else is measured.")
    ] = None,
    layers: Annotated[str, typer.Option(help="From early to late, between commas; for the default network.")] = LAYERS,
    quick: Annotated[bool, typer.Option("--quick", help="Try that all works: no figure is worth anything.")] = False,
) -> None:
    """Without options: costs, curves and other libraries on composed scenes.

    Tables of a quick run and of another network are printed, not written.
    """
    settings = Settings()
    described = machine.describe()
    chosen = [layer.strip() for layer in layers.split(",")]
    if calibrate is not None:
        pictures = sorted(path for path in calibrate.rglob("*.*") if path.is_file())
        written = calibration.page(calibration.measure(pictures, settings, _say))
        about = f"`{settings.model}`, {len(pictures)} pictures. {machine_line(described)}"
        _fill("explanation/trust.md", {"calibration": f"{written}\n\n{about}"}, "make quality CALIBRATE=folder")
        return
    if faithful is not None:
        lines = RESULTS / "faithfulness.jsonl"
        faithfulness.measure(faithful, chosen, settings, lines, _say)
        written = f"{faithfulness.page(lines)} `{settings.model}`. {machine_line(described)}"
        _fill("explanation/quality.md", {"faithfulness": written}, "make quality FAITHFUL=folder")
        return
    folder = RESULTS / "quick" if quick else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    if boxes is not None:
        found = _photographs(settings, boxes, classes, chosen, folder / "pointing.jsonl", quick)
        found["photographs"] += f" Maps in fp32.\n\n{machine_line(described)}"
    else:
        found = _scenes(settings, chosen, folder / "quality.json", quick, described)
    if not _fills(settings, quick):
        print("\n\n".join(found.values()))
        return
    _fill("explanation/quality.md", found, "make quality BOXES=folder" if boxes else "make quality")


def _fill(name: str, parts: dict[str, str], by: str) -> None:
    page = ROOT / "docs" / name
    text = page.read_text("utf-8")
    for mark, written in parts.items():
        text = fill(text, mark, written, by)
    page.write_text(text, "utf-8")
    _say(f"written: docs/{name}")


def _photographs(
    settings: Settings, boxes: Path, classes: Path | None, layers: list[str], path: Path, quick: bool
) -> dict[str, str]:
    """The tables of photographs with boxes, from the figures of each picture in a file."""
    with path.open("w", encoding="utf-8") as file:
        for name in NETWORKS if settings.model == NETWORKS[0] else (settings.model,):
            network = pellucid.open(name, precision="fp32")
            try:
                folder = Folder(boxes, network.spec)
            except (OSError, ValueError) as error:
                raise typer.BadParameter(str(error)) from None
            for view in pointing.views(network):
                if name == settings.model and view == pointing.VIEW:
                    methods = pointing.cheap(network, [*_known(layers, network.network), network.network.default_layer])
                else:
                    methods = {network.network.default_layer: [pointing.DEFAULT]}
                right = {} if classes is None else {"top_1": pointing.top_1(network, view, classes)}
                for figures in pointing.measure(network, view, methods, folder, folder.files[: 4 if quick else None]):
                    file.write(json.dumps(figures | right) + "\n")
                _say(f"{name}, {view}")
    records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    if _fills(settings, quick):
        plot.scores(pointing.by_method(records), IMAGES / "quality.png")
    return {"photographs": pointing.methods_table(records), "views": pointing.views_table(records)}


def _scenes(settings: Settings, layers: list[str], path: Path, quick: bool, described: Figures) -> dict[str, str]:
    """The tables of composed scenes, and their picture."""
    network = Network(settings)
    layers = _known(layers, network.engine.network)
    chosen = [*dict.fromkeys((layers[len(layers) // 3], layers[-1]))]
    try:
        scenes = composed(network.spec)
    except KeyError as error:
        raise typer.BadParameter(f"{network.spec.name} has no class {error}: point it at pictures by --boxes") from None
    found = recognised(scenes, network.best)
    if not found:
        raise typer.BadParameter("the network recognises none of these: no class is among its five best")
    _say(f"of {len(scenes)} scenes the network recognises {len(found)}")
    figures, heat_maps = measure(network, found, chosen, _QUICK if quick else Effort(), _say)
    figures |= {"machine": described, "agreement": {} if quick else methods.agreements()}
    path.write_text(json.dumps(figures) + "\n", "utf-8")
    if _fills(settings, quick):
        labels = network.spec.labels
        plot.maps(found[:_SHOWN], heat_maps[:_SHOWN], chosen[-1], labels, IMAGES / "quality-maps.jpg")
    about = f"{report.scenes(figures)} Of {len(scenes)} scenes, those whose class is among the five best."
    overview = report.overview(figures, figures["agreement"])
    return {
        "overview": f"{overview}\n\n{about}\n\n{machine_line(described)}",
        "libraries": report.libraries(figures),
    }


def _fills(settings: Settings, quick: bool) -> bool:
    """Whether the page's tables and pictures are written: they are of the default network."""
    return not quick and settings.model == NETWORKS[0]


def _known(layers: list[str], network: NetworkSpec) -> list[str]:
    if unknown := set(layers) - set(network.by_name):
        raise typer.BadParameter(f"the network has no layer {', '.join(sorted(unknown))}: name some by --layers")
    return layers


def _say(line: str) -> None:
    print(f"{time.perf_counter() - _BEGUN:4.0f} s  {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    app()
