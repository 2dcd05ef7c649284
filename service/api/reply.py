"""Outcome -> the reply: one envelope on every route, or, where one picture is asked for, its bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import mimeparse
import orjson
from starlette.responses import Response

from pellucid.errors import NotAcceptable, PellucidError
from pellucid.parts import numbers_file
from pellucid.parts.result import as_json, image_info
from pellucid.render.encode import MEDIA_TYPES
from pellucid.types import ImageInfo

JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"
_LONGEST_ACCEPT: Final = 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """One image's part of a reply: the rest of its entry as JSON, or a file of ``media_type`` with what it shows in
    ``headers``. Nothing in it but ``info.filename`` is of the request.
    """

    info: ImageInfo
    content: bytes
    media_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


def negotiate(accept: str | None, pictures: bool, numbers: bool = False) -> str:
    """The media type of the reply: JSON unless the Accept header prefers a picture and the route has one, or, where it
    has maps of ``numbers``, a file of those.

    Raises NotAcceptable.
    """
    offered: tuple[str, ...] = (JSON,)
    if pictures:  # mimeparse lets the last of equals win
        offered = (*([numbers_file.NPZ] if numbers else ()), *MEDIA_TYPES[::-1], JSON)
    if accept and len(accept) > _LONGEST_ACCEPT:  # mimeparse takes 50 ms of the event loop for 30 KiB
        raise NotAcceptable(f"The Accept header has more than {_LONGEST_ACCEPT} characters.", allowed=offered)
    try:
        chosen = _best_match(offered, accept or "*/*")
    except mimeparse.MimeTypeParseException as error:
        raise NotAcceptable(f"The Accept header can't be read: {error}.", allowed=offered) from error
    if not chosen:
        raise NotAcceptable(f"This route answers as {', '.join(offered)}, not as {accept!r}.", allowed=offered)
    return chosen


@lru_cache(256)  # callers send a few headers again and again
def _best_match(offered: tuple[str, ...], accept: str) -> str:
    return str(mimeparse.best_match(offered, accept))


def failure(info: ImageInfo, problem: dict[str, Any]) -> Entry:
    """The entry of an image that could not be explained, among others that could."""
    return entry(info, {"error": problem})


def entry(info: ImageInfo, found: dict[str, Any]) -> Entry:
    """An entry of ``results``, but for what is known of the upload, as JSON."""
    return Entry(info, as_json(found))


def envelope(model: str, request_id: str, origin: dict[str, Any] | None, results: Sequence[Entry]) -> Response:
    """The JSON reply. ``origin`` is its provenance, where that is asked for."""
    head: dict[str, Any] = {"model": model, "request_id": request_id}
    if origin is not None:
        head["provenance"] = origin
    body: list[bytes | memoryview] = [orjson.dumps(head)[:-1], b',"results":[']
    for number, each in enumerate(results):
        image = orjson.dumps(image_info(each.info))
        body += [b',{"image":' if number else b'{"image":', image, b",", memoryview(each.content)[1:]]
    body.append(b"]}")
    return Response(b"".join(body), media_type=JSON)


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


def problem_response(error: PellucidError, request_id: str) -> Response:
    """An error as the whole reply."""
    return Response(
        orjson.dumps(problem(error, request_id)),
        status_code=error.status,
        headers=error.headers,
        media_type=PROBLEM,
    )
