"""The file of an atlas: writes it, and reads it as untrusted input.

It is an SQLite database with a footer. SQLite, because the service reads one channel at a time, the standard library
reads it, and a page that is not read takes no memory. Parquet would need a library of 40 MB and read whole columns.
The footer holds the SHA-256 of all bytes before it, so a file that is cut off or altered is refused before SQLite
parses it. Numbers are little-endian arrays in blobs. Crops are WebP. ``docs/atlas.md`` documents the tables.

Reading::

    atlas = read(Path("lite0.atlas"), network)       # raises AtlasError, one sentence
    atlas.about                                      # pictures, settings, limits: plain facts
    layer = atlas.layers["head"]                     # a Layer, by name, in the order of the network
    layer.maximum.place(values)                      # [C] values of one picture -> [C] quantiles, 0 to 1
    layer.class_means()                              # what the pictures of each predicted class activate
    channel = layer.channel(795)                     # a Channel: examples, classes, quantiles
    example = channel.by_maximum[0]                  # an Example: picture, position, value, mask, crop
    crop = atlas.crop(example.crop)                  # a Crop: WebP bytes, ``pixels()`` decodes them
    gate = atlas.gates["blocks.15.gate"]             # a Gate: ``weight`` and ``damaged`` by kind are distributions
    gate.before                                      # the layer whose channels the gate scales, also in ``layers``
    gate.channel(275).highest                        # the pictures to which the gate gave the largest weights

Every method may be called by any thread. Arrays are read-only.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pellucid.atlas.receptive_field import ReceptiveField
from pellucid.network.file import CompiledNetwork
from pellucid.types import Box, Floats, Pixels

Array = NDArray[Any]
By = Literal["maximum", "mean", "highest", "lowest"]
Relation = Literal["for", "against", "activating"]
# How the classes that a channel speaks for were found. ``weights``: of the linear layer behind the layer, exactly.
# ``gradients``: gradient times activation, summed over positions, the mean over pictures of each predicted class.
Evidence = Literal["weights", "gradients", "none"]

VERSION: Final = 1
SUFFIX: Final = ".atlas"
QUANTILES: Final = 33
# The longest side of a mask, in cells.
MOST_CELLS: Final = 14
_APPLICATION: Final = 0x50454C41
_FOOTER: Final = b"pellucid atlas 1"
_DIGEST: Final = 32  # bytes
_MOST_BYTES: Final = 2**32
_MOST_LAYERS: Final = 2**12
_MOST_CHANNELS: Final = 2**17
_MOST_PICTURES: Final = 2**24
_MOST_EXAMPLES: Final = 64
_MOST_NAMED: Final = 64  # classes in a list of one channel
_LONGEST_NAME: Final = 200
_LARGEST_CROP: Final = 2**18  # bytes
_LONGEST_CROP: Final = 2**10  # pixels
Channels = Annotated[int, Field(ge=1, le=_MOST_CHANNELS)]
Side = Annotated[int, Field(ge=1, le=2**15)]
Cells = Annotated[int, Field(ge=0, le=MOST_CELLS)]
Share = Annotated[float, Field(ge=-1, le=1)]
OF_LAYERS: Final[tuple[By, ...]] = ("maximum", "mean")
OF_GATES: Final[tuple[By, ...]] = ("highest", "lowest")
_BYS: Final = (*OF_LAYERS, *OF_GATES)

ENTRY: Final = np.dtype([("picture", "<i4"), ("crop", "<i4"), ("row", "<i2"), ("column", "<i2"), ("value", "<f4")])
_SCHEMA: Final = (
    "CREATE TABLE about (facts TEXT NOT NULL)",
    "CREATE TABLE pictures (id INTEGER PRIMARY KEY, sha256 BLOB NOT NULL, class INTEGER, name TEXT)",
    "CREATE TABLE layers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, kind TEXT NOT NULL, facts TEXT NOT NULL)",
    "CREATE TABLE arrays (id INTEGER PRIMARY KEY, layer INTEGER NOT NULL, name TEXT NOT NULL, data BLOB NOT NULL)",
    "CREATE UNIQUE INDEX arrays_by_name ON arrays (layer, name)",
    # The key is that of _key: rows of a table without rowid would spill into pages of their own.
    "CREATE TABLE examples (key INTEGER PRIMARY KEY, entries BLOB NOT NULL, masks BLOB NOT NULL)",
    "CREATE TABLE crops (id INTEGER PRIMARY KEY, picture INTEGER NOT NULL, x0 INTEGER NOT NULL, y0 INTEGER NOT NULL, "
    "x1 INTEGER NOT NULL, y1 INTEGER NOT NULL, webp BLOB NOT NULL)",
)


class AtlasError(ValueError):
    """The file is not an atlas of this network, or is cut off or altered. The message is one sentence."""


class About(BaseModel):
    """Facts about an atlas.

    - ``network``, ``parameters_sha256``, ``preprocess_sha256``: the network that it describes
    - ``pictures``: the pictures that were run. ``unreadable`` files and exact ``duplicates`` are left out. ``alike``
      pictures, close to an earlier one, are in the statistics but are no examples.
    - ``sampled``: the pictures behind the quantiles, a random sample if there are many
    - ``examples``: the most examples of a channel, of each kind. ``crops``: whether they have crops.
    - ``damages``: kinds of damaged copies, of ``damaged`` pictures. ``differentiated``: pictures behind the evidence by
      gradients.
    - ``precision``: of the runtime
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    network: Annotated[str, Field(min_length=1, max_length=_LONGEST_NAME)]
    parameters_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    preprocess_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    pictures: Annotated[int, Field(ge=0, le=_MOST_PICTURES)]
    unreadable: Annotated[int, Field(ge=0)] = 0
    duplicates: Annotated[int, Field(ge=0)] = 0
    alike: Annotated[int, Field(ge=0)] = 0
    sampled: Annotated[int, Field(ge=0, le=_MOST_PICTURES)]
    examples: Annotated[int, Field(ge=0, le=_MOST_EXAMPLES)]
    crops: bool
    damages: dict[Annotated[str, Field(pattern="^[a-z ]{1,32}$")], Annotated[int, Field(ge=0)]]
    differentiated: Annotated[int, Field(ge=0)] = 0
    precision: Annotated[str, Field(pattern="^[a-z0-9]{1,16}$")]


