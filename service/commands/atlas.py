"""``pellucid atlas``: pictures of yours -> what each channel of a network responds to, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from . import files
from .session import console, refuse


def atlas(
    network: Annotated[str, typer.Argument(help="A compiled network's file, or a name such as lite0.")],
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of pictures, of any depth.")],
    out: Annotated[Path, typer.Option(dir_okay=False, help="File to write; NAME.atlas.")],
    layer: Annotated[
        list[str] | None,
        typer.Option(
            help="A layer besides those before gates; may be repeated. Default: those of maps and feature maps."
        ),
    ] = None,
    examples: Annotated[
        int, typer.Option(min=1, max=64, help="Examples of each channel by its maximum, and by its mean.")
    ] = 9,
    no_crops: Annotated[bool, typer.Option("--no-crops", help="Store numbers only, and no part of a picture.")] = False,
    names: Annotated[bool, typer.Option("--names", help="Store the pictures' paths in the folder.")] = False,
    side: Annotated[int, typer.Option(min=16, max=512, help="Largest longer side of a crop, in pixels.")] = 112,
) -> None:
    """Build an atlas: run pictures through a network once, and keep what activates each channel.

    An interrupted build continues when it is started again with the same options.

    Exit codes: 0, the file is written; 2, the atlas can't be built.
    """
    from pellucid.atlas.build import BuildError, Settings, build
    from pellucid.engine import Engine
    from pellucid.network.file import load
    from pellucid.network.names import CACHE, find
    from pellucid.runtime import choose, cores

    found = [(str(path.relative_to(folder)), path) for path, _ in files.pictures([folder], out)]
    if not found:
        refuse(f"There is no picture ({', '.join(files.SUFFIXES)}) in {folder}.", markup=False)
    settings = Settings(tuple(layer or ()), examples, not no_crops, names, side)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        compiled, threads = load(find(network)), cores.available()
        runtime = choose.create(compiled, threads=threads, cache=CACHE.expanduser())
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            rows: dict[str, TaskID] = {}

            def progress(what: str, done: int, total: int) -> None:
                if what not in rows:
                    rows[what] = bar.add_task(what, total=total)
                bar.update(rows[what], completed=done)

            about = build(compiled, Engine(compiled, runtime), found, out, settings, threads=threads, progress=progress)
    except (BuildError, ValueError) as error:
        refuse(str(error), style="red", markup=False)
    except OSError as error:
        refuse(f"{out} can't be written: {error.strerror or error}", style="red", markup=False)
    left = {"unreadable": about.unreadable, "duplicate": about.duplicates}
    told = "".join(f", {count} {what}" for what, count in left.items() if count)
    typer.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB, of {about.pictures} pictures{told}")
