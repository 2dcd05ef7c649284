"""The heat maps and the channel importance of one image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pellucid.explain.evidence import Evidence, has_importance, used_classes
from pellucid.explain.image_record import ImageRecord
from pellucid.explain.methods import METHODS, AttentionMethod, Method, ProbingMethod
from pellucid.explain.methods.fusion import fused
from pellucid.explain.methods.gradient import channel_weights
from pellucid.explain.probe import GivenUpError, Probe
from pellucid.network.spec import PIXELS
from pellucid.types import Explanation, Floats, Importance, MapSpec


def explanations(image: ImageRecord) -> tuple[Explanation, ...]:
    """Every requested heat map for every target, ordered by heat map, then by target.

    Raises GivenUpError between maps and between passes if the caller has left.
    """
    results = []
    for number, heat in enumerate(image.plan.wanted):
        if number and image.void():
            raise GivenUpError
        values = _fused([_map(image, heat.method, layer) for layer in heat.layers], heat)  # K h w
        random = _random_maps(image, heat)
        results += [
            Explanation(
                image.target(k),
                heat.layers,
                heat.method,
                values[k],
                heat.fuse if len(heat.layers) > 1 else None,
                image.plan.contrast,
                None if random is None else random[:, k],
                image.plan.region(k) if image.plan.regions else None,
            )
            for k in range(len(image.targets))
        ]
    return tuple(results)


def importance(image: ImageRecord) -> Importance | None:
    """The importance of the channels of the plan's layer, or None if the plan does not request it."""
    layer = image.plan.layer
    if layer is None or not has_importance(image.plan):
        return None
    return Importance(image.target(0), layer, channel_weights(image.uncontrasted_evidence(layer))[0])


def _fused(maps: list[Floats], heat: MapSpec) -> Floats:
    return fused(maps, heat.fuse) if len(maps) > 1 else maps[0]


def _map(image: ImageRecord, name: str, layer: str) -> Floats:
    """One method's map at one layer: ``[K, h, w]``."""
    method = METHODS[name]
    if isinstance(method, AttentionMethod):
        return method.heat(image.attended())
    if isinstance(method, ProbingMethod):
        return method.heat(image.probe(layer, PIXELS if method.spec.needs == "network forwards" else layer))
    if method.spec.needs == "gradient":
        return method.heat(image.evidence(layer))
    activation = image.map(layer)
    return method.heat(Evidence(activation, np.zeros((len(image.targets), 1, 1, 1), activation.dtype)))


def _random_maps(image: ImageRecord, heat: MapSpec) -> Floats | None:
    """The maps ``[n, K, h, w]`` of n random heads. None if the plan requests none, or if the method has no Evidence."""
    method, draws = METHODS[heat.method], image.plan.random_heads
    if not draws or not isinstance(method, Method):
        return None
    return _fused([random_maps(image.probe(layer, layer), method.heat, draws) for layer in heat.layers], heat)


def random_maps(probe: Probe, method: Callable[[Evidence], Floats], draws: int) -> Floats:
    """One image's maps ``[draws, K, h, w]`` of heads with random weights: each draw shuffles the head's.

    A map that resembles them says nothing about what the network has learnt (Adebayo et al., "Sanity Checks for
    Saliency Maps", arXiv 1810.03292).

    The draw's number is the seed, so all images get the same random heads. Raises GivenUpError between draws.
    """
    drawn = []
    for draw in range(draws):
        if probe.void():
            raise GivenUpError
        drawn.append(method(Evidence(probe.activation, _random_gradient(probe, draw))))
    return np.stack(drawn)


def _random_gradient(probe: Probe, draw: int) -> Floats:
    """The gradient ``[K, C, h, w]`` of a random head, or ``[K, C, 1, 1]`` if it is the same at every position."""
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