class LayerFacts(BaseModel):
    """``shape`` is (channels, height, width) of the map, ``cells`` (height, width) of a mask.

    ``before`` names the layer that a gate scales, and is empty for a layer. Two scores say how far a reader can trust
    what the atlas shows, from the two halves of its pictures, as means over channels, -1 to 1. None: too few pictures.

    - ``crops_predict``: the rank correlation of a channel's maximum in the pictures of one half with their similarity
      to its examples of the other half. The similarity is the cosine of the layer's other mean activations.
    - ``classes_agree``: the rank correlation of the class means of the halves
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: tuple[Channels, Side, Side]
    cells: tuple[Cells, Cells] = (0, 0)
    evidence: Evidence = "none"
    before: str = ""
    crops_predict: Share | None = None
    classes_agree: Share | None = None


@dataclass(frozen=True)
class Distribution:
    """The values of each channel over pictures: ``quantiles`` ``[C, 33]``, from the minimum to the maximum."""

    quantiles: Floats

    def place(self, values: Floats) -> Floats:
        """The share ``[C]`` of the atlas' pictures below each of one picture's ``values`` ``[C]``, 0 to 1.

        Linear between two quantiles. Of equal quantiles, which a channel that is often zero has, the middle.
        """
        rows, last = self.quantiles, QUANTILES - 1
        below, above = (rows < values[:, None]).sum(1), (rows <= values[:, None]).sum(1)
        channels = np.arange(len(rows))
        low = rows[channels, np.clip(below - 1, 0, last)]
        high = rows[channels, np.clip(below, 0, last)]
        between = below - 1 + (values - low) / np.maximum(high - low, 1e-30)
        places = np.where(above > below, (below + above - 1) / 2, np.where(below == 0, 0, between))
        found: Floats = (np.where(below > last, last, places) / last).astype(np.float32)
        return found

    def beyond(self, values: Floats) -> Floats:
        """How far each of ``values`` ``[C]`` lies outside of all pictures, in ranges of the atlas. 0 inside.

        The range is that from the smallest to the largest value of the channel.
        """
        low, high = self.quantiles[:, 0], self.quantiles[:, -1]
        out = np.maximum(np.maximum(low - values, values - high), 0)
        found: Floats = (out / np.maximum(high - low, 1e-12)).astype(np.float32)
        return found


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of the atlas: its number, digest, predicted class (None for an output without classes) and name.

    The name is None unless the atlas was built with names.
    """

    number: int
    sha256: str
    predicted: int | None
    name: str | None


