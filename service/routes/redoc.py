"""Redoc's page. Its bundle loads a logo from the internet, which is removed here."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_redoc_html

_LOGO: Final = b"https://cdn.redoc.ly/redoc/logo-mini.svg"
_NO_PICTURE: Final = b"data:,"


@cache
def bundle() -> bytes:
    """fastapi-offline's bundle of Redoc without the logo. Raises ValueError if the bundle has no such logo."""
    packed = files("fastapi_offline").joinpath("static/redoc.standalone.js").read_bytes()
    if _LOGO not in packed:
        raise ValueError("the packed Redoc has no logo to take out: see what it loads now")
    return packed.replace(_LOGO, _NO_PICTURE)


def router(assets: str) -> APIRouter:
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
