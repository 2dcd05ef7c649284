"""The run: every map of every scene, its scores, and its time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import typer

from benchmarks import methods
from benchmarks.quality import plot
from benchmarks.quality.makers import OURS, Libraries, Maker, ours
from benchmarks.quality.run import Run
from benchmarks.quality.scenes import Scene, composed, recognised
from benchmarks.quality.scores import cosine, energy, hit
from models import catalog
from pellucid.compiler.compiling import compile_network
from pellucid.engine import Engine
from pellucid.network.spec import ModelSpec
from pellucid.runtime import choose, cores
from pellucid.trust.measures import curves
from pellucid.trust.perturbations import Design, Perturbations, centred_gaussian
from pellucid.types import Batch, Floats, InputPixels, Plan
from service.config import Settings

BASELINE: Final = "baseline"
# Zhang et al. allow 15 pixels, on pictures of about 500 x 375: the same share of the longer side.
TOLERANCE: Final = 15 / 500
_BATCH: Final = 16
_BEST: Final = 5
# Of a library's map that is ours but for rounding no curves are taken: they would be ours.
_SAME: Final = 0.999
_RANDOM: Final = "random"
_GAUSSIAN: Final = "centred Gaussian"


@dataclass(frozen=True)
class Effort:
    """How many scenes at most; of how many curves are taken; passes of the whole network that one method at one layer
    may take; scenes that it has at least.
    """

    scenes: int = 16
    curves: int = 8
    passes: int = 400
    least: int = 3


_QUICK: Final = Effort(scenes=2, curves=1, passes=96, least=1)
_SHOWN: Final = 6


@dataclass
class Row:
    """One maker's raw figures, a value for each of its first scenes; of curves for fewer of them.

    None stands for the curve of a library's map that is ours.
    """

    by: str
    method: str
    layer: str
    seconds: list[float] = field(default_factory=list)
    prediction: list[float] = field(default_factory=list)  # alone, of the same scene, just before
    hits: list[float] = field(default_factory=list)
    energy: list[float] = field(default_factory=list)
    deletion: list[float | None] = field(default_factory=list)
    insertion: list[float | None] = field(default_factory=list)
    road: list[float | None] = field(default_factory=list)
    cosine: list[float] = field(default_factory=list)  # with our map of the same method and layer

    def score(self, heat: Floats, scene: Scene) -> None:
        """Whether and how much the map marks the boxes."""
        height, width = scene.pixels.shape[:2]
        near = TOLERANCE * max(height, width)
        self.hits.append(float(hit(heat, (0, 0, width, height), scene.boxes, near)))
        self.energy += energy(heat, scene.within)


class Network:
    """The network in fp32: under torch, as the libraries have it, and in the engine that the settings choose, which
    only scores pictures.
    """

    def __init__(self, settings: Settings) -> None:
        threads = settings.threads or cores.available()
        self.net, self.spec = catalog.load(settings.model)

        compiled = compile_network(self.net, self.spec, None)

        def engine(name: choose.EngineName) -> Engine:
            runtime = choose.create(
                compiled, engine=name, device=settings.device, precision="fp32", threads=threads, slots=1
            )
            return Engine(compiled, runtime)

        self.engine, self.scorer = engine("torch"), engine(settings.engine)
        self.libraries = Libraries(self.net, self.spec, threads)

    def best(self, pictures: Sequence[InputPixels]) -> list[tuple[int, ...]]:
        """The classes with the largest logits of each picture."""
        outcomes = self._run(pictures, Plan(top_k=_BEST))
        return [tuple(prediction.index for prediction in outcome.predictions) for outcome in outcomes]

    def probabilities(self, pictures: Sequence[InputPixels], target: int) -> list[float]:
        """A class's probability in each picture."""
        plan = Plan(layer=self.scorer.network.default_layer, targets=(target,))
        return [outcome.explanations[0].target.probability for outcome in self._run(pictures, plan)]

    def predict(self, scene: Scene) -> None:
        """A prediction and no more, by the engine that makes the maps."""
        self.engine.run(Batch(scene.pixels[None], (Plan(),)))

    def _run(self, pictures: Sequence[InputPixels], plan: Plan) -> list[Any]:
        groups = [pictures[start : start + _BATCH] for start in range(0, len(pictures), _BATCH)]
        return [each for group in groups for each in self.scorer.run(Batch(np.stack(group), (plan,) * len(group)))]