@dataclass(frozen=True, slots=True)
class Example:
    """A picture that activates a channel.

    ``value`` is the activation at (``row``, ``column``) of the map, by maximum; the mean over the map, by mean; or the
    gate's weight. By mean and of a gate, row and column are -1. ``crop`` is the number of its crop, or None without
    crops. ``mask`` ``[cells, cells]`` covers the crop: the activation as a share of the map's largest, 0 to 255, with
    negative ones as 0. It is None for a gate and without crops.
    """

    picture: int
    value: float
    row: int
    column: int
    crop: int | None
    mask: Pixels | None


@dataclass(frozen=True, slots=True)
class Crop:
    """A part of a picture. ``box`` is in the pixels that the network saw, after its resize and centre crop.

    The crop by maximum is the position's receptive field with some pixels around it (``Layer.field``), or the whole
    picture. The crop by mean and of a gate is the whole picture.
    """

    number: int
    picture: int
    box: Box
    webp: bytes = field(repr=False)

    def pixels(self) -> Pixels:
        """The decoded crop ``[height, width, 3]``. Raises AtlasError if the bytes are no WebP of a crop's size."""
        try:
            with Image.open(io.BytesIO(self.webp), formats=("WEBP",)) as image:
                if max(image.size) > _LONGEST_CROP or getattr(image, "n_frames", 1) != 1:
                    raise ValueError("too large")
                return np.asarray(image.convert("RGB"))
        except Exception as error:  # Pillow's decoders raise errors of many types for broken data
            raise AtlasError(f"crop {self.number} of the atlas is not a small WebP picture") from error


