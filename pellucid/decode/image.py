"""Decodes bytes into an upright RGB picture and a DecodedImage.

The format is detected from the bytes. A filename or a declared media type never matters.
"""

from __future__ import annotations

import hashlib
import io
import math
import warnings
from collections.abc import Iterable
from typing import Final

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from pellucid.decode import arrays, planes
from pellucid.decode.colour import to_rgb, transform_of
from pellucid.decode.preprocess import Frame, to_input
from pellucid.decode.resize import thumbnail
from pellucid.decode.view import CENTRE, View, tiling
from pellucid.errors import ContentTooLarge, PellucidError, UndecodableImage, UnsupportedMediaType
from pellucid.network.spec import PreprocessSpec
from pellucid.types import Box, DecodedImage, ImageInfo, InputPixels, Pixels, Tiling, Upload

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
TYPES: Final = (*FORMATS, arrays.FORMAT)

# EXIF orientation -> the operation that makes the picture upright. ImageOps.exif_transpose would rewrite all EXIF tags,
# and fail on tags that have nothing to do with the orientation.
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

# Pixels. A larger picture is reduced in strips during its conversion to RGB, so that it is never in memory twice.
_LARGE: Final = 8_000_000
# The share of ``max_pixels`` allowed for WebP: libwebp holds a picture four times, other decoders at most once.
_SHARE_OF_WEBP: Final = 0.5
# Passes (scans) of a JPEG. A usual progressive JPEG has about ten; a malicious one has thousands, to exhaust the CPU.
MOST_PASSES: Final = 16
# Smallest header of a scan in bytes: marker, length, one component, and the spectral range.
_LEAST_SCAN: Final = 10

# Our own limits are checked from the header. Pillow only warns up to twice its limit, which would fill the log.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def identify(upload: Upload) -> ImageInfo:
    """The ImageInfo of an upload before it is decoded: filename and SHA-256."""
    return ImageInfo(filename=upload.filename, sha256=hashlib.sha256(upload.data).hexdigest())


def decode(
    upload: Upload,
    spec: PreprocessSpec,
    max_pixels: int,
    picture_side: int | None = None,
    max_side: int = 32_768,
    view: View = CENTRE,
) -> DecodedImage:
    """Decode ``upload`` and prepare the ``view`` of it for the network that ``spec`` describes.

    With ``picture_side``, the result also has the source picture, its longer side at most that many pixels.

    Raises UnsupportedMediaType if the bytes are not in one of TYPES, ContentTooLarge if the header states more than
    ``max_pixels`` or a side longer than ``max_side``, UndecodableImage if the file is broken or has other channels
    than the network takes, and InvalidOption for a picture that is too long for the view.

    Takes up to 8 bytes of memory per pixel. WebP takes 16, and so does a picture with transparency for a network of
    four channels, so their limit is half of ``max_pixels``.
    """
    pixels: InputPixels
    if upload.data.startswith(arrays.MAGIC):
        array, file_format = arrays.read(upload.data, spec, max_pixels, max_side), arrays.FORMAT
        height, width = array.shape[:2]
        frame = Frame.of(width, height, spec, view)
        pixels, picture = planes.assembled(np.moveaxis(array, 2, 0), frame, spec, picture_side)
    else:
        image, file_format = _open(upload.data, max_pixels, max_side)
        try:
            turn, (width, height) = _upright(image, file_format)
            frame = Frame.of(width, height, spec, view)
            if spec.is_plain:
                rgb = _upright_rgb(upload.data, image, turn, frame, picture_side)
            else:
                found = _planes(upload.data, image, turn, spec, frame, picture_side, max_pixels)
                pixels, picture = planes.assembled(found, frame, spec, picture_side)
        except PellucidError:
            raise
        except Exception as error:  # Pillow's decoders raise errors of many types for broken data
            raise _corrupt(file_format, error) from error
        if spec.is_plain:
            pixels = to_input(rgb, frame, spec)
            picture = None if picture_side is None else thumbnail(rgb, picture_side)
    info = ImageInfo(upload.filename, hashlib.sha256(upload.data).hexdigest(), file_format, width, height)
    tiles = tiling(width, height, view) if view.kind == "whole" else None
    seen = _whole_pixels(frame.box(width, height), width, height)
    return DecodedImage(info, pixels, seen, picture, tiles if tiles and len(tiles.corners) > 1 else None)


def tiling_of(upload: Upload, spec: PreprocessSpec, max_pixels: int, max_side: int, view: View) -> Tiling | None:
    """The tiles of an upload, by the file's header. None for other views than ``whole``, and if it will be refused."""
    if view.kind != "whole":
        return None
    try:
        if upload.data.startswith(arrays.MAGIC):
            height, width = arrays.read(upload.data, spec, max_pixels, max_side).shape[:2]
        else:
            image, file_format = _open(upload.data, max_pixels, max_side)
            width, height = _upright(image, file_format)[1]
        return tiling(width, height, view)
    except PellucidError:  # decode says what is wrong with it
        return None


def _upright(image: Image.Image, file_format: str) -> tuple[Image.Transpose | None, tuple[int, int]]:
    """The operation that makes the picture upright, and its (width, height) then. Raises UndecodableImage."""
    try:  # Pillow itself turns a TIFF when it decodes it.
        turn = None if file_format == "TIFF" else _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception as error:  # of many types for broken EXIF data
        raise _corrupt(file_format, error) from error
    return turn, image.size[::-1] if turn in _SIDEWAYS else image.size


