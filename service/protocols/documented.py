"""What the OpenAPI document says of the other protocols' routes: bodies, replies, and errors as those have them."""

from __future__ import annotations

from typing import Any, Final

from pellucid.errors import PellucidError

from ..http import problems as errors
from ..http.openapi import ONE_PIXEL_PNG
from ..http.openapi_problems import (
    DOWN,
    DRAINING,
    EXAMPLES,
    NO_KEY,
    NO_MODEL,
    TOO_OFTEN,
    UNKNOWN_LAYER,
    responses,
)

_ALLOWED: Final = {"type": "array", "items": {"type": "string"}, "description": "What is allowed, where a list helps."}
_KSERVE_ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string", "description": "What was wrong."}, "allowed": _ALLOWED},
}
_TORCHSERVE_ERROR: Final = {
    "type": "object",
    "required": ["code", "type", "message"],
    "properties": {
        "code": {"type": "integer", "description": "The status."},
        "type": {"type": "string", "description": "The kind of error."},
        "message": {"type": "string", "description": "What was wrong."},
        "allowed": _ALLOWED,
    },
}
_OF_IMAGES: Final = (*EXAMPLES, UNKNOWN_LAYER, NO_MODEL)


def _kserve(*of: PellucidError) -> dict[int | str, dict[str, Any]]:
    return responses(of, "application/json", _KSERVE_ERROR, errors.kserve)


def _ok(description: str, schema: dict[str, Any], **content: Any) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": description, "content": {"application/json": {"schema": schema}, **content}}}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": [*properties], "properties": properties}


def _tensors(what: str, **more: dict[str, Any]) -> dict[str, Any]:
    tensor = _object(
        name={"type": "string", "description": "The tensor's name."},
        shape={
            "type": "array",
            "items": {"type": "integer"},
            "description": "Its shape; the first axis is the images.",
        },
        datatype={"type": "string", "description": "BYTES, UINT8, FP32 or INT64."},
    )
    tensor["properties"] |= more
    return {"type": "array", "items": tensor, "description": what}


_DATA: Final = {"type": "array", "items": {}, "description": "Its values in JSON; absent where they follow as bytes."}
_PARAMETERS: Final = {
    "type": "object",
    "description": "`binary_data_size`: how many bytes of those behind the JSON are this tensor's.",
}
_BINARY: Final = {
    "schema": {"type": "string", "format": "binary"},
}

SERVER: Final = {
    **_ok(
        "The server.",
        _object(
            name={"type": "string", "description": "pellucid"},
            version={"type": "string", "description": "Its version."},
            extensions={"type": "array", "items": {"type": "string"}, "description": "Extensions that are spoken."},
        ),
    ),
    **_kserve(NO_KEY, TOO_OFTEN),
}
LIVE: Final = {
    **_ok("It is.", _object(live={"type": "boolean", "description": "true"})),
    **_kserve(DOWN),
}
READY: Final = {
    **_ok("It does.", _object(ready={"type": "boolean", "description": "true"})),
    **_kserve(DRAINING, DOWN),
}
MODEL: Final = {
    **_ok(
        "The network's tensors.",
        _object(
            name={"type": "string", "description": "The network's name."},
            platform={"type": "string", "description": "What runs it: pellucid."},
            inputs=_tensors("A request gives one of these."),
            outputs=_tensors("A request may ask for any of these."),
        ),
    ),
    **_kserve(NO_KEY, TOO_OFTEN, NO_MODEL),
    "default": {
        "description": "Any other error.",
        "content": {"application/json": {"schema": _KSERVE_ERROR}},
    },
}
MODEL_READY: Final = {
    **_ok(
        "It does.",
        _object(
            name={"type": "string", "description": "The network's name."},
            ready={"type": "boolean", "description": "true"},
        ),
    ),
    **_kserve(NO_KEY, TOO_OFTEN, NO_MODEL, DRAINING, DOWN),
    "default": MODEL["default"],
}
INFER: Final = {
    **_ok(
        "Each output as a tensor; with binary outputs, JSON and then their bytes, as the request.",
        {
            **_object(
                model_name={"type": "string", "description": "The network's name."},
                outputs=_tensors("In the order asked for.", data=_DATA, parameters=_PARAMETERS),
            )
        },
        **{"application/octet-stream": _BINARY},
    ),
    **_kserve(*_OF_IMAGES),
}


def infer() -> dict[str, Any]:
    """``openapi_extra`` of inference."""
    wanted = _object(name={"type": "string", "description": "The output's name."})
    wanted["properties"]["parameters"] = {
        "type": "object",
        "description": "`binary_data`: as bytes behind the JSON. `classification`: so many classes as text.",
    }
    schema = _object(
        inputs=_tensors("One tensor: `image`, `pixels` or `normalized`.", data=_DATA, parameters=_PARAMETERS)
    )
    schema["properties"] |= {
        "id": {"type": "string", "description": "Comes back in the reply."},
        "parameters": {
            "type": "object",
            "description": "The options of the query, `timeout` in microseconds, and `binary_data_output`.",
        },
        "outputs": {
            "type": "array",
            "items": wanted,
            "description": "Default: classes, labels, probabilities, logits.",
        },
    }
    example = {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [ONE_PIXEL_PNG]}]}
    content = {"application/json": {"schema": schema, "example": example}, "application/octet-stream": _BINARY}
    return {
        "requestBody": {
            "required": True,
            "description": "JSON; or JSON and then a tensor's bytes, the JSON's length in the header "
            "`Inference-Header-Content-Length`.",
            "content": content,
        }
    }


def kserve_v1(key: str, said: str) -> dict[int | str, dict[str, Any]]:
    """The replies of a route of KServe v1."""
    entries = {"type": "array", "items": {"type": "object"}, "description": "One for each instance, in their order."}
    return {**_ok(said, _object(**{key: entries})), **_kserve(*_OF_IMAGES)}


def instances() -> dict[str, Any]:
    """``openapi_extra`` of KServe v1."""
    schema = _object(
        instances={
            "type": "array",
            "minItems": 1,
            "items": {},
            "description": 'Images: {"b64": base64}, {"data": base64}, base64 alone, or one of these as `image` or '
            "`image_bytes`.",
        }
    )
    schema["properties"]["parameters"] = {"type": "object", "description": "Options; they win over the query's."}
    example = {"instances": [{"b64": ONE_PIXEL_PNG}]}
    content = {"application/json": {"schema": schema, "example": example}}
    return {"requestBody": {"required": True, "description": "One image, or several.", "content": content}}


def torchserve(said: str) -> dict[int | str, dict[str, Any]]:
    """The replies of a route of TorchServe."""
    of_errors = responses(_OF_IMAGES, "application/json", _TORCHSERVE_ERROR, errors.torchserve)
    return {**_ok(said, {"type": "object", "description": said}), **of_errors}


def one_image() -> dict[str, Any]:
    """``openapi_extra`` of TorchServe."""
    image = {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}
    form = _object(data={**image, "description": "The image's file."})
    content = {
        "application/octet-stream": {"schema": {**image, "description": "The image's bytes, of any type."}},
        "multipart/form-data": {"schema": form},
    }
    return {"requestBody": {"required": True, "description": "One image.", "content": content}}
