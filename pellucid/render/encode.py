"""Arrays -> the bytes of a picture."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image

from pellucid.render import png
from pellucid.types import Pixels

MEDIA_TYPES: Final = ("image/png", "image/webp")


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture."""

    data: bytes
    media_type: str
    width: int
    height: int

    def as_json(self) -> dict[str, Any]:
        """The picture as it goes into a JSON reply."""
        return {
            "media_type": self.media_type,
            "width": self.width,
            "height": self.height,
            "data": base64.b64encode(self.data).decode("ascii"),
        }


def encode(pixels: Pixels, media_type: str = "image/png", palette: Pixels | None = None) -> Picture:
    """Encode ``[h, w, 3]`` RGB, or ``[h, w]`` that is grey or indexes ``palette`` ``[256, 3]``, without loss.

    Raises KeyError for a type that is not in MEDIA_TYPES.
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
