"""Small pictures of every served format and kind, which the fuzzer takes apart."""

from __future__ import annotations

import io
from typing import Any, Final

import numpy as np
from PIL import Image

_SIZE: Final = (40, 30)


def _picture(mode: str) -> Image.Image:
    """Noise over a slope, so that every part of an encoder is used."""
    noise = np.random.default_rng(0).integers(0, 40, (_SIZE[1], _SIZE[0], 3))
    slope = np.linspace(0, 200, _SIZE[0])[None, :, None]
    return Image.fromarray((noise + slope).astype(np.uint8)).convert(mode)


def _saved(mode: str, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    _picture(mode).save(buffer, file_format, **options)
    return buffer.getvalue()


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    exif[0x010E] = "a picture"
    return exif


def _all() -> dict[str, bytes]:
    frames = {"save_all": True, "append_images": [_picture("RGB").rotate(90 * turn) for turn in (1, 2)]}
    return {
        "jpeg": _saved("RGB", "JPEG"),
        "jpeg progressive": _saved("RGB", "JPEG", progressive=True, exif=_exif()),
        "jpeg grey": _saved("L", "JPEG", restart_marker_rows=1),
        "jpeg cmyk": _saved("CMYK", "JPEG"),
        "png": _saved("RGB", "PNG", exif=_exif()),
        "png palette": _saved("P", "PNG", transparency=3),
        "png alpha": _saved("RGBA", "PNG", compress_level=0),
        "png 16 bits": _saved("I;16", "PNG"),
        "png animated": _saved("RGB", "PNG", **frames),
        "webp": _saved("RGB", "WEBP", quality=50),
        "webp lossless": _saved("RGBA", "WEBP", lossless=True, exif=_exif()),
        "webp animated": _saved("RGB", "WEBP", **frames),
        "gif": _saved("P", "GIF", transparency=3),
        "gif animated": _saved("RGB", "GIF", **frames),
        "bmp": _saved("RGB", "BMP"),
        "bmp palette": _saved("P", "BMP"),
        "bmp 1 bit": _saved("1", "BMP"),
        "tiff": _saved("RGB", "TIFF", exif=_exif()),
        "tiff lzw": _saved("RGB", "TIFF", compression="tiff_lzw", tiffinfo={317: 2}),
        "tiff deflate": _saved("RGBA", "TIFF", compression="tiff_adobe_deflate"),
        "tiff jpeg": _saved("RGB", "TIFF", compression="jpeg"),
        "tiff group 4": _saved("1", "TIFF", compression="group4"),
        "tiff cmyk": _saved("CMYK", "TIFF"),
        "tiff float": _saved("F", "TIFF"),
        "tiff big": _saved("RGB", "TIFF", big_tiff=True),
    }


SEEDS: Final = _all()
