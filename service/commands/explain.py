"""``pellucid explain``: pictures and numbers of each photograph, in a folder for each."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, get_args, get_origin

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pellucid.client import ApiError, AsyncClient
from pellucid.client.figure import SUFFIXES
from pellucid.client.images import OPTIONS as PICTURES
from pellucid.client.many import FAILURES
from pellucid.client.options import AttentionOptions, ExplainOptions
from pellucid.network.spec import PIXELS
from pellucid.parts import explain as parts
from pellucid.schemas import Result, Target

from . import files
from .session import (
    ApiKey,
    AsJson,
    Timeout,
    Url,
    console,
    explained_errors,
    misused,
    print_json,
    session,
)

Answer = TypeVar("Answer")


def explain(
    images: Annotated[list[Path], typer.Argument(exists=True, help="Photographs, and folders of them.")],
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder to write to; it is created if needed.")
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            metavar="FILE",
            help="Write one figure of one photograph: photograph, heat maps with their scales, predictions, gates. "
            "The suffix is .png, .svg or .webp. With --out, beside the folder.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="The network: of the server, or any name or compiled file that can be loaded."),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Pictures in flight at once.")] = 4,
    timeout: Timeout = 60,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
    **options: Any,
) -> None:
    """Explain photographs, with or without a server.

    With --figure, one photograph becomes one figure for a report.

    With --out, each has a folder with its name there: predictions.json, overlay.png, mask.png, a grid of feature maps
    for each layer, attention.png, and explanation.json with all the numbers. Folders are searched for pictures.

    Exit codes: 0, all were explained; 1, some failed; 2, wrong options, or no server.
    """
    found = files.pictures(images, out or Path())
    if refused := _refused(images, found, figure, out):
        console.print(refused)
        raise typer.Exit(2)
    options |= {"model": model if url else None}
    chosen = {name: value for name, value in options.items() if value is not None}
    given = ExplainOptions(**_DEFAULTS | chosen)  # type: ignore[typeddict-item]

    async def run() -> list[_Done]:
        async with session(url, api_key, model=model, timeout_s=timeout) as client:
            await client.models()  # fails at once without a server
            centre = None
            if "view" not in given:
                centre = given.copy()
                centre.pop("detail", None)  # only view=whole takes it
                given["view"] = "whole"
            if figure:
                ((source, _),), kind = found, SUFFIXES[figure.suffix.lower()]
                drawn = await _seen(
                    source, given, centre, lambda options: client.figure(source, media_type=kind, **options | _FIGURES)
                )
                figure.parent.mkdir(parents=True, exist_ok=True)
                await asyncio.to_thread(drawn.save, figure)
                console.print(escape(f"{source} -> {figure}"), soft_wrap=True)
            return await _explain(client, found, given, concurrency, centre) if out else []

    try:
        with explained_errors(url):
            done = asyncio.run(run())
    except OSError as error:  # the disk is full, say; those of a picture's own files are among its errors
        if figure is None:
            raise
        console.print(f"--figure: {escape(str(figure))} can't be written: {error.strerror or error}.", soft_wrap=True)
        raise typer.Exit(2) from error
    if not out:
        return
    failed = [one for one in done if one.error]
    if as_json:
        report = {
            "explained": len(done) - len(failed),
            "failed": len(failed),
            "pictures": [one.as_json() for one in done],
        }
        print_json(json.dumps(report, indent=1, ensure_ascii=False))
    else:
        console.print(f"{len(done) - len(failed)} explained, in {out}" + (f"; {len(failed)} failed" if failed else ""))
    if failed:
        raise typer.Exit(1)


def _refused(images: list[Path], found: list[tuple[Path, Path]], figure: Path | None, out: Path | None) -> str:
    """Why these pictures can't be written to these places, or nothing."""
    if not found:
        return f"There is no picture ({', '.join(files.SUFFIXES)}) in {', '.join(map(str, images))}."
    if not out and not figure:
        return "Name a folder with --out, or a file with --figure."
    if figure and figure.suffix.lower() not in SUFFIXES:
        return f"--figure: The suffix is {', '.join(SUFFIXES)}, not {escape(figure.suffix or 'none')}."
    if figure and len(found) > 1:
        return f"--figure: A figure shows one photograph, and there are {len(found)}."
    for option, place in (("--figure", figure), ("--out", out and out / "file")):
        try:
            if place:
                files.require_writable(place)
        except OSError as error:
            return f"{option}: {escape(str(place if place == figure else out))} can't be written: {error.strerror}."
    return ""


# The command decides these options of /v1/explain: it writes all parts, with overlays, and no envelope.
_SETTLED: Final = {"timeout_ms", "model", "provenance", "include", "overlay"}
# Its files are for eyes, so these options have other defaults than in the API.
_DEFAULTS: Final[dict[str, Any]] = {"labels": True, "min_side": 400}
# Options that a figure does not show.
_FIGURES: Final[ExplainOptions] = {"overlay": False, "atlas": False}
# Begins the text of the service's refusal of a view.
_VIEW: Final = "view: "


