"""The pictures of a command line, and the files that are written for each."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from pellucid.schemas import Picture, Result

# The files that write() writes.
_EARLIER: Final = (
    "predictions.json",
    "explanation.json",
    "attention.png",
    "features-*.png",
    "mask*.png",
    "overlay*.png",
    "segmentation.png",
)
SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def pictures(given: Sequence[Path], out: Path) -> list[tuple[Path, Path]]:
    """Each picture with its folder: its name, in ``out``, below the same subfolders.

    Folders are searched for files with a picture's suffix, except ``out`` itself. A name that is taken gets a number.
    """
    pairs: list[tuple[Path, Path]] = []
    taken: set[Path] = set()
    for source, below in _found(given, out.resolve()):
        folder, number = out / below / source.stem, 2
        while folder in taken:
            folder, number = out / below / f"{source.stem}-{number}", number + 1
        taken.add(folder)
        pairs.append((source, folder))
    return pairs


def _found(given: Sequence[Path], out: Path) -> Iterator[tuple[Path, Path]]:
    for path in given:
        if not path.is_dir():
            yield path, Path()
            continue
        for file in sorted(path.rglob("*")):
            if file.suffix.lower() in SUFFIXES and file.is_file() and out not in file.resolve().parents:
                yield file, file.parent.relative_to(path)


def require_writable(file: Path) -> None:
    """Raise OSError if a file can't be written, or the folders above it can't be created. Creates nothing."""
    there = next(path for path in (file, *file.absolute().parents) if path.exists())
    if there != file and not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not os.access(there, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def write(result: Result, plot: bytes, folder: Path) -> list[str]:
    """Write pictures as files, ``predictions.json``, and ``explanation.json``, which has everything and names the
    pictures' files. Files of an earlier run are removed. Returns the names of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for earlier in _EARLIER:
        for file in folder.glob(earlier):
            file.unlink()
    written: list[str] = []

    def save(name: str, content: bytes) -> str:
        stem, dot, suffix = name.rpartition(".")
        number = 2
        while name in written:  # names can differ in characters that a file name can't have
            name, number = f"{stem}-{number}{dot}{suffix}", number + 1
        (folder / name).write_bytes(content)
        written.append(name)
        return name

    def saved(picture: Picture, name: str) -> dict[str, Any]:
        return {**picture.model_dump(exclude={"data"}), "file": save(name, picture.content())}

    everything = result.model_dump(exclude_none=True, exclude={"feature_maps", "grad_cam", "segmentation"})
    found = ("image", "predictions", "embedding")
    save("predictions.json", _json({key: everything[key] for key in found if key in everything}))
    save("attention.png", plot)
    if segmentation := result.segmentation:
        mask = saved(segmentation.mask, "segmentation.png")
        everything["segmentation"] = segmentation.model_dump(exclude_none=True, exclude={"mask"}) | {"mask": mask}
    everything["feature_maps"] = [
        maps.model_dump(exclude_none=True, exclude={"grid"})
        | {"grid": saved(maps.grid, _name("features", maps.layer, maps.side) + ".png")}
        for maps in result.feature_maps or []
    ]
    cams = result.grad_cam or []
    everything["grad_cam"] = []
    names = [(str(cam.target.index), cam.layer, cam.method) for cam in cams]
    varying = [len(set(column)) > 1 for column in zip(*names, strict=True)]
    for cam, name in zip(cams, names, strict=True):
        telling = [part for part, varies in zip(name, varying, strict=True) if varies]
        shown = {"mask": saved(cam.mask, _name("mask", *telling) + ".png")}
        if cam.overlay:
            shown["overlay"] = saved(cam.overlay, _name("overlay", *telling) + ".png")
        everything["grad_cam"].append(cam.model_dump(exclude_none=True, exclude={"mask", "overlay"}) | shown)
    save("explanation.json", _json(everything))
    return written


def _name(*parts: str | None) -> str:
    # the server chooses a layer's name: it must not name another folder
    return "-".join(re.sub(r"[^\w.-]", "_", part) for part in parts if part)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
