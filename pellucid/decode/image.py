"""Bytes -> an upright RGB picture -> a DecodedImage. The type is what the bytes say, never what the sender says."""

from __future__ import annotations

import hashlib
import io
import math
import warnings
from typing import Final

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from pellucid.decode import jpeg
from pellucid.decode.colour import to_rgb, transform_of
from pellucid.decode.preprocess import Frame, to_input
from pellucid.decode.resize import as_image, size_of
from pellucid.errors import ContentTooLarge, UndecodableImage, UnsupportedMediaType
from pellucid.network.spec import PreprocessSpec
from pellucid.types import Box, DecodedImage, ImageInfo, Pixels, Upload

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

# Above it a picture is shrunk in strips as it becomes RGB: at 8 bytes for each pixel, it is never held twice.
_LARGE: Final = 8_000_000
# libwebp holds a picture four times, other decoders at most once.
_SHARE_OF_WEBP: Final = 0.5
# A progressive JPEG goes over its pixels some ten times; one made to keep a processor busy, thousands of times.
_MOST_PASSES: Final = 16
# So many bytes the header of a scan has, at least: marker, length, one component, and the band of frequencies.
_LEAST_SCAN: Final = 10

# Limits are ours, from the header. Up to twice its own limit Pillow only warns: one more line in the log for each size.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def identify(upload: Upload) -> ImageInfo:
    """What is known of an upload before it is decoded."""
    return ImageInfo(filename=upload.filename, sha256=hashlib.sha256(upload.data).hexdigest())


def decode(
    upload: Upload, spec: PreprocessSpec, max_pixels: int, picture_side: int | None = None, max_side: int = 32_768
) -> DecodedImage:
    """The picture in ``upload``, prepared for the network that ``spec`` describes.

    ``picture_side`` asks for the source picture too, its longer side at most that many pixels. Raises
    UnsupportedMediaType for bytes that are no picture of a served format, ContentTooLarge (read from the header,
    before decoding) above ``max_pixels`` or ``max_side``, UndecodableImage for a broken file.

    Takes up to 8 bytes of memory for each pixel, 16 for WebP, of which half as many are taken.
    """
    image, file_format = _open(upload.data, max_pixels, max_side)
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        width, height = image.size[::-1] if turn in _SIDEWAYS else image.size
        frame = Frame.of(width, height, spec)
        rgb = _upright_rgb(upload.data, image, turn, spec, picture_side)
    except Exception as error:  # of every kind: Pillow's decoders have no one error for what strangers send
        raise UndecodableImage(f"The {file_format} data are broken or cut off{_said(error)}.") from error
    pixels = to_input(rgb, frame, spec)
    picture = None if picture_side is None else _thumbnail(rgb, picture_side)
    info = ImageInfo(upload.filename, hashlib.sha256(upload.data).hexdigest(), file_format, width, height)
    return DecodedImage(info, pixels, _whole_pixels(frame.box(width, height), width, height), picture)


def _upright_rgb(
    data: bytes, image: Image.Image, turn: Image.Transpose | None, spec: PreprocessSpec, picture_side: int | None
) -> Image.Image | Pixels:
    """The picture decoded, at less than its size where it is large. A common JPEG is an array at once."""
    scale = _scale(image, spec, picture_side)
    if image.format == "JPEG" and scale <= 0.5:
        # At a half, a quarter or an eighth: faster by as much squared, and the same picture.
        image.draft(None, (math.ceil(image.width * scale), math.ceil(image.height * scale)))
    elif turn is None and transform_of(image) is None:
        array = jpeg.decoded(data, image)
        if array is not None:
            return array
    image.load()
    large = image.width * image.height > _LARGE
    rgb = to_rgb(image, max(1, int(1 / _scale(image, spec, picture_side))) if large else 1)
    del image
    return rgb if turn is None else rgb.transpose(turn)


def _whole_pixels(box: tuple[float, float, float, float], width: int, height: int) -> Box:
    """The box in whole pixels, at least one wide and high."""
    x0, y0 = min(round(box[0]), width - 1), min(round(box[1]), height - 1)
    return x0, y0, max(round(box[2]), x0 + 1), max(round(box[3]), y0 + 1)


def _scale(image: Image.Image, spec: PreprocessSpec, picture_side: int | None) -> float:
    """The scale down to which nothing is lost: twice what is needed, so that the resize that follows still smooths."""
    return max(2 * spec.resize / min(image.size), (picture_side or 0) / max(image.size))


def _said(error: Exception) -> str:
    """What a decoder says of the data, where that is meant for people."""
    said = str(error)
    return f": {said}" if isinstance(error, (OSError, SyntaxError, ValueError)) and "<" not in said else ""


def _open(data: bytes, max_pixels: int, max_side: int) -> tuple[Image.Image, str]:
    """The picture, its header read and nothing more, and its format."""
    # Pillow fills the first frame of some GIFs as it opens them, before anybody could ask for their size.
    Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        file_format = "JPEG" if image.format == "MPO" else str(image.format)  # a JPEG with further ones behind it
    except UnidentifiedImageError as error:
        raise UnsupportedMediaType(
            f"The bytes are no image of a type that is served. Served are {', '.join(FORMATS)}.", allowed=FORMATS
        ) from error
    except Image.DecompressionBombError as error:
        taken = f"{max_pixels / 1e6:g} million"
        raise ContentTooLarge(f"The picture has more than twice the {taken} pixels that are taken.") from error
    except Exception as error:
        raise UndecodableImage(f"The image's header is broken{_said(error)}.") from error
    size = f"The picture has {image.width} x {image.height} pixels"
    if max(image.size) > max_side:
        raise ContentTooLarge(f"{size}; at most {max_side} to a side are taken.")
    most = max_pixels * _SHARE_OF_WEBP if file_format == "WEBP" else max_pixels
    if image.width * image.height > most:
        raise ContentTooLarge(f"{size}; at most {most / 1e6:g} million are taken of {file_format}.")
    if (
        file_format == "JPEG"
        and _passes(data, most := _MOST_PASSES * max_pixels // (image.width * image.height)) > most
    ):
        raise ContentTooLarge(f"{size} and goes over them too many times.")
    return image, file_format


def _passes(data: bytes, most: int) -> int:
    """How many times a JPEG goes over its pixels; of a file too short for more than ``most``, as many as it could."""
    longest = len(data) // _LEAST_SCAN
    return longest if longest <= most else data.count(b"\xff\xda")


def _thumbnail(source: Image.Image | Pixels, side: int) -> Pixels:
    """The picture as an array, its longer side at most ``side`` pixels."""
    width, height = size_of(source)
    scale = side / max(width, height)
    if scale < 1:
        image = as_image(source)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        source = image.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
    return np.asarray(source)
