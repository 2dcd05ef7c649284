"""Requests and replies of the Open Inference Protocol as bytes: JSON, and tensors in binary form behind it.

Source: the Open Inference Protocol (REST), and Triton's binary tensor data extension.
"""

from __future__ import annotations

import binascii
import struct
from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response

from pellucid.errors import MalformedRequest
from pellucid.parts.option_types import invalid

from ..flow import bodies
from ..flow.reply import JSON

HEADER: Final = "Inference-Header-Content-Length"
DTYPES: Final[dict[str, np.dtype[Any]]] = {"UINT8": np.dtype("u1"), "FP32": np.dtype("<f4"), "INT64": np.dtype("<i8")}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class InputTensor(_Strict):
    """A tensor as the request's JSON has it; ``data`` is None where it stands behind the JSON."""

    name: str = Field(max_length=64, description="The tensor's name.")
    shape: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field(
        min_length=1, max_length=8, description="Its shape; the first axis is the images."
    )
    datatype: str = Field(max_length=16, description="BYTES, UINT8, FP32 or INT64.")
    parameters: dict[str, Any] = Field(
        default={}, description="`binary_data_size`: how many of the bytes behind the JSON belong to this tensor."
    )
    data: list[Any] | None = Field(None, description="Its values in JSON. Absent if they follow as bytes.")


class Wanted(_Strict):
    """A requested output."""

    name: str = Field(max_length=256, description="The output's name.")
    parameters: dict[str, Any] = Field(
        default={}, description="`binary_data`: as bytes behind the JSON. `classification`: this many classes as text."
    )


class InferRequest(_Strict):
    """The JSON of a request."""

    id: str | None = Field(None, max_length=256, description="Comes back in the reply.")
    parameters: dict[str, Any] = Field(
        default={}, description="The options of the query, `timeout` in microseconds, and `binary_data_output`."
    )
    inputs: list[InputTensor] = Field(
        min_length=1, max_length=1, description="One tensor: `image`, `pixels` or `normalized`."
    )
    outputs: list[Wanted] = Field(
        default=[], max_length=256, description="Default: classes, labels, probabilities, logits."
    )


@dataclass(frozen=True, slots=True)
class Written:
    """One image's part of an output, encoded. ``shape`` is without the batch axis."""

    datatype: str
    shape: tuple[int, ...]
    data: bytes
    binary: bool


def parse(body: bytes, header: str | None, limits: bodies.Limits, more_values: int) -> tuple[InferRequest, bytes]:
    """The JSON of a request, and the bytes that follow it. ``header`` states the JSON's length.

    Raises MalformedRequest and ContentTooLarge.
    """
    length = len(body)
    if header is not None:
        if not header.isascii() or not header.isdecimal() or len(header) > 12 or int(header) > length:
            raise MalformedRequest(f"{HEADER} must be the length of the JSON, at most that of the body.")
        length = int(header)
    said = bodies.from_json(body[:length], limits, more_values)
    if not isinstance(said, dict):
        raise MalformedRequest('The body must be a JSON object with a list of "inputs".')
    return validated(said), body[length:]


def validated(said: Mapping[str, Any]) -> InferRequest:
    """A request of plain data. Raises MalformedRequest."""
    try:
        return InferRequest.model_validate(said)
    except ValidationError as error:
        raise MalformedRequest(invalid(error.errors(include_url=False, include_context=False)).detail) from error


def files(tensor: InputTensor, behind: bytes, most: int) -> list[bytes]:
    """The elements of a BYTES tensor, in JSON as base64. Stops at ``most`` + 1 elements.

    Raises MalformedRequest.
    """
    if tensor.data is None:
        elements = split(_binary(tensor, behind), tensor.name, most)
        _require_count(tensor, len(elements), most)
        return elements
    _require_nothing_behind(tensor, behind)
    data = [entry for row in tensor.data for entry in (row if isinstance(row, list) else [row])]
    _require_count(tensor, len(data), most)
    try:
        return [b64decode(entry, validate=True) for entry in data[: most + 1]]
    except (binascii.Error, ValueError, TypeError) as error:
        raise MalformedRequest(f"{tensor.name}: in JSON, BYTES must be base64: {error}.") from error


