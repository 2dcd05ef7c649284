"""Builds an atlas: runs pictures through a network once, cuts the crops of the winners, and writes the file."""

from __future__ import annotations

import io
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from PIL import Image

from pellucid.atlas import arrays
from pellucid.atlas.checks import parameters_digest, preprocess_digest
from pellucid.atlas.content import ENTRY, OF_GATES, OF_LAYERS, VERSION, About, By, DamageKind
from pellucid.atlas.gathered import Gathered, prepare
from pellucid.atlas.observe import Observed, Observer, Subject, Watched, pixels_of, shown
from pellucid.atlas.writing import Writer, writing
from pellucid.engine import Engine
from pellucid.network.file import CompiledNetwork
from pellucid.types import Box

Given = TypeVar("Given")
Made = TypeVar("Made")
Progress = Callable[[str, int, int], None]  # what is done, how much of it, and of how much

_SAVED_EVERY: Final = 20.0  # seconds
_AHEAD: Final = 3  # tasks that wait for each thread


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
    if not subject.weights.stop:
        raise BuildError(f"{network.model.name} has no layer to describe: name some with --layer")
    folder = out.with_name(f"{out.name}.unfinished")
    try:
        prepare(folder, _key(network, engine, files, layers, settings))
    except FileExistsError as error:
        raise BuildError(f"{folder} is in the way: it is no unfinished atlas") from error
    gathered = Gathered(subject, settings.examples, len(files), folder)
    gathered.load()
    with ThreadPoolExecutor(max(threads, engine.slots) + 1) as pool:  # one decodes while the others run the network
        work = _Build(network, engine, files, settings, gathered, pool, threads, progress)
        work.run(Observer(network, engine, subject))
        if not gathered.pictures:
            shutil.rmtree(folder)
            raise BuildError(f"none of {len(files)} files is a picture that {network.model.name} takes")
        about = work.written(out)
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
        "version": [VERSION, 2],  # of the file, and of an unfinished build
        "network": [parameters_digest(network), preprocess_digest(network), network.digest],
        "engine": [engine.info.engine, engine.info.precision, engine.info.threads, engine.paying_batch],
        "files": digest.hexdigest(),
        "layers": [*layers],
        "examples": of.examples,
    }


Crops = dict[tuple[int, Box], int]  # a picture and a box -> the crop's number