def _options() -> Iterator[inspect.Parameter]:
    """The other options of /v1/explain, with their names and descriptions."""
    for name, field in parts.ExplainOptions.model_fields.items():
        if name not in _SETTLED:
            several = get_origin(field.annotation) is list
            kind: Any = list[str] if several else field.annotation if field.annotation in (bool, float, int) else str
            usual = (
                "whole, or centre where a picture can't be seen whole"
                if name == "view"
                else _DEFAULTS.get(name, field.default)
            )
            default = None if several or not usual else str(usual)
            limits: Any = {"exists": True, "dir_okay": False, "metavar": "FILE"} if name in PICTURES else {}
            kind = Path if name in PICTURES else kind
            told = (field.description or "").replace(" in base64", "")  # a path is given
            flag = f"--{name.replace('_', '-')}"
            if kind is str and bool in get_args(field.annotation):
                kind, flag = bool, f"{flag}/--no-{name.replace('_', '-')}"
            shown = typer.Option(flag, help=told, show_default=default or False, **limits)
            yield inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, shown]
            )


def _with_options() -> None:
    signature = inspect.signature(explain, eval_str=True)
    own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    explain.__signature__ = signature.replace(parameters=[*own, *_options()])  # type: ignore[attr-defined]


_with_options()


@dataclass(frozen=True)
class _Done:
    """One picture: the files in ``folder`` and what was explained or predicted first, or an error."""

    source: Path
    folder: Path
    written: tuple[str, ...] = ()
    best: Target | None = None
    error: Exception | None = None

    def words(self) -> str:
        if self.error is None:
            return f"{f'{self.best.label} ({self.best.score}) ' if self.best else ''}-> {self.folder}"
        if isinstance(self.error, ApiError):
            return f"{self.error.title}. {self.error.detail}"
        return str(self.error) or type(self.error).__name__

    def as_json(self) -> dict[str, Any]:
        if self.error is None:
            found = {"source": str(self.source), "folder": str(self.folder), "files": self.written}
            return found | ({"best": self.best.model_dump(exclude_none=True)} if self.best else {})
        problem = self.error.problem.model_dump(exclude_none=True) if isinstance(self.error, ApiError) else None
        return {"source": str(self.source), "error": problem or {"title": self.words()}}


async def _explain(
    client: AsyncClient,
    found: list[tuple[Path, Path]],
    options: ExplainOptions,
    concurrency: int,
    centre: ExplainOptions | None,
) -> list[_Done]:
    """Explain each picture, ``concurrency`` at a time. Raises an error that every picture would have."""
    places = asyncio.Semaphore(concurrency)

    async def one(source: Path, folder: Path) -> _Done:
        async with places:
            try:
                result, plot = await _seen(source, options, centre, lambda given: _asked(client, source, given))
                written = await asyncio.to_thread(files.write, result, plot, folder)
            except FAILURES as error:
                return _Done(source, folder, error=error)
            found = [*(result.predictions or []), *(cam.target for cam in result.grad_cam or [])]
            return _Done(source, folder, tuple(written), next(iter(found), None))

    columns = (TextColumn("Explaining"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    tasks = [asyncio.ensure_future(one(*pair)) for pair in found]
    with Progress(*columns, console=console, transient=True, disable=len(found) == 1) as bar:
        row = bar.add_task("", total=len(found))
        try:
            for following in asyncio.as_completed(tasks):
                done = await following
                if done.error and misused(done.error):
                    raise done.error
                bar.advance(row)
                console.print(f"{escape(str(done.source))}: {escape(done.words())}", soft_wrap=True)
            return [task.result() for task in tasks]
        finally:
            for task in tasks:
                task.cancel()


async def _seen(
    source: Path,
    options: ExplainOptions,
    centre: ExplainOptions | None,
    ask: Callable[[ExplainOptions], Awaitable[Answer]],
) -> Answer:
    """The answer for these options, or for those of the ``centre`` if the service refuses the picture's view."""
    try:
        return await ask(options)
    except ApiError as error:
        if centre is None or error.kind != "invalid-option" or not error.detail.startswith(_VIEW):
            raise
        said = f"{source}: {error.detail.removeprefix(_VIEW)} Its centre is explained."
        console.print(escape(said), soft_wrap=True)
        return await ask(centre)


async def _asked(client: AsyncClient, source: Path, options: ExplainOptions) -> tuple[Result, bytes]:
    """All parts of one picture, and its plot of weights, which shows them for one class."""
    plotted = AttentionOptions(effects=False)
    if model := options.get("model"):
        plotted["model"] = model
    layers = [name.strip() for given in options.get("layer") or [] for name in given.split(",")]
    if inner := [name for name in layers if name not in ("", PIXELS)]:  # pixels have no channels
        plotted["layer"] = inner[0]
    if targets := options.get("target"):
        plotted["target"] = targets if isinstance(targets, (int, str)) else targets[0]
    for name in ("region", "view", "detail", *PICTURES):
        if name in options:
            plotted[name] = options[name]
    return await client.explain(source, **options | {"overlay": True}), await client.picture(
        "attention", source, **plotted
    )
