"""Sources with any channels: one plane ``[h, w]`` for each channel of the network.

A plane of uint8 is of an 8-bit picture or array: 0 to 255 stand for the declared range of its channel. The numbers of
any other plane are values as they are.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from pellucid.decode.preprocess import Frame
from pellucid.decode.resize import as_image, resized_plane, size_of, thumbnail
from pellucid.errors import ContentTooLarge, UndecodableImage
from pellucid.network.spec import RGB, PreprocessSpec
from pellucid.types import InputPixels, Pixels

Plane = NDArray[Any]

_ALPHA: Final = "alpha"
_GRAY: Final = "gray"
# Pixels converted at once.
_STRIP: Final = 1 << 20
# Pillow keeps the high byte of 16-bit colour. The raw mode of the other byte order unpacks the low byte instead.
_SWAPPED: Final = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_WIDE: Final = {f"{bands};16{order}" for bands in ("RGB", "RGBX", "RGBA") for order in "BLN"}
# Pillow's weights of gray: ITU-R 601-2.
_WEIGHTS: Final = np.array((0.299, 0.587, 0.114), np.float32)


def assembled(
    planes: Iterable[Plane], frame: Frame, spec: PreprocessSpec, picture_side: int | None
) -> tuple[InputPixels, Pixels | None]:
    """The network's input ``[H, W, C]``, and the picture of the shown channels, its longer side ``picture_side``.

    The planes may be reduced copies of the source of ``frame``. Raises UndecodableImage for NaN and infinity.
    """
    pixels = np.empty((*frame.size, len(spec.channels)), spec.depth)
    size, drawn = frame.size[::-1], dict[str, Pixels]()
    for number, (name, plane) in enumerate(zip(spec.channels, planes, strict=True)):
        low, high = spec.low[number], spec.high[number]
        if plane.dtype.kind == "f" or plane.dtype.itemsize > 2:
            _require_usable(plane, name, spec.largest[number])
        values = resized_plane(plane, frame.box(*size_of(plane)), size, spec.interpolation, pixels.dtype.type)
        if plane.dtype == np.uint8 and spec.depth == "float32":
            values = low + values * np.float32((high - low) / 255)
        pixels[:, :, number] = values
        if picture_side is not None and name in spec.shown:
            drawn[name] = thumbnail(_levels(plane, low, high), picture_side)
    if picture_side is None:
        return pixels, None
    shown = spec.shown if len(spec.shown) == 3 else spec.shown * 3
    return pixels, np.stack([drawn[name] for name in shown], 2)


def of_colour(image: Image.Image | Pixels, spec: PreprocessSpec) -> list[Plane]:
    """The planes of an 8-bit picture, RGB or RGBA. Raises UndecodableImage if the network takes other channels."""
    if len(spec.channels) == 1:
        return [np.asarray(as_image(image).convert("L"))]
    return _by_channel(_bands(np.asarray(image)), spec)


def of_wide(
    data: bytes, image: ImageFile.ImageFile, turn: Image.Transpose | None, spec: PreprocessSpec, max_pixels: int
) -> list[Plane] | None:
    """The planes of a picture with more than 8 bits. None if it has no more.

    ``image`` is the file in ``data``, opened. Gray takes up to 8 bytes of memory for each pixel. Colour takes 16, so
    its limit is half of ``max_pixels``. Raises UndecodableImage and ContentTooLarge.
    """
    if _is_single(image):
        return None if image.mode in ("1", "L") else _by_channel({_GRAY: _single(_turned(image, turn), spec)}, spec)
    if image.format not in ("PNG", "TIFF"):
        return None
    other = Image.open(io.BytesIO(data), formats=(str(image.format),))  # ``image`` has lost its form once it is decoded
    raw = _raw_mode(other)
    if ";16" not in raw:
        return None
    require_pixels(image, max_pixels // 2, "16-bit colour")
    if raw == "LA;16B":
        octets = np.asarray(_turned(_read_as(other, "RGBA"), turn)).astype(np.uint16)
        values = octets[:, :, ::2] << 8 | octets[:, :, 1::2]
        return _by_channel({_GRAY: values[:, :, 0], _ALPHA: values[:, :, 1]}, spec)
    if raw not in _WIDE:
        raise UndecodableImage(f"16-bit pixels of the form {raw} can't be read at full depth.")
    low = _read_as(other, raw[:-1] + _SWAPPED[raw[-1]])
    values = np.asarray(_turned(image, turn)).astype(np.uint16) << 8
    values |= np.asarray(_turned(low, turn))
    return _by_channel(_bands(values), spec)


def of_pages(image: ImageFile.ImageFile, spec: PreprocessSpec, max_pixels: int) -> Iterator[Plane] | None:
    """The planes of a TIFF with a page for each channel, or None if it has a single page.

    All pages together have at most ``max_pixels``. Raises UndecodableImage and ContentTooLarge.
    """
    count = len(spec.channels)
    if image.format != "TIFF" or count == 1:
        return None
    pages = 1
    size, single = image.size, _is_single(image)
    with suppress(EOFError):
        while pages <= count:  # n_frames would read all of them, and there may be a million
            image.seek(pages)
            single &= _is_single(image) and image.size == size
            pages += 1
    image.seek(0)
    if pages == 1:
        return None
    if pages != count or not single:
        number = str(pages) if pages <= count else f"more than {count}"
        raise UndecodableImage(
            f"The network takes {count} channels ({', '.join(spec.channels)}), each a gray page of one size; the TIFF "
            f"has {number} pages{'' if single else ', and not all are gray and of one size'}."
        )
    require_pixels(image, max_pixels // count, f"a TIFF of {count} pages")
    return _each_page(image, spec)


def require_pixels(image: Image.Image, most: int, of: str) -> None:
    """Raise ContentTooLarge for a picture of more than ``most`` pixels."""
    size = f"{image.width} x {image.height}"
    if image.width * image.height > most:
        raise ContentTooLarge(f"The picture has {size} pixels; at most {most / 1e6:g} million are allowed for {of}.")


def _each_page(image: Image.Image, spec: PreprocessSpec) -> Iterator[Plane]:
    for number in range(len(spec.channels)):
        image.seek(number)
        yield _single(image, spec)


def _by_channel(bands: Mapping[str, Plane], spec: PreprocessSpec) -> list[Plane]:
    """The plane of each channel, from the bands of a picture by name. Raises UndecodableImage if they don't fit."""
    names, count = spec.channels, len(spec.channels)
    if count != 4 and _ALPHA in bands:
        bands = _over_white(bands)
    if count == 1:
        if _GRAY in bands:
            return [bands[_GRAY]]
        red, green, blue = (weight * bands[name] for name, weight in zip(RGB, _WEIGHTS, strict=True))
        return [red + green + blue]
    given = len(bands)
    if _GRAY in bands and (count == 3 or {*names} == {*RGB, _ALPHA}):
        alpha = {_ALPHA: bands[_ALPHA]} if _ALPHA in bands else {}
        bands = {**dict.fromkeys(RGB, bands[_GRAY]), **alpha}
    if _ALPHA in names and _ALPHA not in bands:
        band = next(iter(bands.values()))
        bands = {**bands, _ALPHA: np.full_like(band, np.iinfo(band.dtype).max)}
    if {*names} == {*bands}:
        return [bands[name] for name in names]
    if len(bands) == count:
        return [*bands.values()]
    raise UndecodableImage(
        f"The network takes {count} channels ({', '.join(names)}), and the picture has {given}: send a TIFF with a "
        "page for each channel, or an array as application/x-npy."
    )


