"""The forms of an image: a path, a file, its bytes, a picture of Pillow, an array, a tensor."""

from __future__ import annotations

import io
import os
from base64 import b64encode
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Protocol, TypeAlias, Union

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image


class Tensor(Protocol):
    """A tensor of torch, on any device, with or without a gradient. torch itself is not imported."""

    def detach(self) -> Any: ...


ImageSource: TypeAlias = Union[str, "os.PathLike[str]", bytes, IO[bytes], "Image.Image", "NDArray[Any]", Tensor]
"""A path, a file opened as binary, a file's bytes, a picture of Pillow, or an array or tensor.

uint8 is a picture: ``[height, width, channels]`` or ``[channels, height, width]`` with 3 channels (RGB), 4 (RGBA) or 1
(grey), or ``[height, width]``. Floats are a picture with values from 0 to 1. For a network of other channels or of the
depth float32, they are numbers in the range that the network declares.
"""
# The channels of a picture.
_CHANNELS: Final = (1, 3, 4)


def read(source: ImageSource) -> tuple[str, bytes]:
    """A file's name and bytes. Pictures and uint8 arrays of them become a PNG, other arrays a ``.npy`` file.

    Raises OSError for a file that can't be read, TypeError and ValueError for anything that is not an image.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if str(source).lower().startswith(("http://", "https://")):
            raise ValueError(f"addresses are not fetched: download {source} and pass its bytes or its file")
        return path.name, path.read_bytes()
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "image", bytes(source)
    if hasattr(source, "read"):
        return _file(source)

    from PIL import Image  # only pictures and arrays need it

    file = io.BytesIO()
    if isinstance(source, Image.Image):
        picture = source
    elif (array := as_array(source)) is not None:
        array = _upright(array)
        if array.dtype.name != "uint8" or array.shape[2:] not in ((), (3,), (4,)):
            import numpy as np

            np.save(file, array, allow_pickle=False)
            return "image.npy", file.getvalue()
        picture = Image.fromarray(array)
    else:
        raise TypeError(
            f"an image is a path, bytes, a file, a PIL image or an array, not {type(source).__name__}; for several, "
            "call it for each, or `explain_many` of a client"
        )
    (picture.convert("RGB") if picture.mode in ("CMYK", "YCbCr", "HSV", "LAB", "F") else picture).save(file, "PNG")
    return "image.png", file.getvalue()


def _file(file: Any) -> tuple[str, bytes]:
    """The name and all bytes of a file object, from its start if it can seek."""
    if getattr(file, "seekable", bool)():
        file.seek(0)
    data = "" if isinstance(file, io.TextIOBase) else file.read()
    if not isinstance(data, bytes):
        raise TypeError("the file is opened as text: open it as binary, open(path, 'rb')")
    name = getattr(file, "name", None)
    return Path(name).name if isinstance(name, str) else "image", data


def as_array(source: Any) -> NDArray[Any] | None:
    """An array or tensor as an array in the host's memory. None for anything else."""
    if hasattr(source, "detach"):
        source = source.detach().cpu()
        source = source.float() if "bfloat16" in str(source.dtype) else source  # numpy has no such type
    if not hasattr(source, "__array_interface__") and not hasattr(source, "__array__"):
        return None
    import numpy as np

    return np.asarray(source)


# Options that are images. In requests they are base64.
OPTIONS: Final = ("reference", "region_mask")


def as_option(name: str, value: Any) -> Any:
    """The value of an option in a request: base64 if the option is an image. Raises what ``read`` does.

    A mask may be an array of booleans, or of numbers from 0 to 1.
    """
    return b64encode(read(bright(name, value))[1]).decode() if name in OPTIONS else value


def bright(name: str, value: Any) -> Any:
    """A mask of 0 and 1 as levels of 0 and 255. Anything else unchanged."""
    if name != "region_mask" or (array := as_array(value)) is None:
        return value
    if array.dtype.kind == "b" or (array.size and array.min() >= 0 and array.max() <= 1):
        return (array * 255).astype("uint8")
    return array


def _upright(array: NDArray[Any]) -> NDArray[Any]:
    """An 8-bit picture as ``[height, width]`` or ``[height, width, channels]``. Other arrays unchanged.

    Raises ValueError for what is no image, or could be two.
    """
    name, shape = array.dtype.name, array.shape
    if 0 in shape or len(shape) not in (2, 3) or not name.startswith(("uint", "int", "float")):
        batch = ": pass the pictures of a batch one by one, as batch[0], or as a list to `explain_many` of a client"
        raise ValueError(
            "an array must have numbers and the shape [height, width, channels], [channels, height, width] or [height, "
            f"width], not {name} {list(shape)}{batch if len(shape) == 4 else ''}"
        )
    if name != "uint8" or len(shape) == 2:
        return array
    first, last = (shape[axis] in _CHANNELS for axis in (0, 2))
    if first and last:
        raise ValueError(
            f"an array of the shape {list(shape)} can be [channels, height, width] or [height, width, channels]: pass "
            "a picture of Pillow, as Image.fromarray(array), which reads the latter"
        )
    if first:
        array = array.transpose(1, 2, 0)
    return array[:, :, 0] if array.shape[2] == 1 else array
