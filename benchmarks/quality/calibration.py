"""How often ``trust`` is right: its findings on Grad-CAM's maps, and on maps whose place does not matter."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.engine import load_engine
from benchmarks.report import table
from pellucid.decode.image import decode
from pellucid.runtime import cores
from pellucid.trust.measures import Finding, measured
from pellucid.trust.perturbations import Design, Perturbations, centred_gaussian, moved
from pellucid.types import Batch, Plan, Upload
from service.config import Settings

# What is judged in each picture -> its findings.
Findings = dict[str, list[Finding]]

_BATCH: Final = 4
_PIXELS: Final = 10**8
# A seed of its own, so that the map in question is not among its own rivals.
_SEED: Final = 7


def measure(pictures: Iterable[Path], settings: Settings, say: Callable[[str], None]) -> Findings:
    """Judge each picture's Grad-CAM of its first class, that map at a random place, and a spot in the middle."""
    engine, spec = load_engine(settings)
    layer, preprocess = engine.network.default_layer, spec.preprocess
    found: Findings = {}

    def judged(path: Path) -> dict[str, Finding]:
        pixels = decode(Upload(path.read_bytes()), preprocess, _PIXELS).pixels
        (outcome,) = engine.run(Batch(pixels[None], (Plan(top_k=1),)))
        plan = Plan(layer=layer, targets=(outcome.predictions[0].index,))
        (explained,) = engine.run(Batch(pixels[None], (plan,)))
        heat = explained.explanations[0].heat
        maps = {
            "Grad-CAM": heat,
            "Grad-CAM at a random place": moved(heat, 1, _SEED)[0],
            "a spot in the middle": centred_gaussian(*heat.shape),
        }
        mean = [255 * value for value in preprocess.mean]
        trials = Perturbations(pixels, [*maps.values()], mean, Design(), preprocess.low, preprocess.high)
        scores = []
        for start in range(0, len(trials), _BATCH):
            numbers = range(start, min(start + _BATCH, len(trials)))
            batch = np.stack([trials.picture(number) for number in numbers])
            outcomes = engine.run(Batch(batch, (plan,) * len(numbers)))
            scores += [each.explanations[0].target.probability for each in outcomes]
        results = measured(trials, np.tile(np.array(scores)[:, None], len(maps)), "probability")
        return {name: result.finding for name, result in zip(maps, results, strict=True)}

    with ThreadPoolExecutor(cores.available()) as pool:
        for number, findings in enumerate(pool.map(judged, pictures), 1):
            for name, finding in findings.items():
                found.setdefault(name, []).append(finding)
            if number % 50 == 0:
                say(f"{number} pictures")
    return found


def page(found: Findings) -> str:
    """The shares of each finding, with 95 % intervals by Wilson's formula."""
    rows = [
        (name, *(_share(findings.count(kind), len(findings)) for kind in ("follows", "unclear", "contradicts")))
        for name, findings in found.items()
    ]
    return table(("map", "follows", "unclear", "contradicts"), rows)


def _share(count: int, total: int) -> str:
    z = 1.96
    share, spread = count / total, z**2 / total
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * ((share * (1 - share) + spread / 4) / total) ** 0.5
    return f"{share:.1%} ({max(0.0, middle - half):.1%} to {middle + half:.1%})"
