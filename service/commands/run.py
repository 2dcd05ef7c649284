"""What ``explain``, ``compare`` and ``what-if`` share: options of their routes, pictures, files, exit codes."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, get_args, get_origin

import typer
from rich.markup import escape

from pellucid.client import ApiError, AsyncClient
from pellucid.client.figure import SUFFIXES, FigureRoute
from pellucid.client.images import OPTIONS as PICTURES
from pellucid.client.many import FAILURES
from pellucid.parts.option_types import Options
from pellucid.schemas import Target

from . import files
from .session import (
    ApiKey,
    AsJson,
    Timeout,
    Url,
    ask_each,
    console,
    explained_errors,
    misused,
    print_json,
    refuse,
    session,
    was_late,
    words,
)

T = TypeVar("T")
Given = dict[str, Any]
Sources = tuple[Path, ...]  # one picture, or two that are compared
Export = Literal["coco", "coco-polygons", "fiftyone"]
# Begins the text of the service's refusal of a view.
_VIEW: Final = "view: "
# Files are for eyes, so these options have other defaults than in the API.
_DEFAULTS: Final[Given] = {"labels": True, "min_side": 400}


@dataclass(frozen=True)
class Answer:
    """What is written of one picture: ``numbers`` with their pictures in the JSON file ``name``, and ``others``.

    ``words`` say it in short. ``best`` is what was explained or predicted first.
    """

    name: str
    numbers: Given
    others: Mapping[str, bytes]
    words: str
    best: Target | None


@dataclass(frozen=True)
class Command:
    """A command that sends pictures to a route. ``settled`` are options of the route that are none of the command."""

    route: FigureRoute
    options: type[Options]
    answer: Callable[[AsyncClient, Sources, Given], Awaitable[Answer]]
    help: str
    done: str = "explained"  # in the last line
    settled: frozenset[str] = frozenset()
    paired: Callable[[Given], bool] = lambda options: False  # whether two pictures have one answer
    of_figure: tuple[str, ...] = ()  # options that a figure has anyway
    refused: Callable[[Given], str] = lambda options: ""  # why the command refuses what the API takes
    exported: Callable[[list[tuple[Path, Path]], Export, float], Given] | None = None

    def function(self) -> Callable[..., None]:

        def called(**given: Any) -> None:
            run(self, **given)

        _, *own, _ = inspect.signature(run, eval_str=True).parameters.values()
        own = [each for each in own if self.exported or not each.name.startswith("export")]
        signature = inspect.Signature([*own, *self._parameters()])
        called.__name__, called.__doc__, called.__signature__ = self.route, self.help, signature  # type: ignore[attr-defined]
        return called

    def _parameters(self) -> Iterator[inspect.Parameter]:
        """The options of the route, with their names and descriptions."""
        for name, field in self.options.model_fields.items():
            if name in {"timeout_ms", "model"} | self.settled:
                continue
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


def run(
    command: Command,
    images: Annotated[list[Path], typer.Argument(exists=True, help="Photographs, and folders of them.")],
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder to write to; it is created if needed.")
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            metavar="FILE",
            help="Write the answer for one photograph as one figure: photograph, heat maps with their scales, "
            "predictions, gates. The suffix is .png, .svg or .webp. With --out, the folder is written as well.",
        ),
    ] = None,
    export: Annotated[
        Export | None,
        typer.Option(
            help="Also write the heat maps of all photographs as one file in --out: coco.json, the strongest evidence "
            "as RLE or polygons, or fiftyone.json, a dataset with a Heatmap of each."
        ),
    ] = None,
    export_threshold: Annotated[
        float,
        typer.Option(
            min=0.01,
            max=1,
            help="For coco.json: the share of a map's largest value from which a pixel counts as evidence. The "
            "overlay's line is at 0.8.",
        ),
    ] = 0.8,
    model: Annotated[
        str | None,
        typer.Option(help="The network: a name of the server's, or without --url any name or compiled file."),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Pictures in flight at once.")] = 4,
    timeout: Timeout = 60,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
    **options: Any,
) -> None:
    """Send each picture, or a pair, to the command's route, and write the answers. Ends the program after an error."""
    given = {name: value for name, value in options.items() if value is not None}
    paired = command.paired(given)
    found = files.pictures(images, out)
    jobs: list[tuple[Sources, Path]] = [((source,), folder) for source, folder in found]
    if paired and jobs:
        sources = tuple(source for source, _ in found)
        jobs = [(sources, files.free((out or Path()) / "-".join(source.stem for source in sources), sources, set()))]
    refused = _refused(images, jobs, figure, out, paired) or command.refused(given)
    if export and not (out and "grad_cam" in ",".join(given.get("include", ["grad_cam"]))):
        refused = "--export needs --out, and grad_cam in --include."
    if refused:
        refuse(refused)
    defaults = {name: value for name, value in _DEFAULTS.items() if name in command.options.model_fields}
    given = defaults | given | ({"model": model} if url and model else {})
    against = given.get("against_model")

    async def ended() -> list[_Done]:
        settings = {"models": (against,)} if against else {}
        async with session(url, api_key, model=model, timeout_s=timeout, settings=settings) as client:
            served = await client.models()  # fails at once without a server
            if against and not url:
                given["against_model"] = served[-1].name  # of a file, say
            if figure:
                (sources, _), kind = jobs[0], SUFFIXES[figure.suffix.lower()]

                async def draw(options: Given) -> Any:
                    shown = {name: value for name, value in options.items() if name not in command.of_figure}
                    return await client.figure(*sources, route=command.route, media_type=kind, **shown)

                drawn = await _seen(sources, given, draw)
                figure.parent.mkdir(parents=True, exist_ok=True)
                await asyncio.to_thread(drawn.save, figure)
                console.print(escape(f"{_names(sources)} -> {figure}"), soft_wrap=True)
            if not out:
                return []
            return await ask_each(
                partial(_one, command, client, given),
                jobs,
                concurrency,
                tell=lambda done: f"{_names(done.sources)}: {done.words()}",
                late=lambda done: was_late(done.error),
            )

    try:
        with explained_errors(url):
            done = asyncio.run(ended())
    except OSError as error:  # the disk is full, say; those of a picture's own files are among its errors
        if figure is None:
            raise
        refuse(f"--figure: {escape(str(figure))} can't be written: {error.strerror or error}.")
    if not out:
        return
    failed = [one for one in done if one.error]
    if export and command.exported:
        file = out / f"{export.partition('-')[0]}.json"
        exported = command.exported(
            [(one.sources[0], one.folder) for one in done if not one.error], export, export_threshold
        )
        file.write_text(json.dumps(exported) + "\n", "utf-8")
        console.print(escape(f"{export} -> {file}"), soft_wrap=True)
    if as_json:
        report = {
            "explained": len(done) - len(failed),
            "failed": len(failed),
            "pictures": [one.as_json() for one in done],
        }
        print_json(report)
    else:
        console.print(
            f"{len(done) - len(failed)} {command.done}, in {out}{f'; {len(failed)} failed' if failed else ''}"
        )
    if failed:
        raise typer.Exit(1)


