"""How the names of classes, layers and gates are looked up in a network."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pellucid.errors import Unexplainable, UnknownName
from pellucid.network.spec import PIXELS, ModelSpec, NetworkSpec


def class_index(name: str, spec: ModelSpec) -> int:
    """The index of a class, given as an index or a label.

    Raises UnknownName, with all labels, or with the indices that share the label.
    """
    classes = len(spec.labels)
    name = name.strip()
    if re.fullmatch(r"-?[0-9]+", name):
        # int() refuses numbers of thousands of digits
        if len(name) <= 9 and 0 <= int(name) < classes:
            return int(name)
        raise UnknownName(
            f"Unknown class {name[:20]}. Indices from 0 to {classes - 1} and labels are allowed.", allowed=spec.labels
        )
    folded = name.casefold()
    indices = spec.indices.get(folded) or spec.indices.get(folded.replace("_", " "), ())
    if len(indices) > 1:  # labels that differ in case only
        indices = tuple(index for index in indices if spec.labels[index] == name) or indices
    if len(indices) > 1:
        shared = " and ".join(map(str, indices))
        raise UnknownName(
            f"The label {name!r} is shared by the classes {shared}: name one by its index.",
            allowed=[*map(str, indices)],
        )
    if not indices:
        raise UnknownName.among("class", name, spec.labels, hint=f"; indices from 0 to {classes - 1} are allowed, too")
    return indices[0]


def layer_name(name: str, network: NetworkSpec) -> str:
    """``name``, if it is a layer. Raises UnknownName with all layers, Unexplainable if the network has none."""
    if not name or not network.layers:
        raise Unexplainable(network.default_layer_reason)
    if name not in network.by_name:
        raise UnknownName.among("layer", name, [*network.by_name])
    return name


def gate_names(names: Sequence[str], network: NetworkSpec) -> tuple[str, ...]:
    """``names`` without duplicates, if all are gates. Raises UnknownName with all gates."""
    known = [gate.layer for gate in network.gates]
    for name in names:
        if name not in known:
            raise UnknownName.among("gate", name, known)
    return tuple(dict.fromkeys(names))


def is_pixels(layer: str, network: NetworkSpec) -> bool:
    """Whether ``pixels`` means the network's input. A layer of that name comes first."""
    return layer == PIXELS and layer not in network.by_name