def measure(run: Run) -> Iterator[dict[str, Any]]:
    """All raw figures in one record. Other libraries are compared at a middle layer and at the default one.

    Raises BadParameter if the network has no class of the scenes, or recognises none of them.
    """
    effort, layers, network = _QUICK if run.quick else Effort(), [run.middle, run.layers[-1]], Network(run.settings)
    try:
        made = composed(network.spec)
    except KeyError as error:
        raise typer.BadParameter(f"{network.spec.name} has no class {error}") from None
    scenes = recognised(made, network.best)[: effort.scenes]
    if not scenes:
        raise typer.BadParameter("the network recognises none of these: no class is among its five best")
    channels = {layer: network.engine.network.by_name[layer].shape[0] for layer in layers}
    makers = ours(network.engine, layers)
    makers += network.libraries.makers(layers, channels, most_passes=effort.passes // effort.least)
    rows = {}
    heat_maps: list[dict[tuple[str, str, str], Floats]] = [{} for _ in scenes]
    for maker in makers:
        rows[_key(maker)] = _maps(
            maker, network.predict if maker.by == OURS else network.libraries.predict, scenes, effort, heat_maps
        )
        run.say(f"{maker.by}, {maker.method}, {maker.layer}: {_told(rows[_key(maker)])}")
    for number, scene in enumerate(scenes):
        _baselines(scene, layers[-1], heat_maps[number], network.engine, rows)
    for number, scene in enumerate(scenes[: effort.curves]):
        _curves(network, scene, heat_maps[number], rows)
        run.say(f"curves of {number + 1} of {min(effort.curves, len(scenes))} scenes")
    plot.maps(scenes[:_SHOWN], heat_maps[:_SHOWN], layers[-1], network.spec.labels, run.images / "quality-maps.jpg")
    yield {
        "network": network.spec.name,
        "engine": network.engine.info.description,
        "scorer": network.scorer.info.description,
        "default_layer": network.engine.network.default_layer,
        "layers": {layer: network.engine.network.by_name[layer].shape for layer in layers},
        "scenes": [{"picture": each.picture, "target": network.spec.labels[each.target]} for each in scenes],
        "share": statistics.mean(float(scene.within.mean()) for scene in scenes),
        "rows": [vars(row) for row in rows.values()],
        "made": len(made),
        "agreement": {} if run.quick else methods.agreements(),
    }


def _key(maker: Maker | Row) -> tuple[str, str, str]:
    return maker.by, maker.method, maker.layer


def _maps(
    maker: Maker,
    predict: Callable[[Scene], object],
    scenes: Sequence[Scene],
    effort: Effort,
    heat_maps: list[dict[tuple[str, str, str], Floats]],
) -> Row:
    """One map of each scene, or of fewer where they take long, alone and timed."""
    row = Row(maker.by, maker.method, maker.layer)
    count = min(len(scenes), max(effort.least, effort.passes // maker.passes))
    if count == len(scenes):  # short: what is built at the first call would count
        maker.make(scenes[0])
    for scene, found in zip(scenes[:count], heat_maps, strict=False):
        predict(scene)  # what ran before leaves its threads spinning and its values in the caches
        begun = time.perf_counter()
        predict(scene)
        started = time.perf_counter()
        row.prediction.append(started - begun)
        heat = maker.make(scene)
        row.seconds.append(time.perf_counter() - started)
        row.score(heat, scene)
        found[_key(maker)] = heat
        own = found.get((OURS, maker.method, maker.layer))
        if maker.by != OURS and own is not None:
            row.cosine.append(cosine(own, heat, *scene.pixels.shape[:2]))
    return row


def _baselines(
    scene: Scene,
    layer: str,
    found: dict[tuple[str, str, str], Floats],
    engine: Engine,
    rows: dict[tuple[str, str, str], Row],
) -> None:
    """Maps that do not know the picture: a spot in the middle, and noise as coarse as a layer's."""
    seed = int.from_bytes(scene.pixels.tobytes()[:8])
    noise = np.random.default_rng(seed).standard_normal(engine.network.by_name[layer].shape[1:]).astype(np.float32)
    for name, heat in ((_GAUSSIAN, centred_gaussian(*scene.pixels.shape[:2])), (_RANDOM, noise)):
        row = rows.setdefault((BASELINE, name, ""), Row(BASELINE, name, ""))
        row.score(heat, scene)
        found[_key(row)] = heat


def _mean(spec: ModelSpec) -> list[float]:
    return [255 * value for value in spec.preprocess.mean]


def _curves(
    network: Network,
    scene: Scene,
    found: dict[tuple[str, str, str], Floats],
    rows: dict[tuple[str, str, str], Row],
) -> None:
    """Deletion, insertion and ROAD of all maps of one scene, as `trust=true` takes them; noise and spot among them."""
    for key in [key for key in found if _is_ours(key, found, scene)]:
        for values in (rows[key].deletion, rows[key].insertion, rows[key].road):
            values.append(None)
    found = {key: heat for key, heat in found.items() if not _is_ours(key, found, scene)}
    trials = Perturbations(scene.pixels, [*found.values()], _mean(network.spec), Design(steps=8, random_maps=0))
    with ThreadPoolExecutor(cores.available()) as pool:
        pictures = [*pool.map(trials.picture, range(len(trials)))]
    scores = np.asarray(network.probabilities(pictures, scene.target))
    for target, key in enumerate(found):
        areas = {curve.test: curve.map_auc for curve in curves(trials, scores, target)}
        rows[key].deletion.append(areas["deletion"])
        rows[key].insertion.append(areas["insertion"])
        rows[key].road.append(areas["road"])


def _is_ours(key: tuple[str, str, str], found: dict[tuple[str, str, str], Floats], scene: Scene) -> bool:
    own = found.get((OURS, *key[1:]))
    return key[0] != OURS and own is not None and cosine(own, found[key], *scene.pixels.shape[:2]) > _SAME


def _told(row: Row) -> str:
    return (
        f"{len(row.seconds)} scenes, {1000 * statistics.median(row.seconds):.1f} ms, "
        f"pointing {statistics.mean(row.hits):.2f}, energy {statistics.mean(row.energy):.2f}"
    )
