"""The command line: ``pellucid serve`` and ``pellucid explain``."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Final

import httpx
import typer
import uvicorn
from pydantic import ValidationError

from service import process
from service.api.connection import BoundedProtocol, ConnectionLimits
from service.config import Settings
from service.telemetry import logs

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


@main.callback()
def _default(context: typer.Context) -> None:
    """Without a command, serve."""
    if context.invoked_subcommand is None:
        serve()


def _settings() -> Settings:
    try:
        settings = Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = "PELLUCID_" + "_".join(map(str, problem["loc"])).upper()
            typer.echo(f"{name}: {problem['msg']}, got {problem['input']!r}", err=True)
        raise typer.Exit(2) from error
    for name in os.environ:
        known = [f"PELLUCID_{field.upper()}" for field in Settings.model_fields]
        if name.startswith("PELLUCID_") and name not in known:
            close = get_close_matches(name, known, n=1)
            typer.echo(f"{name} is no setting and is ignored.{f' Is {close[0]} meant?' if close else ''}", err=True)
    logs.configure(settings.log_level, settings.log_format)
    return settings


def _create_app(settings: Settings, on_death: Callable[[], None] = lambda: None) -> Any:
    # torch is slow to import: --help and a wrong setting needn't wait for it
    from models.catalog import UnknownModelError
    from models.weights import WeightsError
    from service.app import create_app

    try:
        return create_app(settings, on_death)
    except (UnknownModelError, WeightsError, ValueError) as error:
        typer.echo(f"pellucid can't start: {error}", err=True)
        raise typer.Exit(1) from error


@main.command()
def serve() -> None:
    """Serve over HTTP, as the PELLUCID_* environment variables say."""
    settings = _settings()
    died = threading.Event()
    for stop in (signal.SIGINT, signal.SIGTERM):  # uvicorn drains, then raises the signal anew: to stop is no failure
        signal.signal(stop, lambda *_: sys.exit(_DIED if died.is_set() else 0))
    process.give_back_large_blocks()
    address = _bound(settings)
    typer.echo(f"Loading {', '.join(dict.fromkeys((settings.model, *settings.models)))} ...")

    def end() -> None:
        died.set()
        log.critical("the process ends with exit code %d: nothing could be answered any more", _DIED)
        os.kill(os.getpid(), signal.SIGTERM)

    app = _create_app(settings, end)
    process.settle()
    config = uvicorn.Config(
        app,
        http=_protocol(settings),
        ws="none",
        log_level="warning",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=settings.grace_s,
    )
    _Server(config, app.state.service, settings.drain_delay_s).run([address])


def _protocol(settings: Settings) -> type[BoundedProtocol]:
    limits = ConnectionLimits(
        head_bytes=settings.max_head_kib * 1024,
        headers=settings.max_headers,
        head_s=settings.head_timeout_s,
        connections=settings.max_connections,
        unread_bytes=settings.max_body_mib * 2**20,
    )
    return type("Protocol", (BoundedProtocol,), {"limits": limits})


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
    """Says where it listens, once it does, and stops in two steps: it refuses in words, then it no longer listens."""

    def __init__(self, config: uvicorn.Config, service: Any, drain_delay_s: float) -> None:
        super().__init__(config)
        self._service = service
        self._drain_delay_s = drain_delay_s
        self._closes = math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM drains first: a balancer needs a while to send callers elsewhere. SIGINT, or a second, ends."""
        self._service.ready = False
        if sig == signal.SIGTERM and math.isinf(self._closes):
            self._captured_signals.append(sig)
            self._closes = time.monotonic() + self._drain_delay_s
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to stop listening."""
        return time.monotonic() >= self._closes or await super().on_tick(counter)

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


@main.command()
def new_key() -> None:
    """Make an API key: give the first line to a caller, and the second to PELLUCID_API_KEYS or its file."""
    from service.api.auth import new_key

    for line in new_key():
        typer.echo(line)


@main.command()
def explain(
    images: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="Photographs.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures and the numbers; made if it is not there.")],
) -> None:
    """Explain photographs without a server.

    Predictions, attention, overlay, mask and feature maps of each go to a folder of its name.
    """
    ours = {"api_keys": None, "api_keys_file": None, "rate_limit": None}  # the app is asked by this command alone
    asyncio.run(_explain(_create_app(_settings().model_copy(update=ours)), images, out))


async def _explain(app: Any, images: list[Path], out: Path) -> None:
    """Through the public API in this process, so that the answers are the server's."""
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://pellucid") as client,
    ):
        for path, folder in zip(images, _folders(images, out), strict=True):
            files = {"images": (path.name, path.read_bytes())}
            response = await client.post("/v1/explain", params={"overlay": True}, files=files)
            if response.is_error:
                problem = response.json()
                typer.echo(f"{path}: {problem['title']}. {problem['detail']}", err=True)
                raise typer.Exit(1)
            (result,) = response.json()["results"]
            _write(result, folder)
            best = result["predictions"][0]
            typer.echo(f"{path}: {best['label']} ({best['probability']:.0%}) -> {folder}")


def _folders(images: list[Path], out: Path) -> list[Path]:
    """One folder for each image, of its name; of a name that has been there, with a number behind it."""
    folders: list[Path] = []
    for path in images:
        folder, number = out / path.stem, 2
        while folder in folders:
            folder, number = out / f"{path.stem}-{number}", number + 1
        folders.append(folder)
    return folders


def _write(result: dict[str, Any], folder: Path) -> None:
    """Pictures as files of their own, in explanation.json their names in their place."""
    folder.mkdir(parents=True, exist_ok=True)

    def to_file(holder: dict[str, Any], key: str, name: str) -> None:
        (folder / name).write_bytes(base64.b64decode(holder[key].pop("data")))
        holder[key]["file"] = name

    for cam in result["grad_cam"]:
        to_file(cam, "mask", f"mask-{cam['target']['index']}.png")
        to_file(cam, "overlay", f"overlay-{cam['target']['index']}.png")
    for maps in result["feature_maps"]:
        to_file(maps, "grid", f"features-{maps['layer']}.png")
    (folder / "explanation.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
