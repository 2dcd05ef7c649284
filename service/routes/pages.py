"""The pages: the playground at /, of plain modules and styles that call the public API only, and Redoc."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_redoc_html
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
# Redoc's bundle loads it from the internet.
_LOGO: Final = b"https://cdn.redoc.ly/redoc/logo-mini.svg"
_NO_PICTURE: Final = b"data:,"


def playground() -> APIRouter:
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


async def _file(folder: StaticFiles, request: Request, path: str) -> Response:
    response = await folder.get_response(path, request.scope)
    response.headers.update(HEADERS)
    return response


@cache
def bundle() -> bytes:
    """fastapi-offline's bundle of Redoc without the logo. Raises ValueError if the bundle has no such logo."""
    packed = files("fastapi_offline").joinpath("static/redoc.standalone.js").read_bytes()
    if _LOGO not in packed:
        raise ValueError("the packed Redoc has no logo to take out: see what it loads now")
    return packed.replace(_LOGO, _NO_PICTURE)


def redoc(assets: str) -> APIRouter:
    """/redoc and its script; the icon is one of fastapi-offline's files at ``assets``."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/assets/redoc.js")
    async def script() -> Response:
        return Response(bundle(), media_type="text/javascript", headers={"Cache-Control": "max-age=86400"})

    @routes.get("/redoc")
    async def page(request: Request) -> Response:
        root = request.scope.get("root_path", "")
        return get_redoc_html(
            openapi_url=f"{root}{request.app.openapi_url}",
            title=f"{request.app.title} - ReDoc",
            redoc_js_url=f"{root}/assets/redoc.js",
            redoc_favicon_url=f"{root}{assets}/favicon.png",
            with_google_fonts=False,
        )

    return routes
