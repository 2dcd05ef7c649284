"""The file of an atlas: reads it as untrusted input.

It is an SQLite database with a footer. SQLite, because the service reads one channel at a time, the standard library
reads it, and a page that is not read takes no memory. Parquet would need a library of 40 MB and read whole columns.
The footer holds the SHA-256 of all bytes before it, so a file that is cut off or altered is refused before SQLite
parses it. Numbers are little-endian arrays in blobs. Crops are WebP. ``docs/explanation/atlas.md`` has the tables.

Reading::

    atlas = read(Path("lite0.atlas"), network)       # raises AtlasError, one sentence
    atlas.about                                      # pictures, settings, limits: plain facts
    layer = atlas.layers["head"]                     # a Layer, by name, in the order of the network
    layer.maximum.place(values)                      # [C] values of one picture -> [C] quantiles, 0 to 1
    layer.class_means()                              # what the pictures of each predicted class activate
    layer.maximum.quantiles[795]                     # [33] of one channel
    layer.classes_of(795, "for")[0]                  # a ClassScore: a class that the channel speaks for
    example = layer.examples_of(795, "maximum")[0]   # an Example: picture, position, value, mask, crop
    crop = atlas.crop(example.crop)                  # a Crop: WebP bytes, ``pixels()`` decodes them
    gate = atlas.gates["blocks.15.gate"]             # a Gate: ``weight`` and ``damaged`` by kind are distributions
    gate.before                                      # the layer whose channels the gate scales, also in ``layers``
    gate.examples_of(275, "highest")                 # the pictures to which the gate gave the largest weights

Every method may be called by any thread. Arrays are read-only.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from pellucid.atlas.checks import check, checked_digest, classes_of
from pellucid.atlas.content import (
    ENTRY,
    LARGEST,
    MOST_NAMED,
    QUANTILES,
    About,
    AtlasError,
    By,
    ClassMeans,
    ClassScore,
    Crop,
    Distribution,
    Example,
    LayerFacts,
    Picture,
    Relation,
    key_of,
)
from pellucid.network.file import CompiledNetwork
from pellucid.types import Array, Floats


class _Stored:
    """What layers and gates share: arrays by name, and lists of classes and examples."""

    def __init__(self, atlas: Atlas, number: int, name: str, facts: LayerFacts) -> None:
        self._atlas, self._number = atlas, number
        self.name, self.facts = name, facts

    @property
    def channels(self) -> int:
        """The number of channels."""
        return self.facts.shape[0]

    def class_means(self) -> ClassMeans:
        """See ClassMeans."""
        classes = self._classes("class means classes")
        pictures = self._array("class means pictures", "<i4", (len(classes),), 1)
        means = self._array("class means", "<f2", (len(classes), self.channels)).astype(np.float32)
        return ClassMeans(classes, pictures, means, self._array("spread", "<f4", (self.channels,), 0))

    def _check(self, channel: int) -> None:
        if not 0 <= channel < self.channels:
            raise IndexError(f"{self.name} has {self.channels} channels")

    def _distribution(self, name: str) -> Distribution:
        found = self._array(name, "<f4", (self.channels, QUANTILES))
        if (np.diff(found) < 0).any():
            raise AtlasError(f"the atlas is not valid: the quantiles {name} of {self.name} are not in order")
        return Distribution(found)

    def _array(
        self, name: str, kind: str, shape: tuple[int, ...], low: float = -LARGEST, high: float = LARGEST
    ) -> Array:
        return self._atlas.array(self._number, name, kind, shape, low, high)

    def _classes(self, name: str) -> NDArray[np.int32]:
        return self._array(name, "<i4", (-1,), -1, self._atlas.classes - 1)

    @cached_property
    def lists(self) -> Mapping[str, tuple[Array, Array, Array]]:
        """The classes, scores and numbers of pictures ``[C, n]`` of each relation."""
        found = {}
        for relation in ("for", "against", "activating"):
            flat = self._classes(f"{relation} classes")
            count, rest = divmod(len(flat), self.channels)
            if rest or count > MOST_NAMED:
                raise AtlasError(f"the atlas is not valid: {self.name} has a list of too many classes")
            classes = flat.reshape(self.channels, count)
            scores = self._array(f"{relation} scores", "<f4", classes.shape)
            found[relation] = (classes, scores, self._array(f"{relation} pictures", "<i4", classes.shape))
        return found

    def classes_of(self, channel: int, relation: Relation) -> tuple[ClassScore, ...]:
        """The classes of one channel, the strongest first. Raises IndexError."""
        self._check(channel)
        rows = (each[channel].tolist() for each in self.lists[relation])
        return tuple(ClassScore(*each) for each in zip(*rows, strict=True) if each[0] >= 0)

    def examples_of(self, channel: int, by: By) -> tuple[Example, ...]:
        """The examples of one channel, the strongest first. Raises IndexError."""
        self._check(channel)
        return self._atlas.examples(self._number, self.facts, channel, by)


class Layer(_Stored):
    """A layer of the atlas."""

    @cached_property
    def maximum(self) -> Distribution:
        """The distribution of each picture's largest activation."""
        return self._distribution("maximum")

    @cached_property
    def mean(self) -> Distribution:
        """The distribution of each picture's mean activation."""
        return self._distribution("mean")

    @cached_property
    def zeros(self) -> Floats:
        """The share ``[C]`` of positions that are exactly zero."""
        return self._array("zeros", "<f4", (self.channels,), 0, 1)

    @property
    def weights(self) -> Floats | None:
        """The weights ``[classes, C]`` of the linear layer behind global average pooling, if that is what follows."""
        return self._atlas.linear.get(self.name)


