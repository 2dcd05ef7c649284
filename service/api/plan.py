"""Options -> what the engine computes (Plan) and how it is shown (Look), every name checked against the network."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from models.spec import ModelSpec, NetworkSpec
from service.api.options import (
    FeatureMapOptions,
    GateOptions,
    GradCamOptions,
    Options,
    PredictOptions,
    RoutePart,
    TargetOptions,
    WhatIfOptions,
)
from service.errors import InvalidOption, Unexplainable, UnknownName
from service.trust.trials import Design
from service.types import Edit, Plan, Tap

# Pixels of all pictures of one request: some seconds of one core.
_MOST_DRAWN: Final = 128_000_000
_PREDICTIONS: Final = frozenset[RoutePart]({"predictions"})
# With whose maps a map is compared that is tried.
_RANDOM_HEADS: Final = 5


@dataclass(frozen=True, slots=True)
class Look:
    """How an outcome is shown; the fields are those of the options, and the type of its pictures."""

    parts: frozenset[RoutePart]
    media_type: str = "image/png"
    colormap: str | None = None
    scale: str = "channel"
    columns: int | None = None
    tile: int = 112
    signed: bool = False
    overlay: bool = False
    alpha: float = 0.5
    max_side: int = 1024
    trust: bool = False
    trust_steps: int = 8
    trust_maps: int = 8

    @property
    def design(self) -> Design | None:
        """How the maps are tried; None where they are not."""
        wanted = self.trust and "grad_cam" in self.parts
        return Design(self.trust_steps, self.trust_maps) if wanted else None

    @property
    def drawn(self) -> bool:
        """Whether anything is shown beside predictions: pictures, or the numbers behind them."""
        return self.parts != _PREDICTIONS


def class_index(name: str, spec: ModelSpec) -> int:
    """The class that an index or a label names.

    Raises UnknownName, with all labels, or with the indices that share one.
    """
    classes = len(spec.labels)
    name = name.strip()
    if re.fullmatch(r"-?[0-9]+", name):
        # int refuses numbers of thousands of digits; none so long is a class
        if len(name) <= 9 and 0 <= int(name) < classes:
            return int(name)
        raise UnknownName(
            f"Unknown class {name[:20]}. Indices from 0 to {classes - 1} and labels are allowed.", allowed=spec.labels
        )
    folded = name.casefold()
    indices = spec.indices.get(folded) or spec.indices.get(folded.replace("_", " "), ())
    if len(indices) > 1:  # labels that differ in case alone are told apart by it
        indices = tuple(index for index in indices if spec.labels[index] == name) or indices
    if len(indices) > 1:
        shared = " and ".join(map(str, indices))
        raise UnknownName(
            f"The label {name!r} is shared by the classes {shared}: name one by its index.",
            allowed=[*map(str, indices)],
        )
    if not indices:
        raise UnknownName.among(
            "class",
            name,
            spec.labels,
            hint=f"; indices to {classes - 1} are taken, too",
        )
    return indices[0]


def layer_name(name: str, network: NetworkSpec) -> str:
    """``name``, if the network has such a layer. Raises UnknownName with all layers, Unexplainable if it has none."""
    if not name or not network.layers:
        raise Unexplainable(network.default_layer_reason)
    if name not in network.by_name:
        raise UnknownName.among("layer", name, [*network.by_name])
    return name


def gate_names(names: Sequence[str], network: NetworkSpec) -> tuple[str, ...]:
    """``names``, if the network has such gates. Raises UnknownName with all gates."""
    known = [gate.layer for gate in network.gates]
    for name in names:
        if name not in known:
            raise UnknownName.among("gate", name, known)
    return tuple(dict.fromkeys(names))


def taps(options: FeatureMapOptions, network: NetworkSpec) -> tuple[Tap, ...]:
    """The feature maps that are asked for.

    Raises UnknownName for a layer, a gate, or a channel that one of them does not have.
    """
    gates = gate_names(options.gates, network)
    layers = tuple(dict.fromkeys(layer_name(name, network) for name in options.layers))
    if not layers and not gates:
        layers = network.feature_layers or (layer_name("", network),)
    # A list: a gate may bear the name of its module, which as a layer has another shape.
    shapes = [(gate.layer, gate.shape) for gate in network.gates if gate.layer in gates]
    shapes += [(name, network.by_name[name].shape) for name in layers]
    for name, (channels, _, _) in shapes:
        for channel in options.channels:
            if not 0 <= channel < channels:
                raise UnknownName(
                    f"Unknown channel {channel} of layer {name!r}. Channels from 0 to {channels - 1} are allowed."
                )
    shown = tuple(options.channels), options.count
    return (*(Tap(name, *shown) for name in layers), *(Tap(name, *shown, gate=True) for name in gates))


def edited(options: WhatIfOptions, network: NetworkSpec) -> tuple[str, Edit]:
    """The layer whose channels are edited, and how.

    Raises UnknownName for what the network does not have, and InvalidOption for two changes of one channel.
    """
    if options.gate and options.layer:
        raise InvalidOption("Name a `layer` or a `gate` to edit, not both.")
    if options.gate:
        gate_names([options.gate], network)
        (layer,) = (gate.after for gate in network.gates if gate.layer == options.gate)
    else:
        layer = layer_name(options.layer or network.default_layer, network)
    gate = options.gate or next((gate.layer for gate in network.gates if gate.after == layer), "")
    count = network.by_name[layer].shape[0]
    pairs = [(channel, 0.0) for channel in options.mute] + [(channel, 1.0) for channel in options.keep]
    for entry in options.scale:
        name, _, factor = entry.partition(":")
        pairs.append((int(name), float(factor)))
    for channel, times in Counter(channel for channel, _ in pairs).items():
        if not 0 <= channel < count:
            raise UnknownName(
                f"Unknown channel {channel} of layer {layer!r}. Channels from 0 to {count - 1} are allowed."
            )
        if times > 1:
            raise InvalidOption(f"Channel {channel} is named {times} times among `mute`, `keep` and `scale`.")
    return layer, Edit(tuple(sorted(pairs)), 0.0 if options.keep else 1.0, gate, options.rank)


def resolve(
    options: Options, parts: frozenset[RoutePart], spec: ModelSpec, network: NetworkSpec, methods: Sequence[str]
) -> tuple[Plan, Look]:
    """What to compute and how to show it. Raises UnknownName."""
    layer: str | None = None
    targets: tuple[int, ...] = ()
    if isinstance(options, TargetOptions) and parts & {"attention", "grad_cam", "what_if"}:
        layer = layer_name(options.layer or network.default_layer, network)
        targets = tuple(dict.fromkeys(class_index(name, spec) for name in options.target))
    edit: Edit | None = None
    if isinstance(options, WhatIfOptions):
        layer, edit = edited(options, network)
    effects = False
    restore: tuple[str, ...] = ()
    if isinstance(options, GateOptions) and "attention" in parts:
        effects = options.effects and bool(network.gates)
        restore = gate_names([options.restore] if options.restore else [], network)
    method = options.method if isinstance(options, GradCamOptions) else methods[0]
    if method not in methods:
        raise UnknownName.among("method", method, methods)
    shown = {name: getattr(options, name) for name in Look.__dataclass_fields__ if name in type(options).model_fields}
    look = Look(parts=parts, **shown)
    plan = Plan(
        top_k=options.top_k if isinstance(options, PredictOptions) and parts & {"predictions", "what_if"} else 1,
        gates="attention" in parts or bool(edit and edit.gate),
        effects=effects,
        restore=restore,
        taps=taps(options, network) if isinstance(options, FeatureMapOptions) and "feature_maps" in parts else (),
        layer=layer,
        targets=targets,
        method=method,
        edit=edit,
        random_heads=_RANDOM_HEADS if look.design else 0,
    )
    return plan, look


def bound_drawing(images: int, plan: Plan, look: Look) -> None:
    """Raise InvalidOption where the pictures asked for could be larger than a request is worth.

    A picture that is being drawn can't be stopped, so what it may cost is known before it begins.
    """
    tiles = sum((len(tap.channels) or tap.count) * (3 if tap.gate else 1) for tap in plan.taps) * look.tile**2
    sides = max(1, len(plan.targets)) * (2 if look.overlay else 1) * look.max_side**2 if "grad_cam" in look.parts else 0
    pixels = images * (tiles + sides)
    if pixels > _MOST_DRAWN:
        raise InvalidOption(
            f"The pictures could have {pixels // 10**6} million pixels, at most {_MOST_DRAWN // 10**6} are drawn for a "
            "request. Ask for fewer images, targets, layers or channels, or for a smaller `max_side` or `tile`."
        )
