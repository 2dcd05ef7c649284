"""A client of a server, or of the service in this process. Commands use both alike."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Annotated, Any, Final, NoReturn, TypeVar

import httpx
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pellucid.client import ApiError, AsyncClient
from pellucid.client.many import async_in_order

from . import start

A = TypeVar("A")
B = TypeVar("B")
Url = Annotated[
    str | None,
    typer.Option(
        envvar=start.URL_VARIABLE,
        help="The server, for example http://127.0.0.1:8000. Without it, this process loads the network.",
    ),
]
ApiKey = Annotated[str | None, typer.Option(envvar=start.KEY_VARIABLE, help="API key of the server.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the answer to one picture.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]

# Kinds of problems with the command line, not with a picture.
_USAGE: Final = {"invalid-option", "unknown-name", "unknown-model", "unexplainable"}
_SHOWN: Final = 24

# Progress and errors go to standard error. Scripts read standard output.
console = Console(stderr=True, highlight=False)


@asynccontextmanager
async def session(
    url: str | None,
    api_key: str | None,
    *,
    model: str | None = None,
    timeout_s: float = 60,
    retries: int = 5,
    settings: Mapping[str, Any] | None = None,
) -> AsyncIterator[AsyncClient]:
    """A client of the server at ``url``, or else of a service in this process that loads ``model`` or the default.

    No other command uses that service, so its timeout is long. ``settings`` override the environment.
    """
    if url:
        try:
            remote = AsyncClient(url, api_key=api_key, timeout_s=timeout_s, retries=retries)
        except ValueError as error:
            refuse(f"--url: {escape(str(error))}.")
        async with remote as client:
            yield client
        return
    chosen = start.settings()
    ours = {"timeout_ms": 600_000, "log_level": "warning", "models": ()} | ({"model": model} if model else {})
    ours |= {"api_keys": None, "api_keys_file": None, "rate_limit": None, "grpc_port": None, **(settings or {})}
    with console.status(f"Loading {model or chosen.model} ..."):
        app = start.create_app(chosen.model_copy(update=ours), failed="the network can't be loaded", code=2)
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        AsyncClient("http://pellucid", timeout_s=timeout_s, retries=retries, transport=transport) as client,
    ):
        yield client


def refuse(message: str, *, code: int = 2, **style: Any) -> NoReturn:
    """Print a message on standard error, and end the program with an exit code."""
    console.print(message, soft_wrap=True, **style)
    raise typer.Exit(code)


def detail_of(error: ApiError) -> str:
    """What is wrong, with the API's options under their names in the command line."""
    said = error.detail.replace("`timeout_ms`", "`--timeout`")
    return re.sub("`(trust_[a-z]+)`", lambda name: f"`--{name[1].replace('_', '-')}`", said)


@contextmanager
def explained_errors(url: str | None) -> Iterator[None]:
    """End the program with exit code 2 and a hint, if there is no server or it refuses the options."""
    try:
        yield
    except ApiError as error:
        console.print(f"[red]{escape(error.title)}.[/] {escape(detail_of(error))}", soft_wrap=True)
        if error.allowed and error.kind in _USAGE and "Did you mean" not in error.detail:
            more = f" and {len(error.allowed) - _SHOWN} more" if len(error.allowed) > _SHOWN else ""
            console.print(escape(f"Allowed: {', '.join(error.allowed[:_SHOWN])}{more}"), soft_wrap=True)
        if error.status == 401:
            console.print(f"Give one with --api-key or in {start.KEY_VARIABLE}.")
        raise typer.Exit(2) from error
    except (httpx.TransportError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        reason = str(error).rstrip(".") or type(error).__name__
        console.print(f"[red]No answer from {escape(str(url))}:[/] {escape(reason)}.", soft_wrap=True)
        refuse("Is a server there? `pellucid serve` starts one; without --url none is needed.")


def misused(error: Exception | None) -> bool:
    """Whether every picture would have this error."""
    return isinstance(error, ApiError) and (error.kind in _USAGE or error.status in (401, 404))


def words(error: Exception) -> str:
    """An error in one line."""
    return f"{error.title}. {detail_of(error)}" if isinstance(error, ApiError) else str(error) or type(error).__name__


def was_late(error: Exception | None) -> bool:
    """Whether a server had no time for the picture, which alone may have an answer."""
    return isinstance(error, ApiError) and error.status == 504


async def ask_each(
    one: Callable[[A], Awaitable[B]],
    jobs: Sequence[A],
    concurrency: int,
    *,
    tell: Callable[[B], str],
    late: Callable[[B], bool],
) -> list[B]:
    """The answer of ``one`` to each job, in order, ``concurrency`` at a time, with a progress bar.

    The first error ends it. Of several, those that were ``late`` are asked once more at the end, one at a time.
    ``tell`` gives the line that is printed of an answer, if any.
    """
    columns = (TextColumn("Explaining"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=len(jobs) == 1) as bar:
        row = bar.add_task("", total=len(jobs))
        done: list[B] = []

        def finished(answer: B) -> None:
            bar.advance(row)
            if said := tell(answer):
                console.print(escape(said), soft_wrap=True)

        again = []
        async with aclosing(async_in_order(one, jobs, concurrency)) as answers:
            async for answer in answers:
                done.append(answer)
                if len(jobs) > 1 and late(answer):
                    again.append(len(done) - 1)
                else:
                    finished(answer)
        for number in again:
            done[number] = await one(jobs[number])
            finished(done[number])
        return done


def print_json(value: Any) -> None:
    """Print JSON in ASCII: any terminal can show it, and any name of a file can be written."""
    sys.stdout.write(json.dumps(value, indent=1) + "\n")