def _upright_rgb(
    data: bytes, image: Image.Image, turn: Image.Transpose | None, frame: Frame, picture_side: int | None
) -> Image.Image | Pixels:
    """Decode to RGB, at a reduced size if the picture is large. A plain JPEG becomes an array directly."""
    scale = _scale(image, frame, picture_side)
    if image.format == "JPEG" and scale <= 0.5:
        # libjpeg decodes at 1/2, 1/4 or 1/8 of the size, and takes less time by the square of that.
        image.draft(None, (math.ceil(image.width * scale), math.ceil(image.height * scale)))
    elif turn is None and transform_of(image) is None:
        array = plain_jpeg(data, image)
        if array is not None:
            return array
    image.load()
    large = image.width * image.height > _LARGE
    rgb = to_rgb(image, max(1, int(1 / _scale(image, frame, picture_side))) if large else 1)
    del image
    return rgb if turn is None else rgb.transpose(turn)


def plain_jpeg(data: bytes, image: Image.Image) -> Pixels | None:
    """Decode ``data`` to ``[height, width, 3]``, in a third less time than Pillow, and to the same pixels.

    ``image`` is the same file, opened by Pillow but not yet decoded.
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


def _planes(
    data: bytes,
    image: ImageFile.ImageFile,
    turn: Image.Transpose | None,
    spec: PreprocessSpec,
    frame: Frame,
    picture_side: int | None,
    max_pixels: int,
) -> Iterable[planes.Plane]:
    """The upright planes of a picture, one for each channel of the network."""
    pages = planes.of_pages(image, spec, max_pixels)
    if pages is not None:
        return pages
    wide = planes.of_wide(data, image, turn, spec, max_pixels) if spec.depth == "float32" else None
    if wide is not None:
        return wide
    if len(spec.channels) == 4 and image.has_transparency_data:  # alpha is a channel: nothing is blended
        planes.require_pixels(image, max_pixels // 2, "colour with transparency in four channels")
        rgba = image.convert("RGBA")
        rgb = to_rgb(rgba.convert("RGB"))
        rgb.putalpha(rgba.getchannel("A"))
        return planes.of_colour(rgb if turn is None else rgb.transpose(turn), spec)
    return planes.of_colour(_upright_rgb(data, image, turn, frame, picture_side), spec)


def _whole_pixels(box: tuple[float, float, float, float], width: int, height: int) -> Box:
    """Round the box to whole pixels, at least one wide and one high."""
    x0, y0 = min(round(box[0]), width - 1), min(round(box[1]), height - 1)
    return x0, y0, max(round(box[2]), x0 + 1), max(round(box[3]), y0 + 1)


def _scale(image: Image.Image, frame: Frame, picture_side: int | None) -> float:
    """The smallest scale to decode at without losing detail.

    It is twice the scale of the network's input, so that the resize that follows still antialiases.
    """
    network = 2 * max(frame.resized[0] / frame.width, frame.resized[1] / frame.height)
    return max(network, (picture_side or 0) / max(image.size))


def _corrupt(file_format: str, error: Exception) -> UndecodableImage:
    return UndecodableImage(f"The {file_format} data are corrupt or truncated{_message(error)}.")


def _message(error: Exception) -> str:
    """The decoder's message as ``: message``, or an empty string if it is not readable."""
    message = str(error)
    return f": {message}" if isinstance(error, (OSError, SyntaxError, ValueError)) and "<" not in message else ""


def _open(data: bytes, max_pixels: int, max_side: int) -> tuple[ImageFile.ImageFile, str]:
    """Open the picture, check its header, and return it with its format. Pixels are not decoded yet."""
    # Pillow allocates the first frame of some GIFs while it opens them, before our own check of the size.
    Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        file_format = "JPEG" if image.format == "MPO" else str(image.format)  # MPO: a JPEG followed by more JPEGs
    except UnidentifiedImageError as error:
        raise UnsupportedMediaType(
            f"The bytes are not an image of a supported type. Supported are {', '.join(TYPES)}.", allowed=TYPES
        ) from error
    except Image.DecompressionBombError as error:
        limit = f"{max_pixels / 1e6:g} million"
        raise ContentTooLarge(f"The picture has more than twice the limit of {limit} pixels.") from error
    except Exception as error:
        raise UndecodableImage(f"The image's header is corrupt{_message(error)}.") from error
    size = f"The picture has {image.width} x {image.height} pixels"
    if max(image.size) > max_side:
        raise ContentTooLarge(f"{size}; at most {max_side} per side are allowed.")
    most = max_pixels * _SHARE_OF_WEBP if file_format == "WEBP" else max_pixels
    if image.width * image.height > most:
        raise ContentTooLarge(f"{size}; at most {most / 1e6:g} million are allowed for {file_format}.")
    if file_format == "JPEG" and passes(data, most := MOST_PASSES * max_pixels // (image.width * image.height)) > most:
        raise ContentTooLarge(f"{size}, which its JPEG data encode in too many scans.")
    return image, file_format


def passes(data: bytes, most: int) -> int:
    """The number of passes (scans) of a JPEG, or an upper bound if the file is too short to have more than ``most``."""
    longest = len(data) // _LEAST_SCAN
    return longest if longest <= most else data.count(b"\xff\xda")
