"""Applies a PreprocessSpec: which box of the source the network sees, and that box at the network's size."""

from __future__ import annotations

import numpy as np
from PIL import Image

from models.spec import PreprocessSpec
from service.types import Pixels

FloatBox = tuple[float, float, float, float]

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def crop_box(width: int, height: int, spec: PreprocessSpec) -> FloatBox:
    """The source box that "short side to ``resize``, then centre crop of ``size``" shows: x0, y0, x1, y1 in source
    pixels.

    It follows torchvision's ``Resize`` and ``CenterCrop`` to the pixel, their rounding included. Where the crop is
    larger than the resized picture, the whole side is taken instead of padding it with black.
    """
    short = min(width, height)
    resized_w = spec.resize if width == short or spec.squash else int(spec.resize * width / height)
    resized_h = spec.resize if height == short or spec.squash else int(spec.resize * height / width)
    crop_h, crop_w = min(spec.size[0], resized_h), min(spec.size[1], resized_w)
    left, top = round((resized_w - crop_w) / 2), round((resized_h - crop_h) / 2)
    scale_x, scale_y = width / resized_w, height / resized_h
    return left * scale_x, top * scale_y, (left + crop_w) * scale_x, (top + crop_h) * scale_y


def to_input(image: Image.Image, box: FloatBox, spec: PreprocessSpec) -> Pixels:
    """The box of an RGB picture at the network's size, ``[H, W, 3]``.

    Only the box is resampled, not the whole picture.
    """
    height, width = spec.size
    return np.asarray(image.resize((width, height), _RESAMPLING[spec.interpolation], box))
