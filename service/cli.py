"""The command line: ``pellucid``. ``serve`` is here; the commands that ask are in ``commands``."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import uvicorn

from service.commands import start
from service.commands.bench import bench
from service.commands.explain import explain
from service.commands.models import layers, models
from service.config import Settings

SAMPLES = Path(__file__).parent / "web" / "samples"

log = logging.getLogger("pellucid")

# sysexits.h calls it an internal error of the software.
_DIED: Final = os.EX_SOFTWARE

main = typer.Typer(
    add_completion=False,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    help="What a convolutional network sees in an image, and why. Without a command: serve.",
)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pellucid {version('pellucid')}")
        raise typer.Exit


@main.callback()
def _default(
    context: typer.Context,
    _: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Without a command, serve."""
    if context.invoked_subcommand is None:
        serve()


@main.command()
def serve() -> None:
    """Serve over HTTP, as the PELLUCID_* environment variables say."""
    settings = start.settings()
    died = threading.Event()
    for stop in (signal.SIGINT, signal.SIGTERM):  # uvicorn drains, then raises the signal anew: to stop is no failure
        signal.signal(stop, lambda *_: sys.exit(_DIED if died.is_set() else 0))
    address = _bound(settings)
    typer.echo(f"Loading {', '.join(dict.fromkeys((settings.model, *settings.models)))} ...")

    def end() -> None:
        died.set()
        log.critical("the process ends with exit code %d: nothing could be answered any more", _DIED)
        os.kill(os.getpid(), signal.SIGTERM)

    app = start.create_app(settings, end)
    # What is loaded by now stays. Unfrozen, the collector would search all of torch now and then, for 0.1 s each time.
    gc.collect()
    gc.freeze()
    _Server(uvicorn.Config(app, log_level="warning", access_log=False, log_config=None)).run([address])


def _bound(settings: Settings) -> socket.socket:
    """A socket at the address, not listening yet: a port that is taken is known before anything is loaded."""
    address = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    address.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        address.bind((settings.host, settings.port))
    except OSError as error:
        typer.echo(
            f"PELLUCID_HOST, PELLUCID_PORT: can't listen on {settings.host}:{settings.port}: {error.strerror}", err=True
        )
        raise typer.Exit(1) from error
    return address


class _Server(uvicorn.Server):
    """Says where it listens, once it does: the port may have been chosen by the system."""

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if not self.started:
            return
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        url = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}"
        sample = SAMPLES / "cat.jpg"
        shown = sample.relative_to(Path.cwd()) if sample.is_relative_to(Path.cwd()) else sample
        typer.echo(f"\nPellucid serves at {url}; its API docs are at {url}/docs\nTry it:\n")
        typer.echo(f"  curl -F images=@{shown} '{url}/v1/predict?top_k=3'\n")


for command in (explain, models, layers, bench):
    main.command()(command)
