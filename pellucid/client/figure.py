"""A figure of an answer, as a file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

FigureRoute = Literal["explain", "compare", "what-if"]
FigureType = Literal["image/png", "image/webp", "image/svg+xml"]
# Suffix of a file -> the type of figure that belongs into it.
SUFFIXES: Final[dict[str, FigureType]] = {".png": "image/png", ".webp": "image/webp", ".svg": "image/svg+xml"}


@dataclass(frozen=True, repr=False)
class Figure:
    """A figure: photograph, heat maps with their scales, predictions, gates. ``data`` are the file's bytes.

    A notebook shows it.
    """

    data: bytes
    media_type: FigureType

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file. Raises OSError."""
        Path(path).write_bytes(self.data)

    def __repr__(self) -> str:
        """One line: the type and the size."""
        return f"<Figure, {self.media_type}, {len(self.data)} bytes>"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        svg = self.media_type == "image/svg+xml"
        return {self.media_type: self.data.decode() if svg else self.data}
