"""Errors as replies: problem+json, or the form of the protocol at the request's path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson
from starlette.responses import Response

from pellucid.errors import PellucidError

PROBLEM: Final = "application/problem+json"
_KSERVE: Final = re.compile(r"/v2(/.*)?|/v1/models/.*:(predict|explain)", re.DOTALL)
_TORCHSERVE: Final = re.compile(r"/(predictions|explanations)/.*", re.DOTALL)


def error_response(scope: Mapping[str, Any], error: PellucidError) -> Response:
    """The reply to a request that failed. RequestContext has filled in ``scope["state"]``."""
    path, media_type = scope["state"]["path"], "application/json"
    if _KSERVE.fullmatch(path):
        body = kserve(error)
    elif _TORCHSERVE.fullmatch(path):
        body = torchserve(error)
    else:
        body, media_type = problem(error, scope["state"]["request_id"]), PROBLEM
    return Response(orjson.dumps(body), status_code=error.status, headers=error.headers, media_type=media_type)


def kserve(error: PellucidError) -> dict[str, Any]:
    """The error in KServe's protocols, and the list of allowed values if there is one."""
    return {"error": error.detail, **({} if error.allowed is None else {"allowed": error.allowed})}


def torchserve(error: PellucidError) -> dict[str, Any]:
    """The error in TorchServe's protocol. ``type`` is the slug of the problem's URN on other routes."""
    body = {"code": error.status, "type": error.slug, "message": error.detail}
    return body | ({} if error.allowed is None else {"allowed": error.allowed})


def problem(error: PellucidError, request_id: str) -> dict[str, Any]:
    """The error as RFC 9457 defines it, with the request's id, and the allowed values if there is a list."""
    body: dict[str, Any] = {
        "type": f"urn:pellucid:problem:{error.slug}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "request_id": request_id,
    }
    if error.allowed is not None:
        body["allowed"] = error.allowed
    return body
