"""Applies a PreprocessSpec: computes the box of the source that the network sees, and resizes it to the input size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from pellucid.decode.resize import as_image, resized, size_of
from pellucid.decode.view import CENTRE, View, tiling
from pellucid.network.spec import PreprocessSpec
from pellucid.types import Pixels


@dataclass(frozen=True, slots=True)
class Frame:
    """How a source of ``width`` x ``height`` is resized and cropped. Equals torchvision's result to the pixel.

    ``size``: (height, width) of the network's input.
    """

    width: int
    height: int
    resized: tuple[int, int]  # width, height
    crop: tuple[int, int, int, int]  # x0, y0, x1, y1 in the resized picture
    size: tuple[int, int]

    @classmethod
    def of(cls, width: int, height: int, spec: PreprocessSpec, view: View = CENTRE) -> Frame:
        """The frame of a view.

        ``centre``: resize the short side to ``spec.resize`` (both sides with ``spec.squash``), then crop the centre. If
        the crop is larger than the resized picture, it takes the whole side. Nothing is padded. ``whole`` and
        ``squash``: resize the whole picture. Raises InvalidOption for a picture that is too long for ``whole``.
        """
        if view.kind != "centre":
            rows, columns = tiling(width, height, view).size if view.kind == "whole" else spec.size
            return cls(width, height, (columns, rows), (0, 0, columns, rows), (rows, columns))
        short = min(width, height)
        resized_w = spec.resize if width == short or spec.squash else int(spec.resize * width / height)
        resized_h = spec.resize if height == short or spec.squash else int(spec.resize * height / width)
        crop_h, crop_w = min(spec.size[0], resized_h), min(spec.size[1], resized_w)
        left, top = round((resized_w - crop_w) / 2), round((resized_h - crop_h) / 2)
        return cls(width, height, (resized_w, resized_h), (left, top, left + crop_w, top + crop_h), spec.size)

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The crop as x0, y0, x1, y1 in pixels of a copy of the source that is ``width`` x ``height``."""
        scale_x, scale_y = width / self.resized[0], height / self.resized[1]
        x0, y0, x1, y1 = self.crop
        return x0 * scale_x, y0 * scale_y, min(x1 * scale_x, width), min(y1 * scale_y, height)


def to_input(source: Image.Image | Pixels, frame: Frame, spec: PreprocessSpec) -> Pixels:
    """Crop and resize an RGB picture to the network's input ``[H, W, 3]``. ``source`` may be a reduced copy."""
    size, box = frame.size[::-1], frame.box(*size_of(source))
    if spec.interpolation == "nearest":
        return np.array(as_image(source).resize(size, Image.Resampling.NEAREST, box))
    return resized(source, box, size, spec.interpolation)
