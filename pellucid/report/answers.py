"""Answers of /v1/explain about the pictures of a folder, and the file that keeps them."""

from __future__ import annotations

import io
import sqlite3
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pellucid.schemas import GradCam, Picture, Result, Target

Floats = NDArray[np.float64]

# Longer side in pixels of the pictures in the page.
SIDE: Final = 480


@dataclass(frozen=True)
class Seen:
    """A picture that was explained. ``name`` is its path below the folder.

    ``truth`` is the label that the picture's subfolder names, None if it names none. ``photograph`` is a small WebP.
    """

    name: str
    result: Result
    photograph: bytes
    truth: str | None = None

    @cached_property
    def cam(self) -> GradCam:
        """The heat map, with its target. Its overlay is a WebP."""
        return (self.result.grad_cam or [])[0]

    @property
    def target(self) -> Target:
        """What the map explains."""
        return self.cam.target

    @cached_property
    def best(self) -> Target:
        """The most probable class, or the explained one if the network predicts no classes."""
        return next(iter(self.result.predictions or []), self.target)

    @cached_property
    def heat(self) -> Floats:
        """The map before ReLU, scaling and resizing, ``[h, w]``."""
        return np.asarray(self.cam.raw.values, float)

    @cached_property
    def gates(self) -> dict[str, Floats]:
        """The weights ``[C]`` of each gate."""
        gates = self.result.attention.gates if self.result.attention else []
        return {gate.layer: np.asarray(gate.weights) for gate in gates}


@dataclass(frozen=True)
class Unseen:
    """A picture that could not be explained, and the reason in words."""

    name: str
    error: str


class Answers:
    """A file that keeps answers by key. Each is written as it comes, so no interruption loses more than one."""

    def __init__(self, path: Path) -> None:
        """Open or create the file. Raises sqlite3.Error if it is something else or can't be written."""
        self._file = sqlite3.connect(path, isolation_level=None)
        self._file.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, result BLOB, photograph BLOB)")

    def get(self, key: str) -> tuple[Result, bytes] | None:
        """The answer of that key and the photograph; None if it is not there, or can't be read."""
        row = self._file.execute("SELECT result, photograph FROM answers WHERE key = ?", (key,)).fetchone()
        try:
            return (Result.model_validate_json(zlib.decompress(row[0])), row[1]) if row else None
        except (ValueError, TypeError, zlib.error):  # a damaged row, or another version's
            return None

    def put(self, key: str, result: Result, photograph: bytes) -> None:
        """Keep an answer of ``compact``."""
        row = key, zlib.compress(result.model_dump_json(exclude_none=True).encode(), 1), photograph
        self._file.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", row)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def compact(result: Result) -> Result:
    """The answer without what the page does not show, and its overlay as a small WebP."""
    (cam, *_) = result.grad_cam or []
    overlay = cam.overlay and Picture.small(cam.overlay.to_pil(), SIDE, "image/webp")
    empty = cam.mask.model_copy(update={"data": ""})
    trimmed = cam.model_copy(update={"mask": empty, "overlay": overlay})
    attention = result.attention
    if attention:
        gates = [gate.model_copy(update={"strongest": [], "weakest": []}) for gate in attention.gates]
        attention = attention.model_copy(update={"gates": gates, "importance": None, "spatial_gates": None})
    return result.model_copy(update={"grad_cam": [trimmed], "attention": attention, "segmentation": None})


def thumbnail(data: bytes) -> bytes:
    """A photograph as a small upright WebP; nothing if Pillow can't read it."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.draft("RGB", (SIDE, SIDE))
            return bytes(Picture.small(ImageOps.exif_transpose(image), SIDE, "image/webp"))
    except (OSError, ValueError, Image.DecompressionBombError):
        return b""
