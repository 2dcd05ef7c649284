"""What was seen of all pictures so far: bounded, mergeable batch by batch, and kept in a folder between runs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pellucid.atlas.content import LARGEST
from pellucid.atlas.observe import Bars, Candidates, Observed, Subject
from pellucid.types import Floats, Pixels

# Rows of values that are kept: a uniform sample of the pictures, if there are more.
MOST_SAMPLED: Final = 8192
MOST_DAMAGED: Final = 4096
# Predicted classes whose means are kept: the first to appear.
MOST_CLASSES: Final = 2048
_SEED: Final = 20
_PENDING: Final = 64  # batches
# Two pictures are near-identical if their sketches differ by so little: bits of 56, and levels of 255 on average.
_ALIKE_BITS: Final = 6
_ALIKE_LEVELS: Final = 4


class Best:
    """The ``count`` largest of each strength, each with its picture, position and mask ``[cells]``.

    Equal values are ordered by ``second``, then by picture: activations that are bounded, as by ReLU6, have many equal
    maxima. ``picture`` is -1 where there are too few.
    """

    FIELDS: Final = ("value", "second", "picture", "row", "column", "masks")

    def __init__(self, strengths: int, count: int, cells: int) -> None:
        self.value = np.full((strengths, count), -np.inf, np.float32)
        self.second = np.full((strengths, count), -np.inf, np.float32)
        self.picture = np.full((strengths, count), -1, np.int32)
        self.row = np.full((strengths, count), -1, np.int16)
        self.column = np.full((strengths, count), -1, np.int16)
        self.masks = np.zeros((strengths, count, cells), np.uint8)

    def merge(self, found: Sequence[tuple[Candidates, NDArray[np.int32]]]) -> None:
        """Add candidates of some batches, each with the numbers of the batch's pictures, -1 to leave one out."""
        numbers = np.concatenate([pictures[each.picture] for each, pictures in found])
        kept = numbers >= 0
        new = {name: np.concatenate([getattr(each, name) for each, _ in found])[kept] for name in self.FIELDS}
        new["picture"] = numbers[kept]
        place = np.concatenate([each.place for each, _ in found])[kept]
        rows, count = np.unique(place), self.value.shape[1]
        of_place = np.concatenate((np.repeat(rows, count), place))
        both = {}
        for name in self.FIELDS:
            old = getattr(self, name)[rows]
            both[name] = np.concatenate((old.reshape(len(rows) * count, *old.shape[2:]), new[name]))
        order = np.lexsort((both["picture"], -both["second"], -both["value"], of_place))
        chosen = order[np.searchsorted(of_place[order], rows)[:, None] + np.arange(count)]
        for name in self.FIELDS:
            getattr(self, name)[rows] = both[name][chosen]


