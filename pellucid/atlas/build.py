"""Builds an atlas: runs pictures through a network once, cuts the crops of the winners, and writes the file."""

from __future__ import annotations

import io
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pellucid.atlas import measure
from pellucid.atlas.file import (
    ENTRY,
    OF_GATES,
    OF_LAYERS,
    QUANTILES,
    VERSION,
    About,
    By,
    Evidence,
    LayerFacts,
    Writer,
    parameters_digest,
    preprocess_digest,
    writing,
)
from pellucid.atlas.gathered import Best, Gathered, prepare
from pellucid.atlas.observe import Observer, Subject, Watched, pixels_of, shown
from pellucid.engine import Engine
from pellucid.network.file import CompiledNetwork
from pellucid.types import Box, Floats

Array = NDArray[Any]
Given = TypeVar("Given")
Made = TypeVar("Made")
Progress = Callable[[str, int, int], None]  # what is done, how much of it, and of how much

_SAVED_EVERY: Final = 20.0  # seconds
_NAMED: Final = 5  # classes in a list
_AHEAD: Final = 3  # tasks that wait for each thread
_COLUMNS: Final = 512  # whose quantiles are computed at once


@dataclass(frozen=True, slots=True)
class Settings:
    """What an atlas holds.

    ``layers``: besides the layers before gates, or empty for the default layers. ``examples``: of each channel and
    kind. ``crops``: whether parts of pictures are stored, at most ``side`` pixels long, at a WebP ``quality``.
    ``names``: whether the pictures' paths are stored.
    """

    layers: tuple[str, ...] = ()
    examples: int = 9
    crops: bool = True
    names: bool = False
    side: int = 112
    quality: int = 60


class BuildError(ValueError):
    """The atlas can't be built. The message is one sentence."""


def default_layers(network: CompiledNetwork) -> tuple[str, ...]:
    """The default feature layers and the default layer."""
    spec = network.spec
    return tuple(dict.fromkeys((*spec.feature_layers, *([spec.default_layer] if spec.default_layer else []))))


def build(
    network: CompiledNetwork,
    engine: Engine,
    files: Sequence[tuple[str, Path]],
    out: Path,
    settings: Settings = Settings(),
    *,
    threads: int = 2,
    progress: Progress = lambda *_: None,
) -> About:
    """Build the atlas ``out`` of a network from pictures, each with its name.

    An interrupted build goes on where it was, from the folder ``OUT.unfinished``, as long as network, pictures and
    settings are the same. The result is the same, to the byte. Files that can't be read or decoded are counted and left
    out. Raises BuildError, and OSError.
    """
    layers = settings.layers or default_layers(network)
    unknown = [layer for layer in layers if layer not in network.spec.by_name]
    if unknown:
        raise BuildError(f"{network.model.name} has no layer {unknown[0]!r}; `pellucid layers` lists them")
    subject = Subject.of(network, layers)
    if not subject.columns:
        raise BuildError(f"{network.model.name} has no layer to describe: name some with --layer")
    folder = out.with_name(f"{out.name}.unfinished")
    try:
        prepare(folder, _key(network, engine, files, layers, settings))
    except FileExistsError as error:
        raise BuildError(f"{folder} is in the way: it is no unfinished atlas") from error
    gathered = Gathered(subject, settings.examples, len(files), folder)
    gathered.load()
    with ThreadPoolExecutor(max(threads, engine.slots) + 1) as pool:  # one decodes while the others run the network
        _run(pool, Observer(network, engine, subject), files, gathered, engine.paying_batch, threads, progress)
        if not gathered.pictures:
            shutil.rmtree(folder)
            raise BuildError(f"none of {len(files)} files is a picture that {network.model.name} takes")
        about = _written(pool, network, engine, files, out, settings, gathered, threads, progress)
    shutil.rmtree(folder)
    return about


