"""``pellucid explain``: pictures and numbers of each photograph, in a folder for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pellucid.client import AsyncClient
from pellucid.client.images import OPTIONS as PICTURES
from pellucid.network.spec import PIXELS
from pellucid.parts.explain import ExplainOptions
from pellucid.schemas import Reply, Result

from . import files
from .run import Answer, Command, Export, Given, Sources

_HELP: Final = """Explain photographs, with or without a server.

With --figure, one photograph becomes one figure for a report.

With --out, each gets a folder with its name: predictions.json, overlay.png, mask.png, a grid of feature maps for each
layer, attention.png, and explanation.json with all the numbers. Folders are searched for pictures.

Exit codes: 0, all were explained; 1, some failed; 2, wrong options, or no server.
"""


async def _answer(client: AsyncClient, sources: Sources, options: Given) -> Answer:
    """The parts of one picture, and its plot of weights, which shows them for one class."""
    (source,) = sources
    reply = await client.reply("explain", source, **options | {"overlay": True})
    (result,) = reply.results
    assert isinstance(result, Result)
    others = {}
    if result.attention:
        plotted: Given = {"effects": False}
        layers = [name.strip() for given in options.get("layer") or [] for name in given.split(",")]
        if inner := [name for name in layers if name not in ("", PIXELS)]:  # pixels have no channels
            plotted["layer"] = inner[0]
        if targets := options.get("target"):
            plotted["target"] = targets[0]
        plotted |= {name: options[name] for name in ("model", "region", "view", "detail", *PICTURES) if name in options}
        others["attention.png"] = bytes(await client.picture("attention", source, **plotted))
    best = next(iter([*(result.predictions or []), *(cam.target for cam in result.grad_cam or [])]), None)
    numbers = files.numbers(result, reply.provenance)
    found = {name: numbers[name] for name in ("image", "predictions", "embedding") if name in numbers}
    if len(found) > 1:
        others["predictions.json"] = files.as_json(found)
    return Answer("explanation.json", numbers, others, f"{best.label} ({best.score})" if best else "", best)


def _exported(done: list[tuple[Path, Path]], export: Export, threshold: float) -> Given:
    """The heat maps that were written, as COCO's annotations or FiftyOne's dataset."""
    from pellucid.exports import to_coco, to_fiftyone

    def answers() -> Iterator[tuple[Path, Reply]]:
        for source, folder in done:
            yield source, Reply.model_validate_json(files.reply(folder / "explanation.json"))

    if export == "fiftyone":
        return to_fiftyone(answers())
    return to_coco(answers(), threshold=threshold, polygons=export == "coco-polygons")


explain = Command(
    "explain",
    ExplainOptions,
    _answer,
    _HELP,
    settled=frozenset({"overlay"}),  # always drawn
    of_figure=("overlay", "atlas"),
    exported=_exported,
).function()