@dataclass(frozen=True, slots=True)
class ClassScore:
    """A class of a channel.

    ``for`` and ``against``: ``score`` is the class's weight, or the mean of gradient times activation over ``pictures``
    of this predicted class, times n / (n + 2) for n pictures, so that few count less. ``activating``: ``score`` says by
    how many standard deviations the channel's mean activation (a gate's weight) in pictures of this predicted class is
    above that of all, times n / (n + 2). ``pictures`` is 0 for weights.
    """

    index: int
    score: float
    pictures: int


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel of a layer. ``zeros`` is the share of positions that are exactly zero, over all pictures."""

    layer: str
    number: int
    by_maximum: tuple[Example, ...]
    by_mean: tuple[Example, ...]
    maximum: Floats  # quantiles [33]
    mean: Floats
    zeros: float
    speaks_for: tuple[ClassScore, ...]
    speaks_against: tuple[ClassScore, ...]
    activating: tuple[ClassScore, ...]


@dataclass(frozen=True, slots=True)
class GateChannel:
    """A channel of a gate: its weights. What the channel itself answers to is that of the layer ``Gate.before``."""

    gate: str
    number: int
    highest: tuple[Example, ...]
    lowest: tuple[Example, ...]
    weight: Floats  # quantiles [33]
    damaged: Mapping[str, Floats]
    activating: tuple[ClassScore, ...]


@dataclass(frozen=True, slots=True)
class ClassMeans:
    """The mean of each channel over pictures of each predicted class.

    ``classes`` ``[n]``, ``pictures`` ``[n]``: how many of each. ``means`` ``[n, C]``: of the mean activation, or of a
    gate's weight. ``spread`` ``[C]``: the standard deviation over all pictures.
    """

    classes: NDArray[np.int32]
    pictures: NDArray[np.int32]
    means: Floats
    spread: Floats


class _Stored:
    """What layers and gates share: arrays by name, and lists of classes and examples."""

    def __init__(self, atlas: Atlas, number: int, name: str, facts: LayerFacts) -> None:
        self._atlas, self._number = atlas, number
        self.name, self.facts = name, facts

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the map."""
        return self.facts.shape

    @property
    def channels(self) -> int:
        """The number of channels."""
        return self.facts.shape[0]

    def class_means(self) -> ClassMeans:
        """See ClassMeans."""
        classes = self._classes("class means classes")
        pictures = self._array("class means pictures", "<i4", (len(classes),))
        means = self._array("class means", "<f2", (len(classes), self.channels)).astype(np.float32)
        return ClassMeans(classes, pictures, means, self._array("spread", "<f4", (self.channels,)))

    def _distribution(self, name: str) -> Distribution:
        found = self._array(name, "<f4", (self.channels, QUANTILES))
        if (np.diff(found) < 0).any():
            raise AtlasError(f"the atlas is not valid: the quantiles {name} of {self.name} are not in order")
        return Distribution(found)

    def _array(self, name: str, kind: str, shape: tuple[int, ...]) -> Array:
        return self._atlas.array(self._number, name, kind, shape)

    def _classes(self, name: str, *more: int) -> NDArray[np.int32]:
        data = self._atlas.array(self._number, name, "<i4", (-1, *more))
        if data.size and not (data.min() >= -1 and data.max() < self._atlas.classes):
            raise AtlasError(f"the atlas is not valid: {self.name} has a class that the network does not have")
        return data

    @cached_property
    def _lists(self) -> Mapping[str, tuple[Array, Array, Array]]:
        found = {}
        for relation in ("for", "against", "activating"):
            flat = self._classes(f"{relation} classes")
            count, rest = divmod(len(flat), self.channels)
            if rest or count > _MOST_NAMED:
                raise AtlasError(f"the atlas is not valid: {self.name} has a list of too many classes")
            classes = flat.reshape(self.channels, count)
            scores = self._array(f"{relation} scores", "<f4", classes.shape)
            found[relation] = (classes, scores, self._array(f"{relation} pictures", "<i4", classes.shape))
        return found

    def classes_of(self, channel: int, relation: Relation) -> tuple[ClassScore, ...]:
        """The classes of one channel, the strongest first."""
        rows = (each[channel].tolist() for each in self._lists[relation])
        return tuple(ClassScore(*each) for each in zip(*rows, strict=True) if each[0] >= 0)

    def examples_of(self, channel: int, by: By) -> tuple[Example, ...]:
        """The examples of one channel, the strongest first."""
        return self._atlas.examples(self._number, self.name, self.facts, channel, by)

    def _check(self, channel: int) -> None:
        if not 0 <= channel < self.channels:
            raise IndexError(f"{self.name} has {self.channels} channels")


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
        return self._array("zeros", "<f4", (self.channels,))

    @cached_property
    def field(self) -> ReceptiveField:
        """What each position sees of the network's pixels. Gates and statistics of norms are left out of it."""
        rows = self._array("rows", "<i4", (self.shape[1], 2))
        return ReceptiveField(rows, self._array("columns", "<i4", (self.shape[2], 2)))

    @property
    def weights(self) -> Floats | None:
        """The weights ``[classes, C]`` of the linear layer behind global average pooling, if that is what follows."""
        return self._atlas.linear.get(self.name)

    @property
    def evidence(self) -> Evidence:
        """How the classes were found that its channels speak for."""
        return self.facts.evidence

    def channel(self, number: int) -> Channel:
        """One channel. Raises IndexError."""
        self._check(number)
        return Channel(
            self.name,
            number,
            self.examples_of(number, "maximum"),
            self.examples_of(number, "mean"),
            self.maximum.quantiles[number],
            self.mean.quantiles[number],
            float(self.zeros[number]),
            self.classes_of(number, "for"),
            self.classes_of(number, "against"),
            self.classes_of(number, "activating"),
        )


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

    def channel(self, number: int) -> GateChannel:
        """One channel. Raises IndexError."""
        self._check(number)
        return GateChannel(
            self.name,
            number,
            self.examples_of(number, "highest"),
            self.examples_of(number, "lowest"),
            self.weight.quantiles[number],
            {kind: each.quantiles[number] for kind, each in self.damaged.items()},
            self.classes_of(number, "activating"),
        )


