"""The font of pictures with text: Source Sans Pro, and a font of the operator's for letters that it lacks."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Final

import font_source_sans_pro
from PIL import ImageFont

# The environment variable that names a font file for letters that Source Sans Pro lacks.
VARIABLE: Final = "PELLUCID_FONT"
FAMILY: Final = "Source Sans Pro"
_file: str | None = os.environ.get(VARIABLE)
# Stands for a letter that no font has.
_LACKED: Final = "?"
# Not a character of Unicode, so no font has a glyph for it.
_NO_CHARACTER: Final = "\uffff"
_ELLIPSIS: Final = "…"

Font = ImageFont.FreeTypeFont


def use(path: Path) -> None:
    """Draw letters that Source Sans Pro lacks with this font file, in place of the variable's. Raises ValueError."""
    try:
        ImageFont.truetype(path, 12)
    except OSError as error:
        raise ValueError(f"{path} can't be read as a font: {error}") from error
    global _file
    _file = str(path)
    _other.cache_clear()
    _has.cache_clear()


def font(size: int, bold: bool = False, text: str = "") -> Font:
    """The font for ``text``: ours if it has all its letters, or else the one that PELLUCID_FONT names."""
    ours = _ours(size, bold)
    return ours if _has_all(text, False) or (other := _other(size)) is None else other


def drawable(text: str) -> str:
    """``text`` on one line, with "?" for each letter that its font lacks."""
    line = " ".join(text.split())
    if _has_all(line, False):
        return line
    other = _other(12) is not None
    return "".join(letter if _has(letter, other) else _LACKED for letter in line)


def width(text: str, size: int, bold: bool = False) -> float:
    """The width of a line of text in pixels."""
    line = drawable(text)
    return font(size, bold, line).getlength(line)


def cut(text: str, size: int, room: float, bold: bool = False) -> str:
    """``text`` on one line, shortened in the middle of its letters to at most ``room`` pixels."""
    line = " ".join(text.split())[:512]
    if width(line, size, bold) <= room:
        return line
    low, high = 0, len(line)
    while low < high:  # the most letters that have room
        middle = (low + high + 1) // 2
        low, high = (middle, high) if width(line[:middle] + _ELLIPSIS, size, bold) <= room else (low, middle - 1)
    return line[:low].rstrip() + _ELLIPSIS


def wrapped(text: str, size: int, room: float, bold: bool = False) -> list[str]:
    """``text`` in lines of at most ``room`` pixels, broken between words."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and width(longer, size, bold) <= room:
            lines[-1] = longer
        else:
            lines.append(cut(word, size, room, bold))
    return lines


@lru_cache(64)
def _ours(size: int, bold: bool) -> Font:
    file = font_source_sans_pro.font_files_ttf["SourceSansProSemibold" if bold else "SourceSansPro"]
    return ImageFont.truetype(file, size, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(64)
def _other(size: int) -> Font | None:
    try:
        return ImageFont.truetype(_file, size) if _file else None
    except OSError as error:
        raise ValueError(f"{VARIABLE}: {_file} can't be read as a font: {error}") from error


@lru_cache(4096)
def _has(letter: str, other: bool) -> bool:
    face = _other(24) if other else _ours(24, False)
    assert face is not None
    if letter == " ":
        return True
    return letter.isprintable() and _glyph(face, letter) != _glyph(face, _NO_CHARACTER)


def _has_all(text: str, other: bool) -> bool:
    return text.isascii() or all(_has(letter, other) for letter in text)


def _glyph(face: Font, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = face.getmask(letter)
    return mask.size, bytes(mask)
