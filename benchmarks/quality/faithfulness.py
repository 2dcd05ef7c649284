"""How faithful maps are, on any photographs: ADCC and its parts, increase, deletion, insertion and ROAD of each method.

One line of JSON for each picture is kept; the table is made from these lines alone.
"""

from __future__ import annotations

import json
import statistics
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from benchmarks.engine import load_engine
from benchmarks.quality.scores import interval
from benchmarks.report import table
from pellucid.decode.image import decode
from pellucid.engine import Engine
from pellucid.explain.methods import METHODS, offered
from pellucid.network.spec import SOFTMAX
from pellucid.render.compose import positive
from pellucid.runtime import cores
from pellucid.trust.measures import curves
from pellucid.trust.perturbations import Design, Perturbations, centred_gaussian
from pellucid.types import Batch, Floats, InputPixels, MapSpec, Plan, Upload
from service.config import Settings

# Measure -> its column, and 1 where more is better, -1 where less is.
MEASURES: Final = {
    "adcc": ("ADCC ↑", 1),
    "drop": ("drop ↓", -1),
    "coherency": ("coherency ↑", 1),
    "complexity": ("complexity ↓", -1),
    "increase": ("increase ↑", 1),
    "deletion": ("deletion ↓", -1),
    "insertion": ("insertion ↑", 1),
    "road": ("ROAD ↓", -1),
}
# Of a middle layer only these: other methods run the network behind it for each of its channels or positions.
_FEW_PASSES: Final = ("activation", "gradient")
_AT_LAST: Final = (*_FEW_PASSES, "forwards", "position forwards")
# The one method whose maps at the middle layer are as faithful as those at the last.
_FUSED: Final = "elementwise"
_BATCH: Final = 4
_PIXELS: Final = 10**8
# Maps that differ by no more, both scaled to a largest magnitude of 1, are scored once.
_SAME: Final = 1e-4
_ROUNDING: Final = 1e-5


class Key(NamedTuple):
    """A method at a layer, or the mean of its maps at several between commas. A baseline has no layer."""

    method: str
    layer: str


Maps = dict[Key, Floats]
_GAUSSIAN: Final = Key("centred Gaussian", "")
_RANDOM: Final = Key("random", "")


def measure(folder: Path, layers: Sequence[str], settings: Settings, lines: Path, say: Callable[[str], None]) -> None:
    """Score the maps of each picture's first class, as the service makes them, into ``lines``.

    ``layers``: from early to late, the last two a middle one and the default one. Pictures come in a seeded random
    order, so the lines of a run that was stopped are a sample of the folder.
    """
    engine, spec = load_engine(settings)
    middle, last = layers[-2:]
    wanted = [Key(method.name, last) for method in offered(engine.network, SOFTMAX) if method.needs in _AT_LAST]
    wanted += [Key(key.method, middle) for key in wanted if METHODS[key.method].spec.needs in _FEW_PASSES]
    fused = dict.fromkeys((tuple(layers[-2:]), tuple(layers), engine.network.last_stages))
    wanted += [Key(_FUSED, ",".join(names)) for names in fused]
    mean = [255 * value for value in spec.preprocess.mean]

    def scored(path: Path) -> str:
        pixels = decode(Upload(path.read_bytes()), spec.preprocess, _PIXELS).pixels
        (outcome,) = engine.run(Batch(pixels[None], (Plan(),)))
        target = outcome.predictions[0].index
        maps = [{**key._asdict(), **row} for key, row in _scores(engine, pixels, target, wanted, mean).items()]
        return json.dumps({"picture": str(path.relative_to(folder)), "target": spec.labels[target], "maps": maps})

    paths = sorted(path for path in folder.rglob("*.*") if path.is_file())
    np.random.default_rng(0).shuffle(paths)
    lines.parent.mkdir(parents=True, exist_ok=True)
    with lines.open("w", encoding="utf-8") as file, ThreadPoolExecutor(cores.available()) as pool:
        for number, line in enumerate(pool.map(scored, paths), 1):
            print(line, file=file, flush=True)
            if number % 20 == 0:
                say(f"{number} of {len(paths)} pictures")


