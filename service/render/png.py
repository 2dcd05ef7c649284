"""PNG, written for speed: a mask in a tenth of the time that Pillow takes, and no larger.

Pillow tries five filters on every row and packs the best by zlib. Masks and grids of tiles are smooth from row to row,
so one filter does, and ISA-L packs several times faster than zlib.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
from isal import isal_zlib

from service.types import Pixels

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB, _PALETTE = 0, 2, 3  # colour types
_UP: Final = 2  # filter: each byte less the one above it


def encode(pixels: Pixels, palette: Pixels | None = None) -> bytes:
    """A PNG (W3C, third edition) of ``[h, w, 3]`` RGB, or of ``[h, w]`` that is grey or indexes ``palette``."""
    height, width = pixels.shape[:2]
    colour = _PALETTE if palette is not None else _RGB if pixels.ndim == 3 else _GREY
    rows = pixels.reshape(height, -1)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = _UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    return b"".join(
        (
            _SIGNATURE,
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)),
            b"" if palette is None else _chunk(b"PLTE", palette.tobytes()),
            _chunk(b"IDAT", isal_zlib.compress(filtered.data, 1)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = isal_zlib.crc32(data, isal_zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(data)), kind, data, struct.pack(">I", checksum)))