class Atlas:
    """An open atlas. ``digest`` is the SHA-256 of its file, for an ETag."""

    def __init__(self, database: sqlite3.Connection, about: About, network: CompiledNetwork, digest: str) -> None:
        self._database, self._lock = database, threading.Lock()
        self.about, self.digest = about, digest
        self.classes = (network.model.output.shape or (len(network.model.labels),))[0]
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
        """One picture. Raises IndexError."""
        for digest, predicted, name in self._rows("SELECT sha256, class, name FROM pictures WHERE id = ?", number):
            named = name is None or (isinstance(name, str) and len(name) <= _LONGEST_NAME and name.isprintable())
            classed = predicted is None or (isinstance(predicted, int) and 0 <= predicted < self.classes)
            if not (named and classed and isinstance(digest, bytes) and len(digest) == _DIGEST):
                raise AtlasError(f"the atlas is not valid: picture {number} has a broken row")
            return Picture(number, digest.hex(), predicted, name)
        raise IndexError(f"there is no picture {number}")

    def crop(self, number: int) -> Crop:
        """One crop. Raises IndexError."""
        for picture, *box, webp in self._rows("SELECT picture, x0, y0, x1, y1, webp FROM crops WHERE id = ?", number):
            plain = isinstance(webp, bytes) and len(webp) <= _LARGEST_CROP and webp[:4] + webp[8:12] == b"RIFFWEBP"
            if not plain or not all(isinstance(each, int) and 0 <= each < 2**15 for each in box):
                raise AtlasError(f"the atlas is not valid: crop {number} has a broken row")
            return Crop(number, int(picture), (box[0], box[1], box[2], box[3]), webp)
        raise IndexError(f"there is no crop {number}")

    # -- for layers and gates

    def array(self, layer: int, name: str, kind: str, shape: tuple[int, ...]) -> Array:
        """An array of a layer. Raises AtlasError if it is missing, of another size or not finite."""
        for (data,) in self._rows("SELECT data FROM arrays WHERE layer = ? AND name = ?", layer, name):
            try:
                found = np.frombuffer(data, kind).reshape(shape)
            except (TypeError, ValueError):
                break
            if found.dtype.kind == "f" and not np.isfinite(found).all():
                break
            return found
        raise AtlasError(f"the atlas is not valid: an array of layer {layer} is missing or broken ({name})")

    def examples(self, layer: int, name: str, facts: LayerFacts, channel: int, by: By) -> tuple[Example, ...]:
        """The examples of a channel."""
        for entries, masks in self._rows("SELECT entries, masks FROM examples WHERE key = ?", _key(layer, channel, by)):
            try:
                found = np.frombuffer(entries, ENTRY)
                cells = np.frombuffer(masks, np.uint8).reshape(len(found), *facts.cells) if masks else None
            except (TypeError, ValueError):
                found, cells = np.zeros(_MOST_EXAMPLES + 1, ENTRY), None
            inside = ((found["picture"] >= 0) & (found["picture"] < self.about.pictures)).all()
            inside &= ((found["row"] < facts.shape[1]) & (found["column"] < facts.shape[2])).all()
            if len(found) > self.about.examples or not inside or not np.isfinite(found["value"]).all():
                raise AtlasError(f"the atlas is not valid: channel {channel} of {name} has broken examples")
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
            except sqlite3.Error as error:
                raise AtlasError(f"the atlas is not valid: {error}") from error


def _key(layer: int, channel: int, by: By) -> int:
    """The key of a channel's examples."""
    return (layer * _MOST_CHANNELS + channel) * len(_BYS) + _BYS.index(by)


def parameters_digest(network: CompiledNetwork) -> str:
    """The digest by which an atlas knows its network: that of all parameters and buffers."""
    found = network.model.parameters_sha256
    if found is not None:
        return found
    digest = hashlib.sha256()
    for name in sorted(network.weights):
        digest.update(name.encode() + np.ascontiguousarray(network.weights[name]).tobytes())
    return digest.hexdigest()


