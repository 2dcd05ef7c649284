"""Anybody's pictures with labelled boxes, as scenes.

A folder of pictures and ``boxes.csv``, a line for each box, its corners in pixels of the upright picture:

    file,label,x0,y0,x1,y1
    street.jpg,traffic light,310,42,355,170

A label is one of the network's, or the number of a class. Lines of one file and label are one scene.

Or a folder as YOLO's datasets have it: ``images/``, ``labels/*.txt`` (category, and the box's centre, width and height
as shares of the picture) and ``names.txt``, a line for each category. These are COCO's categories: ``coco.csv`` has the
ImageNet classes of each, and a scene is of the one that the network scores highest.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from PIL import Image

from benchmarks.quality.scenes import Scene
from pellucid.decode.image import decode
from pellucid.network.spec import ModelSpec
from pellucid.types import Box, InputPixels, Upload

COLUMNS = ("file", "label", "x0", "y0", "x1", "y1")
CATEGORIES: Final = Path(__file__).with_name("coco.csv")
Best = Callable[[Sequence[InputPixels]], Sequence[Sequence[int]]]
# A picture and the classes that count as its box's.
Pair = tuple[str, tuple[int, ...]]


def read(folder: Path, spec: ModelSpec, max_pixels: int, best: Best) -> list[Scene]:
    """The scenes of a folder, in the file's order. Boxes are cut off where the network's crop ends; one that lies
    outside is left out, and so is a scene with none. ``best`` returns the best classes of pictures: it decides between
    the classes of a category.

    Raises what ``boxes_of`` does, and what a picture that can't be decoded raises.
    """
    scenes = []
    for (name, classes), boxes in boxes_of(folder, spec).items():
        image = decode(Upload((folder / name).read_bytes(), name), spec.preprocess, max_pixels)
        seen = [box for each in boxes if (box := _seen(each, image.box, spec)) is not None]
        if seen:
            target = next((each for each in best([image.pixels])[0] if each in classes), classes[0])
            scenes.append(Scene(name, "labelled", image.pixels, target, tuple(seen)))
    return scenes


def boxes_of(folder: Path, spec: ModelSpec) -> dict[Pair, list[Box]]:
    """The boxes of each file and its classes, in pixels of the picture. Files are paths below the folder.

    Raises ValueError that names the line, and FileNotFoundError.
    """
    if (folder / "labels").is_dir():
        return _of_coco(folder)
    found: dict[Pair, list[Box]] = defaultdict(list)
    with (folder / "boxes.csv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        if tuple(rows.fieldnames or ()) != COLUMNS:
            raise ValueError(f"boxes.csv: the first line must be {','.join(COLUMNS)}")
        for row in rows:
            try:
                x0, y0, x1, y1 = (int(row[name]) for name in COLUMNS[2:])
            except (TypeError, ValueError):
                raise ValueError(f"boxes.csv, line {rows.line_num}: corners are four whole numbers") from None
            if not (0 <= x0 < x1 and 0 <= y0 < y1):
                raise ValueError(f"boxes.csv, line {rows.line_num}: x0 < x1 and y0 < y1 must hold, and none be below 0")
            found[row["file"], (_class(row["label"], spec, rows.line_num),)].append((x0, y0, x1, y1))
    return found


def _of_coco(folder: Path) -> dict[Pair, list[Box]]:
    """The same of a folder in YOLO's form. Categories that ImageNet lacks are left out."""
    with CATEGORIES.open(encoding="utf-8", newline="") as file:
        classes = {row["category"]: _numbers(row["classes"]) for row in csv.DictReader(file)}
    names = (folder / "names.txt").read_text("utf-8").split("\n")
    found: dict[Pair, list[Box]] = defaultdict(list)
    for labels in sorted((folder / "labels").glob("*.txt")):
        picture = folder / "images" / f"{labels.stem}.jpg"
        with Image.open(picture) as image:
            width, height = image.size
        for line in labels.read_text("utf-8").splitlines():
            number, *shares = line.split()
            x, y, w, h = map(float, shares)
            corners = (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height
            x0, y0, x1, y1 = (
                min(max(0, round(corner)), side) for corner, side in zip(corners, (width, height) * 2, strict=True)
            )
            if (known := classes.get(names[int(number)].strip())) and x0 < x1 and y0 < y1:
                found[f"images/{picture.name}", known].append((x0, y0, x1, y1))
    return found


def _numbers(written: str) -> tuple[int, ...]:
    """``"7-9 80"`` as ``(7, 8, 9, 80)``."""
    ranges = [part.partition("-") for part in written.split()]
    return tuple(number for first, _, last in ranges for number in range(int(first), int(last or first) + 1))


def _class(label: str, spec: ModelSpec, line: int) -> int:
    indices = spec.indices.get(label.strip().casefold(), ())
    if len(indices) == 1:
        return indices[0]
    if label.strip().isdecimal() and int(label) < len(spec.labels):
        return int(label)
    several = f", it is the label of {' and '.join(map(str, indices))}" if indices else ""
    raise ValueError(f"boxes.csv, line {line}: {label!r} names no one class of {spec.name}{several}; a number does")


def _seen(box: Box, crop: Box, spec: ModelSpec) -> Box | None:
    """A box of the source in the pixels of the network, which sees its ``crop``."""
    height, width = spec.preprocess.size
    across, down = width / (crop[2] - crop[0]), height / (crop[3] - crop[1])
    x0, x1 = (min(max(round((x - crop[0]) * across), 0), width) for x in (box[0], box[2]))
    y0, y1 = (min(max(round((y - crop[1]) * down), 0), height) for y in (box[1], box[3]))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None
