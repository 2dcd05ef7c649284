"""Resizes a box of a picture with Pillow's antialiasing, in a fifth of Pillow's time."""

from __future__ import annotations

import math
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pellucid.network.spec import Interpolation
from pellucid.types import Pixels

try:
    import cykooz_resizer as simd
except ImportError:  # there is no wheel for Linux on ARM
    simd = None

Filter = Literal["bilinear", "bicubic"]
Edges = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels, not rounded

# Radius of each filter in pixels, at a scale of 1.
_REACH: Final = {"bilinear": 1, "bicubic": 2}
# Pixels copied at once. A copy holds the GIL, so it must be short.
_STRIP: Final = 1 << 18


def as_image(source: Image.Image | Pixels) -> Image.Image:
    """The picture as Pillow's Image."""
    return source if isinstance(source, Image.Image) else Image.fromarray(source)


def size_of(source: Image.Image | NDArray[Any]) -> tuple[int, int]:
    """(width, height)"""
    return source.size if isinstance(source, Image.Image) else (source.shape[1], source.shape[0])


def resized(source: Image.Image | Pixels, box: Edges, size: tuple[int, int], name: Filter) -> Pixels:
    """Resize ``box`` of an RGB picture to ``size`` (width, height): ``[height, width, 3]``. Releases the GIL.

    Rows are resized and rounded to bytes first, then columns, as in torch and in Pillow before 13. Pillow 13 resizes
    the columns of some tall pictures first. That differs by several levels beside edges, because rounding clips the
    overshoot of the first step. The result is within two levels of ``by_pillow``.
    """
    return by_pillow(as_image(source), box, size, name) if simd is None else _by_simd(source, box, size, name, np.uint8)


def resized_plane(
    plane: NDArray[Any], box: Edges, size: tuple[int, int], name: Interpolation, dtype: type[np.generic]
) -> NDArray[Any]:
    """Resize ``box`` of a plane ``[h, w]`` to ``size`` like ``resized``, in the ``dtype`` uint8 or float32."""
    if name == "nearest" or simd is None:
        image = Image.fromarray(plane.astype(dtype, copy=False))
        if name == "nearest":
            return np.array(image.resize(size, Image.Resampling.NEAREST, box))
        return by_pillow(image, box, size, name)
    return _by_simd(plane, box, size, name, dtype)


def by_pillow(image: Image.Image, box: Edges, size: tuple[int, int], name: Filter) -> Pixels:
    """Like ``resized``, with Pillow."""
    left, right = _source_range(box[0], box[2], size[0], image.width, name)
    top, bottom = _source_range(box[1], box[3], size[1], image.height, name)
    part, method = image.crop((left, top, right, bottom)), Image.Resampling[name.upper()]
    rows = part.resize((size[0], part.height), method, (box[0] - left, 0, box[2] - left, part.height))
    return np.array(rows.resize(size, method, (0, box[1] - top, size[0], box[3] - top)))


def thumbnail(source: Image.Image | Pixels, side: int) -> Pixels:
    """The picture or plane as an 8-bit array, its longer side at most ``side`` pixels."""
    width, height = size_of(source)
    scale = side / max(width, height)
    if scale < 1:
        image = as_image(source)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        source = image.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
    return np.asarray(source)


def _by_simd(
    source: Image.Image | NDArray[Any], box: Edges, size: tuple[int, int], name: Filter, dtype: type[np.generic]
) -> NDArray[Any]:
    """Like ``resized``, for RGB and for planes of the ``dtype`` uint8 or float32."""
    left, right = _source_range(box[0], box[2], size[0], size_of(source)[0], name)
    top, bottom = _source_range(box[1], box[3], size[1], size_of(source)[1], name)
    channels = (3,) if isinstance(source, Image.Image) or source.ndim == 3 else ()
    kind = simd.PixelType.U8x3 if channels else simd.PixelType.U8 if dtype is np.uint8 else simd.PixelType.F32
    resizer = simd.Resizer()  # a Resizer is not thread-safe, so each call makes one
    method = simd.ResizeAlg.convolution(simd.FilterType.bilinear if name == "bilinear" else simd.FilterType.catmull_rom)
    strips = []
    step = max(1, _STRIP // (right - left))
    for first in range(top, bottom, step):
        last = min(first + step, bottom)
        whole = simd.ImageData(right - left, last - first, kind, _bytes(source, (left, first, right, last), dtype))
        strip = simd.ImageData(size[0], last - first, kind)
        crop = simd.CropBox(box[0] - left, 0, box[2] - box[0], last - first)
        resizer.resize(whole, strip, simd.ResizeOptions(method, crop_box=crop))
        strips.append(strip.get_buffer())
    rows, both = simd.ImageData(size[0], bottom - top, kind, b"".join(strips)), simd.ImageData(*size, kind)
    crop = simd.CropBox(0, box[1] - top, size[0], box[3] - box[1])
    resizer.resize(rows, both, simd.ResizeOptions(method, crop_box=crop))
    return np.frombuffer(both.get_buffer(), dtype).reshape(size[1], size[0], *channels).copy()


def _bytes(source: Image.Image | NDArray[Any], box: tuple[int, int, int, int], dtype: type[np.generic]) -> bytes:
    left, top, right, bottom = box
    if isinstance(source, Image.Image):
        return source.crop(box).tobytes()
    return source[top:bottom, left:right].astype(dtype, copy=False).tobytes()


def _source_range(start: float, stop: float, length: int, whole: int, name: Filter) -> tuple[int, int]:
    """The range of source pixels that the filter reads to resize ``start`` to ``stop`` to ``length`` pixels.

    ``whole`` is the length of the source's side.
    """
    reach = _REACH[name] * max(1.0, (stop - start) / length)
    return max(0, math.floor(start - reach)), min(whole, math.ceil(stop + reach))
