"""Regions of a segmentation: from the source picture to the positions of the network's output."""

from __future__ import annotations

import binascii
import io
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pellucid.errors import InvalidOption
from pellucid.network.spec import ModelSpec
from pellucid.types import Box, DecodedImage, Mask, Plan, Region

_MOST_PIXELS: Final = 64_000_000
# The level from which a position of a mask counts.
_BRIGHT: Final = 128
_NO_MASK: Final = "region_mask: It is no image in base64 (PNG, JPEG or WebP)."


def drawn(text: str) -> bytes:
    """The file of a mask from an image in base64. Its pixels are decoded by ``placed``. Raises InvalidOption."""
    try:
        data = b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
        with _opened(data):
            return data
    except (binascii.Error, ValueError) as error:
        raise InvalidOption(_NO_MASK) from error


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """The image of a mask. Raises InvalidOption if it is none or too large, here or while its pixels are decoded."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise InvalidOption(f"region_mask: At most {_MOST_PIXELS // 10**6} million pixels are allowed.")
            yield image
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InvalidOption(_NO_MASK) from error


def placed(plan: Plan, image: DecodedImage, spec: ModelSpec) -> Plan:
    """The plan with the size of the pixels, and with the masks of the regions that do not depend on the logits.

    Raises InvalidOption if a region holds no position that the network sees, or if a mask can't be decoded.
    """
    if plan.size != (seen := size_of(image, spec)):
        plan = replace(plan, size=seen)
    if not any(region.mask is None and region.kind != "class" for region in plan.regions):
        return plan
    size = (image.info.width or image.box[2], image.info.height or image.box[3])
    return replace(
        plan, regions=tuple(_placed(region, image.box, size, spec.output.shape[1:]) for region in plan.regions)
    )


def size_of(image: DecodedImage, spec: ModelSpec) -> tuple[int, int] | None:
    """``Plan.size`` for this image."""
    height, width, _ = image.pixels.shape
    return None if (height, width) == spec.preprocess.size else (height, width)


def _placed(region: Region, box: Box, size: tuple[int, int], shape: tuple[int, ...]) -> Region:
    height, width = shape
    if region.kind == "class":
        return region
    if region.kind == "picture":
        return replace(region, mask=np.ones((height, width), bool))
    x0, y0, x1, y1 = box
    # The middle of each position, in pixels of the source.
    across = x0 + (np.arange(width) + 0.5) * (x1 - x0) / width
    down = y0 + (np.arange(height) + 0.5) * (y1 - y0) / height
    if region.kind == "mask":
        assert region.drawn is not None
        with _opened(region.drawn) as image:
            levels = np.asarray(image.convert("L"))
        rows = np.minimum((down * levels.shape[0] / size[1]).astype(int), levels.shape[0] - 1)
        columns = np.minimum((across * levels.shape[1] / size[0]).astype(int), levels.shape[1] - 1)
        mask = levels[np.ix_(rows, columns)] >= _BRIGHT
    elif region.kind == "point":
        x, y = region.at
        mask = np.zeros((height, width), bool)
        if x0 <= x < x1 and y0 <= y < y1:
            mask[np.abs(down - y).argmin(), np.abs(across - x).argmin()] = True
    else:
        left, top, right, bottom = region.at
        mask = np.zeros((height, width), bool)
        if max(left, x0) < min(right, x1) and max(top, y0) < min(bottom, y1):
            columns = _between(across, max(left, x0), min(right, x1))
            mask = _between(down, max(top, y0), min(bottom, y1))[:, None] & columns
    if region.kind == "mask" and not mask.any():
        raise InvalidOption(
            f"region_mask: Nothing of it is bright, {_BRIGHT} of 255 or more, where the network sees the picture."
        )
    if not mask.any():
        raise InvalidOption(
            f"region: It is outside of what the network sees: x from {x0} to {x1}, y from {y0} to {y1} in pixels of "
            "the picture."
        )
    return replace(region, mask=mask)


def _between(middles: NDArray[np.float64], low: float, high: float) -> Mask:
    """The positions whose middle is between two bounds, or else the one that is nearest to their middle."""
    found: Mask = (middles >= low) & (middles < high)
    if not found.any():
        found[np.abs(middles - (low + high) / 2).argmin()] = True
    return found
