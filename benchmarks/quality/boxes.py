"""Pictures with labelled boxes, and masks where there are some.

A folder of pictures and ``boxes.csv``, a line for each box, its corners in pixels of the upright picture:

    file,label,x0,y0,x1,y1
    street.jpg,traffic light,310,42,355,170

A label is one of the network's, or the number of a class.

Or a folder as YOLO's datasets have it: ``images/``, ``labels/*.txt`` (category, and the box's centre, width and height
as shares of the picture) and ``names.txt``, a line for each category. These are COCO's categories: ``coco.csv`` has the
ImageNet classes of each. ``masks/*.png`` may have each pixel's category, by the numbers of ``masks.yaml``.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from benchmarks.quality.scores import inside
from pellucid.network.spec import ModelSpec
from pellucid.types import Box

COLUMNS = ("file", "label", "x0", "y0", "x1", "y1")
CATEGORIES: Final = Path(__file__).with_name("coco.csv")
# Zhang et al., arXiv 1608.00507: what is difficult covers less of its picture, in which there is another category.
_SMALL: Final = 1 / 4
# The boxes of a picture, by their label.
Boxes = dict[str, list[Box]]


@dataclass(frozen=True)
class Pair:
    """A picture and a category in it, and the ``classes`` of the network that count as it.

    ``within`` and ``mask`` ``[H, W]``: whether a pixel of the upright picture lies in a box, and in the mask.
    """

    category: str
    classes: tuple[int, ...]
    boxes: list[Box]
    within: NDArray[np.bool_]
    mask: NDArray[np.bool_] | None
    difficult: bool


class Folder:
    """The labels of a folder of pictures. Raises ValueError that names the line, and FileNotFoundError."""

    def __init__(self, path: Path, spec: ModelSpec) -> None:
        self.path, self._masks = path, path / "masks.yaml"
        self._classes: dict[str, tuple[int, ...]] = {}
        if (path / "labels").is_dir():
            with CATEGORIES.open(encoding="utf-8", newline="") as file:
                self._classes = {row["category"]: _numbers(row["classes"]) for row in csv.DictReader(file)}
            self._boxes = _of_coco(path)
        else:
            self._boxes = self._of_csv(spec)
        self.files = [file for file, found in self._boxes.items() if self._classes.keys() & found.keys()]

    def pairs(self, file: str) -> list[Pair]:
        """The pairs of a picture. Categories that the network lacks only make others difficult."""
        with Image.open(self.path / file) as image:
            width, height = ImageOps.exif_transpose(image).size
        found, pairs = self._boxes[file], []
        for category in sorted(found.keys() & self._classes.keys()):
            within = inside(found[category], height, width)
            difficult = bool(within.mean() < _SMALL and len(found) > 1)
            mask = self._mask(Path(file).stem, category)
            pairs.append(Pair(category, self._classes[category], found[category], within, mask, difficult))
        return pairs

    def _mask(self, stem: str, category: str) -> NDArray[np.bool_] | None:
        path = self.path / "masks" / f"{stem}.png"
        number = re.search(rf"^ *(\d+): {category}$", self._masks.read_text("utf-8"), re.M) if path.exists() else None
        if number is None:
            return None
        with Image.open(path) as image:
            found = np.asarray(image) == int(number[1])
        return found if found.any() else None

    def _of_csv(self, spec: ModelSpec) -> dict[str, Boxes]:
        found: dict[str, Boxes] = defaultdict(lambda: defaultdict(list))
        with (self.path / "boxes.csv").open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            if tuple(rows.fieldnames or ()) != COLUMNS:
                raise ValueError(f"boxes.csv: the first line must be {','.join(COLUMNS)}")
            for row in rows:
                try:
                    x0, y0, x1, y1 = (int(row[name]) for name in COLUMNS[2:])
                except (TypeError, ValueError):
                    raise ValueError(f"boxes.csv, line {rows.line_num}: corners are four whole numbers") from None
                if not (0 <= x0 < x1 and 0 <= y0 < y1):
                    raise ValueError(f"boxes.csv, line {rows.line_num}: x0 < x1 and y0 < y1 must hold, none below 0")
                number = _class(row["label"], spec, rows.line_num)
                self._classes[str(number)] = (number,)
                found[row["file"]][str(number)].append((x0, y0, x1, y1))
        return found


def _of_coco(folder: Path) -> dict[str, Boxes]:
    names = (folder / "names.txt").read_text("utf-8").split("\n")
    found: dict[str, Boxes] = {}
    for labels in sorted((folder / "labels").glob("*.txt")):
        picture = f"images/{labels.stem}.jpg"
        with Image.open(folder / picture) as image:
            width, height = image.size
        found[picture] = defaultdict(list)
        for line in labels.read_text("utf-8").splitlines():
            number, *shares = line.split()
            x, y, w, h = map(float, shares)
            corners = (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height
            x0, y0, x1, y1 = (
                min(max(0, round(corner)), side) for corner, side in zip(corners, (width, height) * 2, strict=True)
            )
            if x0 < x1 and y0 < y1:
                found[picture][names[int(number)].strip()].append((x0, y0, x1, y1))
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
