"""Heat maps of heads with random weights. A map that resembles them says nothing about what the network has learnt.

Adebayo et al., "Sanity Checks for Saliency Maps", arXiv 1810.03292.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pellucid.explain.evidence import Evidence, used_classes
from pellucid.explain.probe import GivenUpError, Probe
from pellucid.types import Floats


def maps(probe: Probe, method: Callable[[Evidence], Floats], draws: int) -> Floats:
    """One image's maps ``[draws, K, h, w]``. Each draw shuffles the weights of the head.

    The draw's number is the seed, so all images get the same random heads. Raises GivenUpError between draws.
    """
    drawn = []
    for draw in range(draws):
        if probe.void():
            raise GivenUpError
        drawn.append(method(Evidence(probe.activation, _gradient(probe, draw))))
    return np.stack(drawn)


def _gradient(probe: Probe, draw: int) -> Floats:
    """``[K, C, h, w]``, or ``[K, C, 1, 1]`` if it is the same at every position."""
    rows, linear = probe.wanted, probe.behind.linear
    if linear is None:
        gradient: Floats = probe.behind.shuffled(draw).gradients(probe.activation[None], rows)[:, 0]
        return gradient
    # A row of a shuffled matrix is a random sample of its weights, so only the rows in use are drawn.
    used = used_classes(rows)
    generator = np.random.Generator(np.random.PCG64(draw))
    weights = linear.ravel()[generator.integers(linear.size, size=(len(used), linear.shape[1]))]
    gradient = rows[:, used] @ weights / probe.activation[0].size
    return gradient[:, :, None, None]
