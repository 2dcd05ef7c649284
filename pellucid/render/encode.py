"""Encodes arrays as pictures."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Final

import pybase64
from PIL import Image

from pellucid.render import png
from pellucid.types import Pixels

MEDIA_TYPES: Final = ("image/png", "image/webp")


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture. Width and height are in pixels."""

    data: bytes
    media_type: str
    width: int
    height: int

    def as_json(self) -> dict[str, Any]:
        """The picture as a JSON object, with the bytes in base64."""
        return {
            "media_type": self.media_type,
            "width": self.width,
            "height": self.height,
            "data": pybase64.b64encode_as_string(self.data),
        }


def encode(pixels: Pixels, media_type: str = "image/png", palette: Pixels | None = None) -> Picture:
    """Encode a picture without loss: ``[h, w, 3]`` RGB, ``[h, w]`` grey, or ``[h, w]`` indices into a ``palette``.

    ``palette`` is ``[256, 3]``. Raises KeyError for a media type that is not in MEDIA_TYPES.
    """
    data = {"image/png": png.encode, "image/webp": _webp}[media_type](pixels, palette)
    return Picture(data, media_type, pixels.shape[1], pixels.shape[0])


def _webp(pixels: Pixels, palette: Pixels | None) -> bytes:
    image = Image.fromarray(pixels)
    if palette is not None:
        image.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True, method=0)
    return buffer.getvalue()
