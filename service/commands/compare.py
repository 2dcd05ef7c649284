"""``pellucid compare`` and ``pellucid what-if``: two answers side by side, in a folder for each photograph."""

from __future__ import annotations

from typing import Final

from pellucid.client import AsyncClient
from pellucid.parts.compare import CompareOptions
from pellucid.parts.what_if import WhatIfOptions
from pellucid.schemas import Result

from . import files
from .run import Answer, Command, Given, Sources

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
