"""A box of a picture at another size, antialiased as Pillow does it, but in a fifth of Pillow's time."""

from __future__ import annotations

import math
from typing import Final, Literal

import numpy as np
from PIL import Image

from pellucid.types import Pixels

try:
    import cykooz_resizer as simd
except ImportError:  # it has no wheel for Linux on ARM
    simd = None

Filter = Literal["bilinear", "bicubic"]
Edges = tuple[float, float, float, float]  # x0, y0, x1, y1, in fractions of pixels

# How many pixels a filter reaches, to each side, where nothing is shrunk.
_REACH: Final = {"bilinear": 1, "bicubic": 2}
# Pixels that are copied at once: a copy holds the interpreter's lock.
_STRIP: Final = 1 << 18


def as_image(source: Image.Image | Pixels) -> Image.Image:
    """A picture that is decoded into an array already, for what Pillow does best."""
    return source if isinstance(source, Image.Image) else Image.fromarray(source)


def size_of(source: Image.Image | Pixels) -> tuple[int, int]:
    """Width and height."""
    return source.size if isinstance(source, Image.Image) else (source.shape[1], source.shape[0])


def resized(source: Image.Image | Pixels, box: Edges, size: tuple[int, int], name: Filter) -> Pixels:
    """The ``box`` of an RGB picture at ``size`` (width, height), as ``[height, width, 3]``.

    Each row is resized and rounded to bytes, then each column. torch and Pillow before 13 do the same; Pillow 13 does
    the columns first where that costs less, which differs by several levels beside edges, whose overshoot the first
    step cuts off. The result is within two levels of ``by_pillow``'s, and the interpreter's lock is free meanwhile.
    """
    return by_pillow(as_image(source), box, size, name) if simd is None else _by_simd(source, box, size, name)


def by_pillow(image: Image.Image, box: Edges, size: tuple[int, int], name: Filter) -> Pixels:
    """As ``resized``, by Pillow."""
    top, bottom = _needed(box[1], box[3], size[1], image.height, name)
    way = Image.Resampling[name.upper()]
    rows = image.resize((size[0], bottom - top), way, (box[0], top, box[2], bottom))
    return np.array(rows.resize(size, way, (0, box[1] - top, size[0], box[3] - top)))


def _by_simd(source: Image.Image | Pixels, box: Edges, size: tuple[int, int], name: Filter) -> Pixels:
    left, right = _needed(box[0], box[2], size[0], size_of(source)[0], name)
    top, bottom = _needed(box[1], box[3], size[1], size_of(source)[1], name)
    rgb, resizer = simd.PixelType.U8x3, simd.Resizer()  # which serves one thread at a time
    way = simd.ResizeAlg.convolution(simd.FilterType.bilinear if name == "bilinear" else simd.FilterType.catmull_rom)
    strips = []
    step = max(1, _STRIP // (right - left))
    for first in range(top, bottom, step):
        last = min(first + step, bottom)
        whole = simd.ImageData(right - left, last - first, rgb, _bytes(source, (left, first, right, last)))
        strip = simd.ImageData(size[0], last - first, rgb)
        crop = simd.CropBox(box[0] - left, 0, box[2] - box[0], last - first)
        resizer.resize(whole, strip, simd.ResizeOptions(way, crop_box=crop))
        strips.append(strip.get_buffer())
    rows, both = simd.ImageData(size[0], bottom - top, rgb, b"".join(strips)), simd.ImageData(*size, rgb)
    crop = simd.CropBox(0, box[1] - top, size[0], box[3] - box[1])
    resizer.resize(rows, both, simd.ResizeOptions(way, crop_box=crop))
    return np.frombuffer(both.get_buffer(), np.uint8).reshape(size[1], size[0], 3).copy()


def _bytes(source: Image.Image | Pixels, box: tuple[int, int, int, int]) -> bytes:
    left, top, right, bottom = box
    return source.crop(box).tobytes() if isinstance(source, Image.Image) else source[top:bottom, left:right].tobytes()


def _needed(start: float, stop: float, length: int, whole: int, name: Filter) -> tuple[int, int]:
    """The first pixel, of a side of ``whole``, from which ``length`` between ``start`` and ``stop`` are made; the end.

    In whole pixels, one behind the last.
    """
    reach = _REACH[name] * max(1.0, (stop - start) / length)
    return max(0, math.floor(start - reach)), min(whole, math.ceil(stop + reach))
