"""How answers and pictures show themselves: in a notebook, a terminal, a file."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

SVG: Final = "image/svg+xml"
# The longest text, the longest part of a reply, and the most entries of a list, in a repr.
_LONGEST: Final = 80
_LONGEST_PART: Final = 240
_MOST: Final = 4
# The size in bytes of the pictures that all answers of this process keep together, besides the latest of them.
MOST_SENT: Final = 64_000_000


class Words(str):
    """Text whose repr is itself."""

    def __repr__(self) -> str:
        return str(self)


def brief(value: Any, text: Callable[[str], str] = str) -> str:
    """A value of a reply in a few words."""
    if isinstance(value, str):
        return text(_cut(value, _LONGEST))
    if isinstance(value, dict):
        entries = [f"{_cut(str(key), _LONGEST)}: {brief(each, text)}" for key, each in [*value.items()][:_MOST]]
        words = f"{{{_listed(entries, len(value))}}}"
    elif isinstance(value, list):
        words = f"[{_listed([brief(each, text) for each in value[:_MOST]], len(value))}]"
    else:
        words = f"{value:.4g}" if isinstance(value, float) else str(value)
    return _cut(words, _LONGEST_PART)


def _listed(first: Sequence[str], count: int) -> str:
    return ", ".join(first) + (f", … {count} in all" if count > len(first) else "")


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}…"


class _Sent:
    """The files of pictures that have no path, by digest. The oldest go first: a list of answers stays small."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}
        self._size = 0
        self._lock = threading.Lock()
        self.get = self._files.get

    def keep(self, digest: str, data: bytes) -> None:
        with self._lock:
            self._size += len(data) - len(self._files.pop(digest, b""))
            self._files[digest] = data
            while self._size > MOST_SENT and len(self._files) > 1:
                self._size -= len(self._files.pop(next(iter(self._files))))


SENT: Final = _Sent()


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """The request behind an answer: the paths of its images (None: it is in ``SENT``), their digests, its options.

    ``draw(images, path, **options)`` asks for its figure. Answers are equal whatever they come from. Copies in other
    processes have no source.
    """

    images: Sequence[Path | None]
    digests: Sequence[str]
    options: Mapping[str, Any] = field(default_factory=dict)
    draw: Callable[..., Any] | None = None

    def photographs(self) -> list[bytes | None]:
        """The files of the images; None for one that has changed, or is no longer kept."""
        return [self._file(image, digest) for image, digest in zip(self.images, self.digests, strict=True)]

    def _file(self, image: Path | None, digest: str) -> bytes | None:
        if image is None:
            return SENT.get(digest)
        try:
            data = image.read_bytes()
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == digest else None

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, Source)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()


class Shown:
    """What a notebook, a browser or a viewer can show."""

    def show(self) -> None:
        """Show it in the notebook, or else in a browser or viewer."""
        if (shell := sys.modules.get("IPython")) and shell.get_ipython():
            from IPython.display import display

            display(self)  # type: ignore[no-untyped-call]
        else:
            self._open()

    def _open(self) -> None:
        raise NotImplementedError


class Answer(Shown):
    """What a notebook shows as HTML, with the photograph if the request is known."""

    _source: Source | None

    def _repr_html_(self) -> str | None:
        from pellucid.schemas.html import block  # needs Pillow

        return block(self, self._source)

    def _open(self) -> None:
        _browse(f"<!doctype html><meta name=color-scheme content='light dark'>{self._repr_html_()}".encode(), ".html")

    def figure(self, path: str | os.PathLike[str] | None = None, **options: Any) -> Any:
        """The answer as one ``Figure``, written to ``path`` (.png, .svg, .webp) if there is one.

        ``options`` are further options of the request, such as ``theme="dark"`` or ``media_type="image/svg+xml"``. The
        network computes the answer again. An answer of ``AsyncClient`` returns an awaitable of the figure. Raises
        ValueError if the answer does not come from ``pellucid.open``, ``Client`` or ``AsyncClient``, if it has no
        figure, if its client is closed, or if its picture has changed or is no longer kept.
        """
        source = self._source
        if source is None or source.draw is None:
            raise ValueError(
                "this answer has no figure: only answers of predict, attention, grad_cam, explain, compare and "
                "what_if have one, if they come from pellucid.open or a client"
            )
        files = source.photographs()
        if None in files:
            raise ValueError("the picture has changed since this answer, or its bytes are no longer kept: ask again")
        return source.draw([image or data for image, data in zip(source.images, files, strict=True)], path, **options)


M = TypeVar("M", bound=Answer)


class Answers(Answer, list[M]):
    """The entries of one part of a result, in order. A notebook shows them with the photograph."""

    def __init__(self, entries: Iterable[M] = (), source: Source | None = None) -> None:
        super().__init__(entries)
        self._source = source


class Encoded(Shown):
    """A picture as a file: what a notebook shows, and its forms. ``bytes(picture)`` is the file."""

    media_type: str

    def __bytes__(self) -> bytes:
        raise NotImplementedError

    def to_pil(self) -> Image.Image:
        """Decode it with Pillow. The mode is ``L`` for a mask, and ``P`` or ``RGB`` in colour.

        Raises ValueError for an SVG, which has no pixels.
        """
        from PIL import Image  # imported late: reading numbers does not need Pillow

        if self.media_type == SVG:
            raise ValueError("an SVG has no pixels: ask for media_type='image/png'")
        picture = Image.open(io.BytesIO(bytes(self)))
        picture.load()
        return picture

    def to_numpy(self) -> NDArray[Any]:
        """Its pixels as uint8: ``[height, width]`` of a mask, or ``[height, width, 3]`` RGB."""
        import numpy as np

        picture = self.to_pil()
        return np.asarray(picture if picture.mode == "L" else picture.convert("RGB"))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, converted by Pillow if the suffix is of another type. Raises OSError and ValueError."""
        suffix = Path(path).suffix.lower()
        if not suffix or suffix[1:] in self.media_type:
            Path(path).write_bytes(bytes(self))
        else:
            (self.to_pil() if suffix == ".png" else self.to_pil().convert("RGB")).save(path)

    def _repr_html_(self) -> str | None:
        """None: a notebook shows the picture itself."""
        return None

    def _repr_png_(self) -> bytes | None:
        if self.media_type in (SVG, "image/png"):
            return None if self.media_type == SVG else bytes(self)
        file = io.BytesIO()
        self.to_pil().save(file, "PNG")
        return file.getvalue()

    def _repr_svg_(self) -> str | None:
        return bytes(self).decode() if self.media_type == SVG else None

    def _open(self) -> None:
        if self.media_type == SVG:
            _browse(bytes(self), ".svg")
        else:
            self.to_pil().show()


def _browse(data: bytes, suffix: str) -> None:
    """Open a file of these bytes in the browser."""
    with tempfile.NamedTemporaryFile(suffix=suffix, delete=False) as file:
        file.write(data)
    webbrowser.open(Path(file.name).as_uri())
