"""What an atlas holds: its facts, examples, crops and distributions, and the tables that they are kept in."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from pellucid.errors import PellucidError
from pellucid.types import Box, Floats, Pixels

By = Literal["maximum", "mean", "highest", "lowest"]
Relation = Literal["for", "against", "activating"]
DamageKind = Literal["clean", "noise", "blur", "dark", "jpeg"]  # of a copy; clean is the picture itself
# How the classes that a channel speaks for were found: by its contribution to the logit of the predicted class, the
# mean over pictures of each. ``gradients``: gradient times activation, summed over positions. ``weights``: the same in
# closed form, the weight of the linear layer behind times the mean activation.
Evidence = Literal["weights", "gradients", "none"]

VERSION: Final = 1
SUFFIX: Final = ".atlas"
QUANTILES: Final = 33
# The longest side of a mask, in cells.
MOST_CELLS: Final = 14
APPLICATION: Final = 0x50454C41
FOOTER: Final = b"pellucid atlas 1"
DIGEST: Final = 32  # bytes
MOST_BYTES: Final = 2**32
MOST_LAYERS: Final = 2**12
MOST_CHANNELS: Final = 2**17
MOST_PICTURES: Final = 2**24
MOST_EXAMPLES: Final = 64
MOST_NAMED: Final = 64  # classes in a list of one channel
LONGEST_NAME: Final = 200
LARGEST: Final = 1e18  # of all numbers: their products are finite
LARGEST_CROP: Final = 2**18  # bytes
LONGEST_CROP: Final = 2**10  # pixels
Channels = Annotated[int, Field(ge=1, le=MOST_CHANNELS)]
Side = Annotated[int, Field(ge=1, le=2**15)]
Cells = Annotated[int, Field(ge=0, le=MOST_CELLS)]
Share = Annotated[float, Field(ge=-1, le=1)]
OF_LAYERS: Final[tuple[By, ...]] = ("maximum", "mean")
OF_GATES: Final[tuple[By, ...]] = ("highest", "lowest")
BYS: Final = (*OF_LAYERS, *OF_GATES)

ENTRY: Final = np.dtype([("picture", "<i4"), ("crop", "<i4"), ("row", "<i2"), ("column", "<i2"), ("value", "<f4")])
SCHEMA: Final = (
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


class AtlasError(PellucidError, ValueError):
    """The file is not an atlas of this network, or is cut off or altered.

    Leave out ``atlas``, or have the operator build the atlas again.
    """

    slug, title = "broken-atlas", "The atlas of the network is not valid"


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

    network: Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
    parameters_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    preprocess_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    pictures: Annotated[int, Field(ge=0, le=MOST_PICTURES)]
    unreadable: Annotated[int, Field(ge=0)] = 0
    duplicates: Annotated[int, Field(ge=0)] = 0
    alike: Annotated[int, Field(ge=0)] = 0
    sampled: Annotated[int, Field(ge=0, le=MOST_PICTURES)]
    examples: Annotated[int, Field(ge=0, le=MOST_EXAMPLES)]
    crops: bool
    damages: dict[DamageKind, Annotated[int, Field(ge=0)]]
    differentiated: Annotated[int, Field(ge=0)] = 0
    precision: Annotated[str, Field(pattern="^[a-z0-9]{1,16}$")]


class LayerFacts(BaseModel):
    """``shape`` is (channels, height, width) of the map, ``cells`` (height, width) of a mask.

    ``before`` names the layer that a gate scales, and is empty for a layer. Two scores say how far a reader can trust
    what the atlas shows, from the two halves of its pictures, as means over channels, -1 to 1. None: too few pictures.

    - ``crops_predict``: the rank correlation of a channel's maximum in the pictures of one half with their similarity
      to its examples of the other half. The similarity is the cosine of the layer's other mean activations.
    - ``classes_agree``: the rank correlation of the class means of the halves

    ``alone``, of a gate: how far the atlas' own pictures lie outside of all its others, in ranges, as the mean over
    channels. 99.5 % of them are below.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: tuple[Channels, Side, Side]
    cells: tuple[Cells, Cells] = (0, 0)
    evidence: Evidence = "none"
    before: str = ""
    crops_predict: Share | None = None
    classes_agree: Share | None = None
    alone: Annotated[float, Field(ge=0, le=1e6)] = 0.0


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

    The crop by maximum is the position's receptive field with some pixels around it, or the whole picture. The crop by
    mean and of a gate is the whole picture.
    """

    number: int
    picture: int
    box: Box
    webp: bytes = field(repr=False)

    def pixels(self) -> Pixels:
        """The decoded crop ``[height, width, 3]``. Raises AtlasError if the bytes are no WebP of a crop's size."""
        try:
            with Image.open(io.BytesIO(self.webp), formats=("WEBP",)) as image:
                if max(image.size) > LONGEST_CROP or getattr(image, "n_frames", 1) != 1:
                    raise ValueError("too large")
                return np.asarray(image.convert("RGB"))
        except Exception as error:  # Pillow's decoders raise errors of many types for broken data
            raise AtlasError(f"crop {self.number} of the atlas is not a small WebP picture") from error


@dataclass(frozen=True, slots=True)
class ClassScore:
    """A class of a channel.

    ``for`` and ``against``: ``score`` is the channel's contribution to the class's logit, the mean over ``pictures`` of
    this predicted class, times n / (n + 2) for n pictures, so that few count less. See Evidence. ``activating``:
    ``score`` says by how many standard deviations the channel's mean activation (a gate's weight) in pictures of this
    predicted class is above that of all, times n / (n + 2).
    """

    index: int
    score: float
    pictures: int


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


def key_of(layer: int, channel: int, by: By) -> int:
    """The key of a channel's examples."""
    return (layer * MOST_CHANNELS + channel) * len(BYS) + BYS.index(by)
