"""Runs batches of pictures, and reduces what they activate to a few numbers for each channel."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Semaphore
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pellucid.atlas import damages
from pellucid.atlas.content import MOST_CELLS, OF_GATES, OF_LAYERS, By, DamageKind
from pellucid.atlas.receptive_field import ReceptiveField, receptive_fields
from pellucid.decode.image import decode
from pellucid.engine import Engine
from pellucid.errors import PellucidError
from pellucid.explain.evidence import ForwardRecord
from pellucid.network.file import CompiledNetwork
from pellucid.network.spec import PreprocessSpec
from pellucid.runtime.base import Cores
from pellucid.types import Array, Batch, Box, Floats, InputPixels, MapSpec, Pixels, Plan, Tap, Upload

# Of 8 batches one is differentiated, and the pictures of one of 32 are run again with each damage.
# docs/explanation/atlas.md has what the numbers lose.
_DIFFERENTIATED: Final = 8
_DAMAGED: Final = 32
# Pictures that are differentiated at a time. More need much more memory, and save a tenth of the time.
_DIFFERENTIATED_AT_ONCE: Final = 2
# A field of this share of a side or more is shown as the whole picture, so that channels share crops.
_WHOLE: Final = 0.85
# The shortest side of a crop, as a share of the picture's. Fields of a few pixels are shown with what is around them.
_SHORTEST: Final = 1 / 6
_MOST_PIXELS: Final = 64_000_000
_THUMB: Final = 8
_FEW: Final = 2**10  # positions: counting them channel by channel costs more than converting them


@dataclass(frozen=True)
class Watched:
    """One layer: its crops' ``ys`` ``[h, 2]`` and ``xs`` ``[w, 2]`` by row and column, and the grid of its masks."""

    name: str
    shape: tuple[int, int, int]
    ys: NDArray[np.int32]
    xs: NDArray[np.int32]
    size: tuple[int, int]  # height and width of the network's pixels
    cells: tuple[int, int]

    @classmethod
    def of(cls, network: CompiledNetwork, name: str, field: ReceptiveField) -> Watched:
        """A layer of the network."""
        shape = network.spec.by_name[name].shape
        height, width = network.model.preprocess.size
        middle = field.box(shape[1] // 2, shape[2] // 2)
        whole = middle[2] - middle[0] >= _WHOLE * width or middle[3] - middle[1] >= _WHOLE * height
        ys, xs = _crops(field.rows, height, whole), _crops(field.columns, width, whole)
        cells = min(shape[1], MOST_CELLS), min(shape[2], MOST_CELLS)
        return cls(name, shape, ys, xs, (height, width), cells)

    @property
    def all_whole(self) -> bool:
        """Whether the crop of every position is the whole picture."""
        spans = (self.ys, self.size[0]), (self.xs, self.size[1])
        return all((each == (0, side)).all() for each, side in spans)

    def box(self, row: int, column: int) -> Box:
        """The crop of a position; of row -1 the whole picture."""
        if row < 0:
            return 0, 0, self.size[1], self.size[0]
        (y0, y1), (x0, x1) = self.ys[row].tolist(), self.xs[column].tolist()
        return x0, y0, x1, y1


def _crops(spans: NDArray[np.int32], side: int, whole: bool) -> NDArray[np.int32]:
    """The spans of pixels ``[n, 2]`` to show for the spans that positions see."""
    shortest = side if whole else max(1, round(side * _SHORTEST))
    middle, half = spans.sum(1) / 2, np.maximum(spans[:, 1] - spans[:, 0], shortest) / 2
    first = np.clip(np.floor(middle - half), 0, side)
    length = np.minimum(np.ceil(2 * half), side)
    first = np.minimum(first, side - length)
    return np.stack((first, first + length), 1).astype(np.int32)


@dataclass(frozen=True)
class Subject:
    """What of a network is watched: layers, and gates with the layers before them.

    A row of values has each layer's maxima, then each layer's means, then each gate's weights. A row of strengths, by
    which examples are chosen, has the negative weights behind them. ``parts`` has the places of each: ("maximum",
    layer), ("mean", layer), ("highest", gate), ("lowest", gate).
    """

    layers: tuple[Watched, ...]
    gates: tuple[tuple[str, int, str], ...]  # name, channels, the layer before
    inner: tuple[str, ...]  # layers whose evidence is by gradient
    linear: tuple[str, ...]  # layers whose evidence is the linear layer behind them
    damages: tuple[DamageKind, ...]
    parts: Mapping[tuple[By, str], slice]
    channels: int  # of all layers
    weights: slice  # the values that are weights: the last ones

    @classmethod
    def of(cls, network: CompiledNetwork, layers: Sequence[str]) -> Subject:
        """``layers`` and all gates of a network."""
        spec, values = network.spec, network.manifest.values
        chosen = {*layers, *(gate.before for gate in spec.gates)}
        names = [layer.name for layer in spec.layers if layer.name in chosen]
        seen = receptive_fields(network, names)
        classes = network.model.output.kind in ("softmax", "sigmoid")
        labelled = network.model.output.kind in ("softmax", "sigmoid", "linear")
        linear = tuple(name for name in names if labelled and values[name].linear)
        inner = tuple(name for name in names if classes and values[name].gradient and not values[name].linear)
        gates = tuple((gate.layer, gate.shape[0], gate.before) for gate in spec.gates)
        parts: dict[tuple[By, str], slice] = {}
        sizes = [(by, name, spec.by_name[name].shape[0]) for by in OF_LAYERS for name in names]
        end = 0
        for by, name, count in [*sizes, *((by, name, count) for by in OF_GATES for name, count, _ in gates)]:
            parts[by, name] = slice(end, end + count)
            end += count
        channels = sum(spec.by_name[name].shape[0] for name in names)
        weights = slice(2 * channels, channels + end // 2)
        watched = tuple(Watched.of(network, name, seen[name]) for name in names)
        kinds = damages.kinds(network.model.preprocess) if gates else ()
        return cls(watched, gates, inner, linear, kinds, parts, channels, weights)

    @property
    def strengths(self) -> int:
        """The length of a row of strengths."""
        return int(2 * self.weights.stop - self.weights.start)

    @property
    def cells(self) -> int:
        """The most cells of a mask."""
        return max((layer.cells[0] * layer.cells[1] for layer in self.layers), default=0)


@dataclass(frozen=True)
class Candidates:
    """Strengths of single pictures that may be among the largest: arrays of one length, ordered by their places."""

    picture: NDArray[np.int32]  # in the batch
    place: NDArray[np.int32]  # in a row of strengths
    value: Floats
    second: Floats  # orders equal values
    row: NDArray[np.int16]
    column: NDArray[np.int16]
    masks: Pixels  # [n, cells]


@dataclass(frozen=True)
class Observed:
    """One batch. The first axis of the arrays is that of the ``indices``, the readable pictures in the list of all."""

    indices: tuple[int, ...]
    unreadable: tuple[int, ...]
    digests: tuple[bytes, ...]
    sketches: NDArray[np.uint8]  # [b, 8, 8, 3]
    predicted: tuple[int, ...]  # -1 without classes
    values: Floats  # [b, columns]
    zeros: Floats  # [b, channels of all layers]: the share of positions
    candidates: tuple[Candidates, ...]
    evidence: Floats | None  # [b, channels of the inner layers]
    damaged: Floats | None  # [b, 1 + damages, gate channels]: of the undamaged picture, then of each copy


# The smallest strengths of the examples so far, and their seconds.
Bars = tuple[Floats, Floats]


class Observer:
    """Reads, decodes and runs batches. Several threads may call it at a time."""

    def __init__(self, network: CompiledNetwork, engine: Engine, subject: Subject) -> None:
        self._spec, self._engine, self._subject = network.model.preprocess, engine, subject
        self._classes = network.model.output.kind in ("softmax", "sigmoid")
        self._cores: Cores = "shared" if engine.slots > 1 else "whole"
        self._turn = Semaphore(engine.slots)
        taps = tuple(Tap(layer.name) for layer in subject.layers)
        maps = tuple(MapSpec("grad-cam", (name,)) for name in subject.inner)
        self._plan = Plan(taps=taps, gates=bool(subject.gates))
        self._differentiated = Plan(taps=taps, gates=bool(subject.gates), heat_maps=maps)

    def __call__(self, number: int, files: Sequence[tuple[int, Path]], bars: Bars) -> Observed:
        """The batch with this number. ``bars`` of earlier batches spare masks of values that are too small."""
        uploads = [_read(path) for _, path in files]
        decoded = [None if data is None else pixels_of(data, self._spec) for data in uploads]
        good = [place for place, pixels in enumerate(decoded) if pixels is not None]
        indices = [files[place][0] for place in good]
        bad = tuple(files[place][0] for place in range(len(files)) if place not in good)
        if not good:
            empty = np.zeros((0, self._subject.weights.stop), np.float32)
            return Observed((), bad, (), np.zeros((0, _THUMB, _THUMB, 3), np.uint8), (), empty, empty, (), None, None)
        pixels = np.stack([pixels for pixels in decoded if pixels is not None])
        digests = tuple(hashlib.sha256(uploads[place] or b"").digest() for place in good)
        evident = bool(self._subject.inner) and number % _DIFFERENTIATED == 0
        step = _DIFFERENTIATED_AT_ONCE if evident else len(pixels)
        predicted: list[int] = []
        reduced, candidates, evidences = [], [], []
        with self._turn:
            for start in range(0, len(pixels), step):
                record = self._record(pixels[start : start + step], self._differentiated if evident else self._plan)
                reduced.append(self._reduced(record))
                candidates.append(self._candidates(record, reduced[-1][0], bars, start))
                evidences += [self._evidence(record)] if evident else []
                predicted += record.logits.argmax(1).tolist() if self._classes else [-1] * len(record.logits)
                del record
        values, zeros = (np.concatenate(each) for each in zip(*reduced, strict=True))
        evidence = np.concatenate(evidences) if evident else None
        damaged = None
        if self._subject.damages and number % _DAMAGED == 1:
            damaged = self._damaged(pixels, digests, values[:, self._subject.weights])
        sketches = np.stack([sketch(shown(each, self._spec)) for each in pixels])
        found = digests, sketches, tuple(predicted), values, zeros, tuple(candidates)
        return Observed(tuple(indices), bad, *found, evidence, damaged)

    def _record(self, pixels: InputPixels, plan: Plan) -> ForwardRecord:
        return self._engine.record(Batch(pixels, (plan,) * len(pixels)), self._cores)

    def _reduced(self, record: ForwardRecord) -> tuple[Floats, Floats]:
        """The values and zeros of pictures."""
        subject, count = self._subject, len(record.logits)
        values = np.empty((count, subject.weights.stop), np.float32)
        zeros = np.empty((count, subject.channels), np.float32)
        for layer in subject.layers:
            maps = record.maps[layer.name].reshape(count, layer.shape[0], -1)
            values[:, subject.parts["maximum", layer.name]] = maps.max(2)
            values[:, subject.parts["mean", layer.name]] = np.einsum("bcp->bc", maps) / maps.shape[2]
            zeros[:, subject.parts["maximum", layer.name]] = _zeros(maps)
        for name, _, _ in subject.gates:
            values[:, subject.parts["highest", name]] = record.gates[name]
        return values, zeros

    def _candidates(self, record: ForwardRecord, values: Floats, bars: Bars, first: int) -> Candidates:
        """The candidates of pictures, of which the first has this number in the batch."""
        subject, channels = self._subject, self._subject.channels
        weights = values[:, subject.weights]
        strengths = np.concatenate((values, -weights), 1)
        maxima, means = values[:, :channels], values[:, channels : 2 * channels]
        seconds = np.concatenate((means, maxima, np.zeros((len(values), 2 * weights.shape[1]), np.float32)), 1)
        above = (strengths > bars[0]) | ((strengths == bars[0]) & (seconds > bars[1]))
        place, picture = np.nonzero(above.T)
        row, column = np.full((2, len(place)), -1, np.int16)
        masks = np.zeros((len(place), subject.cells), np.uint8)
        for layer in subject.layers:
            maps = record.maps[layer.name]
            by_maximum, by_mean = (
                slice(*np.searchsorted(place, (part.start, part.stop)))
                for part in (subject.parts[by, layer.name] for by in OF_LAYERS)
            )
            chosen = np.concatenate([np.arange(each.start, each.stop) for each in (by_maximum, by_mean)])
            if not len(chosen):
                continue
            of, channel = picture[chosen], place[chosen] % channels
            peaks = maxima[of, channel]
            channel -= subject.parts["maximum", layer.name].start
            count = by_maximum.stop - by_maximum.start
            peak = maps[of[:count], channel[:count]].reshape(count, layer.shape[1] * layer.shape[2]).argmax(1)
            row[by_maximum], column[by_maximum] = np.divmod(peak, layer.shape[2])
            found = _masks(layer, maps, of, channel, row[chosen], column[chosen], peaks)
            masks[chosen, : found[0].size] = found.reshape(len(found), -1)
        return Candidates(
            (picture + first).astype(np.int32),
            place.astype(np.int32),
            strengths[picture, place],
            seconds[picture, place],
            row,
            column,
            masks,
        )

    def _evidence(self, record: ForwardRecord) -> Floats:
        """Gradient of the top class's logit by the activation, times it, summed over positions: ``[b, channels]``."""
        found = []
        for name in self._subject.inner:
            maps = record.maps[name]
            gradients = np.stack([rows[0] for rows in record.gradients[name]])
            count, channels = maps.shape[:2]
            flat = (each.reshape(count, channels, -1) for each in (gradients, maps))
            found.append(np.einsum("bcp,bcp->bc", *flat))
        return np.concatenate(found, 1)

    def _damaged(self, pixels: InputPixels, digests: Sequence[bytes], clean: Floats) -> Floats:
        rows = [clean]
        for kind in self._subject.damages:
            seeds = [int.from_bytes(digest[:8], "little") for digest in digests]
            copies = [damages.damaged(each, kind, self._spec, seed) for each, seed in zip(pixels, seeds, strict=True)]
            with self._turn:
                record = self._record(np.stack(copies), self._plan)
                rows.append(np.concatenate([record.gates[name] for name, _, _ in self._subject.gates], 1))
        return np.stack(rows, 1)


def _zeros(maps: Floats) -> Floats:
    """The share of zeros of each channel ``[b, C]`` in ``maps`` ``[b, C, positions]``."""
    zero = maps == 0
    if not np.count_nonzero(zero):
        return np.zeros(maps.shape[:2], np.float32)
    if maps.shape[2] > _FEW:
        counts: Floats = np.array([[np.count_nonzero(each) for each in image] for image in zero], np.float32)
    else:
        counts = np.einsum("bcp->bc", zero.astype(np.float32))
    counts /= maps.shape[2]
    return counts


def _masks(
    layer: Watched, maps: Floats, picture: Array, channel: Array, rows: Array, columns: Array, peaks: Floats
) -> Pixels:
    """The activations over the crops of some pictures and channels, as shares of their maxima: ``[n, *cells]``."""
    (down, across), (_, height, width) = layer.cells, layer.shape
    whole = rows < 0
    if layer.cells == (height, width) and (layer.all_whole or whole.all()):
        return _shares(maps[picture, channel], peaks)
    spans_y = np.where(whole[:, None], (0, layer.size[0]), layer.ys[rows])
    spans_x = np.where(whole[:, None], (0, layer.size[1]), layer.xs[columns])
    y0, y1, fy = _between(spans_y, down, height, layer.size[0])
    x0, x1, fx = _between(spans_x, across, width, layer.size[1])
    of, at = picture[:, None, None], channel[:, None, None]

    def along(y: Array) -> Array:
        left, right = (maps[of, at, y[:, :, None], x[:, None]] for x in (x0, x1))
        return np.asarray(left * (1 - fx[:, None]) + right * fx[:, None])

    values = along(y0) * (1 - fy[:, :, None]) + along(y1) * fy[:, :, None]
    return _shares(values, peaks)


def _shares(values: Floats, peaks: Floats) -> Pixels:
    """``values`` ``[n, h, w]`` as shares of ``peaks`` ``[n]``, 0 to 255."""
    shares = np.divide(values, peaks[:, None, None], out=np.zeros_like(values), where=peaks[:, None, None] > 0)
    masks: Pixels = np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8)
    return masks


def _between(spans: Array, cells: int, positions: int, side: int) -> tuple[Array, Array, Array]:
    """For each cell over these spans of pixels the two positions around it, and how far it is to the second."""
    centres = spans[:, :1] + (np.arange(cells) + 0.5) / cells * (spans[:, 1:] - spans[:, :1])
    at = np.clip(centres * (positions / side) - 0.5, 0, positions - 1)
    below = at.astype(np.intp)
    return below, np.minimum(below + 1, positions - 1), (at - below).astype(np.float32)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def pixels_of(data: bytes, spec: PreprocessSpec) -> InputPixels | None:
    """The network's pixels of a picture, or None if it can't be decoded."""
    try:
        return decode(Upload(data), spec, _MOST_PIXELS).pixels
    except PellucidError:
        return None


def shown(pixels: InputPixels, spec: PreprocessSpec) -> Pixels:
    """The network's pixels ``[H, W, C]`` as 8-bit RGB of the channels that are shown."""
    if spec.is_plain:
        return pixels.astype(np.uint8, copy=False)
    numbers = [spec.channels.index(name) for name in spec.shown]
    low, high = (np.array(limit, np.float32)[numbers] for limit in (spec.low, spec.high))
    levels = np.clip((pixels[:, :, numbers] - low) / (high - low) * 255, 0, 255)
    found: Pixels = np.rint(levels).astype(np.uint8)
    return np.repeat(found, 3, 2) if len(numbers) == 1 else found


def sketch(picture: Pixels) -> Pixels:
    """The picture at 8 x 8 pixels, by which near-identical ones are found."""
    return np.asarray(Image.fromarray(picture).resize((_THUMB, _THUMB), Image.Resampling.BOX, reducing_gap=1.0))
