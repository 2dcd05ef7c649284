"""Pictures of answers as files, and what an answer remembers of its request, to show its photograph and its figure."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar

from pellucid.client.images import ImageSource
from pellucid.schemas import Answers, Comparison, Result, Schema
from pellucid.schemas.shown import Encoded, Source

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


class Figure(Encoded, bytes):
    """A picture's file: its bytes, and what shows them. A notebook shows the picture."""

    def __new__(cls, data: bytes, media_type: str = "image/png") -> Self:
        made = super().__new__(cls, data)
        made.media_type = media_type
        return made

    @property
    def data(self) -> bytes:
        """The file's bytes."""
        return bytes(self)

    def content(self) -> bytes:
        return self.data

    def __repr__(self) -> str:
        """One line: the type and the size."""
        return f"<Figure, {self.media_type}, {len(self)} bytes>"

    __str__ = __repr__


def remembering(
    answer: A,
    route: str,
    images: Sequence[ImageSource],
    files: Sequence[bytes],
    options: Mapping[str, Any],
    figure: Callable[..., Any],
) -> A:
    """The answer, with the request behind it: ``figure`` is called for the figure. Paths are kept as paths."""
    kept = [
        Path(image).absolute() if isinstance(image, (str, os.PathLike)) else data
        for image, data in zip(images, files, strict=True)
    ]
    infos = [answer.image] if isinstance(answer, Result) else [answer.first.image, answer.second.image]

    def draw(path: str | os.PathLike[str] | None = None, **further: Any) -> Any:
        suffix = Path(path or "figure.png").suffix.lower()
        if suffix not in SUFFIXES:
            raise ValueError(f"a figure is a file with the suffix {', '.join(SUFFIXES)}, not {os.fspath(path or '')}")
        drawn = figure(*kept, **{"media_type": SUFFIXES[suffix], **options, **_FIGURES[route], **further})
        return drawn if path is None else _saved(drawn, path)

    source = Source(kept, [info.sha256 for info in infos[: len(kept)]], options, draw if route in _FIGURES else None)
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
