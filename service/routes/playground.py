"""The playground at /: a page of plain modules and styles, which asks the public API only."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request, Response
from starlette.responses import FileResponse, JSONResponse
from starlette.staticfiles import StaticFiles

from pellucid.render import colormap

_WEB: Final = Path(__file__).parents[1] / "web"
# Everything on the page is the service's own: no inline script or style, nothing evaluated, nobody else's frame.
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    # Asked for again each time and answered with 304: a page never runs with another version's modules.
    "Cache-Control": "no-cache",
}


def router() -> APIRouter:
    """The page, its modules and styles, the colour maps, and the photographs that it offers."""
    routes = APIRouter(include_in_schema=False)
    page = StaticFiles(directory=_WEB / "playground")
    samples = StaticFiles(directory=_WEB / "samples")

    @routes.get("/")
    async def index() -> Response:
        return FileResponse(_WEB / "playground" / "index.html", headers=HEADERS)

    @routes.get("/assets/playground/colormaps.json")
    async def colormaps() -> Response:
        """Each colour map's 256 colours as hexadecimal digits, so that the page has the very colours of the API."""
        tables = {name: colormap.table(name).tobytes().hex() for name in colormap.NAMES}
        return JSONResponse(tables, headers=HEADERS)

    @routes.get("/assets/playground/{path:path}")
    async def asset(request: Request, path: str) -> Response:
        return await _file(page, request, path)

    @routes.get("/assets/samples/{path:path}")
    async def sample(request: Request, path: str) -> Response:
        return await _file(samples, request, path)

    return routes


async def _file(files: StaticFiles, request: Request, path: str) -> Response:
    response = await files.get_response(path, request.scope)
    response.headers.update(HEADERS)
    return response
