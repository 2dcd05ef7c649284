"""Regions of a segmentation: from the source picture to the positions of the network's output."""

from __future__ import annotations

import io
import math
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from threading import Lock
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pellucid.decode.image import MOST_PASSES, passes
from pellucid.errors import InvalidOption
from pellucid.network.spec import ModelSpec
from pellucid.types import DecodedImage, Mask, Plan, Region

_MOST_PIXELS: Final = 4096 * 4096
# libwebp holds a picture several times.
_MOST_OF_WEBP: Final = _MOST_PIXELS // 2
# The level from which a position of a mask counts.
_BRIGHT: Final = 128
_NO_MASK: Final = "region_mask: This is not an image in base64 (PNG, JPEG or WebP)."


def drawn(text: str) -> Callable[[], Mask]:
    """Where an image in base64 is bright, as a function that decodes its pixels at the first call.

    Threads share the function, so that all images of a request cost one decoding. Raises InvalidOption if the bytes are
    no image or have too many pixels. The function raises it if the pixels can't be decoded.
    """
    try:
        data = b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except ValueError as error:
        raise InvalidOption(_NO_MASK) from error
    with _opened(data):
        return _Drawn(data)


class _Drawn:
    """The mask of the image in ``data``, decoded once and kept as one bit for each pixel."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._lock = Lock()
        self._width = 0
        self._bits: NDArray[np.uint8] | None = None

    def __call__(self) -> Mask:
        with self._lock:
            if not self._width:
                self._decode()
        if self._bits is None:
            raise InvalidOption(_NO_MASK)
        return np.unpackbits(self._bits, axis=1, count=self._width).view(bool)

    def _decode(self) -> None:
        with suppress(InvalidOption), _opened(self._data) as image:
            self._width = image.width
            image.draft("L", image.size)  # a JPEG's levels are decoded without its colours
            self._bits = np.packbits(np.asarray(image.convert("L")) >= _BRIGHT, axis=1)


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """The image of a mask. Raises InvalidOption if it is none or too large, here or while its pixels are decoded."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            pixels = image.width * image.height
            most = _MOST_OF_WEBP if image.format == "WEBP" else _MOST_PIXELS
            if pixels > most:
                raise InvalidOption(
                    f"region_mask: The image has {image.width} x {image.height} pixels; at most {most / 1e6:.1f} "
                    f"million are allowed for {image.format}."
                )
            scans = MOST_PASSES * _MOST_PIXELS // pixels
            if image.format == "JPEG" and passes(data, scans) > scans:
                raise InvalidOption("region_mask: The image's JPEG data encode it in too many scans.")
            yield image
    except Image.DecompressionBombError as error:
        most = min(_MOST_PIXELS, 2 * (Image.MAX_IMAGE_PIXELS or _MOST_PIXELS))
        raise InvalidOption(
            f"region_mask: The image has too many pixels; at most {most / 1e6:.1f} million are allowed."
        ) from error
    except (ValueError, OSError, SyntaxError) as error:
        raise InvalidOption(_NO_MASK) from error


def placed(plan: Plan, image: DecodedImage, spec: ModelSpec) -> Plan:
    """The plan with the size of the pixels, and with the masks of the regions that do not depend on the logits.

    Raises InvalidOption if a region holds no position that the network sees, if a mask can't be decoded, and for
    regions of a picture in tiles.
    """
    if plan.regions and image.tiling:
        raise InvalidOption(
            f"view: The network sees this picture in {len(image.tiling.corners)} tiles, and a segmentation is not "
            "explained over several. Choose view=squash or view=centre, or ask for predictions and feature maps alone."
        )
    if plan.size != (seen := size_of(image, spec)):
        plan = replace(plan, size=seen)
    if not any(region.mask is None and region.kind != "class" for region in plan.regions):
        return plan
    return replace(plan, regions=tuple(_placed(region, image, spec.output.shape[1:]) for region in plan.regions))


def box_of(corners: Sequence[float]) -> Region:
    """The region of a box x0, y0, x1, y1. Raises InvalidOption."""
    if len(corners) != 4:
        raise InvalidOption(f"box: A box has four numbers, x0, y0, x1 and y1, got {list(corners)}.")
    x0, y0, x1, y1 = corners
    if not (0 <= x0 < x1 < math.inf and 0 <= y0 < y1 < math.inf):
        raise InvalidOption(f"box: 0 <= x0 < x1 and 0 <= y0 < y1 must hold, got {list(corners)}.")
    return Region("box", (x0, y0, x1, y1))


def positions(region: Region, image: DecodedImage, shape: tuple[int, ...]) -> Mask:
    """The positions of a map of ``shape`` (h, w) that lie in a region other than ``class``. Raises InvalidOption."""
    mask = _placed(region, image, shape).mask
    assert mask is not None
    return mask


def size_of(image: DecodedImage, spec: ModelSpec) -> tuple[int, int] | None:
    """``Plan.size`` for this image."""
    return None if image.seen_size == spec.preprocess.size else image.seen_size


def _placed(region: Region, image: DecodedImage, shape: tuple[int, ...]) -> Region:
    box, size = image.box, (image.info.width or image.box[2], image.info.height or image.box[3])
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
        bright = region.drawn()
        rows = np.minimum((down * bright.shape[0] / size[1]).astype(int), bright.shape[0] - 1)
        columns = np.minimum((across * bright.shape[1] / size[0]).astype(int), bright.shape[1] - 1)
        mask = bright[np.ix_(rows, columns)]
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
        raise InvalidOption(f"region_mask: No pixel is bright ({_BRIGHT} to 255) where the network sees the picture.")
    if not mask.any():
        raise InvalidOption(
            f"The region is outside of what the network sees: x from {x0} to {x1}, y from {y0} to {y1} in pixels of "
            "the picture."
        )
    return replace(region, mask=mask, drawn=None)


def _between(middles: NDArray[np.float64], low: float, high: float) -> Mask:
    """The positions whose middle is between two bounds, or else the one that is nearest to their middle."""
    found: Mask = (middles >= low) & (middles < high)
    if not found.any():
        found[np.abs(middles - (low + high) / 2).argmin()] = True
    return found
