"""How faithful maps are, on any photographs: ADCC and its parts, increase, deletion, insertion and ROAD."""

from __future__ import annotations

import statistics
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from benchmarks.quality.run import Run, probabilities
from benchmarks.quality.scores import interval
from benchmarks.report import Figures, table
from pellucid.engine import Engine
from pellucid.explain.methods import offered
from pellucid.network.spec import SOFTMAX
from pellucid.render.compose import positive
from pellucid.trust.measures import curves
from pellucid.trust.perturbations import Design, Perturbations, centred_gaussian
from pellucid.types import Batch, Floats, InputPixels, MapSpec, Plan

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
_AT_LAST: Final = ("activation", "gradient", "forwards", "position forwards")
# The other methods' maps at a middle layer are worth less than these, and cost as many trials.
_AT_MIDDLE: Final = ("grad-cam", "hirescam", "layercam", "elementwise")
# The one method whose maps at the middle layer are as faithful as those at the last.
_FUSED: Final = "elementwise"
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


def measure(run: Run) -> Iterator[Figures]:
    """Score the maps of each picture's first class, as the service makes them."""
    engine, spec = run.served
    early, middle, last = run.layers[0], run.middle, run.layers[-1]
    wanted = [Key(method.name, last) for method in offered(engine.network, SOFTMAX) if method.needs in _AT_LAST]
    wanted += [Key(method, middle) for method in _AT_MIDDLE]
    fused = dict.fromkeys(((early, middle, last), engine.network.last_stages))  # the last is `best`
    wanted += [Key(_FUSED, ",".join(names)) for names in fused]
    mean = [255 * value for value in spec.preprocess.mean]

    def scored(_: Path, pixels: InputPixels) -> Figures:
        (outcome,) = engine.run(Batch(pixels[None], (Plan(),)))
        rows = _scores(engine, pixels, outcome.predictions[0].index, wanted, mean)
        return {"maps": {" ".join(key): [round(row[name], 5) for name in MEASURES] for key, row in rows.items()}}

    return run.each(scored)


def _scores(
    engine: Engine, pixels: InputPixels, target: int, wanted: Sequence[Key], mean: Sequence[float]
) -> dict[Key, dict[str, float]]:
    """The measures of each wanted map, and of the baselines. Maps that are the same share their passes."""
    found = _maps(engine, pixels, target, wanted)
    groups = _alike(found)
    trials = Perturbations(pixels, [found[group[0]] for group in groups], mean, Design(steps=8, random_maps=0))
    scores = probabilities(engine, trials, target)
    masked = {trial.map: number for number, trial in enumerate(trials.plan) if trial.kind == "masked"}
    height, width = pixels.shape[:2]
    rows: dict[Key, dict[str, float]] = {}
    for number, group in enumerate(groups):
        at = masked[trials.rows(number)[0]]
        again = _maps(engine, trials.picture(at), target, group)
        areas: dict[str, float] = {curve.test: curve.map_auc for curve in curves(trials, scores, number)}
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


def page(records: Sequence[Figures]) -> dict[str, str]:
    """Means with 95 % intervals over pictures. ▲ and ▼: better and worse than the first map, where the interval of the
    difference in the same picture is on one side of 0.
    """
    pictures = [record["picture"] for record in records]
    values = {name: np.array([record["maps"][name] for record in records]) for name in records[0]["maps"]}
    usual = next(iter(values.values()))
    rows = []
    for name, each in values.items():
        cells = []
        for number, (_, sign) in enumerate(MEASURES.values()):
            low, high = interval(each[:, number], pictures)
            least, most = interval(sign * (each[:, number] - usual[:, number]), pictures)
            mark = " ▲" if least > _ROUNDING else " ▼" if most < -_ROUNDING else ""
            cells.append(f"{each[:, number].mean():.3f} ({low:.3f}–{high:.3f}){mark}")
        method, _, layer = name.rpartition(" ")
        rows.append((f"`{method}`" if layer else method, f"`{layer}`" if layer else "", *cells))
    text = table(("method", "layer", *(column for column, _ in MEASURES.values())), rows)
    return {"faithfulness": f"{text}\n\n{len(records)} pictures."}
