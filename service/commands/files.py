"""The pictures of a command line, and the files that are written for each."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pellucid.schemas import Provenance, Schema

# The JSON file of an answer -> its parts that have a file beside it, whose name the JSON does not hold.
_BESIDE: Final = {
    "explanation.json": {
        "predictions": "predictions.json",
        "embedding": "predictions.json",
        "attention": "attention.png",
    },
    "comparison.json": {"first": "comparison.png"},
    "what-if.json": {"what_if": "what-if.png"},
}
SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def pictures(given: Sequence[Path], out: Path | None) -> list[tuple[Path, Path]]:
    """Each picture with its folder: its name, in ``out``, below the same subfolders. Without ``out``, no folder.

    Folders are searched for files with a picture's suffix, except ``out`` if it is among their subfolders.
    """
    taken: set[str] = set()
    found = _found(given, out and out.resolve())
    return [(source, free(out / below / source.stem, [source], taken) if out else below) for source, below in found]


def free(folder: Path, sources: Sequence[Path], taken: set[str]) -> Path:
    """``folder``, with a number if it is ``taken``, also in other case, or has files but no answer for the pictures."""
    place, number = folder, 2
    while str(place).casefold() in taken or _holds_others(place, sources):
        place, number = folder.with_name(f"{folder.name}-{number}"), number + 1
    taken.add(str(place).casefold())
    return place


def _holds_others(folder: Path, sources: Sequence[Path]) -> bool:
    """Whether a folder has files, and not only answers for these pictures and what lies beside these answers."""
    try:
        answers = [file for name in _BESIDE if (file := folder / name).exists()]
        if not answers:
            return folder.exists() and any(file.is_file() for file in folder.iterdir())
        digests = {hashlib.sha256(source.read_bytes()).hexdigest() for source in sources}
        for file in answers:
            said = json.loads(file.read_bytes())
            images = [said["image"]] if "image" in said else [said[side]["image"] for side in ("first", "second")]
            if {image["sha256"] for image in images} != digests:
                return True
    except (OSError, ValueError, KeyError, TypeError):
        return True
    return False


def _found(given: Sequence[Path], out: Path | None) -> Iterator[tuple[Path, Path]]:
    for path in given:
        if not path.is_dir():
            yield path, Path()
            continue
        below = out if out and out.is_relative_to(path.resolve()) else None
        for file in sorted(path.rglob("*")):
            if file.suffix.lower() in SUFFIXES and file.is_file() and below not in file.resolve().parents:
                yield file, file.parent.relative_to(path)


def require_writable(file: Path) -> None:
    """Raise OSError if a file can't be written, or the folders above it can't be created. Creates nothing."""
    there = next(path for path in (file, *file.absolute().parents) if path.exists())
    if there != file and not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not os.access(there, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def numbers(answer: Schema, provenance: Provenance | None = None) -> dict[str, Any]:
    """An answer as plain data, with the provenance of its reply."""
    found = answer.model_dump(exclude_unset=True)
    return found | ({"provenance": provenance.model_dump(exclude_unset=True)} if provenance else {})


def write(name: str, numbers: dict[str, Any], others: Mapping[str, bytes], folder: Path) -> list[str]:
    """Write ``others``, the pictures among ``numbers``, and the JSON file ``name``, which has their files' names in
    place of them. Files of the answer that the folder has are removed, and no others. Returns the names of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for earlier in _written(folder / name):
        (folder / earlier).unlink(missing_ok=True)
    contents: dict[str, bytes] = {}

    def save(file: str, content: bytes) -> str:
        stem, dot, suffix = file.rpartition(".")
        number = 2
        # names can differ in characters that a file name can't have, or in case, and the folder can have other files
        while file.casefold() in map(str.casefold, contents) or (folder / file).exists():
            file, number = f"{stem}-{number}{dot}{suffix}", number + 1
        contents[file] = content
        return file

    def saved(picture: dict[str, Any], place: tuple[str, ...]) -> Any:
        data = picture.pop("data")
        return {**picture, "file": save(_name(name, place), b64decode(data, validate=True))}

    for other, content in others.items():
        save(other, content)
    answer = as_json(_with_pictures(numbers, saved))
    # The answer is first, so that it names the files of a run that is interrupted.
    for file, content in {name: answer, **contents}.items():
        (folder / file).write_bytes(content)
    return [*contents, name]


def _written(answer: Path) -> set[str]:
    """The names of the files of the JSON file ``answer``: those in it, and those beside it. Empty without one."""
    try:
        said = json.loads(answer.read_bytes())
    except (OSError, ValueError):
        return set()

    names = {file for part, file in _BESIDE[answer.name].items() if part in said}
    _with_pictures(said, lambda picture, _: names.add(Path(picture.get("file", answer)).name))
    return names


def _with_pictures(value: Any, change: Callable[[dict[str, Any], tuple[str, ...]], Any], *place: str) -> Any:
    """JSON with what ``change`` makes of each picture in it, and of the picture's place."""
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        return [
            _with_pictures(entry, change, *place, *told) for entry, told in zip(value, _telling(value), strict=True)
        ]
    if not isinstance(value, dict):
        return value
    if "media_type" in value:
        return change({**value}, place)
    return {key: _with_pictures(inner, change, *place, key) for key, inner in value.items()}


def _telling(entries: list[dict[str, Any]]) -> list[list[str]]:
    """What tells each entry of a list from the others: its class's index, layer, side or method."""
    names = []
    for entry in entries:
        target = entry.get("target") or entry.get("before")
        index = target.get("index", "") if isinstance(target, dict) else ""
        names.append([str(index), *(str(entry.get(key) or "") for key in ("layer", "side", "method"))])
    varying = [len(set(column)) > 1 or "grid" in entries[0] for column in zip(*names, strict=True)]
    return [[part for part, varies in zip(each, varying, strict=True) if varies] for each in names]


def _name(file: str, place: tuple[str, ...]) -> str:
    """The name of a picture's file, by its place in the JSON ``file``: mask-281-head.png, comparison-first.png."""
    part, *inner, kind = place
    if part == "segmentation":
        inner = [part]
    elif part in ("grad_cam", "feature_maps"):
        inner = ["features" if kind == "grid" else kind, *inner]
    else:
        inner = [part, *inner, kind] if file == "explanation.json" else [Path(file).stem, *inner, kind]
        inner = [each for each in inner if each not in ("maps", "mask", "targets")]
    # the server chooses a layer's name: it must not name another folder
    return "-".join(re.sub(r"[^\w.-]", "_", each) for each in inner if each) + ".png"


def as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def reply(file: Path) -> bytes:
    """The JSON reply in a file, or of a file that ``write`` wrote of one picture, with the pictures in their places."""
    data = file.read_bytes()
    try:
        said = json.loads(data)
    except ValueError:
        return data
    if not isinstance(said, dict) or "image" not in said:
        return data

    def whole(picture: dict[str, Any], _: Any) -> Any:
        if "file" not in picture:
            return picture
        data = (file.parent / Path(picture.pop("file")).name).read_bytes()
        return {**picture, "data": b64encode(data).decode()}

    origin = said.pop("provenance", None)
    model = origin["network"]["name"] if origin else ""
    return as_json({"model": model, "request_id": "", "results": [_with_pictures(said, whole)], "provenance": origin})
