"""``pellucid models`` and ``pellucid layers``: the served networks, and the names in each."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from pellucid.network.spec import counted
from pellucid.schemas import ModelDetail, ModelSummary

from .session import ApiKey, AsJson, Url, explained_errors, print_json, session

_WIDE: Final = 1000


def models(
    model: Annotated[
        str | None, typer.Option(help="Without a server: the network to load, by name or as a compiled file.")
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List the networks of a server, or the one that this process would load."""

    async def run() -> list[ModelSummary]:
        async with session(url, api_key, model=model) as client:
            return await client.models()

    with explained_errors(url):
        served = asyncio.run(run())
    if as_json:
        print_json([model.model_dump() for model in served])
        return
    table = _table("model", "output", "input", "what it is")
    for each in served:
        name = f"{each.name} (default)" if each.default else each.name
        output = counted(each.output.shape[0], each.output.kind)
        if each.output.kind not in ("softmax", "embedding"):
            output += f" ({each.output.kind})"
        table.add_row(name, output, _shape(each.input), each.title)
    _print(table)


def layers(
    model: Annotated[
        str | None,
        typer.Argument(help="The network: a name of the server's, or without --url any name or compiled file."),
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List a network's layers and gates, by the names that --layer and --layers take."""

    async def run() -> ModelDetail:
        async with session(url, api_key, model=model) as client:
            name = model if model and url else next(served.name for served in await client.models() if served.default)
            return await client.model(name)

    with explained_errors(url):
        detail = asyncio.run(run())
    if as_json:
        shown = {"name", "layers", "gates", "spatial_gates", "default_layer", "feature_layers"}
        print_json(detail.model_dump(include=shown))
        return
    table = _table("layer", "kind", "channels x height x width", "")
    for layer in detail.layers:
        notes = {
            "heat map": layer.name == detail.default_layer.name,
            "feature maps": layer.name in detail.feature_layers,
        }
        default = ", ".join(name for name, holds in notes.items() if holds)
        table.add_row(layer.name, layer.kind, _shape(layer.shape), f"default of {default}" if default else "")
    _print(table)
    if not detail.default_layer.name:
        Console().print(f"No heat maps: {detail.default_layer.why}.", markup=False)
    for kind, gates in (("gate", detail.gates), ("gate of positions", detail.spatial_gates)):
        if not gates:
            continue
        table = _table(kind, "kind", "channels x height x width", "squash")
        for gate in gates:
            table.add_row(gate.layer, gate.type, _shape(gate.shape), gate.squash)
        _print(table)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _print(table: Table) -> None:
    """As wide as the names, whatever the terminal: a name on two lines can't be copied or searched."""
    Console(width=_WIDE, soft_wrap=True).print(table, crop=False)


def _shape(shape: list[int]) -> str:
    return " x ".join(map(str, shape))
