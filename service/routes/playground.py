"""The playground at /: a page of plain modules and styles that calls the public API only."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request, Response
from starlette.responses import FileResponse, JSONResponse
from starlette.staticfiles import StaticFiles

from pellucid.render import colormap

_WEB: Final = Path(__file__).parents[1] / "web"
# Only files of this service: no inline script or style, no eval, no framing by other pages.
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    # The browser revalidates each file (304), so a page never mixes modules of two versions.
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
        """The 256 colours of each colour map in hexadecimal, so that the page has the colours of the API."""
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