def _scores(
    engine: Engine, pixels: InputPixels, target: int, wanted: Sequence[Key], mean: Sequence[float]
) -> dict[Key, dict[str, float]]:
    """The measures of each wanted map, and of the baselines. Maps that are the same share their passes."""
    found = _maps(engine, pixels, target, wanted)
    groups = _alike(found)
    trials = Perturbations(pixels, [found[group[0]] for group in groups], mean, Design(steps=8, random_maps=0))
    plan = Plan(layer=engine.network.default_layer, targets=(target,))
    scores: list[Any] = []
    for start in range(0, len(trials), _BATCH):
        batch = np.stack([trials.picture(number) for number in range(start, min(start + _BATCH, len(trials)))])
        outcomes = engine.run(Batch(batch, (plan,) * len(batch)))
        scores += [outcome.explanations[0].target.probability for outcome in outcomes]
    masked = {trial.map: number for number, trial in enumerate(trials.plan) if trial.kind == "masked"}
    height, width = pixels.shape[:2]
    rows: dict[Key, dict[str, float]] = {}
    for number, group in enumerate(groups):
        at = masked[trials.rows(number)[0]]
        again = _maps(engine, trials.picture(at), target, group)
        areas: dict[str, float] = {curve.test: curve.map_auc for curve in curves(trials, np.asarray(scores), number)}
        for key in group:
            rows[key] = {**adcc(found[key], again[key], height, width, scores[0], scores[at]), **areas}
    return {key: rows[key] for key in found}


def _maps(engine: Engine, pixels: InputPixels, target: int, wanted: Sequence[Key]) -> Maps:
    """The wanted maps of a picture, and the baselines."""
    specs = tuple(MapSpec(key.method, tuple(key.layer.split(","))) for key in wanted if key.layer)
    found: Maps = {}
    if specs:
        (outcome,) = engine.run(Batch(pixels[None], (Plan(targets=(target,), heat_maps=specs),)))
        for each in outcome.explanations:
            found[Key(each.method, ",".join(each.layers))] = each.heat
    grid = engine.network.by_name[engine.network.default_layer].shape[1:]
    noise = np.random.default_rng(zlib.crc32(pixels.tobytes())).standard_normal(grid).astype(np.float32)
    return found | {_GAUSSIAN: centred_gaussian(*pixels.shape[:2]), _RANDOM: noise}


def _alike(found: Maps) -> list[list[Key]]:
    """The keys in groups of the same map, but for rounding and its scale."""
    groups: list[tuple[Floats, list[Key]]] = []
    for key, heat in found.items():
        scaled = heat / max(float(np.abs(heat).max()), 1e-30)
        same = (keys for other, keys in groups if other.shape == scaled.shape and np.abs(other - scaled).max() < _SAME)
        if (keys := next(same, None)) is not None:
            keys.append(key)
        else:
            groups.append((scaled, [key]))
    return [keys for _, keys in groups]


def adcc(heat: Floats, again: Floats, height: int, width: int, whole: float, masked: float) -> dict[str, float]:
    """ADCC and its parts, and increase: Poppi et al., "Revisiting the Evaluation of Class Activation Mapping",
    arXiv 2104.10252, eq. 3 to 6.

    ``heat``: the map ``[h, w]``. ``again``: that of the masked picture. ``whole``, ``masked``: the class's probability.
    Coherency is 0 where one of the masks is constant, as in pytorch-shapley-cam; ADCC is 0 where a part has no merit.
    """
    one, other = (positive(each, width, height).ravel().astype(np.float64) for each in (heat, again))
    coherency = (1 + float(np.corrcoef(one, other)[0, 1])) / 2 if min(np.ptp(one), np.ptp(other)) > 0 else 0.0
    complexity = float(one.mean())
    drop = max(0.0, whole - masked) / whole
    merits = (coherency, 1 - complexity, 1 - drop)
    return {
        "adcc": statistics.harmonic_mean(max(0.0, merit) for merit in merits),
        "drop": drop,
        "coherency": coherency,
        "complexity": complexity,
        "increase": float(masked > whole),
    }


def page(lines: Path) -> str:
    """Means with 95 % intervals over pictures. ▲ and ▼: better and worse than the first map, where the interval of the
    difference in the same picture is on one side of 0.
    """
    pictures = [json.loads(line) for line in lines.read_text("utf-8").splitlines()]
    names = [picture["picture"] for picture in pictures]
    usual, *_ = maps = list(zip(*(picture["maps"] for picture in pictures), strict=True))
    rows = []
    for each in maps:
        cells = []
        for measure, (_, sign) in MEASURES.items():
            values = [row[measure] for row in each]
            low, high = interval(values, names)
            better = [sign * (row[measure] - its[measure]) for row, its in zip(each, usual, strict=True)]
            least, most = interval(better, names)
            mark = " ▲" if least > _ROUNDING else " ▼" if most < -_ROUNDING else ""
            cells.append(f"{statistics.mean(values):.3f} ({low:.3f}–{high:.3f}){mark}")
        method, layer = (f"`{each[0][name]}`" if each[0]["layer"] else each[0][name] for name in ("method", "layer"))
        rows.append((method, layer, *cells))
    text = table(("method", "layer", *(column for column, _ in MEASURES.values())), rows)
    return f"{text}\n\n{len(pictures)} pictures."