def split(raw: bytes, name: str, most: int) -> list[bytes]:
    """The elements of a binary BYTES tensor, each behind its length. Stops at ``most`` + 1. Raises MalformedRequest."""
    elements: list[bytes] = []
    at = 0
    while at < len(raw) and len(elements) <= most:
        end = at + 4 + (struct.unpack_from("<I", raw, at)[0] if len(raw) - at >= 4 else len(raw))
        if end > len(raw):
            raise MalformedRequest(f"{name}: an element's length goes beyond the tensor's bytes.")
        elements.append(raw[at + 4 : end])
        at = end
    return elements


def joined(elements: Iterable[bytes]) -> bytes:
    """The elements as a binary BYTES tensor."""
    return b"".join(part for element in elements for part in (struct.pack("<I", len(element)), element))


def numbers(tensor: InputTensor, behind: bytes) -> NDArray[Any]:
    """A numeric tensor in its shape. JSON decides the dtype; in binary, ``datatype`` does. Raises MalformedRequest."""
    if tensor.data is None:
        dtype, raw = DTYPES[tensor.datatype], _binary(tensor, behind)
        if len(raw) % dtype.itemsize:
            raise MalformedRequest(
                f"{tensor.name}: {len(raw)} bytes are not a whole number of values of {tensor.datatype}."
            )
        values: NDArray[Any] = np.frombuffer(raw, dtype)
    else:
        _require_nothing_behind(tensor, behind)
        try:
            values = np.asarray(tensor.data)
        except ValueError as error:
            raise MalformedRequest(f"{tensor.name}: the data are not a regular list of numbers.") from error
        if values.dtype.kind not in "iuf":
            raise MalformedRequest(f"{tensor.name}: the data are not numbers.")
    try:
        shaped: NDArray[Any] = values.reshape(tensor.shape)
    except ValueError as error:
        raise MalformedRequest(f"{tensor.name}: {values.size} values can't have the shape {tensor.shape}.") from error
    return shaped


def _binary(tensor: InputTensor, behind: bytes) -> bytes:
    size = tensor.parameters.get("binary_data_size")
    if tensor.parameters.keys() != {"binary_data_size"} or size != len(behind) or isinstance(size, bool):
        raise MalformedRequest(
            f"{tensor.name}: without `data`, the tensor needs the header {HEADER}, and `binary_data_size` as its only "
            f"parameter. That must be the number of bytes behind the JSON, {len(behind)}."
        )
    return behind


def _require_nothing_behind(tensor: InputTensor, behind: bytes) -> None:
    if behind or tensor.parameters:
        raise MalformedRequest(f"{tensor.name}: a tensor with `data` takes no parameters and no bytes behind the JSON.")


def _require_count(tensor: InputTensor, count: int, most: int) -> None:
    if count <= most and tensor.shape not in ([count], [count, 1]):
        raise MalformedRequest(f"{tensor.name}: {count} elements have the shape [{count}], not {tensor.shape}.")


def written(values: NDArray[Any] | Sequence[str], datatype: str, binary: bool) -> Written:
    """Encode one image's part of an output."""
    if datatype == "BYTES":
        texts = [str(text) for text in values]
        data = joined(map(str.encode, texts)) if binary else orjson.dumps(texts)[1:-1]
        return Written(datatype, (len(texts),), data, binary)
    array = np.ascontiguousarray(values, DTYPES[datatype])
    flat = orjson.dumps(array.ravel(), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1] if not binary else array.tobytes()
    return Written(datatype, array.shape, flat, binary)


def response(model: str, request_id: str | None, entries: Sequence[Mapping[str, Written]]) -> Response:
    """The reply: for each output, the parts of all images joined."""
    outputs: list[dict[str, Any]] = []
    behind: list[bytes] = []
    for name, first in entries[0].items():
        parts = [entry[name].data for entry in entries]
        output: dict[str, Any] = {"name": name, "datatype": first.datatype, "shape": [len(entries), *first.shape]}
        if first.binary:
            output["parameters"] = {"binary_data_size": sum(map(len, parts))}
            behind += parts
        else:
            output["data"] = orjson.Fragment(b"[" + b",".join(parts) + b"]")
        outputs.append(output)
    body = orjson.dumps({"model_name": model, **({"id": request_id} if request_id else {}), "outputs": outputs})
    if not any(part.binary for part in entries[0].values()):
        return Response(body, media_type=JSON)
    headers = {HEADER: str(len(body))}
    return Response(b"".join([body, *behind]), media_type="application/octet-stream", headers=headers)
