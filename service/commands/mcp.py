"""``pellucid mcp``: tools for agents, over standard input and output or over HTTP."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Annotated, Any

import typer
import uvicorn
from starlette.types import ASGIApp

from ..config import Settings
from ..http.middleware import AccessControl, Calls, RequestContext
from . import start
from .session import ApiKey, Timeout, Url, console, refuse, session


def mcp(
    http: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Serve over HTTP, at /mcp, with the service's PELLUCID_API_KEYS and PELLUCID_RATE_LIMIT. "
            "Without it: over standard input and output, for the program that starts this one.",
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Without --url: the network, by name or compiled file.")] = None,
    timeout: Timeout = 60,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Give agents the tools predict, explain, compare, what_if and models (Model Context Protocol).

    They use the server at --url, or else a network that this process loads once.
    """
    try:
        from mcp.server.stdio import stdio_server  # of an optional package

        from ..agents import tools
    except ImportError:
        refuse("pellucid mcp needs the package mcp: pip install 'pellucid\\[mcp]'")
    host, _, port = (http or ":").rpartition(":")
    if http and not (host and port.isdecimal() and int(port) < 2**16):
        refuse(f"--http: An address is HOST:PORT, such as 127.0.0.1:8765, not {http}.")
    settings = start.settings()
    if http and api_key and not (settings.api_keys or settings.api_keys_file):
        refuse("--http: Set PELLUCID_API_KEYS as well, or everyone could use the server with your --api-key.")

    async def run() -> None:
        async with session(url, api_key, model=model, timeout_s=timeout) as client:
            body = settings.max_body_mib * 2**20
            server = tools.server(client, file_bytes=0 if http else body)
            if not http:
                async with stdio_server() as (read, write):
                    await server.run(read, write, server.create_initialization_options())
                return
            app = server.streamable_http_app(
                json_response=True, stateless_http=True, max_request_body_size=body, host=host
            )
            console.print(f"Tools for agents at http://{http}/mcp")
            await served(app, settings, host=host.strip("[]"), port=int(port)).serve()

    for stop in (signal.SIGINT, signal.SIGTERM):  # uvicorn ends its requests, then raises the signal again
        signal.signal(stop, lambda *_: sys.exit(0))
    asyncio.run(run())


def served(app: ASGIApp, settings: Settings, **address: Any) -> uvicorn.Server:
    """The app behind the service's API keys, rate and limits, with its log and errors.

    Raises ValueError for a wrong key.
    """
    guarded = RequestContext(AccessControl(app, settings.gate()), serving=lambda: True, calls=Calls())
    return uvicorn.Server(start.uvicorn_config(guarded, settings, **address))
