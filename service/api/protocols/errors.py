"""An error as the protocol of a path has it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson
from starlette.responses import Response

from pellucid.errors import PellucidError
from service.api.reply import JSON, problem_response

_KSERVE: Final = re.compile(r"/v2(/.*)?|/v1/models/.*:(predict|explain)", re.DOTALL)
_TORCHSERVE: Final = re.compile(r"/(predictions|explanations)/.*", re.DOTALL)


def path_of(scope: Mapping[str, Any]) -> str:
    """A request's path within the service."""
    return str(scope["path"]).removeprefix(str(scope.get("root_path", "")))


def error_response(scope: Mapping[str, Any], error: PellucidError) -> Response:
    """An error as the whole reply to the request of an ASGI scope."""
    path = path_of(scope)
    if _KSERVE.fullmatch(path):
        body = kserve(error)
    elif _TORCHSERVE.fullmatch(path):
        body = torchserve(error)
    else:
        return problem_response(error, scope["state"]["request_id"])
    return Response(orjson.dumps(body), status_code=error.status, headers=error.headers, media_type=JSON)


def kserve(error: PellucidError) -> dict[str, Any]:
    """Both of KServe's protocols: what was wrong, and beside it the list of what is allowed where a list helps."""
    return {"error": error.detail, **({} if error.allowed is None else {"allowed": error.allowed})}


def torchserve(error: PellucidError) -> dict[str, Any]:
    """TorchServe's: ``type`` is the kind of error as other routes have it in their problem's URN."""
    body = {"code": error.status, "type": error.slug, "message": error.detail}
    return body | ({} if error.allowed is None else {"allowed": error.allowed})
