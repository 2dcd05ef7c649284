"""Which pictures are meant, and what is written of each."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from pellucid.schemas import Picture, Result

# What write() writes.
_EARLIER: Final = (
    "predictions.json",
    "explanation.json",
    "attention.png",
    "features-*.png",
    "mask*.png",
    "overlay*.png",
)
SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def pictures(given: Sequence[Path], out: Path) -> list[tuple[Path, Path]]:
    """Each picture with the folder for what is found in it: of its name, in ``out`` below the folders that it lay in.

    Folders are searched for files that are called pictures; ``out`` itself is not. A name that has been there gets a
    number behind it.
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


def write(result: Result, plot: bytes, folder: Path) -> list[str]:
    """All that was found: pictures as files, ``predictions.json``, and in ``explanation.json`` everything, with the
    pictures' files in their place. Files of an earlier run are removed. The names of what was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for earlier in _EARLIER:
        for file in folder.glob(earlier):
            file.unlink()
    written: list[str] = []

    def save(name: str, content: bytes) -> str:
        stem, dot, suffix = name.rpartition(".")
        number = 2
        while name in written:  # two names may differ only in letters that a file's name can't have
            name, number = f"{stem}-{number}{dot}{suffix}", number + 1
        (folder / name).write_bytes(content)
        written.append(name)
        return name

    def saved(picture: Picture, name: str) -> dict[str, Any]:
        return {**picture.model_dump(exclude={"data"}), "file": save(name, picture.content())}

    everything = result.model_dump(exclude_none=True, exclude={"feature_maps", "grad_cam"})
    save("predictions.json", _json({key: everything[key] for key in ("image", "predictions")}))
    save("attention.png", plot)
    everything["feature_maps"] = [
        maps.model_dump(exclude_none=True, exclude={"grid"})
        | {"grid": saved(maps.grid, _name("features", maps.layer, maps.side) + ".png")}
        for maps in result.feature_maps or []
    ]
    cams = result.grad_cam or []
    everything["grad_cam"] = []
    facts = [(str(cam.target.index), cam.layer, cam.method) for cam in cams]
    varying = [len(set(column)) > 1 for column in zip(*facts, strict=True)]
    for cam, of in zip(cams, facts, strict=True):
        told = [fact for fact, varies in zip(of, varying, strict=True) if varies]
        shown = {"mask": saved(cam.mask, _name("mask", *told) + ".png")}
        if cam.overlay:
            shown["overlay"] = saved(cam.overlay, _name("overlay", *told) + ".png")
        everything["grad_cam"].append(cam.model_dump(exclude={"mask", "overlay"}) | shown)
    save("explanation.json", _json(everything))
    return written


def _name(*parts: str | None) -> str:
    # a layer's name is the server's word: it names no other folder
    return "-".join(re.sub(r"[^\w.-]", "_", part) for part in parts if part)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
