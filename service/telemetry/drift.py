"""How far the weights of gates in the last pictures lie from those in the pictures of the atlas."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np

from pellucid.types import Floats, GateReading

# A picture's weight in the means falls to 1/e after so many others. Before so many there is no drift.
_MEMORY: Final = 100


class Drift:
    """The drift of each gate: the mean over channels of |share of pictures above the median - share below|.

    The shares are of the last pictures, the medians of the atlas. Chance alone makes the mean sqrt(2 / pi (1/n + 1/N)),
    with n pictures and N of the atlas. Corrected for it, drift is about 0 if the pictures are of the same kind. It is 1
    if all are on one side in every channel. Called by any thread.
    """

    def __init__(self, medians: Mapping[str, Floats], pictures: int) -> None:
        """``medians``: the median ``[C]`` of the weights of each gate over the atlas' ``pictures``, by name."""
        self._medians, self._pictures = medians, max(1, pictures)
        self._sides = {gate: np.zeros(len(median)) for gate, median in medians.items()}
        self._seen, self._lock = 0, threading.Lock()
        self._squares = 1.0  # the sum of the squared weights of the pictures: 1 / n if they are equal

    @property
    def gates(self) -> Iterable[str]:
        return self._medians.keys()

    def observe(self, gates: Iterable[GateReading]) -> None:
        """Count a picture in."""
        with self._lock:
            self._seen += 1
            weight = 1 / min(self._seen, _MEMORY)
            self._squares = (1 - weight) ** 2 * self._squares + weight**2
            for gate in gates:
                if (sides := self._sides.get(gate.layer)) is not None:
                    side = np.sign(gate.weights - self._medians[gate.layer])
                    sides += (side - sides) * weight

    def of(self, gate: str) -> float:
        """The gate's drift, 0 to 1. NaN before 100 pictures."""
        if self._seen < _MEMORY:
            return float("nan")
        chance = float(np.sqrt(2 / np.pi * (self._squares + 1 / self._pictures)))
        return max(0.0, (float(np.abs(self._sides[gate]).mean()) - chance) / (1 - chance))
