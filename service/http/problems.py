"""An error as the whole reply: problem+json, or what the protocol of the path has instead."""

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
    """An error as the whole reply to the request of an ASGI scope, whose ``state`` RequestContext has filled in."""
    path, media_type = scope["state"]["path"], "application/json"
    if _KSERVE.fullmatch(path):
        body = kserve(error)
    elif _TORCHSERVE.fullmatch(path):
        body = torchserve(error)
    else:
        body, media_type = problem(error, scope["state"]["request_id"]), PROBLEM
    return Response(orjson.dumps(body), status_code=error.status, headers=error.headers, media_type=media_type)


def kserve(error: PellucidError) -> dict[str, Any]:
    """Both of KServe's protocols: what was wrong, and beside it the list of what is allowed where a list helps."""
    return {"error": error.detail, **({} if error.allowed is None else {"allowed": error.allowed})}


def torchserve(error: PellucidError) -> dict[str, Any]:
    """TorchServe's: ``type`` is the kind of error as other routes have it in their problem's URN."""
    body = {"code": error.status, "type": error.slug, "message": error.detail}
    return body | ({} if error.allowed is None else {"allowed": error.allowed})


def problem(error: PellucidError, request_id: str) -> dict[str, Any]:
    """An error as RFC 9457 has it, with the request's id, and what is allowed where a list of it helps."""
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
