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
"""A path, a file's bytes, a picture of Pillow, or uint8 ``[height, width, 3]``, RGB, ``[height, width, 4]``, RGBA, or
``[height, width]``, grey.
"""


def read(source: ImageSource) -> tuple[str, bytes]:
    """A file's name and bytes. Pictures and arrays are encoded as PNG, without loss.

    Raises OSError for a file that can't be read, TypeError and ValueError for anything that is not an image.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        return path.name, path.read_bytes()
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "image", bytes(source)

    from PIL import Image  # only pictures and arrays need it

    if isinstance(source, Image.Image):
        picture = source
    elif hasattr(source, "__array_interface__"):
        _check(source.dtype.name, source.shape)
        picture = Image.fromarray(source)
    else:
        raise TypeError(f"an image is a path, bytes, a PIL image or a uint8 array, not {type(source).__name__}")
    file = io.BytesIO()
    (picture.convert("RGB") if picture.mode in ("CMYK", "YCbCr", "HSV", "LAB", "F") else picture).save(file, "PNG")
    return "image.png", file.getvalue()


# Options that are images. In requests they are base64.
OPTIONS: Final = ("reference", "region_mask")


def as_option(name: str, value: Any) -> Any:
    """The value of an option in a request: base64 if the option is an image. Raises what ``read`` does."""
    return b64encode(read(value)[1]).decode() if name in OPTIONS else value


def _check(dtype: str, shape: tuple[int, ...]) -> None:
    if dtype == "uint8" and len(shape) in (2, 3) and shape[2:] in ((), (3,), (4,)) and 0 not in shape:
        return
    channels_first = len(shape) == 3 and shape[0] in (3, 4) and shape[2] not in (3, 4)
    hint = "; channels come last: array.transpose(1, 2, 0)" if channels_first else ""
    raise ValueError(
        "an array must be uint8, 0 to 255, of shape [height, width, 3] (RGB), [height, width, 4] (RGBA) or "
        f"[height, width] (grey), not {dtype} {list(shape)}{hint}"
    )
