"""The body of a request -> uploads, and the options in a JSON body. Bytes are counted as they arrive."""

from __future__ import annotations

import asyncio
import binascii
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from pellucid.errors import ContentTooLarge, MalformedRequest, UnsupportedMediaType
from pellucid.types import Prepared, Upload

MULTIPART: Final = "multipart/form-data"
# Options that are images, which a form can send as files.
FILE_OPTIONS: Final = ("reference", "region_mask")
JSON: Final = "application/json"
_OCTETS: Final = "application/octet-stream"
NPY: Final = "application/x-npy"
TYPES: Final = (MULTIPART, "image/*", NPY, _OCTETS, JSON)


class JsonImage(BaseModel):
    """One image in a JSON body."""

    model_config = ConfigDict(extra="forbid", title="JsonImage")

    data: str = Field(
        description="The file's bytes in base64; a `data:` URL is accepted, too.", examples=["/9j/4AAQSkZJRg…"]
    )
    filename: str | None = Field(None, max_length=255, description="Its name in the reply.", examples=["cat.jpg"])


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one request. ``json_values`` and ``json_depth`` bound the memory of a parsed JSON body."""

    body_bytes: int
    images: int
    json_values: int
    json_depth: int


@dataclass(frozen=True, slots=True)
class Body:
    """The images of a request, at least one, and the options in its body."""

    uploads: tuple[Upload | Prepared, ...]
    fields: dict[str, Any] = field(default_factory=dict)


def announced(request: Request, limits: Limits, *, any_type: bool = False) -> int:
    """The size of the body in bytes by its Content-Length, 0 without one.

    Raises ContentTooLarge, and UnsupportedMediaType; ``any_type`` accepts every Content-Type.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise UnsupportedMediaType(
            f"The Content-Encoding {encoding[:40]!r} is not supported: send the body without it."
        )
    media_type = media_type_of(request)
    if not any_type and media_type not in (MULTIPART, JSON, NPY, _OCTETS) and not media_type.startswith("image/"):
        said = f"The Content-Type {media_type[:80]!r} is not supported." if media_type else "There is no Content-Type."
        raise UnsupportedMediaType(f"{said} Allowed are {', '.join(TYPES)}.", allowed=TYPES)
    length = request.headers.get("content-length", "")
    size = int(length) if length.isdecimal() and len(length) < 20 else 0
    if size > limits.body_bytes:
        raise _too_large(limits)
    return size


async def discard_rest(request: Request, limits: Limits, seconds: float) -> None:
    """Read and discard the rest of a body: a client whose connection closes while it sends never sees the reply."""
    received = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                received += len(chunk)
                if received > limits.body_bytes:
                    return


async def read(request: Request, limits: Limits, hold: Callable[[int], None]) -> Body:
    """Read the body by its Content-Type, which ``announced`` has checked. ``hold`` gets the size of each chunk.

    Raises MalformedRequest, ContentTooLarge, and what ``hold`` raises.
    """
    media_type = media_type_of(request)
    if media_type == MULTIPART:
        body = await multipart(request, limits, hold, "images")
    elif media_type == JSON:
        body = await asyncio.to_thread(_from_json, await whole(request, limits, hold), limits)
    else:
        body = Body((Upload(await whole(request, limits, hold)),))
    require_images(body.uploads, limits)
    return body


def require_images(uploads: Sequence[Upload | Prepared], limits: Limits) -> None:
    """Raise ContentTooLarge for too many images, MalformedRequest for none or an empty one."""
    if len(uploads) > limits.images:
        raise too_many(limits)
    if not uploads:
        raise MalformedRequest("The request holds no image.")
    if any(isinstance(upload, Upload) and not upload.data for upload in uploads):
        raise MalformedRequest("An image is empty: it has no bytes.")


