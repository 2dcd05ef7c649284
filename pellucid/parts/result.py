"""What all replies share: the fields ``image`` and ``frame``, and the encoding as JSON."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from pellucid.render.encode import Picture
from pellucid.types import DecodedImage, ImageInfo


def image_info(info: ImageInfo) -> dict[str, Any]:
    """The field ``image``."""
    return {
        "filename": info.filename,
        "format": info.format,
        "width": info.width,
        "height": info.height,
        "sha256": info.sha256,
    }


def frame(image: DecodedImage) -> dict[str, Any]:
    """The field ``frame``: the part of the picture that the network sees. See ``schemas.Frame``."""
    x0, y0, x1, y1 = image.box
    height, width = image.pixels.shape[:2]
    return {
        "box": image.box,
        "scale": [width / (x1 - x0), height / (y1 - y0)],
        "pixels_sha256": hashlib.sha256(image.pixels.tobytes()).hexdigest(),
    }


def as_json(found: dict[str, Any]) -> bytes:
    """Results as JSON. Call it in the pool: long lists and pictures take milliseconds."""
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_PASSTHROUGH_DATACLASS
    return orjson.dumps(found, default=_picture_as_json, option=options)


def _picture_as_json(value: Any) -> Any:
    if isinstance(value, Picture):
        return value.as_json()
    raise TypeError(f"{type(value).__name__} has no JSON form")
