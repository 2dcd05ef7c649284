"""Applies a PreprocessSpec: which box of the source the network sees, and that box at the network's size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from pellucid.network.spec import PreprocessSpec
from pellucid.types import Pixels

# torch's resize takes several copies of a picture, for which larger ones have no room.
_LARGEST_IN_TORCH = 8_000_000

# Pictures longer than this are cropped before they are resized, so that a thin one costs no more than a square one.
_LONGEST_WHOLE = 4.0

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


@dataclass(frozen=True, slots=True)
class Frame:
    """How a source of ``width`` x ``height`` is resized and cropped, to the pixel as torchvision does it."""

    width: int
    height: int
    resized: tuple[int, int]  # width, height
    crop: tuple[int, int, int, int]  # x0, y0, x1, y1 in the resized picture

    @classmethod
    def of(cls, width: int, height: int, spec: PreprocessSpec) -> Frame:
        """The short side becomes ``spec.resize``, or both do to be squashed; then the centre is cropped.

        Where the crop is larger than the resized picture, the whole side is taken instead of padding it with black.
        """
        short = min(width, height)
        resized_w = spec.resize if width == short or spec.squash else int(spec.resize * width / height)
        resized_h = spec.resize if height == short or spec.squash else int(spec.resize * height / width)
        crop_h, crop_w = min(spec.size[0], resized_h), min(spec.size[1], resized_w)
        left, top = round((resized_w - crop_w) / 2), round((resized_h - crop_h) / 2)
        return cls(width, height, (resized_w, resized_h), (left, top, left + crop_w, top + crop_h))

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The crop in pixels of a copy of the source that is ``width`` x ``height``: x0, y0, x1, y1."""
        scale_x, scale_y = width / self.resized[0], height / self.resized[1]
        x0, y0, x1, y1 = self.crop
        return x0 * scale_x, y0 * scale_y, x1 * scale_x, y1 * scale_y


def as_image(source: Image.Image | Pixels) -> Image.Image:
    """A picture that is decoded into an array already, for what Pillow does best."""
    return source if isinstance(source, Image.Image) else Image.fromarray(source)


def size_of(source: Image.Image | Pixels) -> tuple[int, int]:
    """Width and height."""
    return source.size if isinstance(source, Image.Image) else (source.shape[1], source.shape[0])


def to_input(source: Image.Image | Pixels, frame: Frame, spec: PreprocessSpec) -> Pixels:
    """What the frame shows of an RGB picture, the source or a smaller copy of it, at the network's size ``[H, W, 3]``.

    torch's resize of bytes is several times faster than Pillow's and equals it within a level, but it can't start
    between two pixels. So it resizes the whole picture; very long ones go through Pillow, which crops as it resizes.
    """
    height, width = spec.size
    long = max(frame.width, frame.height) > _LONGEST_WHOLE * min(frame.width, frame.height)
    x0, y0, x1, y1 = frame.crop
    large = math.prod(size_of(source)) > _LARGEST_IN_TORCH
    if long or large or spec.interpolation == "nearest" or (x1 - x0, y1 - y0) != (width, height):
        box = frame.box(*size_of(source))
        return np.asarray(as_image(source).resize((width, height), _RESAMPLING[spec.interpolation], box))
    pixels = torch.from_numpy(np.array(source, copy=None if isinstance(source, np.ndarray) else True))
    resized = torch.nn.functional.interpolate(
        # The batch's axis first: so the strides say "channels last", and torch needs no copy before or after.
        pixels[None].permute(0, 3, 1, 2),
        size=frame.resized[::-1],
        mode=spec.interpolation,
        antialias=True,
        align_corners=False,
    )
    return resized[0, :, y0:y1, x0:x1].permute(1, 2, 0).contiguous().numpy()
