"""How far maps move when the picture is damaged, with gates and without: Gaussian noise, Gaussian blur, JPEG."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageFilter

from benchmarks.engine import load_engine
from benchmarks.photographs import SAMPLES
from benchmarks.quality import plot
from benchmarks.quality.run import Run, outcomes
from benchmarks.quality.scores import cosine, interval
from benchmarks.report import Figures, table
from pellucid.engine import Engine
from pellucid.ranks import spearman
from pellucid.types import InputPixels, MapSpec, Outcome, Plan

GATES: Final = ("lite0", "lite0-plain")
# Severities of ImageNet-C, of the network's own pixels: Hendrycks and Dietterich, arXiv 1903.12261.
_SPREADS: Final = {1: 0.08, 3: 0.18, 5: 0.38}
_RADII: Final = {1: 1, 3: 3, 5: 6}
_QUALITIES: Final = {1: 25, 3: 15, 5: 7}
# What gives the figures a scale. The step is half a position of the last layer's map.
SHIFTED: Final = "shifted by 16 pixels"
ANOTHER: Final = "another picture"
_STEP: Final = 16
STAYS: Final = "first class stays"
Stays = tuple[bool, bool]
# Whether it stays with gates, and without.
_SPLIT: Final[dict[str, Stays]] = {
    "stays in both": (True, True),
    "changes in both": (False, False),
    "stays with gates only": (True, False),
    "stays without gates only": (False, True),
}
# At the last layer, and at a middle one.
_METHODS: Final = ("grad-cam", "grad-cam", "elementwise")
_SHOWN: Final = "cat.jpg"


def damaged(pixels: InputPixels) -> dict[str, InputPixels]:
    """The picture with each damage, and shifted, its edge mirrored. Random numbers are seeded by the pixels."""
    generator = np.random.default_rng(zlib.crc32(pixels.tobytes()))
    picture = Image.fromarray(pixels)
    found: dict[str, InputPixels] = {}
    for severity, spread in _SPREADS.items():
        noise = generator.normal(0, 255 * spread, pixels.shape)
        found[f"noise, {severity}"] = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    for severity, radius in _RADII.items():
        found[f"blur, {severity}"] = np.asarray(picture.filter(ImageFilter.GaussianBlur(radius)))
    for severity, quality in _QUALITIES.items():
        picture.save(buffer := io.BytesIO(), "JPEG", quality=quality)
        found[f"JPEG, {severity}"] = np.asarray(Image.open(buffer))
    x, y = _STEP * generator.choice((-1, 1), 2)
    around = np.pad(pixels, ((_STEP, _STEP), (_STEP, _STEP), (0, 0)), "symmetric")
    found[SHIFTED] = around[_STEP + y :, _STEP + x :][: pixels.shape[0], : pixels.shape[1]]
    return found


def measure(run: Run) -> Iterator[Figures]:
    """Each picture's maps of its first class, undamaged and damaged, by the network with gates and the one without.

    A network's figures of a damage: whether the first class stays, and of each map the rank correlation and the cosine
    with the undamaged picture's. Of another picture, the map is of its own first class.
    """
    places = zip(_METHODS, (run.layers[-1], run.middle, run.middle), strict=True)
    maps = tuple(MapSpec(method, (layer,)) for method, layer in places)
    engines = {name: load_engine(run.settings.model_copy(update={"model": name}))[0] for name in GATES}
    _draw(run, engines, maps)
    after = dict(zip(run.pictures, [*run.pictures[1:], run.pictures[0]], strict=True))

    def compared(path: Path, pixels: InputPixels) -> Figures:
        pictures, other = damaged(pixels), run.pixels(after[path])
        found = {}
        for name, engine in engines.items():
            whole, another = outcomes(engine, [pixels, other].__getitem__, 2, Plan(heat_maps=maps))
            each = dict(zip(pictures, _explained(engine, [*pictures.values()], whole, maps), strict=True))
            found[name] = {damage: _moved(whole, outcome) for damage, outcome in each.items()}
            found[name][ANOTHER] = _moved(whole, another)
            del found[name][ANOTHER][STAYS]
        return found

    return run.each(compared)


def _explained(
    engine: Engine, pictures: Sequence[InputPixels], whole: Outcome, maps: tuple[MapSpec, ...]
) -> Iterator[Outcome]:
    """The pictures' maps of the class that the whole picture's are of."""
    plan = Plan(targets=(whole.explanations[0].target.index,), heat_maps=maps)
    return outcomes(engine, pictures.__getitem__, len(pictures), plan)


def _moved(whole: Outcome, damaged: Outcome) -> Figures:
    found: Figures = {STAYS: [damaged.predictions[0].index == whole.predictions[0].index]}
    for one, other in zip(whole.explanations, damaged.explanations, strict=True):
        alike = spearman(one.heat, other.heat) or 0.0, cosine(one.heat, other.heat, *one.heat.shape)
        found[f"{one.method} {one.layers[0]}"] = [round(each, 4) for each in alike]
    return found


def _draw(run: Run, engines: Mapping[str, Engine], maps: tuple[MapSpec, ...]) -> None:
    """A shipped photograph with each damage, and the first map of it, by each network."""
    whole = run.pixels(SAMPLES / _SHOWN)
    pictures = {"undamaged": whole, **damaged(whole)}
    del pictures[SHIFTED]
    rows = {}
    for title, engine in zip(("with gates", "without"), engines.values(), strict=True):
        (outcome,) = outcomes(engine, [whole].__getitem__, 1, Plan(heat_maps=maps))
        found = _explained(engine, [*pictures.values()], outcome, maps)
        rows[title] = [each.explanations[0].heat for each in found]
    plot.damage(pictures, rows, run.images / "quality-damage.jpg")


def page(records: Sequence[Figures]) -> dict[str, str]:
    """By damage, the first map; and each map by whether the first class stays with gates, and without.

    ▲ and ▼: the interval of the difference in the same pictures, with gates minus without, is on one side of 0.
    """
    names = list(records[0][GATES[0]])
    maps = list(records[0][GATES[0]][SHIFTED])[1:]
    damages = [name for name in names if name not in (SHIFTED, ANOTHER)]
    rows = [
        (name, *(cell for figure in (STAYS, maps[0]) for cell in _cells(records, [name], figure, 0)[1:]))
        for name in names
    ]
    split = [(f"damaged, the class {title}", damages, stays) for title, stays in _SPLIT.items()]
    kinds = []
    for name in maps:
        for title, of, stays in [*split, (SHIFTED, [SHIFTED], None), (ANOTHER, [ANOTHER], None)]:
            ranks, cosines = (_cells(records, of, name, place, stays) for place in (0, 1))
            kinds.append((*(f"`{part}`" for part in name.split(" ")), title, *ranks, *cosines[1:]))
    of_rank, of_stays = _header("rank correlation"), _header("first class stays")
    by_damage = table(("damage, severity", *of_stays, *of_rank), rows)
    by_map = table(("method", "layer", "beside the undamaged picture", "pairs", *of_rank, *_header("cosine")), kinds)
    return {"damage": f"{by_damage}\n\n{by_map}\n\n{len(records)} pictures, `{GATES[0]}` and `{GATES[1]}`."}


def _header(name: str) -> tuple[str, str, str]:
    return f"{name}, with gates", "without", "difference"


def _cells(
    records: Sequence[Figures], damages: Sequence[str], name: str, place: int, stays: Stays | None = None
) -> list[str]:
    """The number of pairs, a figure's mean with gates, without, and of the difference: of all, or of those whose
    class ``stays`` so with gates, and so without.
    """
    found = []
    for record in records:
        for damage in damages:
            both = [record[network][damage] for network in GATES]
            if name in both[0] and (stays is None or [each[STAYS] for each in both] == [[each] for each in stays]):
                found.append((*(each[name][place] for each in both), record["picture"]))
    if not found:
        return ["0", "-", "-", "-"]
    gates, plain, pictures = zip(*found, strict=True)
    difference = np.subtract(gates, plain, dtype=float)
    low, high = interval(difference, pictures)
    mark = " ▲" if low > 0 else " ▼" if high < 0 else ""
    means = (
        f"{np.mean(each):.3f} ({least:.3f}–{most:.3f})"
        for each in (gates, plain)
        for least, most in [interval(each, pictures)]
    )
    return [str(len(found)), *means, f"{difference.mean():+.3f} ({low:+.3f} to {high:+.3f}){mark}"]
