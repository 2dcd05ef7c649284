"""What the parts share: their data, the engine as served, and the pictures on all cores."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.engine import load_engine
from benchmarks.report import Figures
from pellucid.decode.image import decode
from pellucid.engine import Engine
from pellucid.network.spec import ModelSpec
from pellucid.runtime import cores
from pellucid.trust.perturbations import Perturbations
from pellucid.types import Batch, InputPixels, Outcome, Plan, Upload
from service.config import Settings

_PIXELS = 10**8


@dataclass(frozen=True)
class Run:
    """``layers``: from early to late, the last one the default. ``boxes``: photographs with boxes. ``pictures``:
    photographs, in a seeded random order. ``images``: the folder of what is drawn.
    """

    settings: Settings
    layers: list[str]
    boxes: Path | None
    pictures: list[Path]
    images: Path
    quick: bool = False
    begun: float = field(default_factory=time.perf_counter)

    @cached_property
    def served(self) -> tuple[Engine, ModelSpec]:
        """The engine that the service would use."""
        return load_engine(self.settings)

    @property
    def middle(self) -> str:
        """The middle layer, of three or four."""
        return self.layers[len(self.layers) // 3]

    def pixels(self, path: Path) -> InputPixels:
        """A picture as the served network takes it."""
        return decode(Upload(path.read_bytes()), self.served[1].preprocess, _PIXELS).pixels

    def each(self, measure: Callable[[Path, InputPixels], Figures]) -> Iterator[Figures]:
        """A record of each picture, several at a time, in order."""

        def record(path: Path) -> Figures:
            return {"picture": f"{path.parent.name}/{path.name}", **measure(path, self.pixels(path))}

        with ThreadPoolExecutor(cores.available()) as pool:
            for number, found in enumerate(pool.map(record, self.pictures), 1):
                yield found
                if number % 50 == 0:
                    self.say(f"{number} of {len(self.pictures)} pictures")

    def say(self, line: str) -> None:
        """How far the run is."""
        print(f"{time.perf_counter() - self.begun:4.0f} s  {line}", file=sys.stderr, flush=True)


def outcomes(engine: Engine, picture: Callable[[int], InputPixels], count: int, plan: Plan) -> Iterator[Outcome]:
    """One plan for ``count`` pictures, in batches above which an image gets no cheaper."""
    for start in range(0, count, engine.paying_batch):
        batch = np.stack([picture(number) for number in range(start, min(start + engine.paying_batch, count))])
        yield from engine.run(Batch(batch, (plan,) * len(batch)))


def probabilities(engine: Engine, trials: Perturbations, target: int) -> NDArray[np.float64]:
    """The class's probability in each of the trials' pictures."""
    found = outcomes(engine, trials.picture, len(trials), Plan(scored=(target,)))
    return np.array([outcome.scored[0].probability for outcome in found])