def _refused(
    images: list[Path], jobs: list[tuple[Sources, Path]], figure: Path | None, out: Path | None, paired: bool
) -> str:
    """Why these pictures can't be written to these places, or nothing."""
    if not jobs:
        return f"There is no picture ({', '.join(files.SUFFIXES)}) in {', '.join(map(str, images))}."
    if paired and len(jobs[0][0]) != 2:
        return (
            f"Name two photographs to compare, not {len(jobs[0][0])}. Or name two classes, each by its own --target, "
            "or another network by --against-model."
        )
    if not out and not figure:
        return "Name a folder with --out, or a file with --figure."
    if figure and figure.suffix.lower() not in SUFFIXES:
        return f"--figure: The suffix must be one of {', '.join(SUFFIXES)}, not {escape(figure.suffix or 'none')}."
    if figure and len(jobs) > 1:
        return f"--figure: A figure shows one photograph, and there are {len(jobs)}."
    for option, place in (("--figure", figure), ("--out", out and out / "file")):
        try:
            if place:
                files.require_writable(place)
        except OSError as error:
            return f"{option}: {escape(str(place if place == figure else out))} can't be written: {error.strerror}."
    return ""


def _names(sources: Sources) -> str:
    return " and ".join(map(str, sources))


@dataclass(frozen=True)
class _Done:
    """One picture, or a pair: the answer and its files in ``folder``, or an error."""

    sources: Sources
    folder: Path
    written: tuple[str, ...] = ()
    answer: Answer | None = None
    error: Exception | None = None

    def words(self) -> str:
        if self.answer is not None:
            return f"{self.answer.words} -> {self.folder}".lstrip()
        return words(self.error) if self.error else ""

    def as_json(self) -> Given:
        found: Given = {"source": str(self.sources[0])}
        if len(self.sources) > 1:
            found["other"] = str(self.sources[1])
        if self.answer is None:
            problem = self.error.problem.model_dump(exclude_none=True) if isinstance(self.error, ApiError) else None
            return found | {"error": problem or {"title": self.words()}}
        best = {"best": self.answer.best.model_dump(exclude_none=True)} if self.answer.best else {}
        return found | {"folder": str(self.folder), "files": self.written} | best


async def _seen(sources: Sources, options: Given, ask: Callable[[Given], Awaitable[T]]) -> T:
    """The answer for the whole picture, or for its centre if the service refuses that. ``options`` may name a view."""
    try:
        return await ask({"view": "whole"} | options)
    except ApiError as error:
        if "view" in options or error.kind != "invalid-option" or not error.detail.startswith(_VIEW):
            raise
        said = f"{_names(sources)}: {error.detail.removeprefix(_VIEW)} Its centre is explained."
        console.print(escape(said), soft_wrap=True)
        # only view=whole takes detail
        return await ask({name: value for name, value in options.items() if name != "detail"})


async def _one(command: Command, client: AsyncClient, options: Given, job: tuple[Sources, Path]) -> _Done:
    """Ask about one picture, or a pair, and write the answer. Raises an error that every picture would have."""
    sources, folder = job
    try:
        answer = await _seen(sources, options, lambda given: command.answer(client, sources, given))
        written = await asyncio.to_thread(files.write, answer.name, answer.numbers, answer.others, folder)
    except FAILURES as error:
        if misused(error):
            raise
        return _Done(sources, folder, error=error)
    return _Done(sources, folder, tuple(written), replace(answer, numbers={}, others={}))  # they are on the disk
