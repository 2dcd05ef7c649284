"""The body of a request -> uploads, and the options that a JSON body holds. Bytes are counted as they arrive."""

from __future__ import annotations

import asyncio
import binascii
from base64 import b64decode
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from service.errors import ContentTooLarge, MalformedRequest, UnsupportedMediaType
from service.types import Upload

TYPES: Final = ("multipart/form-data", "image/*", "application/octet-stream", "application/json")


class JsonImage(BaseModel):
    """One image in a JSON body."""

    model_config = ConfigDict(extra="forbid", title="JsonImage")

    data: str = Field(
        description="The file's bytes in base64; a `data:` URL is taken too.", examples=["/9j/4AAQSkZJRg…"]
    )
    filename: str | None = Field(
        None, max_length=255, description="A name to know it by in the reply.", examples=["cat.jpg"]
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may hold."""

    body_bytes: int
    images: int


@dataclass(frozen=True, slots=True)
class Intake:
    """The pictures of a request, at least one, and the options that came in its body."""

    uploads: tuple[Upload, ...]
    fields: dict[str, Any] = field(default_factory=dict)


async def read(request: Request, limits: Limits) -> Intake:
    """Read the body as its Content-Type says.

    Raises MalformedRequest, ContentTooLarge, UnsupportedMediaType, InvalidOption.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise UnsupportedMediaType(f"The Content-Encoding {encoding!r} is not served: send the body as it is.")
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        intake = Intake(await _multipart(request, limits))
    elif media_type == "application/json":
        intake = await asyncio.to_thread(_json, await _bytes(request, limits), limits)
    elif media_type.startswith("image/") or media_type == "application/octet-stream":
        intake = Intake((Upload(await _bytes(request, limits)),))
    else:
        said = f"The Content-Type {media_type!r} is not served." if media_type else "The request has no Content-Type."
        raise UnsupportedMediaType(f"{said} Allowed are {', '.join(TYPES)}.", allowed=TYPES)
    if len(intake.uploads) > limits.images:
        raise _too_many(limits)
    if any(not upload.data for upload in intake.uploads):
        raise MalformedRequest("An image is empty: it has no bytes.")
    return intake


def _too_many(limits: Limits) -> ContentTooLarge:
    return ContentTooLarge(f"At most {limits.images} images are taken in one request.")


async def _counted(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    """The body's chunks, refused as soon as they, or the length that is announced, pass the limit."""
    too_large = ContentTooLarge(f"The body is larger than {limits.body_bytes / 2**20:g} MiB.")
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limits.body_bytes:
        raise too_large
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limits.body_bytes:
            raise too_large
        yield chunk


async def _bytes(request: Request, limits: Limits) -> bytes:
    return b"".join([chunk async for chunk in _counted(request, limits)])


async def _multipart(request: Request, limits: Limits) -> tuple[Upload, ...]:
    parser = MultiPartParser(request.headers, _counted(request, limits), max_files=limits.images + 1, max_fields=8)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if "Too many files" in error.message:
            raise _too_many(limits) from error
        raise MalformedRequest(f"The multipart body can't be read: {error.message}") from error
    uploads = []
    for name, part in form.multi_items():
        if name != "images" or not isinstance(part, UploadFile):
            what = "has no filename, so it is no file" if name == "images" else "is not known"
            raise MalformedRequest(
                f"The part {name!r} {what}. Images go into file parts named 'images', one or several "
                "(curl -F images=@FILE); options go into the query string."
            )
        uploads.append(Upload(await part.read(), part.filename or None))
        await part.close()
    if not uploads:
        raise MalformedRequest("The body holds no image. Images go into file parts named 'images', one or several.")
    return tuple(uploads)


def _json(body: bytes, limits: Limits) -> Intake:
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(f"The body is not JSON in UTF-8: {error}") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("images"), list) or not fields["images"]:
        raise MalformedRequest(
            'The body must be a JSON object with a list of "images", each {"data": base64} or base64 alone.'
        )
    if len(fields["images"]) > limits.images:
        raise _too_many(limits)
    images = fields.pop("images")
    return Intake(tuple(_decode(image, number) for number, image in enumerate(images)), fields)


def _decode(image: Any, number: int) -> Upload:
    try:
        named = JsonImage.model_validate({"data": image} if isinstance(image, str) else image)
    except ValidationError as error:
        raise MalformedRequest(
            f'images[{number}] must be base64 or {{"data": base64, "filename": a name}}; URLs are never fetched.'
        ) from error
    text = named.data.partition(",")[2] if named.data.startswith("data:") else named.data
    try:
        return Upload(b64decode(text, validate=True), named.filename)
    except (binascii.Error, ValueError) as error:
        raise MalformedRequest(f"images[{number}].data is not base64: {error}. URLs are never fetched.") from error