def _key(
    network: CompiledNetwork, engine: Engine, files: Sequence[tuple[str, Path]], layers: Iterable[str], of: Settings
) -> dict[str, Any]:
    """All that decides what an unfinished build holds."""
    digest = sha256()
    for name, path in files:
        try:
            found = path.stat()
            digest.update(repr((name, found.st_size, found.st_mtime_ns)).encode())
        except OSError:
            digest.update(repr((name, None)).encode())
    return {
        "version": VERSION,
        "network": [parameters_digest(network), preprocess_digest(network), network.digest],
        "engine": [engine.info.engine, engine.info.precision, engine.info.threads, engine.paying_batch],
        "files": digest.hexdigest(),
        "layers": [*layers],
        "examples": of.examples,
    }


def _run(
    pool: ThreadPoolExecutor,
    observer: Observer,
    files: Sequence[tuple[str, Path]],
    gathered: Gathered,
    size: int,
    threads: int,
    progress: Progress,
) -> None:
    paths = [(index, path) for index, (_, path) in enumerate(files)]
    batches = [paths[start : start + size] for start in range(0, len(paths), size)]
    saved = time.monotonic()

    def observed(number: int) -> Any:
        return observer(number, batches[number], gathered.bars)

    for seen in _in_order(pool, observed, range(gathered.done, len(batches)), _AHEAD * threads):
        gathered.merge(seen)
        progress("pictures", min(gathered.done * size, len(files)), len(files))
        if time.monotonic() - saved > _SAVED_EVERY:
            gathered.save()
            saved = time.monotonic()
    gathered.save()


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[[Given], Made], given: Iterable[Given], ahead: int
) -> Iterator[Made]:
    """The results in order, computed in the pool, at most so many ahead."""
    waiting: deque[Future[Made]] = deque()
    try:
        for each in given:
            waiting.append(pool.submit(function, each))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


# -- the file


def _written(
    pool: ThreadPoolExecutor,
    network: CompiledNetwork,
    engine: Engine,
    files: Sequence[tuple[str, Path]],
    out: Path,
    settings: Settings,
    gathered: Gathered,
    threads: int,
    progress: Progress,
) -> About:
    subject, classes = gathered.subject, network.model.output.kind in ("softmax", "sigmoid")
    copies = {"clean": gathered.damaged} | dict.fromkeys(subject.damages, gathered.damaged) if gathered.damaged else {}
    about = About(
        network=network.model.name,
        parameters_sha256=parameters_digest(network),
        preprocess_sha256=preprocess_digest(network),
        pictures=gathered.pictures,
        unreadable=gathered.unreadable,
        duplicates=gathered.duplicates,
        alike=gathered.alike,
        sampled=min(gathered.pictures, len(gathered.values)),
        examples=settings.examples,
        crops=settings.crops,
        damages=copies,
        differentiated=gathered.differentiated,
        precision=engine.info.precision,
    )
    crops = _crops(gathered, _whole(network)) if settings.crops else {}
    with writing(out) as writer:
        writer.about(about)
        named = [files[index][0] if settings.names else None for index in gathered.indices[: gathered.pictures]]
        writer.pictures(
            [
                (
                    gathered.digests[number].tobytes(),
                    int(gathered.predicted[number]) if classes else None,
                    named[number],
                )
                for number in range(gathered.pictures)
            ]
        )
        for layer in subject.layers:
            facts, arrays = _of_layer(network, gathered, layer)
            number = writer.layer(layer.name, "layer", facts, arrays)
            for by in OF_LAYERS:
                _examples(writer, number, by, gathered.best[by, layer.name], layer, crops)
        for name, channels, before in subject.gates:
            facts, arrays = _of_gate(network, gathered, name, channels, before)
            number = writer.layer(name, "gate", facts, arrays)
            for by in OF_GATES:
                _examples(writer, number, by, gathered.best[by, name], None, crops, whole=_whole(network))
        _cut(pool, network, files, settings, gathered, crops, writer, threads, progress)
    return about


def _whole(network: CompiledNetwork) -> Box:
    height, width = network.model.preprocess.size
    return 0, 0, width, height


Crops = dict[tuple[int, Box], int]  # a picture and a box -> the crop's number


def _crops(gathered: Gathered, whole: Box) -> Crops:
    """Numbers of all crops, each distinct one once."""
    found: set[tuple[int, Box]] = set()
    layers = {layer.name: layer for layer in gathered.subject.layers}
    for (by, name), best in gathered.best.items():
        layer = layers[name] if by in OF_LAYERS else None
        places = (each.ravel().tolist() for each in (best.picture, best.row, best.column))
        for picture, row, column in zip(*places, strict=True):
            if picture >= 0:
                found.add((picture, whole if layer is None else layer.box(row, column)))
    return {each: number for number, each in enumerate(sorted(found))}


