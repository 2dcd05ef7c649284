"""The forms of an image: a path, a file's bytes, a picture of Pillow, an array."""

from __future__ import annotations

import io
import os
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, Union

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

ImageSource: TypeAlias = Union[str, "os.PathLike[str]", bytes, "Image.Image", "NDArray[Any]"]
"""A path, a file's bytes, a picture of Pillow, or an array.

An array of uint8 is a picture: ``[height, width, 3]``, RGB, ``[height, width, 4]``, RGBA, or ``[height, width]``, grey.
For a network of other channels or of the depth float32, an array has numbers in the range that the network declares:
``[height, width, channels]``, ``[channels, height, width]``, or ``[height, width]`` for a single channel.
"""


def read(source: ImageSource) -> tuple[str, bytes]:
    """A file's name and bytes. Pictures and uint8 arrays of them become a PNG, other arrays a ``.npy`` file.

    Raises OSError for a file that can't be read, TypeError and ValueError for anything that is not an image.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        return path.name, path.read_bytes()
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "image", bytes(source)

    from PIL import Image  # only pictures and arrays need it

    file = io.BytesIO()
    if isinstance(source, Image.Image):
        picture = source
    elif hasattr(source, "__array_interface__"):
        if not _is_picture(source.dtype.name, source.shape):
            import numpy as np

            np.save(file, source, allow_pickle=False)
            return "image.npy", file.getvalue()
        picture = Image.fromarray(source)
    else:
        raise TypeError(f"an image is a path, bytes, a PIL image or an array, not {type(source).__name__}")
    (picture.convert("RGB") if picture.mode in ("CMYK", "YCbCr", "HSV", "LAB", "F") else picture).save(file, "PNG")
    return "image.png", file.getvalue()


# Options that are images. In requests they are base64.
OPTIONS: Final = ("reference", "region_mask")


def as_option(name: str, value: Any) -> Any:
    """The value of an option in a request: base64 if the option is an image. Raises what ``read`` does.

    A mask may be an array of booleans, or of numbers from 0 to 1.
    """
    return b64encode(read(bright(name, value))[1]).decode() if name in OPTIONS else value


def bright(name: str, value: Any) -> Any:
    """A mask of 0 and 1 as levels of 0 and 255. Anything else unchanged."""
    if name != "region_mask" or not hasattr(value, "__array_interface__"):
        return value
    if value.dtype.kind == "b" or (value.size and value.min() >= 0 and value.max() <= 1):
        return (value * 255).astype("uint8")
    return value


def _is_picture(dtype: str, shape: tuple[int, ...]) -> bool:
    """Whether an array is an 8-bit picture. Raises ValueError if it is no image at all."""
    if 0 in shape or len(shape) not in (2, 3) or not dtype.startswith(("uint", "int", "float")):
        raise ValueError(
            "an array must have numbers and the shape [height, width, channels], [channels, height, width] or [height, "
            f"width], not {dtype} {list(shape)}"
        )
    return dtype == "uint8" and shape[2:] in ((), (3,), (4,))