class Gathered:
    """Everything that one run gathers. ``done`` is the number of batches that were merged."""

    def __init__(self, subject: Subject, examples: int, pictures: int, folder: Path) -> None:
        self.subject, self.folder = subject, folder
        self.done = self.pictures = self.unreadable = self.duplicates = self.alike = 0
        self.damaged = self.differentiated = 0
        self.best = Best(subject.strengths, examples, subject.cells)
        self.digests = np.zeros((pictures, 32), np.uint8)
        self.indices = np.zeros(pictures, np.int64)  # in the list of files
        self.predicted = np.zeros(pictures, np.int32)
        self.sampled = np.zeros(min(pictures, MOST_SAMPLED), np.int32)  # the picture of each row of values
        self._sketches = np.zeros((pictures, 8, 8, 3), np.uint8)
        self._bits = np.zeros(pictures, np.uint64)
        self._known: dict[bytes, int] = {}
        inner = sum(layer.shape[0] for layer in subject.layers if layer.name in subject.inner)
        self.zeros = np.zeros(subject.channels)
        self._rows: dict[int, int] = {}  # class -> its row in the arrays of classes
        means = subject.weights.stop - subject.channels
        self.counts = np.zeros((0,), np.int64)
        self.sums, self.totals, self.squares = np.zeros((0, means)), np.zeros(means), np.zeros(means)
        self.evident = np.zeros((0,), np.int64)
        self.evidence = np.zeros((0, inner))
        self._pending: list[tuple[Candidates, NDArray[np.int32]]] = []
        folder.mkdir(parents=True, exist_ok=True)
        self.values = _array(folder / "values", (min(pictures, MOST_SAMPLED), subject.weights.stop))
        weights = subject.weights.stop - subject.weights.start
        copies = (min(pictures, MOST_DAMAGED) if weights else 0, 1 + len(subject.damages), weights)
        self.damaged_weights = _array(folder / "damaged", copies)
        self.settle()

    @property
    def classes(self) -> list[int]:
        """The predicted classes, in the order of the arrays."""
        return list(self._rows)

    def merge(self, seen: Observed) -> None:
        """Add the next batch. Batches must come in order."""
        self.unreadable += len(seen.unreadable)
        numbers = np.full(len(seen.indices), -1, np.int32)
        for place, index in enumerate(seen.indices):
            digest = seen.digests[place]
            if not (np.abs(seen.values[place]) <= LARGEST).all():
                self.unreadable += 1
                continue
            if digest in self._known:
                self.duplicates += 1
                continue
            number = self._known[digest] = self.pictures
            self.pictures += 1
            self.digests[number] = np.frombuffer(digest, np.uint8)
            self.indices[number], self.predicted[number] = index, seen.predicted[place]
            if self._is_alike(number, seen.sketches[place]):
                self.alike += 1
            else:
                numbers[place] = number
            self._sample(number, seen.values[place])
            self.zeros += seen.zeros[place]
            means = seen.values[place, len(self.zeros) :].astype(np.float64)
            self.totals += means
            self.squares += means**2
            row = self._row(seen.predicted[place])
            if row is not None:
                self.counts[row] += 1
                self.sums[row] += means
                if seen.evidence is not None:
                    self.evident[row] += 1
                    self.evidence[row] += seen.evidence[place]
            if seen.evidence is not None:
                self.differentiated += 1
            if seen.damaged is not None and self.damaged < len(self.damaged_weights):
                self.damaged_weights[self.damaged] = seen.damaged[place]
                self.damaged += 1
        self._pending += [(each, numbers) for each in seen.candidates]
        if len(self._pending) > min(self.done // 4, _PENDING):  # at first each batch raises the bars much
            self.settle()
        self.done += 1

    def settle(self) -> None:
        """Merge the candidates that wait. Several batches at once cost little more than one."""
        if self._pending:
            self.best.merge(self._pending)
            self._pending.clear()
        self.bars: Bars = self.best.value[:, -1].copy(), self.best.second[:, -1].copy()

    def _sample(self, number: int, values: Floats) -> None:
        """Keep the row with the probability that makes all rows so far a uniform sample (Vitter's algorithm R)."""
        place = number
        if number >= len(self.values):
            place = int(np.random.default_rng((_SEED, number)).integers(number + 1))
        if place < len(self.values):
            # Through the file: each first write to a mapped page costs a fault, and the page stays in memory.
            with (self.folder / "values").open("r+b", 0) as file:
                file.seek(place * values.nbytes)
                file.write(values.tobytes())
            self.sampled[place] = number

    def _row(self, predicted: int) -> int | None:
        """The row of a class in the arrays of classes. Without classes all pictures share the row of -1."""
        if predicted not in self._rows:
            if len(self._rows) >= MOST_CLASSES:
                return None
            self._rows[predicted] = len(self._rows)
            if len(self._rows) > len(self.counts):
                self._grow(max(16, 2 * len(self.counts)))
        return self._rows[predicted]

    def _grow(self, rows: int) -> None:
        for name in ("counts", "sums", "evident", "evidence"):
            array = getattr(self, name)
            more = np.zeros((rows, *array.shape[1:]), array.dtype)
            more[: len(array)] = array
            setattr(self, name, more)

    def _is_alike(self, number: int, sketch: Pixels) -> bool:
        """Whether an earlier picture is near-identical to this one, and remember it."""
        gray = sketch.astype(np.int32).sum(2)
        steps = np.packbits((gray[:, 1:] > gray[:, :-1]).ravel())
        self._bits[number] = bits = np.uint64(int.from_bytes(steps.tobytes(), "little"))
        self._sketches[number] = sketch
        near = np.nonzero(np.bitwise_count(self._bits[:number] ^ bits) <= _ALIKE_BITS)[0]
        if not len(near):
            return False
        apart = np.abs(self._sketches[near].astype(np.int16) - sketch.astype(np.int16)).mean((1, 2, 3))
        return bool((apart <= _ALIKE_LEVELS).any())

    # -- between runs

    _NUMBERS: Final = ("done", "pictures", "unreadable", "duplicates", "alike", "damaged", "differentiated")
    _ARRAYS: Final = (
        *("digests", "indices", "predicted", "sampled", "_sketches", "_bits", "zeros"),
        *("counts", "sums", "totals", "squares", "evident", "evidence"),
    )

    def save(self) -> None:
        """Keep the state in the folder, atomically."""
        self.settle()
        for array in (self.values, self.damaged_weights):
            if isinstance(array, np.memmap):
                array.flush()
        state: dict[str, Any] = {name: getattr(self, name) for name in (*self._NUMBERS, *self._ARRAYS)}
        state["classes"] = np.array(self.classes, np.int64)
        state |= {f"best {name}": getattr(self.best, name) for name in Best.FIELDS}
        with (self.folder / "state.new").open("wb") as file:
            np.savez(file, **state)
        os.replace(self.folder / "state.new", self.folder / "state.npz")

    def load(self) -> None:
        """Go on from the folder's state, if there is one."""
        if not (self.folder / "state.npz").is_file():
            return
        with np.load(self.folder / "state.npz", allow_pickle=False) as state:
            for name in self._NUMBERS:
                setattr(self, name, int(state[name]))
            for name in self._ARRAYS:
                setattr(self, name, state[name])
            self._rows = {number: row for row, number in enumerate(state["classes"].tolist())}
            for name in Best.FIELDS:
                setattr(self.best, name, state[f"best {name}"])
        self.settle()
        self._known = {self.digests[number].tobytes(): number for number in range(self.pictures)}


def _array(path: Path, shape: tuple[int, ...]) -> Floats:
    """An array of float32 in a file. What it already holds is kept. An empty one needs no file."""
    if 0 in shape:
        return np.zeros(shape, np.float32)
    kept = path.is_file() and path.stat().st_size == 4 * int(np.prod(shape))
    return np.memmap(path, np.float32, "r+" if kept else "w+", shape=shape)


def prepare(folder: Path, key: Mapping[str, Any]) -> None:
    """Make the folder ready for a run with this ``key``. What a run with another key left there is deleted.

    Raises FileExistsError if the folder holds something else.
    """
    told = json.dumps(key, sort_keys=True)
    run = folder / "run.json"
    if run.is_file() and run.read_text("utf-8") == told:
        return
    if folder.exists() and not run.is_file() and any(folder.iterdir()):
        raise FileExistsError(17, "the folder is not empty, and is no unfinished atlas", str(folder))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    run.write_text(told, "utf-8")
