"""A fast PNG encoder. A mask takes a tenth of Pillow's time, and no more bytes.

Pillow tries five filters on every row, and compresses the best with zlib. Masks and grids of tiles vary little from row
to row, so one filter is enough. ISA-L compresses several times faster than zlib.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

import numpy as np
from isal import isal_zlib

from pellucid.types import Pixels

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_HEAD: Final = len(_SIGNATURE) + 25  # signature and IHDR, the first chunk
_GREY, _RGB, _PALETTE = 0, 2, 3  # colour types
_UP: Final = 2  # filter type: each byte minus the byte above it


def encode(pixels: Pixels, palette: Pixels | None = None) -> bytes:
    """Encode a PNG (W3C, third edition).

    ``pixels`` is ``[h, w, 3]`` RGB, ``[h, w]`` grey, or ``[h, w]`` indices into ``palette``.
    """
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


def annotated(data: bytes, texts: Mapping[str, str]) -> bytes:
    """Add texts to a PNG made by ``encode``, as uncompressed UTF-8 in iTXt chunks.

    ``texts``: keyword (Latin-1, at most 79 letters) -> text.
    """
    chunks = [
        _chunk(b"iTXt", keyword.encode("latin-1") + b"\0\0\0\0\0" + text.encode()) for keyword, text in texts.items()
    ]
    return b"".join((data[:_HEAD], *chunks, data[_HEAD:]))


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = isal_zlib.crc32(data, isal_zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(data)), kind, data, struct.pack(">I", checksum)))
