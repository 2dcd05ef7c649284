"""The protobuf messages of KServe's protocol v2, built at run time.

They are in a pool of their own, because protobuf's default pool takes each name once, and clients of the protocol bring
the same names. Source: grpc_predict_v2.proto of KServe 0.20; `double_param` and `uint64_param` are Triton's.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from pellucid.errors import ContentTooLarge, MalformedRequest

# Types of fields on the wire; a fixed one is so many bytes.
_VARINT: Final = 0
_LENGTH: Final = 2
_FIXED: Final = {1: 8, 5: 4}
_PACKAGE: Final = "inference"
# Fields are numbered from 1 in their order. `*` repeats a field, and the fields of `oneof` exclude one another. On the
# wire, a map is a repeated message of a key and a value, as Parameter is.
_MESSAGES: Final = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready",
    "ModelReadyRequest": "string name, string version",
    "ModelReadyResponse": "bool ready",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "string name, string version, string* extensions",
    "ModelMetadataRequest": "string name, string version",
    "TensorMetadata": "string name, string datatype, int64* shape",
    "ModelMetadataResponse": "string name, string* versions, string platform, TensorMetadata* inputs, "
    "TensorMetadata* outputs",
    "InferParameter": "oneof bool bool_param, oneof int64 int64_param, oneof string string_param, "
    "oneof double double_param, oneof uint64 uint64_param",
    "Parameter": "string key, InferParameter value",
    "InferTensorContents": "bool* bool_contents, int32* int_contents, int64* int64_contents, uint32* uint_contents, "
    "uint64* uint64_contents, float* fp32_contents, double* fp64_contents, bytes* bytes_contents",
    "InferInputTensor": "string name, string datatype, int64* shape, Parameter* parameters, "
    "InferTensorContents contents",
    "InferRequestedOutputTensor": "string name, Parameter* parameters",
    "InferOutputTensor": "string name, string datatype, int64* shape, Parameter* parameters, "
    "InferTensorContents contents",
    "ModelInferRequest": "string model_name, string model_version, string id, Parameter* parameters, "
    "InferInputTensor* inputs, InferRequestedOutputTensor* outputs, bytes* raw_input_contents",
    "ModelInferResponse": "string model_name, string model_version, string id, Parameter* parameters, "
    "InferOutputTensor* outputs, bytes* raw_output_contents",
}


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name=f"{_PACKAGE}.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, text in enumerate(fields.split(", ") if fields else (), 1):
            *one_of, kind, field_name = text.split()
            field = message.field.add(name=field_name, number=number)
            field.label = field.LABEL_REPEATED if kind.endswith("*") else field.LABEL_OPTIONAL
            kind = kind.rstrip("*")
            if kind in _MESSAGES:
                field.type, field.type_name = field.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
            else:
                field.type = field.Type.Value(f"TYPE_{kind.upper()}")
            if one_of:
                field.oneof_index = 0
        if "oneof" in fields:
            message.oneof_decl.add(name="choice")
    return file


def _classes() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_file())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _MESSAGES
    }


# Name -> class.
MESSAGES: Final = _classes()


def require_few(message: bytes, name: str, most: int) -> None:
    """Count the fields of a message, and of messages in it, before they become objects of many times their size.

    Numbers that are packed into one field count each. Raises ContentTooLarge, MalformedRequest.
    """
    try:
        left = _left(memoryview(message), MESSAGES[name].DESCRIPTOR, most)
    except LookupError as error:
        raise MalformedRequest(f"The message is no {name}.") from error
    if left < 0:
        raise ContentTooLarge(f"The message holds more than {most} values. Use raw_input_contents.")


def _left(message: memoryview, kind: Any, left: int) -> int:
    at = 0
    while at < len(message) and left >= 0:
        left -= 1
        tag, at = _varint(message, at)
        wire_type, field = tag & 7, kind.fields_by_number.get(tag >> 3)
        if wire_type == _LENGTH:
            size, at = _varint(message, at)
            if field is not None and field.message_type:
                left = _left(message[at : at + size], field.message_type, left)
            elif field is not None and field.type not in (field.TYPE_STRING, field.TYPE_BYTES):
                fixed = {field.TYPE_FLOAT: 4, field.TYPE_DOUBLE: 8}.get(field.type)
                left -= size // fixed if fixed else _varints(message[at : at + size])
            at += size
        else:
            at = _varint(message, at)[1] if wire_type == _VARINT else at + _FIXED[wire_type]
    return left


def _varints(packed: memoryview) -> int:
    """How many numbers: the last byte of each is below 0x80."""
    return int(np.count_nonzero(np.frombuffer(packed, np.uint8) < 0x80))


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, in at most 10 bytes, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        value |= (message[at] & 0x7F) << shift
        at += 1
        if message[at - 1] < 0x80:
            return value, at
    raise LookupError
