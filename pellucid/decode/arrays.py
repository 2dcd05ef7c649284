"""Reads numpy's ``.npy`` files as untrusted input: plain numbers of one picture. Nothing of the file is evaluated."""

from __future__ import annotations

import math
import re
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pellucid.errors import ContentTooLarge, UndecodableImage
from pellucid.network.spec import PreprocessSpec

FORMAT: Final = "NPY"
MAGIC: Final = b"\x93NUMPY"
# The header's length follows the version in as many bytes. numpy itself reads no longer headers.
_LENGTH_BYTES: Final = {1: 2, 2: 4}
_LONGEST_HEADER: Final = 10_000
_HEADER: Final = re.compile(
    r"\{(?:\s*(?:'descr': ?'(?P<dtype>[^']{1,20})'|'fortran_order': ?(?P<fortran>True|False)"
    r"|'shape': ?\((?P<shape>[\d, ]{0,80})\)),?){3}\s*\}\s*"
)
_DTYPE: Final = re.compile(r"[<>|=]?(?:[iu][1248]|f[248])")
_EIGHT_BITS: Final = (
    "The array has {}, and the network takes 8-bit values: send uint8, or floats from 0 to 1 (before any "
    "normalisation), or compile the network with `low` and `high`, the range of its values."
)
# A longer side or array can't be described by a body that fits into memory.
_MOST_DIGITS: Final = 9


def read(data: bytes, spec: PreprocessSpec, max_pixels: int, max_side: int) -> NDArray[Any]:
    """The array as ``[H, W, C]`` with a channel for each of the network.

    A network of 8-bit values gets floats from 0 to 1 as levels from 0 to 255. Any other array is a view of ``data``.

    Raises UndecodableImage if the file is broken or does not fit the network, and ContentTooLarge.
    """
    dtype, fortran, shape, start = _header(data)
    size = math.prod(shape) * dtype.itemsize
    if len(data) - start != size:
        raise UndecodableImage(
            f"The NPY data are truncated or too long: the header describes {size} bytes, {len(data) - start} follow."
        )
    if spec.depth == "uint8" and dtype != np.uint8 and dtype.kind != "f":
        raise UndecodableImage(_EIGHT_BITS.format(f"the dtype {dtype.name}"))
    axes = _axes(shape, spec)
    array = np.frombuffer(data, dtype, offset=start).reshape(shape, order="F" if fortran else "C")
    array = array.reshape(*shape, 1) if axes is None else array.transpose(axes)
    height, width = array.shape[:2]
    if max(height, width) > max_side or height * width > max_pixels:
        raise ContentTooLarge(
            f"The array has {width} x {height} pixels; at most {max_side} per side and {max_pixels / 1e6:g} million "
            "are allowed."
        )
    return _levels(array) if spec.depth == "uint8" and dtype.kind == "f" else array


def _levels(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Floats from 0 to 1 as levels from 0 to 255. Raises UndecodableImage for others, and for NaN."""
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):  # True for NaN
        raise UndecodableImage(_EIGHT_BITS.format(f"numbers of {array.dtype.name} from {low:g} to {high:g}"))
    levels: NDArray[np.uint8] = np.rint(array * 255).astype(np.uint8)
    return levels


def _header(data: bytes) -> tuple[np.dtype[Any], bool, tuple[int, ...], int]:
    """The dtype, whether the order is Fortran's, the shape, and where the numbers start. Raises UndecodableImage."""
    length_bytes = _LENGTH_BYTES.get(data[6]) if len(data) > 8 else None
    if length_bytes is None:
        raise UndecodableImage("The NPY data are truncated, or not of version 1 or 2 of the format.")
    start = 8 + length_bytes
    length = int.from_bytes(data[8:start], "little")
    if length > min(_LONGEST_HEADER, len(data) - start):
        raise UndecodableImage(f"The NPY data are truncated, or their header has more than {_LONGEST_HEADER} bytes.")
    text = data[start : start + length].decode("latin-1")
    found = _HEADER.fullmatch(text)
    if found is None or None in found.groups():
        raise UndecodableImage("The NPY header does not describe an array of plain numbers.")
    if found["dtype"].endswith("O"):
        raise UndecodableImage("The array holds Python objects, which are never read: send plain numbers.")
    if not _DTYPE.fullmatch(found["dtype"]):
        raise UndecodableImage(
            f"The array has the dtype {found['dtype']!r}; whole numbers of 1 to 8 bytes and floats of 2 to 8 are read."
        )
    sides = [side.strip() for side in found["shape"].split(",") if side.strip()]
    if not all(side.isdecimal() and len(side) <= _MOST_DIGITS and int(side) for side in sides):
        raise UndecodableImage(f"The array has the impossible shape ({found['shape']}).")
    return np.dtype(found["dtype"]), found["fortran"] == "True", tuple(map(int, sides)), start + length


def _axes(shape: tuple[int, ...], spec: PreprocessSpec) -> tuple[int, int, int] | None:
    """The axes of height, width and channels, or None for a shape [H, W]. Raises UndecodableImage."""
    channels, shown = len(spec.channels), f"[{', '.join(map(str, shape))}]"
    if len(shape) == 2 and channels == 1:
        return None
    first, last = (len(shape) == 3 and shape[axis] == channels for axis in (0, 2))
    if first and last:
        raise UndecodableImage(
            f"The array has the shape {shown}: its first and its last axis both have {channels} entries, so either "
            "could be the channels. Pad one side of the picture by a pixel."
        )
    if not first and not last:
        of_one = "[height, width], " if channels == 1 else ""
        raise UndecodableImage(
            f"The array has the shape {shown}, and the network takes {of_one}[height, width, {channels}] or "
            f"[{channels}, height, width]: {', '.join(spec.channels)}."
        )
    return (1, 2, 0) if first else (0, 1, 2)
