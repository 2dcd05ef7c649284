"""Pictures taken apart: a seed, and what is done to its bytes, as a strategy that can be replayed and shrunk."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hypothesis import strategies as st

from tests.fuzz.seeds import SEEDS

# Numbers at which sizes, offsets and counts go wrong, as bytes of either order.
_EDGES: Final = tuple(
    struct.pack(order + kind, value)
    for order in "<>"
    for kind, values in {
        "H": (0, 1, 0x7FFF, 0x8000, 0xFFFF),
        "I": (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF, 65_500, 8),
        "Q": (2**63, 2**64 - 1),
    }.items()
    for value in values
)
_SIGNATURE: Final = 8


@dataclass(frozen=True)
class Edit:
    """One change: its kind, where (below 5000 in the first 200 bytes, else anywhere, in 1/5000), and its bytes."""

    kind: str
    where: int
    data: bytes

    def apply(self, whole: bytes) -> bytes:
        """The bytes after it."""
        reach = len(whole) if self.where >= 5000 else min(len(whole), 200)
        at = self.where % 5000 * reach // 5000
        return _EDITS[self.kind](whole, at, self.data)


def _flip(whole: bytes, at: int, data: bytes) -> bytes:
    bit = 1 << (len(data) % 8)
    return whole[:at] + bytes(byte ^ bit for byte in whole[at : at + 1]) + whole[at + 1 :]


_EDITS: Final[dict[str, Callable[[bytes, int, bytes], bytes]]] = {
    "flip": _flip,
    "overwrite": lambda whole, at, data: whole[:at] + data + whole[at + len(data) :],
    "insert": lambda whole, at, data: whole[:at] + data + whole[at:],
    "remove": lambda whole, at, data: whole[:at] + whole[at + len(data) :],
    "repeat": lambda whole, at, data: whole[:at] + whole[at : at + 16 * len(data)] * 4 + whole[at:],
    "cut off": lambda whole, at, data: whole[: at + 1],
}


@dataclass(frozen=True)
class Mutant:
    """A seed's bytes after edits, possibly with another seed's behind them from ``spliced`` on; a PNG's checksums made
    right again where ``mended``, so that what lies behind them is reached.
    """

    seed: str
    edits: tuple[Edit, ...]
    spliced: str | None
    mended: bool

    def data(self) -> bytes:
        """The bytes that are sent."""
        whole = SEEDS[self.seed]
        if self.spliced:
            other = SEEDS[self.spliced]
            whole = whole[: len(whole) // 2] + other[len(other) // 3 :]
        for edit in self.edits:
            whole = edit.apply(whole)
        return _mended(whole) if self.mended else whole


def _mended(data: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what they hold now, as far as they can be told apart."""
    if not data.startswith(b"\x89PNG"):
        return data
    parts, at = [data[:_SIGNATURE]], _SIGNATURE
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        parts += [data[at:end], struct.pack(">I", zlib.crc32(data[at + 4 : end]))]
        at = end + 4
    return b"".join((*parts, data[at:]))


_edits = st.builds(
    Edit,
    st.sampled_from(tuple(_EDITS)),
    st.integers(0, 9999),
    st.sampled_from(_EDGES) | st.binary(min_size=1, max_size=32),
)
_names = st.sampled_from(tuple(SEEDS))
mutants: Final = st.builds(
    Mutant,
    _names,
    st.lists(_edits, min_size=1, max_size=6).map(tuple),
    st.none() | st.none() | _names,
    st.booleans(),
)
