"""The command line ``pellucid``. ``serve`` is here, the other commands are in ``commands``."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Final

import typer
import typer.core
import uvicorn

from . import process
from .commands import start
from .commands.atlas import atlas
from .commands.bench import SAMPLE, bench
from .commands.compile import compile_network
from .commands.explain import compare, explain, what_if
from .commands.mcp import mcp
from .commands.models import layers, models
from .commands.report import report
from .commands.reproduce import reproduce
from .config import Settings

log = logging.getLogger("pellucid")

# In sysexits.h: an internal software error.
_DIED: Final = os.EX_SOFTWARE


class _Panels(typer.core.TyperGroup):
    """The commands of a help page in sections, by ``rich_help_panel``."""

    def format_commands(self, context: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            row = name, command.get_short_help_str(300)
            panels.setdefault(getattr(command, "rich_help_panel", None) or "Commands", []).append(row)
        for title, rows in panels.items():
            with formatter.section(title):
                formatter.write_dl(rows)


main = typer.Typer(
    cls=_Panels,
    add_completion=False,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its tables leave a narrow column for the text
    context_settings={"max_content_width": 120},
    help="What a convolutional network sees in an image, and why. Without a command, it serves.",
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


@main.command(rich_help_panel="Serve")
def serve() -> None:
    """Serve over HTTP, as the PELLUCID_* environment variables say."""
    settings = start.settings()
    died = threading.Event()
    for stop in (signal.SIGINT, signal.SIGTERM):  # uvicorn drains, then raises the signal again: exit 0
        signal.signal(stop, lambda *_: sys.exit(_DIED if died.is_set() else 0))
    process.give_back_large_blocks()
    address = _bound(settings)
    if settings.grpc_port is not None:
        _bound(settings, "grpc_port").close()  # gRPC binds it again
    typer.echo(f"Loading {', '.join(dict.fromkeys((settings.model, *settings.models)))} ...")

    def end() -> None:
        died.set()
        log.critical("the process ends with exit code %d, because the engine can't answer any more", _DIED)
        os.kill(os.getpid(), signal.SIGTERM)

    app = start.create_app(settings, end)
    process.settle()
    config = start.uvicorn_config(app, settings, app.state.service.metrics.refuse)
    _Server(config, app.state.service, settings.drain_delay_s, app.state.grpc_server).run([address])


def _bound(settings: Settings, setting: str = "port") -> socket.socket:
    """A bound socket that does not listen yet, so that a port in use fails before a network is loaded."""
    host, port = settings.host, getattr(settings, setting)
    address = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    address.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        address.bind((host, port))
    except OSError as error:
        name = f"PELLUCID_{setting.upper()}"
        typer.echo(f"PELLUCID_HOST, {name}: can't listen on {host}:{port}: {error.strerror}", err=True)
        raise typer.Exit(1) from error
    return address


class _Server(uvicorn.Server):
    """Prints its address, and stops in two steps: first new work gets 503, then the port closes."""

    def __init__(self, config: uvicorn.Config, service: Any, drain_delay_s: float, grpc_server: Any = None) -> None:
        super().__init__(config)
        self._service = service
        self._grpc_server = grpc_server
        self._drain_delay_s = drain_delay_s
        self._closes = math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM drains first, while a load balancer redirects clients. SIGINT, or a second signal, closes at once."""
        self._service.ready = False
        if sig == signal.SIGTERM and math.isinf(self._closes):
            self._captured_signals.append(sig)
            self._closes = time.monotonic() + self._drain_delay_s
            said = f"stopping: new work gets 503, and the port closes in {self._drain_delay_s:g} s"
        else:
            super().handle_exit(sig, frame)
            said = "stopping: the port closes at once"
        # A signal can interrupt the log itself, so this line is logged by the event loop.
        asyncio.get_running_loop().call_soon_threadsafe(partial(log.info, said))

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second. Returns whether to stop listening."""
        return time.monotonic() >= self._closes or await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port and wait for accepted requests.

        The kernel completes connections before the loop accepts them, and a port that closes resets them. So this
        accepts all, and closes the port without any other work in between.
        """
        waiting: list[socket.socket] = []
        for listener in sockets or ():
            listener.setblocking(False)
            with suppress(OSError):  # nobody waits any more, or no more files can be open
                while True:
                    waiting.append(listener.accept()[0])
        for server in self.servers:
            server.close()
        await asyncio.gather(*map(self._connect, waiting))
        await super().shutdown(sockets)
        log.info("stopped")

    async def _connect(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        protocol: Any = self.config.http_protocol_class
        create = partial(protocol, config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
        with suppress(OSError):  # the caller may have left
            await asyncio.get_running_loop().connect_accepted_socket(create, accepted)

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if not self.started:
            return
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        host = "127.0.0.1" if host in ("0.0.0.0", "::") else host
        url = f"http://{host}:{port}"
        sample = SAMPLE.relative_to(Path.cwd()) if SAMPLE.is_relative_to(Path.cwd()) else SAMPLE
        typer.echo(f"\nPellucid serves at {url}; its API docs are at {url}/docs")
        if self._grpc_server is not None:
            typer.echo(f"It speaks KServe's protocol v2 over gRPC at {host}:{self._grpc_server.port}")
        typer.echo("Try it:\n")
        typer.echo(f"  curl -F images=@{sample} '{url}/v1/predict?top_k=3'\n")


@main.command(rich_help_panel="Serve")
def new_key() -> None:
    """Make an API key. Give the first line to a client, and the second to PELLUCID_API_KEYS or its file."""
    from .http.access import new_key

    for line in new_key():
        typer.echo(line)


_COMMANDS: Final[dict[str, tuple[Callable[..., None], ...]]] = {
    "Serve": (mcp,),
    "Explain": (explain, compare, what_if, report, reproduce),
    "Networks": (models, layers, atlas, bench),
}
for panel, commands in _COMMANDS.items():
    for command in commands:
        main.command(rich_help_panel=panel)(command)
main.command(name="compile", rich_help_panel="Networks")(compile_network)