def _examples(
    writer: Writer, number: int, by: By, best: Best, layer: Watched | None, crops: Crops, whole: Box = (0, 0, 0, 0)
) -> None:
    for channel in range(len(best.value)):
        there = best.picture[channel] >= 0
        entries = np.zeros(int(there.sum()), ENTRY)
        for field in ("picture", "row", "column", "value"):
            entries[field] = getattr(best, field)[channel][there]
        if by == "lowest":
            entries["value"] *= -1
        for entry in entries:
            box = whole if layer is None else layer.box(int(entry["row"]), int(entry["column"]))
            entry["crop"] = crops.get((int(entry["picture"]), box), -1)
        masks = best.masks[channel][there] if crops and layer is not None else None
        writer.examples(number, channel, by, entries, masks)


def _cut(
    pool: ThreadPoolExecutor,
    network: CompiledNetwork,
    files: Sequence[tuple[str, Path]],
    settings: Settings,
    gathered: Gathered,
    crops: Crops,
    writer: Writer,
    threads: int,
    progress: Progress,
) -> None:
    """Decode the winners again, and store their crops."""
    by_picture: dict[int, list[Box]] = {}
    for picture, box in crops:
        by_picture.setdefault(picture, []).append(box)
    spec = network.model.preprocess

    def cut(picture: int) -> list[bytes]:
        name, path = files[int(gathered.indices[picture])]
        data = path.read_bytes()
        pixels = pixels_of(data, spec) if sha256(data).digest() == gathered.digests[picture].tobytes() else None
        if pixels is None:
            raise BuildError(f"{name} changed while the atlas was built; start again")
        image = Image.fromarray(shown(pixels, spec))
        return [_webp(image.crop(box), settings) for box in by_picture[picture]]

    for done, (picture, found) in enumerate(
        zip(by_picture, _in_order(pool, cut, by_picture, _AHEAD * threads), strict=True), 1
    ):
        for box, webp in zip(by_picture[picture], found, strict=True):
            writer.crop(crops[picture, box], picture, box, webp)
        progress("crops", done, len(by_picture))