def _bands(pixels: NDArray[Any]) -> dict[str, Plane]:
    return dict(zip((*RGB, _ALPHA), np.moveaxis(pixels, 2, 0), strict=False))


def _over_white(bands: Mapping[str, Plane]) -> dict[str, Plane]:
    """The 16-bit bands blended over white by their alpha."""
    alpha = bands[_ALPHA] / np.float32(0xFFFF)
    return {name: band * alpha + 0xFFFF * (1 - alpha) for name, band in bands.items() if name != _ALPHA}


def _is_single(image: Image.Image) -> bool:
    """Whether the picture has a single band of numbers."""
    return image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;16")


def _single(image: Image.Image, spec: PreprocessSpec) -> Plane:
    """The plane of a picture with a single band. Raises ValueError for numbers that 8-bit networks can't take."""
    plane = np.asarray(image.convert("L") if image.mode == "1" else image)
    if spec.depth == "uint8" and plane.dtype != np.uint8:
        if not image.mode.startswith("I;16"):
            raise ValueError(f"pixels of mode {image.mode} have no known range; use 8 or 16 bits")
        return (plane >> 8).astype(np.uint8)
    return plane


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """Pillow's name of the form of the encoded pixels."""
    arguments = image.tile[0].args if image.tile else ""
    return arguments if isinstance(arguments, str) else str((arguments or ("",))[0])


def _read_as(image: ImageFile.ImageFile, raw: str) -> ImageFile.ImageFile:
    """The picture, whose encoded pixels Pillow will unpack as another form of as many bits."""
    image.tile = [
        tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw) for tile in image.tile
    ]
    return image


def _turned(image: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    return image if turn is None else image.transpose(turn)


def _levels(plane: Plane, low: float, high: float) -> Pixels:
    """The plane in 8 bits: the range ``low`` to ``high`` becomes 0 to 255."""
    if plane.dtype == np.uint8:
        return plane
    levels = np.empty(plane.shape, np.uint8)
    for rows in _strips(plane):
        scaled = (plane[rows].astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
        levels[rows] = np.rint(np.clip(scaled, 0, 255))
    return levels


def _require_usable(plane: Plane, name: str, most: float) -> None:
    for rows in _strips(plane):
        with np.errstate(over="ignore"):
            values = plane[rows].astype(np.float32)
        usable = np.abs(values) <= most  # False for NaN
        if not usable.all():
            y, x = np.argwhere(~usable)[0]
            has = (
                f"{values[y, x]:g}"
                if np.isfinite(values[y, x])
                else "NaN, infinity or a number beyond single precision"
            )
            raise UndecodableImage(
                f"The channel {name} has {has} in row {rows.start + y}, column {x}: at most {most:g} is read, "
                "a million times the declared range."
            )


def _strips(plane: Plane) -> Iterator[slice]:
    """The rows of the plane, about a million pixels at a time."""
    step = max(1, _STRIP // plane.shape[1])
    return (slice(first, first + step) for first in range(0, plane.shape[0], step))
