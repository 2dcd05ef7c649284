"""Decodes plain JPEGs directly into an array. Takes a third less time than Pillow, and gives the same pixels."""

from __future__ import annotations

import simplejpeg
from PIL import Image

from pellucid.types import Pixels


def decoded(data: bytes, image: Image.Image) -> Pixels | None:
    """Decode ``data`` to ``[height, width, 3]``. ``image`` is the same file, opened by Pillow but not yet decoded.

    Returns None if it is not a plain RGB JPEG or is broken in any way. The caller then uses Pillow, so that one library
    decides which files are broken. Both use libjpeg-turbo.
    """
    if image.format != "JPEG" or image.mode != "RGB":
        return None
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
        if (width, height) != image.size:
            return None
        pixels: Pixels = simplejpeg.decode_jpeg(data)
    except ValueError:
        return None
    return pixels
