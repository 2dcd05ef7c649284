"""The heat maps and the channel importance of one image."""

from __future__ import annotations

import numpy as np

from pellucid.explain import randomised
from pellucid.explain.evidence import Evidence, has_importance
from pellucid.explain.image_record import ImageRecord
from pellucid.explain.methods import METHODS, AttentionMethod, Method, ProbingMethod
from pellucid.explain.methods.fusion import fused
from pellucid.explain.methods.gradient import channel_weights
from pellucid.explain.probe import GivenUpError
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
    return _fused([randomised.maps(image.probe(layer, layer), method.heat, draws) for layer in heat.layers], heat)
