"""What the OpenAPI document says about a POST route beyond its signature: kinds of body, replies, an example."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import APIRoute

from pellucid.parts.figures.figure import SVG
from pellucid.parts.option_types import Options

from ..flow.bodies import FILE_OPTIONS, NPY, JsonImage
from .middleware import LIMITED, PROBES
from .openapi_problems import POST_PROBLEMS, POST_PROBLEMS_WITH_NAMES

_JSON_NOTE: Final = "The images in base64, and any option of the route beside them. Options here override the query."
_KEY_NOTE: Final = "An API key, if the operator requires one."
PICTURE_HEADERS: Final = {
    "Pellucid-Layer": "the layer that it shows.",
    "Pellucid-Target": "the index of the class that it explains.",
    "Pellucid-Box": "the box of the source that a mask covers: x0,y0,x1,y1.",
    "Pellucid-All-Negative": "whether all evidence is against the class, true or false.",
    "Pellucid-Channels": "the channels of a grid, in its order.",
}


def operation_id(route: APIRoute) -> str:
    """The id of a route. Generators of clients make names of it: `predict`, not `predict_v1_predict_post`."""
    return route.name


@cache
def examples() -> dict[str, dict[str, Any]]:
    """Recorded requests and replies by route: ``{"query", "image", "reply"}``.

    ``docs/record_examples.py`` records them.
    """
    found: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("openapi_examples.json").read_bytes())
    return found


def request_body(options: type[Options]) -> dict[str, Any]:
    """``openapi_extra`` for a route that takes images and ``options``."""
    binary = {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}
    image = JsonImage.model_json_schema()
    files: dict[str, Any] = {
        name: {**binary, "description": f"The option `{name}` as a file."}
        for name in FILE_OPTIONS
        if name in options.model_fields
    }
    json_schema = {
        "type": "object",
        "required": ["images"],
        "properties": {
            "images": {
                "type": "array",
                "minItems": 1,
                "items": {"anyOf": [image, {"type": "string", "description": "The file's bytes in base64."}]},
                "description": "The images: each with a filename, or as base64 alone.",
            },
            **options.model_json_schema()["properties"],
        },
        "additionalProperties": False,
        "description": _JSON_NOTE,
    }
    content = {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["images"],
                "properties": {
                    "images": {"type": "array", "items": binary, "description": "One image file, or several."},
                    **files,
                },
            }
        },
        "image/*": {"schema": {**binary, "description": "The bytes of one image."}},
        # No type of its own for arrays: generators of clients know none for it.
        "application/octet-stream": {
            "schema": {
                **binary,
                "description": f"The bytes of one image of any type, or of a numpy array (`.npy`, also as `{NPY}`) of "
                "the shape [height, width, channels] or [channels, height, width], with the channels and the range "
                "of values that /v1/models/{name} states.",
            }
        },
        "application/json": {
            "schema": json_schema,
            "example": {"images": [{"data": ONE_PIXEL_PNG, "filename": "dot.png"}]},
        },
    }
    return {"requestBody": {"required": True, "description": "One image, or several.", "content": content}}


def responses(
    route: str,
    media_types: Sequence[str] = (),
    *,
    names: bool = True,
    said: str = "One result for each image, in the order sent.",
) -> dict[int | str, dict[str, Any]]:
    """The replies of a POST route: JSON, ``said`` with its recorded example, each of ``media_types``, and the problems.

    ``names``: whether options name parts of the network.
    """
    recorded = examples().get(route)
    content: dict[str, Any] = {"application/json": {"example": recorded["reply"]} if recorded else {}}
    content |= {kind: {"schema": {"type": "string", "format": "binary"}} for kind in media_types}
    headers = {
        "X-Request-ID": "The request's id: yours, or a new one.",
        "Server-Timing": "Milliseconds in decode, queue, infer, explain, trust and render, of the slowest image.",
    }
    if SVG in media_types:
        said += (
            f" With `Accept: image/png`, `image/webp` or `{SVG}`, if the answer is about one image: a figure for "
            "reports, 1200 pixels wide."
        )
    elif media_types:
        said += (
            " With `Accept: image/png` or `image/webp`, if one picture is requested: the picture itself. Headers "
            "whose names begin with Pellucid say what it shows."
        )
        headers |= {name: f"Only for a picture: {shown}" for name, shown in PICTURE_HEADERS.items()}
    stated = {name: {"description": text, "schema": {"type": "string"}} for name, text in headers.items()}
    ok = {"description": said, "content": content, "headers": stated}
    return {200: ok, **(POST_PROBLEMS_WITH_NAMES if names else POST_PROBLEMS)}


def secure(app: FastAPI, *, required: bool) -> None:
    """Add the two ways to send a key to the app's document. If not ``required``, a request may omit the key."""
    plain = app.openapi
    schemes = {
        "bearer": {"type": "http", "scheme": "bearer", "description": _KEY_NOTE},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": _KEY_NOTE},
    }
    ways: list[dict[str, list[str]]] = [{name: []} for name in schemes]
    if not required:
        ways.append({})

    def with_keys() -> dict[str, Any]:
        document = plain()
        document["components"]["securitySchemes"] = schemes
        for path, methods in document["paths"].items():
            for operation in methods.values() if path.startswith(LIMITED) and path not in PROBES else ():
                operation["security"] = ways
        return document

    app.openapi = with_keys  # type: ignore[method-assign]


# A PNG file of one white pixel, so that the JSON example works as it stands.
ONE_PIXEL_PNG: Final = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4//8/AAX+Av4N70a4AAAAAElFTkSuQmCC"
