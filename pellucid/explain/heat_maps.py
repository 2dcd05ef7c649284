"""The heat maps of one image, and the importance of channels."""

from __future__ import annotations

import numpy as np

from pellucid.explain import randomised
from pellucid.explain.evidence import Evidence, has_importance
from pellucid.explain.image_record import ImageRecord
from pellucid.explain.methods import METHODS, ProbingMethod
from pellucid.explain.methods.fusion import fused
from pellucid.explain.methods.gradient import channel_weights
from pellucid.explain.probe import GivenUpError
from pellucid.network.spec import PIXELS
from pellucid.types import Explanation, Floats, Heat, Importance


def explanations(image: ImageRecord) -> tuple[Explanation, ...]:
    """In the order of the plan's maps, and for each map in the order of the targets.

    Raises GivenUpError between maps and between passes if the caller has left.
    """
    found = []
    for number, heat in enumerate(image.plan.wanted):
        if number and image.void():
            raise GivenUpError
        values = _fused([_map(image, heat.method, layer) for layer in heat.layers], heat)  # K h w
        random = _random(image, heat)
        found += [
            Explanation(
                image.score(target),
                heat.layers,
                heat.method,
                values[k],
                heat.fuse if len(heat.layers) > 1 else None,
                image.plan.contrast,
                None if random is None else random[:, k],
            )
            for k, target in enumerate(image.targets)
        ]
    return tuple(found)


def importance(image: ImageRecord) -> Importance | None:
    """Of the channels of the plan's layer. None if the plan does not ask for it."""
    layer = image.plan.layer
    if layer is None or not has_importance(image.plan):
        return None
    return Importance(image.score(image.targets[0]), layer, channel_weights(image.own_evidence(layer))[0])


def _fused(maps: list[Floats], heat: Heat) -> Floats:
    return fused(maps, heat.fuse) if len(maps) > 1 else maps[0]


def _map(image: ImageRecord, name: str, layer: str) -> Floats:
    """``[K, h, w]``"""
    method = METHODS[name]
    if isinstance(method, ProbingMethod):
        return method.heat(image.probe(layer, PIXELS if method.spec.needs == "network forwards" else layer))
    if method.spec.needs == "gradient":
        return method.heat(image.evidence(layer))
    activation = image.map(layer)
    return method.heat(Evidence(activation, np.zeros((len(image.targets), 1, 1, 1), activation.dtype)))


def _random(image: ImageRecord, heat: Heat) -> Floats | None:
    """The maps ``[n, K, h, w]`` of random heads. None if the plan wants none, or the method has passes of its own."""
    method, draws = METHODS[heat.method], image.plan.random_heads
    if not draws or isinstance(method, ProbingMethod):
        return None
    return _fused([randomised.maps(image.probe(layer, layer), method.heat, draws) for layer in heat.layers], heat)
