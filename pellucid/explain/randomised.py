"""The maps that heads with random weights have: what a map must differ from to tell anything of the network.

Adebayo et al., "Sanity Checks for Saliency Maps", arXiv 1810.03292.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pellucid.explain.evidence import Evidence, classes_of
from pellucid.explain.probe import GivenUpError, Probe
from pellucid.types import Floats


def maps(probe: Probe, method: Callable[[Evidence], Floats], draws: int) -> Floats:
    """One image's maps ``[draws, K, h, w]``, each of a head whose weights are shuffled among themselves.

    Seeded by the draw alone, so all images meet the same heads. GivenUpError as soon as the image is void.
    """
    found = []
    for draw in range(draws):
        if probe.void():
            raise GivenUpError
        found.append(method(Evidence(probe.activation, _gradient(probe, draw))))
    return np.stack(found)


def _gradient(probe: Probe, draw: int) -> Floats:
    """``[K, C, h, w]``, or ``[K, C, 1, 1]`` where it is the same at every position."""
    rows, linear = probe.wanted, probe.behind.linear
    if linear is None:
        gradient: Floats = probe.behind.shuffled(draw).gradients(probe.activation[None], rows)[:, 0]
        return gradient
    # The classes' rows of a shuffled matrix are as many of its weights by chance.
    used = classes_of(rows)
    chance = np.random.Generator(np.random.PCG64(draw))
    drawn = linear.ravel()[chance.integers(linear.size, size=(len(used), linear.shape[1]))]
    gradient = rows[:, used] @ drawn / probe.activation[0].size
    return gradient[:, :, None, None]