def preprocess_digest(network: CompiledNetwork) -> str:
    """The digest of the network's preprocessing. Other pixels give other activations."""
    return hashlib.sha256(json.dumps(asdict(network.model.preprocess), sort_keys=True).encode()).hexdigest()


def read(path: Path, network: CompiledNetwork) -> Atlas:
    """Open the atlas of a network. The file is untrusted. Raises AtlasError, whose message is one sentence."""
    name = path.name if path.name.isprintable() else repr(path.name)
    digest = _checked_digest(path, name)
    try:
        database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)
    except sqlite3.Error as error:
        raise AtlasError(f"{name} can't be read: {error}") from error
    try:
        about = _check(database, name, network)
        return Atlas(database, about, network, digest)
    except sqlite3.Error as error:
        database.close()
        raise AtlasError(f"{name} is not an atlas, or is altered: {error}") from error
    except ValidationError as error:
        database.close()
        raise AtlasError(f"{name} is not a valid atlas: {error.errors()[0]['msg']}") from error
    except BaseException:
        database.close()
        raise


def _checked_digest(path: Path, name: str) -> str:
    """The SHA-256 of the file without its footer, which must have the same."""
    tail = len(_FOOTER) + _DIGEST
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            if file.read(16) != b"SQLite format 3\0" or size < tail:
                raise AtlasError(f"{name} is not an atlas")
            if size > _MOST_BYTES:
                raise AtlasError(f"{name} is too large for an atlas")
            file.seek(size - tail)
            footer = file.read()
            if footer[: len(_FOOTER)] != _FOOTER:
                raise AtlasError(f"{name} is cut off, or is not an atlas of version {VERSION}")
            file.seek(0)
            digest, left = hashlib.sha256(), size - tail
            while left and (part := file.read(min(left, 2**20))):
                digest.update(part)
                left -= len(part)
    except OSError as error:
        raise AtlasError(f"{name} can't be read: {error.strerror or error}") from error
    if digest.digest() != footer[len(_FOOTER) :]:
        raise AtlasError(f"{name} was altered after it was built; build it again")
    return digest.hexdigest()


def _check(database: sqlite3.Connection, name: str, network: CompiledNetwork) -> About:
    """Quick checks: no code, the tables of this version, sizes, and that the atlas is that of the network."""
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 2**26)
    database.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    database.execute("PRAGMA trusted_schema = OFF")
    database.execute("PRAGMA query_only = ON")
    database.execute("PRAGMA cell_size_check = ON")
    (version,) = database.execute("PRAGMA user_version").fetchone()
    (application,) = database.execute("PRAGMA application_id").fetchone()
    if application != _APPLICATION:
        raise AtlasError(f"{name} is not an atlas")
    if version != VERSION:
        raise AtlasError(f"{name} is an atlas of version {version}, and this is version {VERSION}; build it again")
    schema = database.execute("SELECT sql FROM sqlite_schema ORDER BY rowid").fetchall()
    if [sql for (sql,) in schema] != [*_SCHEMA]:
        raise AtlasError(f"{name} is not a valid atlas: it has other tables")
    rows = database.execute("SELECT facts FROM about LIMIT 2").fetchall()
    if len(rows) != 1 or not isinstance(rows[0][0], str) or len(rows[0][0]) > 2**16:
        raise AtlasError(f"{name} is not a valid atlas: it says nothing about itself")
    about = About.model_validate_json(rows[0][0])
    model = network.model
    if about.parameters_sha256 != parameters_digest(network) or about.preprocess_sha256 != preprocess_digest(network):
        other = "other weights or preprocessing" if about.network == model.name else repr(about.network[:80])
        raise AtlasError(f"{name} is the atlas of another network than {model.name} ({other}); build one for this one")
    _check_sizes(database, name, network, about)
    return about