class Gate(_Stored):
    """A gate of the atlas."""

    @property
    def before(self) -> str:
        """The layer whose channels it scales."""
        return self.facts.before

    @cached_property
    def weight(self) -> Distribution:
        """The distribution of each channel's weight."""
        return self._distribution("weight")

    @cached_property
    def damaged(self) -> Mapping[str, Distribution]:
        """The same over damaged copies of some pictures, by the kind of damage. ``clean`` is of the same pictures."""
        return {kind: self._distribution(f"damaged {kind}") for kind in self._atlas.about.damages}


class Atlas:
    """An open atlas. ``digest`` is the SHA-256 of its file, for an ETag."""

    def __init__(self, database: sqlite3.Connection, about: About, network: CompiledNetwork, digest: str) -> None:
        self._database, self._lock = database, threading.Lock()
        self.about, self.digest = about, digest
        self.classes = classes_of(network)
        values = network.manifest.values
        self.linear = {name: network.weights[value.linear] for name, value in values.items() if value.linear}
        self.layers: dict[str, Layer] = {}
        self.gates: dict[str, Gate] = {}
        for number, name, kind, facts in self._rows("SELECT id, name, kind, facts FROM layers ORDER BY id"):
            found = LayerFacts.model_validate_json(facts)
            if kind == "gate":
                self.gates[name] = Gate(self, number, name, found)
            else:
                self.layers[name] = Layer(self, number, name, found)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @property
    def medians(self) -> Mapping[str, Floats]:
        """The median over pictures ``[C]`` of the weights of each gate, by name."""
        return {name: gate.weight.quantiles[:, QUANTILES // 2] for name, gate in self.gates.items()}

    def picture(self, number: int) -> Picture:
        """One picture. Raises AtlasError."""
        for digest, predicted, name in self._rows("SELECT sha256, class, name FROM pictures WHERE id = ?", number):
            return Picture(number, digest.hex(), predicted, name)
        raise AtlasError(f"the atlas is not valid: it has no picture {number}")

    def crop(self, number: int) -> Crop:
        """One crop. Raises AtlasError."""
        for picture, *box, webp in self._rows("SELECT picture, x0, y0, x1, y1, webp FROM crops WHERE id = ?", number):
            return Crop(number, picture, (box[0], box[1], box[2], box[3]), webp)
        raise AtlasError(f"the atlas is not valid: it has no crop {number}")

    # -- for layers and gates

    def array(self, layer: int, name: str, kind: str, shape: tuple[int, ...], low: float, high: float) -> Array:
        """An array of a layer. Raises AtlasError if it is missing, of another size, or has a number out of bounds."""
        for (data,) in self._rows("SELECT data FROM arrays WHERE layer = ? AND name = ?", layer, name):
            try:
                found = np.frombuffer(data, kind).reshape(shape)
            except (TypeError, ValueError):
                break
            if found.size and not low <= float(found.min()) <= float(found.max()) <= high:
                break
            return found
        raise AtlasError(f"the atlas is not valid: an array of layer {layer} is missing or broken ({name})")

    def examples(self, layer: int, facts: LayerFacts, channel: int, by: By) -> tuple[Example, ...]:
        """The examples of a channel."""
        key = key_of(layer, channel, by)
        for entries, masks in self._rows("SELECT entries, masks FROM examples WHERE key = ?", key):
            found = np.frombuffer(entries, ENTRY)
            cells = np.frombuffer(masks, np.uint8).reshape(len(found), *facts.cells) if masks else None
            return tuple(
                Example(
                    picture, value, row, column, crop if crop >= 0 else None, None if cells is None else cells[rank]
                )
                for rank, (picture, crop, row, column, value) in enumerate(found.tolist())
            )
        return ()

    def _rows(self, query: str, *values: int | str) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._database.execute(query, values).fetchall()
            except (sqlite3.Error, OverflowError, UnicodeDecodeError) as error:
                raise AtlasError(f"the atlas is not valid: {error}") from error


def read(path: Path, network: CompiledNetwork) -> Atlas:
    """Open the atlas of a network. The file is untrusted. Raises AtlasError, whose message is one sentence."""
    name = path.name if path.name.isprintable() else repr(path.name)
    digest = checked_digest(path, name)
    try:
        database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)
    except sqlite3.Error as error:
        raise AtlasError(f"{name} can't be read: {error}") from error
    try:
        about = check(database, name, network)
        for each in (checked := Atlas(database, about, network, digest)).layers.values():
            _ = each.maximum, each.mean, each.zeros, each.class_means(), each.lists
        for gate in checked.gates.values():
            _ = gate.weight, gate.damaged, gate.class_means(), gate.lists
        return Atlas(database, about, network, digest)  # the other keeps the arrays that were checked
    except (sqlite3.Error, UnicodeDecodeError) as error:  # SQLite's message may quote what is no text
        database.close()
        raise AtlasError(f"{name} is not an atlas, or is altered: {error}") from error
    except ValidationError as error:
        database.close()
        raise AtlasError(f"{name} is not a valid atlas: {error.errors()[0]['msg']}") from error
    except BaseException:
        database.close()
        raise
