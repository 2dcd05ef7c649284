"""An early, a middle and a late layer of a network, for those who name none."""

from __future__ import annotations

from collections.abc import Container

from models.spec import LayerSpec


def early_middle_late(waists: list[LayerSpec], default: LayerSpec | None, modules: Container[str]) -> tuple[str, ...]:
    """Of the last waists at each resolution the first and the middle one, and the default layer; of a network of one
    resolution, waists that lie evenly, preferably ``modules``.
    """
    if default is None:
        return ()
    until = waists[: waists.index(default) + 1]
    stages: dict[tuple[int, int], LayerSpec] = {}
    for layer in until:
        best = stages.get(layer.shape[1:])
        if not layer.kind.lower().endswith(("pad", "pad2d")) and (
            best is None or layer.name.count(".") <= best.name.count(".")
        ):
            stages[layer.shape[1:]] = layer
    in_order = sorted(stages.values(), key=lambda layer: -layer.shape[1] * layer.shape[2])
    if len(in_order) == 1:
        even = [layer for layer in until if layer.name in modules] or until
        in_order = even[:: max(1, len(even) // 2)]
    return tuple(dict.fromkeys(layer.name for layer in (in_order[0], in_order[len(in_order) // 2], default)))
