"""How far the weights of gates in the last pictures lie from those in the pictures of the atlas."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np

from pellucid.types import Floats, GateReading

# A picture's weight in the means falls to 1/e after so many others.
_MEMORY: Final = 100
# Of predictions, whose replies have no gates, one in so many is measured.
_EVERY: Final = 8


class Drift:
    """The drift of each gate: the mean over channels of |share of pictures above the median - share below|.

    The shares are of the last pictures, the medians of the atlas. If the pictures are of the same kind, each channel
    has as many above as below. Chance leaves 0.1 to 0.3, as a gate's channels move together. It is 1 if all pictures
    are on one side in every channel. Called by any thread.
    """

    def __init__(self, medians: Mapping[str, Floats]) -> None:
        """``medians``: the median ``[C]`` of the weights of each gate, by name."""
        self._medians = medians
        self._sides = {gate: np.zeros(len(median)) for gate, median in medians.items()}
        self._seen, self._asked, self._lock = 0, 0, threading.Lock()

    @property
    def gates(self) -> Iterable[str]:
        """The gates, by name."""
        return self._medians.keys()

    def due(self) -> bool:
        """Whether this prediction is measured."""
        self._asked += 1
        return self._asked % _EVERY == 0

    def observe(self, gates: Iterable[GateReading]) -> None:
        """Count a picture in."""
        with self._lock:
            self._seen += 1
            for gate in gates:
                if (sides := self._sides.get(gate.layer)) is not None:
                    side = np.sign(gate.weights - self._medians[gate.layer])
                    sides += (side - sides) / min(self._seen, _MEMORY)

    def of(self, gate: str) -> float:
        """The gate's drift, 0 to 1. NaN before any picture."""
        return float(np.abs(self._sides[gate]).mean()) if self._seen else float("nan")
