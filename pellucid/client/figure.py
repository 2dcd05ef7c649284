"""Pictures of answers as files, and what an answer remembers of its request, to show its photograph and its figure."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from pellucid.client.images import ImageSource
from pellucid.schemas import Answers, Comparison, Result, Schema
from pellucid.schemas.shown import SENT, Encoded, Source

FigureRoute = Literal["explain", "compare", "what-if"]
FigureType = Literal["image/png", "image/webp", "image/svg+xml"]
# Suffix of a file -> the type of figure that belongs into it.
SUFFIXES: Final[dict[str, FigureType]] = {".png": "image/png", ".webp": "image/webp", ".svg": "image/svg+xml"}
# Route -> the options of the figure of its answer, besides those of its request.
_FIGURES: Final[dict[str, dict[str, Any]]] = {
    "predict": {"include": ["predictions"]},
    "attention": {"include": ["attention"]},
    "grad-cam": {"include": ["predictions", "grad_cam"]},
    "explain": {},
    "what-if": {"route": "what-if"},
    "compare": {"route": "compare"},
}

A = TypeVar("A", Result, Comparison)


@dataclass(frozen=True, repr=False)
class Figure(Encoded):
    """A picture's file. ``bytes(figure)`` is the file; a notebook shows the picture."""

    _data: bytes
    media_type: str = "image/png"

    def __bytes__(self) -> bytes:
        return self._data

    def __repr__(self) -> str:
        """One line: the type and the size."""
        return f"<Figure, {self.media_type}, {len(self._data)} bytes>"


def remembering(
    answer: A,
    route: str,
    images: Sequence[ImageSource],
    files: Sequence[bytes],
    options: Mapping[str, Any],
    figure: Callable[..., Any],
) -> A:
    """The answer, with the request behind it: ``figure`` is called for the figure. Paths are kept as paths."""
    paths = [Path(image).absolute() if isinstance(image, (str, os.PathLike)) else None for image in images]
    infos = [answer.image] if isinstance(answer, Result) else [answer.first.image, answer.second.image]
    digests = [info.sha256 for info in infos[: len(paths)]]
    for path, digest, data in zip(paths, digests, files, strict=True):
        if path is None:
            SENT.keep(digest, data)

    def draw(kept: Sequence[Path | bytes], path: str | os.PathLike[str] | None = None, **further: Any) -> Any:
        suffix = Path(path or "figure.png").suffix.lower()
        if suffix not in SUFFIXES:
            raise ValueError(f"a figure is a file with the suffix {', '.join(SUFFIXES)}, not {os.fspath(path or '')}")
        drawn = figure(*kept, **{"media_type": SUFFIXES[suffix], **options, **_FIGURES[route], **further})
        return drawn if path is None else _saved(drawn, path)

    source = Source(paths, digests, options, draw if route in _FIGURES else None)
    for part in (answer, *(value for _, value in answer)):
        for each in part if isinstance(part, list) else [part]:
            if isinstance(each, Schema):
                each._source = source
    return answer


def answers(entries: list[Any] | None, of: Result) -> Answers[Any]:
    """The entries of a part of a result, which show themselves with its photograph."""
    return Answers(entries or [], of._source)


def _saved(drawn: Figure | Awaitable[Figure], path: str | os.PathLike[str]) -> Any:
    if isinstance(drawn, Figure):
        drawn.save(path)
        return drawn

    async def later() -> Figure:
        figure = await drawn
        figure.save(path)
        return figure

    return later()