def _check_sizes(database: sqlite3.Connection, name: str, network: CompiledNetwork, about: About) -> None:
    def refuse(why: str) -> AtlasError:
        return AtlasError(f"{name} is not a valid atlas: {why}")

    found = database.execute("SELECT name, kind, facts FROM layers LIMIT ?", (_MOST_LAYERS + 1,)).fetchall()
    shapes = {("layer", layer.name): layer.shape for layer in network.spec.layers}
    shapes |= {("gate", gate.layer): gate.shape for gate in network.spec.gates}
    seen: set[tuple[str, str]] = set()
    scaled: set[tuple[str, str]] = set()
    for layer, kind, facts in found:
        known = LayerFacts.model_validate_json(facts)
        if (kind, layer) in seen or shapes.get((kind, layer)) != known.shape:
            raise refuse("it has a layer that the network does not have")
        seen.add((kind, layer))
        scaled |= {("layer", known.before)} if kind == "gate" else set()
    if not scaled <= seen:
        raise refuse("a gate has no layer before it")
    channels = sum(shapes[each][0] for each in seen)
    (examples,) = database.execute("SELECT count(*) FROM examples").fetchone()
    (largest,) = database.execute("SELECT max(id) FROM crops").fetchone()
    (pictures,) = database.execute("SELECT count(*) FROM pictures").fetchone()
    if len(found) > _MOST_LAYERS or channels > _MOST_LAYERS * _MOST_CHANNELS or examples > 2 * channels:
        raise refuse("it has too many rows")
    if pictures != about.pictures or (largest or 0) > 2 * channels * about.examples:
        raise refuse("its pictures and crops do not match what it says of itself")


# -- writing


class Writer:
    """Writes an atlas. The file appears, complete, when ``writing`` ends without an error."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._layers = 0

    def about(self, about: About) -> None:
        self._database.execute("INSERT INTO about VALUES (?)", (about.model_dump_json(),))

    def pictures(self, rows: Sequence[tuple[bytes, int | None, str | None]]) -> None:
        """(digest, predicted class, name) of each picture. A name loses what is not printable, and its end."""
        named = [
            (number, digest, predicted, name and "".join(filter(str.isprintable, name))[-_LONGEST_NAME:])
            for number, (digest, predicted, name) in enumerate(rows)
        ]
        self._database.executemany("INSERT INTO pictures VALUES (?, ?, ?, ?)", named)

    def layer(self, name: str, kind: Literal["layer", "gate"], facts: LayerFacts, arrays: Mapping[str, Array]) -> int:
        """A layer or gate with its arrays. Returns its number."""
        number, self._layers = self._layers, self._layers + 1
        self._database.execute("INSERT INTO layers VALUES (?, ?, ?, ?)", (number, name, kind, facts.model_dump_json()))
        rows = [(number, key, np.ascontiguousarray(array).tobytes()) for key, array in sorted(arrays.items())]
        self._database.executemany("INSERT INTO arrays (layer, name, data) VALUES (?, ?, ?)", rows)
        return number

    def examples(self, layer: int, channel: int, by: By, entries: Array, masks: Pixels | None) -> None:
        """``entries`` ``[n]`` of the dtype ENTRY, ``masks`` ``[n, cells, cells]``."""
        data = b"" if masks is None else masks.tobytes()
        row = (_key(layer, channel, by), entries.astype(ENTRY).tobytes(), data)
        self._database.execute("INSERT INTO examples VALUES (?, ?, ?)", row)

    def crop(self, number: int, picture: int, box: Box, webp: bytes) -> None:
        self._database.execute("INSERT INTO crops VALUES (?, ?, ?, ?, ?, ?, ?)", (number, picture, *box, webp))


@contextmanager
def writing(path: Path) -> Iterator[Writer]:
    """Write an atlas to ``path``, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:80]}.")
    os.close(descriptor)
    try:
        database = sqlite3.connect(scratch, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode = OFF")
            database.execute("PRAGMA synchronous = OFF")
            database.execute(f"PRAGMA application_id = {_APPLICATION}")
            database.execute(f"PRAGMA user_version = {VERSION}")
            database.execute("BEGIN")
            for table in _SCHEMA:
                database.execute(table)
            yield Writer(database)
            database.execute("COMMIT")
        finally:
            database.close()
        with open(scratch, "r+b") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
            file.seek(0, os.SEEK_END)
            file.write(_FOOTER + digest)
        mask = os.umask(0o077)
        os.umask(mask)
        os.chmod(scratch, 0o666 & ~mask)
        os.replace(scratch, path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
