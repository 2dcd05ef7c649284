"""How often ``trust`` is right: its findings on Grad-CAM's maps, and on maps whose place does not matter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.quality.run import Run, probabilities
from benchmarks.report import Figures, table
from pellucid.trust.measures import measured
from pellucid.trust.perturbations import Design, Perturbations, moved
from pellucid.types import Batch, InputPixels, Plan

# A seed of its own, so that the map in question is not among its own rivals.
_SEED: Final = 7
_FINDINGS: Final = ("follows", "unclear", "contradicts")


def measure(run: Run) -> Iterator[Figures]:
    """Judge each picture's Grad-CAM of its first class, and that map at a random place."""
    engine, spec = run.served
    layer, preprocess = engine.network.default_layer, spec.preprocess
    mean = [255 * value for value in preprocess.mean]

    def judged(_: Path, pixels: InputPixels) -> Figures:
        (outcome,) = engine.run(Batch(pixels[None], (Plan(layer=layer),)))
        (explained,) = outcome.explanations
        maps = {
            "Grad-CAM": explained.heat,
            "Grad-CAM at a random place": moved(explained.heat, 1, _SEED)[0],
        }
        trials = Perturbations(pixels, [*maps.values()], mean, Design(), preprocess.low, preprocess.high)
        scores = probabilities(engine, trials, explained.target.index)
        results = measured(trials, np.tile(scores[:, None], len(maps)), "probability")
        return {
            "maps": {
                name: {"finding": found.finding, "p_value": round(found.p_value, 4)}
                for name, found in zip(maps, results, strict=True)
            }
        }

    return run.each(judged)


def page(records: Sequence[Figures]) -> dict[str, str]:
    """The shares of each finding, with 95 % intervals by Wilson's formula."""
    rows = []
    for name in records[0]["maps"]:
        findings = [record["maps"][name]["finding"] for record in records]
        rows.append((name, *(_share(findings.count(kind), len(findings)) for kind in _FINDINGS)))
    return {"calibration": f"{table(('map', *_FINDINGS), rows)}\n\n{len(records)} pictures."}


def _share(count: int, total: int) -> str:
    z = 1.96
    share, spread = count / total, z**2 / total
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * ((share * (1 - share) + spread / 4) / total) ** 0.5
    return f"{share:.1%} ({max(0.0, middle - half):.1%} to {middle + half:.1%})"
