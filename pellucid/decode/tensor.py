"""Reads pictures that a client sends as input tensors instead of files, and checks shape, type and range."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pellucid.errors import InvalidOption
from pellucid.network.spec import PreprocessSpec
from pellucid.types import DecodedImage, ImageInfo, Prepared

# Largest distance of a denormalised value from a whole level. The error of single precision is below 0.001.
_ROUNDING: Final = 0.02


def from_values(values: NDArray[Any], spec: PreprocessSpec) -> tuple[Prepared, ...]:
    """Read pictures ``[N, H, W, C]`` of the network's input size: 8-bit levels, or for a network of the depth float32
    values of the declared range. Raises InvalidOption.
    """
    channels, *size = spec.shape
    _require_shape(values.shape, (*size, channels))
    if spec.depth == "float32":
        return _usable(values, spec)
    if values.dtype.kind not in "iu" or (values.size and (values.min() < 0 or values.max() > 255)):
        raise InvalidOption("UINT8 pixels must be whole numbers from 0 to 255.")
    return tuple(Prepared(picture) for picture in np.ascontiguousarray(values, np.uint8))


def from_normalised(values: NDArray[Any], spec: PreprocessSpec) -> tuple[Prepared, ...]:
    """Read pictures ``[N, C, H, W]`` that were normalised as the network does.

    The network normalises its pixels itself. If it takes 8-bit levels, each value must correspond to one of the 256
    levels. This check also detects a wrong or missing normalisation. Raises InvalidOption.
    """
    _require_shape(values.shape, spec.shape)
    if values.dtype.kind not in "iuf":
        raise InvalidOption("FP32 pixels must be numbers.")
    if spec.depth == "float32":
        with np.errstate(all="ignore"):
            values = values.transpose(0, 2, 3, 1) * spec.spread + spec.blank
        return _usable(values, spec)
    return tuple(_levels(picture, number, spec) for number, picture in enumerate(values))


def _usable(values: NDArray[Any], spec: PreprocessSpec) -> tuple[Prepared, ...]:
    with np.errstate(all="ignore"):
        pictures = np.ascontiguousarray(values, np.float32)
        usable = np.abs(pictures) <= spec.largest  # False for NaN
    if not usable.all():
        raise InvalidOption("FP32 pixels must be finite numbers, at most a million times the range of their channel.")
    return tuple(map(Prepared, pictures))


def _levels(values: NDArray[Any], number: int, spec: PreprocessSpec) -> Prepared:
    mean, std = (np.array(each, np.float64)[:, None, None] for each in (spec.mean, spec.std))
    with np.errstate(all="ignore"):  # the comparison below rejects infinity and NaN
        levels = (values * std + mean) * 255
        whole = np.rint(levels)
        off = ~((np.abs(levels - whole) <= _ROUNDING) & (whole >= 0) & (whole <= 255))
    if off.any():
        at = tuple(int(index) for index in np.argwhere(off)[0])
        raise InvalidOption(
            f"FP32 pixels must be 8-bit levels, normalised by (level / 255 - mean) / std with mean "
            f"{_shown(spec.mean)} and std {_shown(spec.std)}, but {values[at]:g} at {[number, *at]} would be the "
            f"level {levels[at]:g}. Send the 8-bit pixels as UINT8, or the image's file as BYTES."
        )
    return Prepared(np.ascontiguousarray(whole.transpose(1, 2, 0), np.uint8))


def as_decoded(picture: Prepared) -> DecodedImage:
    """The picture as a DecodedImage whose box is the whole picture."""
    height, width, _ = picture.pixels.shape
    info = ImageInfo(None, hashlib.sha256(picture.pixels.tobytes()).hexdigest(), None, width, height)
    return DecodedImage(info, picture.pixels, (0, 0, width, height))


def _require_shape(shape: Sequence[int], of_one: tuple[int, ...]) -> None:
    if len(shape) != 4 or tuple(shape[1:]) != of_one:
        expected = ", ".join(map(str, of_one))
        raise InvalidOption(f"Pixels must have the shape [N, {expected}], not [{', '.join(map(str, shape))}].")


def _shown(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:.6g}" for value in values) + "]"
