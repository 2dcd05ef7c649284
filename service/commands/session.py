"""A client of the server that the caller named, or of the service in this process: the commands see no difference."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any, Final

import httpx
import typer
from rich.console import Console
from rich.markup import escape

from pellucid.client import ApiError, AsyncClient

from . import start

Url = Annotated[
    str | None,
    typer.Option(
        envvar=start.URL_VARIABLE,
        help="Server to ask, as http://127.0.0.1:8000. Without it, the network is loaded into this process.",
    ),
]
ApiKey = Annotated[str | None, typer.Option(envvar=start.KEY_VARIABLE, help="Key that the server asks for.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the answer on one picture.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]

# Kinds of problems that lie in how a command was called, whatever the picture.
_USAGE: Final = {"invalid-option", "unknown-name", "unknown-model", "unexplainable"}
_SHOWN: Final = 24

# Progress and errors; what a script reads goes to standard output.
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
    """A client. Without a ``url``, of a service in this process, of ``model`` or the one that the settings name.

    That service is asked by this command alone: it waits as long as the command does. ``settings`` are those in which
    it differs from what the environment says.
    """
    if url:
        async with AsyncClient(url, api_key=api_key, timeout_s=timeout_s, retries=retries) as client:
            yield client
        return
    chosen = start.settings()
    ours = {"timeout_ms": 600_000, "log_level": "warning", "models": ()} | ({"model": model} if model else {})
    ours |= {"api_keys": None, "api_keys_file": None, "rate_limit": None, **(settings or {})}
    with console.status(f"Loading {model or chosen.model} ..."):
        app = start.create_app(chosen.model_copy(update=ours), failed="the network can't be loaded", code=2)
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        AsyncClient("http://pellucid", timeout_s=timeout_s, retries=retries, transport=transport) as client,
    ):
        yield client


@contextmanager
def explained_errors(url: str | None) -> Iterator[None]:
    """Ends the program with 2 and a word of help where nobody answers, or the service refuses how it was asked."""
    try:
        yield
    except ApiError as error:
        console.print(f"[red]{escape(error.title)}.[/] {escape(error.detail)}", soft_wrap=True)
        if error.allowed and error.kind in _USAGE and "Did you mean" not in error.detail:
            more = f" and {len(error.allowed) - _SHOWN} more" if len(error.allowed) > _SHOWN else ""
            console.print(escape(f"Allowed: {', '.join(error.allowed[:_SHOWN])}{more}"), soft_wrap=True)
        if error.status == 401:
            console.print(f"Give one with --api-key or in {start.KEY_VARIABLE}.")
        raise typer.Exit(2) from error
    except (httpx.TransportError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        reason = str(error).rstrip(".") or type(error).__name__
        console.print(f"[red]No answer from {escape(str(url))}:[/] {escape(reason)}.", soft_wrap=True)
        console.print("Is a server there? `pellucid serve` starts one; without --url none is needed.")
        raise typer.Exit(2) from error


def misused(error: Exception | None) -> bool:
    """Whether every picture would fail in this way."""
    return isinstance(error, ApiError) and (error.kind in _USAGE or error.status in (401, 404))


def print_json(text: str) -> None:
    """JSON on standard output, as it is."""
    sys.stdout.write(text + "\n")
