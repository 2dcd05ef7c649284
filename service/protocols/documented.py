"""Bodies, replies and errors of the other protocols as types, and what the OpenAPI document says of their routes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pydantic import BaseModel, Field

from pellucid.errors import PellucidError

from ..http import problem_json as errors
from ..http.openapi import ONE_PIXEL_PNG
from ..http.openapi_problems import DOWN, DRAINING, EXAMPLES, NO_KEY, NO_MODEL, TOO_OFTEN, UNKNOWN_LAYER, responses
from .kserve_tensors import InferRequest

Responses = dict[int | str, dict[str, Any]]


class KServeError(BaseModel):
    """An error."""

    error: str = Field(description="What was wrong.")
    allowed: list[str] = Field(default_factory=list, description="What is allowed, where a list helps.")


class TorchServeError(BaseModel):
    """An error."""

    code: int = Field(description="The status.")
    type: str = Field(description="The kind of error.")
    message: str = Field(description="What was wrong.")
    allowed: list[str] = Field(default_factory=list, description="What is allowed, where a list helps.")


class ServerMetadata(BaseModel):
    """The server."""

    name: str = Field(description="pellucid")
    version: str = Field(description="Its version.")
    extensions: list[str] = Field(description="Supported extensions.")


class Live(BaseModel):
    """The process is alive."""

    live: bool = Field(description="true")


class Ready(BaseModel):
    """The service accepts requests."""

    ready: bool = Field(description="true")


class NetworkReady(BaseModel):
    """The network accepts requests."""

    name: str = Field(description="The network's name.")
    ready: bool = Field(description="true")


class TensorMetadata(BaseModel):
    """A tensor."""

    name: str = Field(description="The tensor's name.")
    datatype: str = Field(description="BYTES, UINT8, FP32 or INT64.")
    shape: list[int] = Field(description="Its shape; the first axis is the images.")


class NetworkMetadata(BaseModel):
    """The network's tensors."""

    name: str = Field(description="The network's name.")
    platform: str = Field(description="What runs it: pellucid.")
    inputs: list[TensorMetadata] = Field(description="A request gives one of these.")
    outputs: list[TensorMetadata] = Field(description="A request may ask for any of these.")


class OutputTensor(TensorMetadata):
    """An output."""

    data: list[Any] = Field(default_factory=list, description="Its values in JSON. Absent if they follow as bytes.")
    parameters: dict[str, Any] = Field(
        default_factory=dict,
        description="`binary_data_size`: how many of the bytes behind the JSON belong to this tensor.",
    )


class InferReply(BaseModel):
    """Each output as a tensor."""

    model_name: str = Field(description="The network's name.")
    outputs: list[OutputTensor] = Field(description="In the requested order.")


class Instances(BaseModel):
    """One image, or several."""

    instances: list[Any] = Field(
        min_length=1,
        description='Images: {"b64": base64}, {"data": base64}, base64 alone, or one of these as `image` or '
        "`image_bytes`.",
    )
    parameters: dict[str, Any] = Field(default_factory=dict, description="Options; they override the query's.")


class Predictions(BaseModel):
    """The predictions of /v1/predict."""

    predictions: list[dict[str, Any]] = Field(description="One for each instance, in their order.")


class Explanations(BaseModel):
    """The explanations of /v1/explain."""

    explanations: list[dict[str, Any]] = Field(description="One for each instance, in their order.")


_OF_IMAGES: Final = (*EXAMPLES, UNKNOWN_LAYER, NO_MODEL)
_BYTES: Final = {"type": "string", "format": "binary"}


def _stated(
    of: tuple[PellucidError, ...], model: type[BaseModel], form: Callable[[PellucidError], dict[str, Any]]
) -> Responses:
    stated = responses(of, "application/json", {}, form)
    return {status: {**entry, "model": model} for status, entry in stated.items()}


def _kserve(*of: PellucidError) -> Responses:
    return _stated(of, KServeError, errors.kserve)


_ANY_OTHER: Final[Responses] = {"default": {"description": "Any other error.", "model": KServeError}}
SERVER: Final = _kserve(NO_KEY, TOO_OFTEN)
LIVE: Final = _kserve(DOWN)
READY: Final = _kserve(DRAINING, DOWN)
MODEL: Final = {**_kserve(NO_KEY, TOO_OFTEN, NO_MODEL), **_ANY_OTHER}
MODEL_READY: Final = {**_kserve(NO_KEY, TOO_OFTEN, NO_MODEL, DRAINING, DOWN), **_ANY_OTHER}
INFER: Final[Responses] = {
    200: {"model": InferReply, "content": {"application/octet-stream": {"schema": _BYTES}}},
    **_kserve(*_OF_IMAGES),
}
PREDICTIONS: Final[Responses] = {200: {"model": Predictions}, **_kserve(*_OF_IMAGES)}
EXPLANATIONS: Final[Responses] = {200: {"model": Explanations}, **_kserve(*_OF_IMAGES)}
TORCHSERVE: Final[Responses] = {
    200: {"model": dict[str, Any]},
    **_stated(_OF_IMAGES, TorchServeError, errors.torchserve),
}


def _body(description: str, **content: Any) -> dict[str, Any]:
    """``openapi_extra`` of a route that reads its body itself."""
    return {"requestBody": {"required": True, "description": description, "content": content}}


def _inlined(schema: Any, types: dict[str, Any]) -> Any:
    """The schema with each type in place of a reference to it: the document has no ``$defs``."""
    if isinstance(schema, list):
        return [_inlined(each, types) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(types[schema["$ref"].rpartition("/")[2]], types)
    return {name: _inlined(each, types) for name, each in schema.items() if name != "$defs"}


def _json(model: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    schema = model.model_json_schema()
    return {"application/json": {"schema": _inlined(schema, schema.get("$defs", {})), "example": example}}


INFER_BODY: Final = _body(
    "JSON; or JSON and then a tensor's bytes, the JSON's length in the header `Inference-Header-Content-Length`.",
    **_json(InferRequest, {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [ONE_PIXEL_PNG]}]}),
    **{"application/octet-stream": {"schema": _BYTES}},
)
INSTANCES_BODY: Final = _body("One image, or several.", **_json(Instances, {"instances": [{"b64": ONE_PIXEL_PNG}]}))
_IMAGE: Final = {**_BYTES, "contentMediaType": "application/octet-stream"}
IMAGE_BODY: Final = _body(
    "One image.",
    **{
        "application/octet-stream": {"schema": {**_IMAGE, "description": "The image's bytes, of any type."}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["data"],
                "properties": {"data": {**_IMAGE, "description": "The image's file."}},
            }
        },
    },
)