@dataclass(frozen=True, slots=True)
class _Build:
    """The arguments of ``build``, and what it has gathered so far."""

    network: CompiledNetwork
    engine: Engine
    files: Sequence[tuple[str, Path]]
    settings: Settings
    gathered: Gathered
    pool: ThreadPoolExecutor
    threads: int
    progress: Progress

    def run(self, observer: Observer) -> None:
        """Run all pictures that have not been run."""
        gathered, size = self.gathered, self.engine.paying_batch
        paths = [(index, path) for index, (_, path) in enumerate(self.files)]
        batches = [paths[start : start + size] for start in range(0, len(paths), size)]
        saved = time.monotonic()

        def observed(number: int) -> Observed:
            return observer(number, batches[number], gathered.bars)

        for seen in self._in_order(observed, range(gathered.done, len(batches)), _AHEAD * self.threads):
            gathered.merge(seen)
            self.progress("pictures", min(gathered.done * size, len(paths)), len(paths))
            if time.monotonic() - saved > _SAVED_EVERY:
                gathered.save()
                saved = time.monotonic()
        gathered.save()

    def _in_order(self, function: Callable[[Given], Made], given: Iterable[Given], ahead: int) -> Iterator[Made]:
        """The results in order, computed in the pool, at most so many ahead."""
        waiting: deque[Future[Made]] = deque()
        try:
            for each in given:
                waiting.append(self.pool.submit(function, each))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    # -- the file

    def written(self, out: Path) -> About:
        """Write the file."""
        network, gathered, settings = self.network, self.gathered, self.settings
        subject, classes = gathered.subject, network.model.output.kind in ("softmax", "sigmoid")
        kinds: tuple[DamageKind, ...] = ("clean", *subject.damages) if gathered.damaged else ()
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
            damages=dict.fromkeys(kinds, gathered.damaged),
            differentiated=gathered.differentiated,
            precision=self.engine.info.precision,
        )
        crops = self._crops() if settings.crops else {}
        with writing(out) as writer:
            writer.about(about)
            known = slice(gathered.pictures)
            digests = [digest.tobytes() for digest in gathered.digests[known]]
            predicted = gathered.predicted[known].tolist() if classes else [None] * len(digests)
            names = [self.files[index][0] if settings.names else None for index in gathered.indices[known].tolist()]
            writer.pictures([*zip(digests, predicted, names, strict=True)])
            of_layers = self._in_order(partial(arrays.of_layer, network, gathered), subject.layers, self.threads)
            for layer, (facts, found) in zip(subject.layers, of_layers, strict=True):
                number = writer.layer(layer.name, "layer", facts, found)
                for by in OF_LAYERS:
                    self._examples(writer, number, by, layer.name, layer, crops)
            for name, channels, before in subject.gates:
                facts, found = arrays.of_gate(network, gathered, name, channels, before)
                number = writer.layer(name, "gate", facts, found)
                for by in OF_GATES:
                    self._examples(writer, number, by, name, None, crops)
            self._cut(crops, writer)
        return about

    def _box(self, layer: Watched | None, row: int, column: int) -> Box:
        """The crop of an example: of a gate's the whole picture."""
        height, width = self.network.model.preprocess.size
        return (0, 0, width, height) if layer is None else layer.box(row, column)

    def _crops(self) -> Crops:
        """Numbers of all crops, each distinct one once."""
        found: set[tuple[int, Box]] = set()
        layers = {layer.name: layer for layer in self.gathered.subject.layers}
        best = self.gathered.best
        for (by, name), part in self.gathered.subject.parts.items():
            layer = layers[name] if by in OF_LAYERS else None
            places = (each[part].ravel().tolist() for each in (best.picture, best.row, best.column))
            found |= {(picture, self._box(layer, *at)) for picture, *at in zip(*places, strict=True) if picture >= 0}
        return {each: number for number, each in enumerate(sorted(found))}

    def _examples(self, writer: Writer, number: int, by: By, name: str, layer: Watched | None, crops: Crops) -> None:
        best, subject = self.gathered.best, self.gathered.subject
        for channel, place in enumerate(range(subject.strengths)[subject.parts[by, name]]):
            there = best.picture[place] >= 0
            entries = np.zeros(int(there.sum()), ENTRY)
            for field in ("picture", "row", "column", "value"):
                entries[field] = getattr(best, field)[place][there]
            if by == "lowest":
                entries["value"] *= -1
            for entry in entries:
                box = self._box(layer, int(entry["row"]), int(entry["column"]))
                entry["crop"] = crops.get((int(entry["picture"]), box), -1)
            masks = None if layer is None or not crops else best.masks[place][there, : layer.cells[0] * layer.cells[1]]
            writer.examples(number, channel, by, entries, masks)

    def _cut(self, crops: Crops, writer: Writer) -> None:
        """Decode the winners again, and store their crops."""
        by_picture: dict[int, list[Box]] = {}
        for picture, box in crops:
            by_picture.setdefault(picture, []).append(box)
        spec, gathered = self.network.model.preprocess, self.gathered

        def cut(picture: int) -> list[bytes]:
            name, path = self.files[int(gathered.indices[picture])]
            data = path.read_bytes()
            pixels = pixels_of(data, spec) if sha256(data).digest() == gathered.digests[picture].tobytes() else None
            if pixels is None:
                raise BuildError(f"{name} changed while the atlas was built; start again")
            image = Image.fromarray(shown(pixels, spec))
            return [_webp(image.crop(box), self.settings) for box in by_picture[picture]]

        of_pictures = self._in_order(cut, by_picture, _AHEAD * self.threads)
        for done, (picture, found) in enumerate(zip(by_picture, of_pictures, strict=True), 1):
            for box, webp in zip(by_picture[picture], found, strict=True):
                writer.crop(crops[picture, box], picture, box, webp)
            self.progress("crops", done, len(by_picture))


def _webp(image: Image.Image, settings: Settings) -> bytes:
    image.thumbnail((settings.side, settings.side), Image.Resampling.BILINEAR, reducing_gap=1.0)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=settings.quality, method=1)
    return buffer.getvalue()
