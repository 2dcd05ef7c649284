"""The common JPEG, straight into an array: a third less time than through Pillow, and the same pixels."""

from __future__ import annotations

import simplejpeg
from PIL import Image

from pellucid.types import Pixels


def decoded(data: bytes, image: Image.Image) -> Pixels | None:
    """The pixels ``[height, width, 3]`` of ``image``, which Pillow has opened from ``data`` and not yet decoded.

    None where Pillow is to decode: what is no plain RGB JPEG, and what is in any way broken, so that one library alone
    judges that. Both decode by libjpeg-turbo.
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
