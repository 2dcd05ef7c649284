"""``pellucid explain``, ``compare`` and ``what-if``: what each writes of a photograph, in a folder for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pellucid.client import AsyncClient
from pellucid.client.images import OPTIONS as PICTURES
from pellucid.network.spec import PIXELS
from pellucid.parts.compare import CompareOptions
from pellucid.parts.explain import ExplainOptions
from pellucid.parts.what_if import WhatIfOptions
from pellucid.schemas import Reply, Result

from . import files
from .run import Answer, Command, Export, Given, Sources

_EXPLAIN: Final = """Explain photographs, with or without a server.

With --figure, one photograph becomes one figure for a report.

With --out, each gets a folder with its name: predictions.json, overlay.png, mask.png, a grid of feature maps for each
layer, attention.png, and explanation.json with all the numbers. Folders are searched for pictures.

Exit codes: 0, all were explained; 1, some failed; 2, wrong options, or no server.
"""
_COMPARE: Final = """Compare two photographs, two classes or two networks, with or without a server.

Two photographs: `pellucid compare cat.jpg dog.jpg`. Two classes of each photograph: name both by --target. Two
networks: name the other by --against-model.

With --figure, the comparison is one figure for a report.

With --out, it gets a folder of its own: comparison.png, the figure; comparison-first.png, -second.png and
-difference.png, the maps on one scale; comparison-picture.png, the difference in colour; and comparison.json
with all the numbers.

Exit codes: 0, all were compared; 1, some failed; 2, wrong options, or no server.
"""
_WHAT_IF: Final = """Change channels of a layer or gate, and see what that does, with or without a server.

`pellucid what-if cat.jpg --layer head --mute 12,40 --out DIR`. --rank measures which channels matter.

With --figure, one photograph becomes one figure for a report.

With --out, each gets a folder of its own: what-if.png, the figure; what-if-first.png, -second.png and
-difference.png, the maps before and after and their difference, on one scale; and what-if.json with all the numbers.

Exit codes: 0, all were computed; 1, some failed; 2, wrong options, or no server.
"""


async def _explained(client: AsyncClient, sources: Sources, options: Given) -> Answer:
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


async def _compared(client: AsyncClient, sources: Sources, options: Given) -> Answer:
    found = await client.compare(*sources, **options)
    drawn = await client.figure(*sources, route="compare", **options)
    sides = found.first.target, found.second.target
    words = " and ".join(f"{side.label} ({side.score})" for side in sides)
    return Answer("comparison.json", files.numbers(found), {"comparison.png": bytes(drawn)}, words, sides[0])


async def _edited(client: AsyncClient, sources: Sources, options: Given) -> Answer:
    (source,) = sources
    reply = await client.reply("what-if", source, **options)
    drawn = await client.figure(source, route="what-if", **options)
    (result,) = reply.results
    assert isinstance(result, Result)
    assert result.what_if is not None
    change = result.what_if.targets[0]
    words = f"{change.before.label}, {change.before.score} before, {change.after.score} after"
    numbers = files.numbers(result, reply.provenance)
    return Answer("what-if.json", numbers, {"what-if.png": bytes(drawn)}, words, change.after)


explain = Command(
    "explain",
    ExplainOptions,
    _explained,
    _EXPLAIN,
    settled=frozenset({"overlay"}),  # always drawn
    of_figure=("overlay", "atlas"),
    exported=_exported,
).function()
compare = Command(
    "compare",
    CompareOptions,
    _compared,
    _COMPARE,
    done="compared",
    settled=frozenset(CompareOptions.never),
    paired=lambda options: not (options.get("against_model") or len(options.get("target", ())) == 2),
).function()
what_if = Command(
    "what-if",
    WhatIfOptions,
    _edited,
    _WHAT_IF,
    done="answered",
    refused=lambda options: (
        ""
        if {"mute", "keep", "scale", "rank"} & options.keys()
        else "Name channels by --mute, --keep or --scale, or ask for --rank."
    ),
).function()