def _webp(image: Image.Image, settings: Settings) -> bytes:
    image.thumbnail((settings.side, settings.side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=settings.quality, method=2)
    return buffer.getvalue()


def _of_layer(network: CompiledNetwork, gathered: Gathered, layer: Watched) -> tuple[LayerFacts, dict[str, Array]]:
    subject, name = gathered.subject, layer.name
    channels = layer.shape[0]
    columns = subject.parts["mean", name]
    first = sum(other.shape[0] for other in subject.layers)
    start = subject.parts["maximum", name].start
    arrays = {
        "maximum": _quantiles(gathered, subject.parts["maximum", name]),
        "mean": _quantiles(gathered, columns),
        "zeros": (gathered.zeros[start : start + channels] / gathered.pictures).astype("<f4"),
        "rows": layer.field.rows.astype("<i4"),
        "columns": layer.field.columns.astype("<i4"),
        **_by_class(gathered, slice(columns.start - first, columns.stop - first)),
    }
    evidence: Evidence = "none"
    arrays |= _lists("for", np.zeros((0, channels)), []) | _lists("against", np.zeros((0, channels)), [])
    if name in subject.linear:
        evidence = "weights"
        weights = network.weights[network.manifest.values[name].linear or ""].astype(np.float64)
        every = list(range(len(weights)))
        arrays |= _lists("for", weights, every) | _lists("against", -weights, every, sign=-1)
    elif name in subject.inner and gathered.differentiated:
        evidence = "gradients"
        inner = [each for each in subject.layers if each.name in subject.inner]
        before = sum(each.shape[0] for each in inner[: [each.name for each in inner].index(name)])
        rows = np.nonzero(gathered.evident)[0]
        counts = gathered.evident[rows]
        scores = gathered.evidence[rows, before : before + channels] / (counts + 2)[:, None]
        named = [gathered.classes[row] for row in rows]
        arrays |= _lists("for", scores, named, counts) | _lists("against", -scores, named, counts, sign=-1)
    predict, agree = measure.of_layer(gathered, name)
    facts = LayerFacts(
        shape=layer.shape, cells=layer.cells, evidence=evidence, crops_predict=predict, classes_agree=agree
    )
    return facts, arrays


def _of_gate(
    network: CompiledNetwork, gathered: Gathered, name: str, channels: int, before: str
) -> tuple[LayerFacts, dict[str, Array]]:
    subject = gathered.subject
    columns = subject.parts["weight", name]
    first = sum(layer.shape[0] for layer in subject.layers)
    arrays = {
        "weight": _quantiles(gathered, columns),
        **_by_class(gathered, slice(columns.start - first, columns.stop - first)),
        **_lists("for", np.zeros((0, channels)), []),
        **_lists("against", np.zeros((0, channels)), []),
    }
    inside = slice(columns.start - subject.weights.start, columns.stop - subject.weights.start)
    if gathered.damaged:
        for number, kind in enumerate(("clean", *subject.damages)):
            copies = np.asarray(gathered.damaged_weights[: gathered.damaged, number, inside])
            arrays[f"damaged {kind}"] = quantiles(copies)
    shape = next(gate.shape for gate in network.spec.gates if gate.layer == name)
    agree = measure.classes_agree(gathered, columns)
    return LayerFacts(shape=shape, before=before, classes_agree=agree), arrays


def quantiles(values: Floats) -> Floats:
    """33 quantiles ``[C, 33]`` of values ``[n, C]``, evenly spaced, linear between two values."""
    return np.quantile(values, np.linspace(0, 1, QUANTILES), axis=0).T.astype("<f4")


def _quantiles(gathered: Gathered, columns: slice) -> Floats:
    rows = min(gathered.pictures, len(gathered.values))
    starts = range(columns.start, columns.stop, _COLUMNS)
    parts = [np.array(gathered.values[:rows, start : min(start + _COLUMNS, columns.stop)]) for start in starts]
    return np.concatenate([quantiles(part) for part in parts])


def _by_class(gathered: Gathered, columns: slice) -> dict[str, Array]:
    """The mean of each channel over pictures of each predicted class, and the classes that activate it most."""
    rows = [row for row, predicted in enumerate(gathered.classes) if predicted >= 0]
    order = sorted(rows, key=lambda row: gathered.classes[row])
    counts = gathered.counts[order]
    sums = gathered.sums[:, columns]
    means = sums[order] / np.maximum(counts, 1)[:, None]
    mean = gathered.totals[columns] / gathered.pictures
    variance = gathered.squares[columns] / gathered.pictures - mean**2
    spread = np.sqrt(np.maximum(variance, 0))
    scores = (means - mean) / np.maximum(spread, 1e-12) * (counts / (counts + 2))[:, None]
    named = [gathered.classes[row] for row in order]
    return {
        "class means classes": np.array(named, "<i4"),
        "class means pictures": counts.astype("<i4"),
        "class means": np.clip(means, -65504, 65504).astype("<f2"),
        "spread": spread.astype("<f4"),
        **_lists("activating", np.where(spread > 0, scores, 0), named, counts),
    }


def _lists(
    relation: str, scores: NDArray[Any], classes: Sequence[int], counts: Sequence[int] | Array = (), sign: int = 1
) -> dict[str, Array]:
    """For each channel the classes with the largest positive ``scores`` ``[classes, C]``. Empty places are -1."""
    channels, count = scores.shape[1], min(_NAMED, len(scores))
    order = np.argsort(-scores, axis=0, kind="stable")[:count].T  # [C, count]
    chosen = np.take_along_axis(scores.T, order, 1) if count else np.zeros((channels, 0))
    positive = chosen > 0
    of = np.array(counts if len(counts) else np.zeros(len(scores)), np.int64)
    return {
        f"{relation} classes": np.where(positive, np.array(classes, np.int64)[order], -1).astype("<i4"),
        f"{relation} scores": np.where(positive, sign * chosen, 0).astype("<f4"),
        f"{relation} pictures": np.where(positive, of[order], 0).astype("<i4"),
    }
