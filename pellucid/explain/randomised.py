"""Maps of heads with random weights. A map that looks like them says nothing about the network.

Adebayo et al., "Sanity Checks for Saliency Maps", arXiv 1810.03292.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pellucid.explain.evidence import Evidence, classes_of
from pellucid.explain.probe import GivenUpError, Probe
from pellucid.types import Floats


def maps(probe: Probe, method: Callable[[Evidence], Floats], draws: int) -> Floats:
    """One image's maps ``[draws, K, h, w]``. Each draw shuffles the weights of the head among themselves.

    The draw alone is the seed, so all images meet the same heads. Raises GivenUpError between draws.
    """
    found = []
    for draw in range(draws):
        if probe.void():
            raise GivenUpError
        found.append(method(Evidence(probe.activation, _gradient(probe, draw))))
    return np.stack(found)


def _gradient(probe: Probe, draw: int) -> Floats:
    """``[K, C, h, w]``, or ``[K, C, 1, 1]`` if it is the same at every position."""
    rows, linear = probe.wanted, probe.behind.linear
    if linear is None:
        gradient: Floats = probe.behind.shuffled(draw).gradients(probe.activation[None], rows)[:, 0]
        return gradient
    # A row of a shuffled matrix is a random choice of its weights.
    used = classes_of(rows)
    chance = np.random.Generator(np.random.PCG64(draw))
    drawn = linear.ravel()[chance.integers(linear.size, size=(len(used), linear.shape[1]))]
    gradient = rows[:, used] @ drawn / probe.activation[0].size
    return gradient[:, :, None, None]