def media_type_of(request: Request) -> str:
    """The body's media type in lower case without parameters, empty without a Content-Type."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def too_many(limits: Limits) -> ContentTooLarge:
    """The error for more images than one request may hold."""
    return ContentTooLarge(f"At most {limits.images} images are allowed in one request.")


def _too_large(limits: Limits) -> ContentTooLarge:
    return ContentTooLarge(f"The body is larger than {limits.body_bytes / 2**20:g} MiB.")


async def _counted(request: Request, limits: Limits, hold: Callable[[int], None]) -> AsyncGenerator[bytes, None]:
    """The chunks of the body. Raises ContentTooLarge as soon as they exceed the limit."""
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limits.body_bytes:
            raise _too_large(limits)
        hold(len(chunk))
        yield chunk


async def whole(request: Request, limits: Limits, hold: Callable[[int], None]) -> bytes:
    """The body as it is. Raises ContentTooLarge, and what ``hold`` raises."""
    return b"".join([chunk async for chunk in _counted(request, limits, hold)])


class _MultiPartParser(MultiPartParser):
    spool_max_size = 0  # never to a disk: uploads stay in memory

    async def parse(self) -> FormData:
        """Decode names as UTF-8 (RFC 7578) and ignore a ``charset``.

        Python caches the name of every codec that is looked up, and some codecs produce text that no reply can hold.
        """
        _, options = parse_options_header(self.headers["content-type"])
        if b"charset" in options and b"boundary" in options:
            boundary = options[b"boundary"].decode("latin-1").replace("\\", "\\\\").replace('"', '\\"')
            self.headers = Headers({"content-type": f'{MULTIPART}; boundary="{boundary}"'})
        return await super().parse()


async def multipart(request: Request, limits: Limits, hold: Callable[[int], None], field_name: str) -> Body:
    """The files of a form in parts named ``field_name``, and options that are files. Raises what ``read`` raises."""
    stream = _counted(request, limits, hold)
    parser = _MultiPartParser(request.headers, stream, max_files=limits.images + 1 + len(FILE_OPTIONS), max_fields=8)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if "Too many files" in error.message:
            raise too_many(limits) from error
        if "Maximum header" in str(error.__cause__):
            raise ContentTooLarge("A part has more than 8 headers, or one of more than 4 KiB.") from error
        raise MalformedRequest(f"The multipart body can't be read: {error.message}") from error
    uploads: list[Upload] = []
    fields: dict[str, str] = {}
    for name, part in form.multi_items():
        if name in FILE_OPTIONS and part == "":  # Swagger UI sends this for a file that is not chosen
            continue
        if name in FILE_OPTIONS and isinstance(part, UploadFile):
            fields[name] = await asyncio.to_thread(lambda data: b64encode(data).decode(), await part.read())
            await part.close()
            continue
        if name != field_name or not isinstance(part, UploadFile):
            what = "has no filename, so it is no file" if name == field_name else "is not known"
            raise MalformedRequest(
                f"The part {name[:80]!r} {what}. Images go into file parts named {field_name!r} "
                f"(curl -F {field_name}=@FILE); options go into the query string."
            )
        uploads.append(Upload(await part.read(), part.filename or None))
        await part.close()
    if not uploads:
        raise MalformedRequest(f"The body holds no image. Images go into file parts named {field_name!r}.")
    return Body(tuple(uploads), fields)


def from_json(body: bytes, limits: Limits, more_values: int = 0) -> Any:
    """Parse JSON. ``more_values`` are added to the limit on values.

    Raises ContentTooLarge and MalformedRequest.
    """
    # Counted before parsing: as objects, 32 MiB of brackets take a gigabyte. Base64 has none of the three.
    most = limits.json_values + more_values
    if sum(body.count(mark) for mark in (b",", b"[", b"{")) > most:
        raise ContentTooLarge(f"The JSON body holds more than {most} values.")
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(f"The body is not JSON in UTF-8: {error}") from error
    if _deeper_than(limits.json_depth, said):
        raise ContentTooLarge(f"The JSON body is nested deeper than {limits.json_depth}.")
    return said


def _from_json(body: bytes, limits: Limits) -> Body:
    fields = from_json(body, limits)
    if not isinstance(fields, dict) or not isinstance(fields.get("images"), list) or not fields["images"]:
        raise MalformedRequest(
            'The body must be a JSON object with a list of "images", each {"data": base64} or base64 alone.'
        )
    if len(fields["images"]) > limits.images:
        raise too_many(limits)
    images = fields.pop("images")
    return Body(tuple(json_image(image, f"images[{number}]") for number, image in enumerate(images)), fields)


def _deeper_than(depth: int, value: Any) -> bool:
    level = [value]
    for _ in range(depth):
        held = [entry for entry in level if isinstance(entry, (dict, list))]
        level = [inner for entry in held for inner in (entry.values() if isinstance(entry, dict) else entry)]
    return any(isinstance(entry, (dict, list)) for entry in level)


def json_image(image: Any, where: str) -> Upload:
    """An image in JSON: an object, or base64 alone. Raises MalformedRequest, which names ``where``."""
    try:
        named = JsonImage.model_validate({"data": image} if isinstance(image, str) else image)
    except ValidationError as error:
        raise MalformedRequest(
            f'{where} must be base64 or {{"data": base64, "filename": a name}}; URLs are never fetched.'
        ) from error
    text = named.data.partition(",")[2] if named.data.startswith("data:") else named.data
    try:
        return Upload(b64decode(text, validate=True), named.filename)
    except (binascii.Error, ValueError) as error:
        raise MalformedRequest(f"{where}.data is not base64: {error}. URLs are never fetched.") from error
