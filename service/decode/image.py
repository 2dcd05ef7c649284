"""Bytes -> an upright RGB picture -> a DecodedImage. The type is what the bytes say, never what the sender says."""

from __future__ import annotations

import hashlib
import io
import math
import struct
from typing import Final

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from models.spec import PreprocessSpec
from service.decode import jpeg
from service.decode.preprocess import Frame, as_image, size_of, to_input
from service.errors import ContentTooLarge, UndecodableImage, UnsupportedMediaType
from service.types import DecodedImage, ImageInfo, Pixels, Upload

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")

# What turns a picture of each EXIF orientation upright. Not ImageOps.exif_transpose: it writes all of the EXIF anew,
# and
# fails on tags that have nothing to do with the orientation.
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS: Final = tuple(_TURNS[orientation] for orientation in (5, 6, 7, 8))

# What Pillow's decoders raise on broken files, besides the OSError that they document.
_DECODER_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    AttributeError,
    SyntaxError,
    MemoryError,
    OverflowError,
    ZeroDivisionError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)

# Limits are ours, in megapixels from the header, so Pillow's own warning would only repeat them.
Image.MAX_IMAGE_PIXELS = None


def identify(upload: Upload) -> ImageInfo:
    """What is known of an upload before it is decoded."""
    return ImageInfo(filename=upload.filename, sha256=hashlib.sha256(upload.data).hexdigest())


def decode(upload: Upload, spec: PreprocessSpec, max_pixels: int, picture_side: int | None = None) -> DecodedImage:
    """The picture in ``upload``, prepared for the network that ``spec`` describes.

    ``picture_side`` asks for the source picture too, its longer side at most that many pixels. Raises
    UnsupportedMediaType for bytes that are no picture of a served format, ContentTooLarge (read from the header,
    before decoding) above ``max_pixels``, UndecodableImage for a broken file.
    """
    image, file_format = _open(upload.data, max_pixels)
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        width, height = image.size[::-1] if turn in _SIDEWAYS else image.size
        frame = Frame.of(width, height, spec)
        scaled = _scale_while_decoding(image, spec, picture_side)
        array = None if scaled or turn is not None else jpeg.decoded(upload.data, image)
        rgb = _to_rgb(image if turn is None else image.transpose(turn)) if array is None else array
        pixels = to_input(rgb, frame, spec)
        picture = None if picture_side is None else _thumbnail(rgb, picture_side)
    except _DECODER_ERRORS as error:
        raise UndecodableImage(f"The {file_format} data are broken or cut off: {error}") from error
    info = ImageInfo(upload.filename, hashlib.sha256(upload.data).hexdigest(), file_format, width, height)
    x0, y0, x1, y1 = frame.box(width, height)
    return DecodedImage(info, pixels, (round(x0), round(y0), round(x1), round(y1)), picture)


def _scale_while_decoding(image: Image.Image, spec: PreprocessSpec, picture_side: int | None) -> bool:
    """Let a large JPEG be decoded at a half, a quarter or an eighth: faster by as much squared, and the same picture.

    Never below twice the size that is needed, so that the resize that follows still does the smoothing. True if it is.
    """
    needed = max(2 * spec.resize / min(image.size), (picture_side or 0) / max(image.size))
    if image.format != "JPEG" or needed > 0.5:
        return False
    image.draft(None, (math.ceil(image.width * needed), math.ceil(image.height * needed)))
    return True


def _open(data: bytes, max_pixels: int) -> tuple[Image.Image, str]:
    """The picture, its header read and nothing more, and its format."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise UnsupportedMediaType(
            f"The bytes are no image of a type that is served. Served are {', '.join(FORMATS)}.", allowed=FORMATS
        ) from error
    except _DECODER_ERRORS as error:
        raise UndecodableImage(f"The image's header is broken: {error}") from error
    if image.width * image.height > max_pixels:
        raise ContentTooLarge(
            f"The picture has {image.width} x {image.height} pixels; at most {max_pixels / 1e6:g} million are taken."
        )
    return image, image.format or "unknown"


def _to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB.

    Transparency is laid over white; 16-bit greyscale keeps its high byte, where Pillow alone would clip.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no known range; 8 and 16 bits are read")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _thumbnail(source: Image.Image | Pixels, side: int) -> Pixels:
    """The picture as an array, its longer side at most ``side`` pixels."""
    width, height = size_of(source)
    scale = side / max(width, height)
    if scale < 1:
        image = as_image(source)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        source = image.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
    return np.asarray(source)
