"""The blocks of docs/reference that follow from the code: ``make reference``. test_docs.py compares them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from unittest.mock import MagicMock

import typer
import typer.core
import typer.main

from benchmarks.report import fill, table
from pellucid import errors
from pellucid.client.sync import Client, Explainer
from pellucid.parts.compare import CompareOptions
from service.app import build
from service.cli import main
from service.config import Settings
from tests.support import REPOSITORY

FOLDER: Final = REPOSITORY / "docs" / "reference"
Document = Mapping[str, Any]
# What a client can do about an error of this status, unless the error's docstring says more.
_WAIT: Final = "Send the request again after `Retry-After` seconds."
_REMEDIES: Final = {
    401: "Send a key as `Authorization: Bearer KEY` or as `X-API-Key: KEY`.",
    408: "Send the request again; its headers must arrive in time.",
    429: _WAIT,
    500: "Send it again once. If it fails again, tell the operator the `request_id`: the log has the cause.",
    503: _WAIT,
}
_CORRECT: Final = "Correct the request: `detail` says how."


def routes(document: Document) -> str:
    """Every route with its summary."""
    found = document["paths"].items()
    rows = [(f"`{way.upper()} {path}`", stated["summary"]) for path, ways in found for way, stated in ways.items()]
    return table(("route", "answers"), rows)


def options(document: Document) -> str:
    """The query parameters of every route under /v1, each once: a route names those that an earlier one has as well."""
    asked = {
        path: [
            each
            for each in stated.get("parameters", ())
            if each["in"] == "query" and not (path == "/v1/compare" and each["name"] in CompareOptions.never)
        ]
        for path, ways in document["paths"].items()
        if path.startswith("/v1") and ":" not in path
        for stated in ways.values()
    }
    posted = [taken for path, taken in asked.items() if "post" in document["paths"][path]]
    homes = {"": [each for each in posted[0] if all(each in taken for taken in posted)]}
    sections = [f"### Every POST route\n\n{_options(homes[''])}"]
    for path, taken in asked.items():
        listed = [f"{_names(names)} (as [`{home}`](#{_anchor(home)}))" for home, names in _shared(taken, homes) if home]
        own = [each for each in taken if not any(each in home for home in homes.values())]
        if own:
            also = f"\n\nAlso {'; '.join(listed)}." if listed else ""
            sections.append(f"### `{path}`\n\n{_options(own)}{also}")
            homes[path] = own
    return "\n\n".join(sections)


def _shared(taken: Sequence[Any], homes: Mapping[str, Sequence[Any]]) -> Iterator[tuple[str, list[str]]]:
    for home, listed in homes.items():
        if names := [each["name"] for each in taken if each in listed]:
            yield home, names


def _options(taken: Sequence[Any]) -> str:
    rows = [(f"`{each['name']}`", *_values(each["schema"]), _cell(each["description"])) for each in taken]
    return table(("option", "values", "default", "meaning"), rows)


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _anchor(path: str) -> str:
    return re.sub(r"[/{}]", "", path)


def _values(schema: Mapping[str, Any]) -> tuple[str, str]:
    """What a parameter may be, and its default."""
    default = schema.get("default")
    written = "" if default in (None, []) else f"`{str(default).lower() if isinstance(default, bool) else default}`"
    (one,) = [each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"]
    several = one["type"] == "array"
    of = one["items"] if several else one
    if "enum" in of:
        values = ", ".join(f"`{value}`" for value in of["enum"])
    else:
        values = {"boolean": "`true`, `false`", "string": "text"}.get(of["type"], of["type"])
    if "exclusiveMinimum" in of:
        values += f", above {of['exclusiveMinimum']}"
    if "maximum" in of:
        values += f", {of['minimum']} to {of['maximum']}" if "minimum" in of else f", up to {of['maximum']}"
    elif "minimum" in of:
        values += f", {of['minimum']} or more"
    if most := several and one.get("maxItems"):
        values += f"; up to {most} value{'s' * (most > 1)}"
    return values, written


def problems(_: Document) -> str:
    """Every error by its slug."""
    rows = []
    kinds = [kind for kind in _kinds(errors.PellucidError) if "slug" in vars(kind) and "tests" not in kind.__module__]
    for kind in sorted(kinds, key=lambda kind: kind.status):
        when, _gap, remedy = inspect.cleandoc(kind.__doc__ or "").partition("\n\n")
        if kind is errors.PellucidError:
            when, remedy = "The service failed.", ""
        remedy = _cell(remedy) or _REMEDIES.get(kind.status, _CORRECT)
        rows.append((f"`{kind.slug}`", str(kind.status), kind.title, _cell(when), remedy))
    return table(("kind", "status", "title", "when", "what to do"), rows)


def _kinds(kind: type[errors.PellucidError]) -> Iterator[type[errors.PellucidError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _kinds(each)


def settings(_: Document) -> str:
    """Every setting of a server."""
    described = Settings.model_json_schema()["properties"]
    rows = []
    for name, field in Settings.model_fields.items():
        values, default = _values({"type": "string", **described[name]})
        rows.append((f"`PELLUCID_{name.upper()}`", default, values, _cell(field.description or "")))
    return table(("variable", "default", "values", "meaning"), rows)


def commands(document: Document) -> str:
    """Every command with its options. Options of a route are named, not described again."""
    group = typer.main.get_command(main)
    assert isinstance(group, typer.core.TyperGroup)
    return "\n\n".join(_command(name, command, document) for name, command in sorted(group.commands.items()))


def _command(name: str, command: Any, document: Document) -> str:
    path = f"/v1/{name}"
    stated = document["paths"].get(path, {}).get("post", {}).get("parameters", ())
    described = {each["name"]: each["description"].replace(" in base64", "") for each in stated}
    own, others = [], []
    for each in command.params:
        told = getattr(each, "help", "") or ""
        if described.get(each.name) == told:
            others.append(each.opts[0])
            continue
        choices = getattr(each.type, "choices", ())
        if not all(choice in told for choice in choices):
            told += f" One of {_names(choices)}."
        default = "" if each.default in (None, False) or isinstance(each.default, Path) else f"`{each.default}`"
        flag = each.opts[0] if each.param_type_name == "option" else each.name.upper()
        own.append((f"`{flag}`", "required" if each.required else default, _cell(told)))
    lines = [f"## `pellucid {name}`", *map(_cell, inspect.cleandoc(command.help or "").split("\n\n"))]
    if own:
        lines.append(table(("option", "default", "meaning"), own))
    if others:
        lines.append(f"Also these options of [`{path}`](http.md#{_anchor(path)}): {_names(others)}.")
    return "\n\n".join(lines)


def methods(_: Document) -> str:
    """The methods of a client, and what they return."""
    rows = []
    for name, method in (vars(Explainer) | vars(Client)).items():
        if name.startswith("_") or not callable(method):
            continue
        signature = inspect.signature(method)
        taken = [
            f"{each.name}=" if each.default is not each.empty and each.kind is each.KEYWORD_ONLY else each.name
            for each in signature.parameters.values()
            if each.name not in ("self", "options")
        ]
        several = ["..."] if "options" in signature.parameters else []
        about = inspect.cleandoc(method.__doc__ or "").partition("\n\n")[0]
        rows.append((f"`{name}({', '.join([*taken, *several])})`", f"`{signature.return_annotation}`", _cell(about)))
    return table(("method", "returns", "what it is"), rows)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")


BLOCKS: Final[dict[str, dict[str, Callable[[Document], str]]]] = {
    "http.md": {"routes": routes, "options": options},
    "errors.md": {"errors": problems},
    "settings.md": {"settings": settings},
    "commands.md": {"commands": commands},
    "python.md": {"methods": methods},
}


def pages() -> Iterator[tuple[str, str, str]]:
    """Each page's name, its text, and its text with fresh blocks."""
    document = build(MagicMock(), Settings()).openapi()  # the document is the same for any network
    for name, blocks in BLOCKS.items():
        text = fresh = (FOLDER / name).read_text("utf-8")
        for mark, written in blocks.items():
            fresh = fill(fresh, mark, written(document), "make reference")
        yield name, text, fresh


if __name__ == "__main__":
    for page, _text, made in pages():
        (FOLDER / page).write_text(made, "utf-8")
