"""``pellucid report``: a folder of pictures becomes one page and a table."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import typer
from rich.markup import escape

from pellucid.client import AsyncClient
from pellucid.client.many import FAILURES
from pellucid.report import answers, page, table
from pellucid.report.answers import Answers, Seen, Unseen, compact, thumbnail
from pellucid.report.contents import Report, true_labels
from pellucid.schemas import Provenance

from . import files
from .session import (
    ApiKey,
    Timeout,
    Url,
    ask_each,
    console,
    explained_errors,
    misused,
    refuse,
    session,
    was_late,
    words,
)

_INTERRUPTED: Final = 130


def report(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of pictures, of any depth.")],
    out: Annotated[
        Path,
        typer.Option(dir_okay=False, metavar="FILE", help="The page, .html. The table has the same name with .csv."),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="The network: a name of the server's, or without --url any name or compiled file."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Explain this class in all pictures, instead of the most probable of each.")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="The layer of the maps. Default: the network's.")] = None,
    method: Annotated[str | None, typer.Option(help="The method of the maps. Default: the network's first.")] = None,
    view: Annotated[str, typer.Option(help="What the network sees of a picture: centre, whole or squash.")] = "centre",
    trust: Annotated[
        bool, typer.Option("--trust", help="Also test each map, by many passes for each picture.")
    ] = False,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Pictures in flight at once.")] = 4,
    timeout: Timeout = 60,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Report on a folder of pictures, with or without a server.

    The page needs no other file and no internet. It has a summary of each class, the pictures that stand out, the
    clusters of each class's maps, and every picture. Answers are kept in a file with the suffix .cache: an interrupted
    run continues when it is started again.

    Exit codes: 0, all were explained; 1, some failed, and the page lists them; 2, wrong options, or no server.
    """
    folder = folder.resolve()
    sources = [source for source, _ in files.pictures([folder], None)]
    if refused := _refused(sources, out):
        refuse(escape(refused))
    chosen = {"target": target, "layer": layer, "method": method, "model": model if url else None}
    options: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    options |= {"view": view, "trust": trust, "overlay": True, "max_side": answers.SIDE}
    options["include"] = ["predictions", "attention", "grad_cam"]
    out.parent.mkdir(parents=True, exist_ok=True)
    cache = out.with_suffix(".cache")

    async def run() -> Report:
        async with session(url, api_key, model=model, timeout_s=timeout) as client:
            return await _asked(folder, sources, options, kept, concurrency, client)

    try:
        with explained_errors(url), closing(Answers(cache)) as kept:
            found = asyncio.run(run())
    except sqlite3.Error as error:
        said = f"holds no answers: {error}. Choose another --out, or remove it to compute every picture again"
        if isinstance(error, sqlite3.OperationalError):  # locked, or the disk is full
            said = f"can't be written: {error}"
        refuse(escape(f"{cache} {said}."))
    except KeyboardInterrupt:
        refuse(escape(f"Interrupted. {cache} keeps the answers: run the command again."), code=_INTERRUPTED)
    try:
        out.write_text(page.written(found), "utf-8")
        out.with_suffix(".csv").write_text(table.written(found), "utf-8")
    except OSError as error:  # the disk is full, say
        refuse(escape(f"The report can't be written: {error.strerror or error}."))
    failed = f"; {len(found.unseen)} failed" if found.unseen else ""
    console.print(escape(f"{len(found.seen)} explained, in {out}{failed}"), soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def _refused(sources: list[Path], out: Path) -> str:
    """Why there can be no report, or nothing."""
    if out.suffix.lower() not in (".html", ".htm"):
        return f"--out: The suffix must be .html, not {out.suffix or 'none'}."
    if not sources:
        return f"There is no picture ({', '.join(files.SUFFIXES)}) in the folder."
    if find_spec("sklearn") is None:
        return "A report clusters maps by scikit-learn: pip install 'pellucid[report]'."
    file = out
    try:
        files.require_writable(file)
        file = out.with_suffix(".csv")
        if file.exists() and not file.read_bytes().startswith(table.BEGINNING.encode()):
            return f"--out: {file} is no table of a report, and would be overwritten. Choose another name."
        files.require_writable(file)
    except OSError as error:
        return f"--out: {file} can't be written: {error.strerror}."
    return ""


async def _asked(
    folder: Path, sources: list[Path], options: dict[str, Any], kept: Answers, concurrency: int, client: AsyncClient
) -> Report:
    """Every picture's answer, ``concurrency`` pictures at a time, and what computed them.

    Raises ApiError for an error that every picture would have.
    """
    served = await client.models()
    detail = await client.model(options.get("model") or next(each.name for each in served if each.default))
    if detail.output.kind == "embedding":
        refuse(escape(f"{detail.name} has no classes to report on: its output is an embedding."))
    options["atlas"] = detail.atlas is not None
    provenance = await _provenance(client, sources, options)
    decided = json.dumps([options, provenance.model_dump(), detail.atlas and detail.atlas.sha256], sort_keys=True)
    names = [source.relative_to(folder).as_posix() for source in sources]
    # A name that is not UTF-8 could not be written to the page.
    names = [name.encode("utf-8", "backslashreplace").decode() for name in names]
    pictures = [*zip(sources, names, true_labels(names, detail.labels), strict=True)]
    late: set[str] = set()

    async def one(picture: tuple[Path, str, str | None]) -> Seen | Unseen:
        source, name, truth = picture
        try:
            data = await asyncio.to_thread(source.read_bytes)
            key = hashlib.sha256(decided.encode() + data).hexdigest()
            answer = kept.get(key)
            if answer is None:
                result = await client.explain(data, **options)
                answer = await asyncio.to_thread(lambda: (compact(result), thumbnail(data)))
                kept.put(key, *answer)
        except FAILURES as error:
            if misused(error):
                raise
            if was_late(error):
                late.add(name)
            return Unseen(name, words(error))
        return Seen(name, *answer, truth)

    done = await ask_each(
        one,
        pictures,
        concurrency,
        tell=lambda each: f"{each.name}: {each.error}" if isinstance(each, Unseen) else "",
        late=lambda each: each.name in late,
    )
    seen = [each for each in done if isinstance(each, Seen)]
    unseen = [each for each in done if isinstance(each, Unseen)]
    return Report(folder.name, detail, provenance, seen, unseen)


async def _provenance(client: AsyncClient, sources: list[Path], options: dict[str, Any]) -> Provenance:
    """What computes the answers, from the reply to the first picture that has one. Trials of trust have none.

    Raises ApiError for an error that every picture would have, and ends the program if no picture has an answer.
    """
    for source in sources:
        try:
            reply = await client.reply("explain", source, **options | {"provenance": True, "trust": False})
        except FAILURES as error:
            if misused(error) or isinstance(error, httpx.TransportError):
                raise
            console.print(escape(f"{source}: {words(error)}"), soft_wrap=True)
        else:
            assert reply.provenance is not None
            return reply.provenance
    refuse("No picture could be explained.", code=1)
