"""Reads settings, and creates the app and its HTTP server, with messages for wrong settings."""

from __future__ import annotations

import os
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, Final

import typer
import uvicorn
from pydantic import ValidationError

from ..config import Settings
from ..http.connection import BoundedProtocol, ConnectionLimits
from ..telemetry import logs

# Variables of clients, which the server ignores.
URL_VARIABLE: Final = "PELLUCID_URL"
KEY_VARIABLE: Final = "PELLUCID_API_KEY"
_REMOVED: Final = {"PELLUCID_CACHE_MIB": "Replies are no longer kept."}


def settings() -> Settings:
    """The settings of the environment. Ends the program with exit code 2 if one is wrong."""
    try:
        found = Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = "PELLUCID_" + "_".join(map(str, problem["loc"])).upper()
            # Our validators quote values in their messages, but never a key.
            own = problem.get("ctx", {}).get("error")
            wrong = own or f"{problem['msg']}, got {problem['input']!r}"
            typer.echo(f"{name}: {wrong}", err=True)
        raise typer.Exit(2) from error
    known = [f"PELLUCID_{field.upper()}" for field in Settings.model_fields]
    for name in os.environ:
        if name.startswith("PELLUCID_") and name not in (*known, URL_VARIABLE, KEY_VARIABLE):
            close = get_close_matches(name, known, n=1)
            hint = _REMOVED.get(name) or (f"Is {close[0]} meant?" if close else "")
            typer.echo(f"{name} is not a setting, and is ignored. {hint}".rstrip(), err=True)
    return found


def create_app(
    chosen: Settings,
    on_death: Callable[[], None] = lambda: None,
    *,
    failed: str = "pellucid can't start",
    code: int = 1,
) -> Any:
    """The app. Ends the program with exit ``code`` if it can't start with these settings."""
    logs.configure(chosen.log_level, chosen.log_format)
    from ..app import create_app as assemble  # slow: --help and a wrong setting don't wait for it

    try:
        return assemble(chosen, on_death)
    except ValueError as error:
        typer.echo(f"{failed}: {error}", err=True)
        raise typer.Exit(code) from error


def uvicorn_config(
    app: Any, settings: Settings, refused: Callable[[str], None] = lambda _: None, **more: Any
) -> uvicorn.Config:
    """How uvicorn serves an app within the limits of ``settings`` on connections. ``refused``: see BoundedProtocol."""
    limits = ConnectionLimits(
        head_bytes=settings.max_head_kib * 1024,
        headers=settings.max_headers,
        head_s=settings.head_timeout_s,
        connections=settings.max_connections,
        unread_bytes=settings.max_body_mib * 2**20,
    )
    options: dict[str, Any] = {
        "http": type("Protocol", (BoundedProtocol,), {"limits": limits, "refused": staticmethod(refused)}),
        "ws": "none",
        "lifespan": "on",  # by default uvicorn ignores a failed start and serves
        "log_level": "warning",
        "access_log": False,
        "log_config": None,
        "server_header": False,
        "timeout_graceful_shutdown": settings.grace_s,
    }
    return uvicorn.Config(app, **options | more)
