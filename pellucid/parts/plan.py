"""Options -> what the engine computes (Plan) and how it is shown (Look), every name checked against the network."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from pellucid.errors import InvalidOption, Unexplainable, UnknownName
from pellucid.network.spec import PIXELS, ModelSpec, NetworkSpec
from pellucid.parts.option_types import Options
from pellucid.parts.options import (
    ExplainOptions,
    FeatureMapOptions,
    GateOptions,
    GradCamOptions,
    LayerOptions,
    PredictOptions,
    RoutePart,
    TargetOptions,
    WhatIfOptions,
)
from pellucid.trust.trials import Design
from pellucid.types import Contrast, Edit, Heat, MethodSpec, Plan, Tap

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
    provenance: bool = False
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


def heats(options: GradCamOptions, network: NetworkSpec, methods: Mapping[str, MethodSpec]) -> tuple[Heat, ...]:
    """The heat maps that are asked for, method by method, each layer by layer.

    Raises UnknownName, Unexplainable for a network without layers, and InvalidOption for what does not go together.
    """
    named = [name if _is_pixels(name, network) else layer_name(name, network) for name in dict.fromkeys(options.layer)]
    if options.fuse and len(named) < 2:
        raise InvalidOption("fuse: Name several layers in `layer`: their maps are fused into one.")
    found: list[Heat] = []
    for name in dict.fromkeys(options.method):
        if name not in methods:
            raise UnknownName.among("method", name, [*methods])
        layers = named or [PIXELS if methods[name].at_pixels else layer_name(network.default_layer, network)]
        for layer in layers:
            _require_offered(methods, name, layer, network)
        found += [Heat(name, tuple(layers), options.fuse)] if options.fuse else [Heat(name, (one,)) for one in layers]
    return tuple(found)


def _is_pixels(layer: str, network: NetworkSpec) -> bool:
    return layer == PIXELS and layer not in network.by_name


def _require_offered(methods: Mapping[str, MethodSpec], name: str, layer: str, network: NetworkSpec) -> None:
    if _is_pixels(layer, network) and not methods[name].at_pixels:
        offered = [spec.name for spec in methods.values() if spec.at_pixels]
        raise InvalidOption(
            f"The method {name!r} is offered at layers, not at the pixels. Offered there: {', '.join(offered)}."
        )


def contrast(options: GradCamOptions, targets: Sequence[int], spec: ModelSpec) -> Contrast | None:
    """What the classes are explained against. Raises UnknownName, and InvalidOption for a class against itself."""
    against = tuple(dict.fromkeys(class_index(name, spec) for name in options.against))
    for index in targets:
        if index in against:
            raise InvalidOption(
                f"against: The class {index} ({spec.labels[index]}) is a target: nothing would be left."
            )
    return Contrast(against, options.against_weight) if against else None


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


class Offer(Protocol):
    """A network that can be asked: what it is, what it offers, and by which methods."""

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def network(self) -> NetworkSpec: ...

    @property
    def methods(self) -> Sequence[MethodSpec]: ...


def planned(offer: Offer, options: Options, parts: frozenset[RoutePart], images: int) -> tuple[Plan, Look]:
    """What the options ask of a network for so many images. ``parts`` are what is answered; the options of all parts
    choose among them.

    Raises UnknownName, InvalidOption and Unexplainable.
    """
    if isinstance(options, ExplainOptions):
        parts &= frozenset(options.include)
    plan, look = resolve(options, parts, offer.spec, offer.network, offer.methods)
    bound_drawing(images, plan, look)
    return plan, look


def resolve(
    options: Options, parts: frozenset[RoutePart], spec: ModelSpec, network: NetworkSpec, methods: Sequence[MethodSpec]
) -> tuple[Plan, Look]:
    """What to compute and how to show it. Raises UnknownName, InvalidOption, Unexplainable."""
    targets: tuple[int, ...] = ()
    plan = Plan(
        top_k=options.top_k if isinstance(options, PredictOptions) and parts & {"predictions", "what_if"} else 1,
        taps=taps(options, network) if isinstance(options, FeatureMapOptions) and "feature_maps" in parts else (),
        reproducible=options.provenance,
    )
    look = _look(options, parts)
    if look.design and look.provenance:
        raise InvalidOption(
            "provenance: The trials of `trust` run in batches with others', so they can't be reproduced to the bit. "
            "Ask for one of the two."
        )
    if isinstance(options, TargetOptions) and parts & {"attention", "grad_cam", "what_if"}:
        targets = tuple(dict.fromkeys(class_index(name, spec) for name in options.target))
        plan = replace(plan, targets=targets)
    if isinstance(options, GradCamOptions) and "grad_cam" in parts:
        plan = replace(
            plan,
            heats=heats(options, network, {method.name: method for method in methods}),
            contrast=contrast(options, targets, spec),
            samples=options.samples,
            random_heads=_RANDOM_HEADS if look.design else 0,
        )
    if isinstance(options, GateOptions) and "attention" in parts:
        plan = replace(
            plan,
            gates=True,
            layer=_importance_layer(options, network),
            effects=options.effects and bool(network.gates),
            restore=gate_names([options.restore] if options.restore else [], network),
        )
    if isinstance(options, WhatIfOptions):
        layer, edit = edited(options, network)
        plan = replace(plan, layer=layer, edit=edit, gates=bool(edit.gate))
    return plan, look


def _look(options: Options, parts: frozenset[RoutePart]) -> Look:
    look = Look(parts, provenance=options.provenance)
    if isinstance(options, FeatureMapOptions):
        look = replace(look, colormap=options.colormap, scale=options.scale, columns=options.columns, tile=options.tile)
    if isinstance(options, GradCamOptions):
        look = replace(
            look,
            colormap=options.colormap,
            overlay=options.overlay,
            alpha=options.alpha,
            trust=options.trust,
            trust_steps=options.trust_steps,
            trust_maps=options.trust_maps,
        )
    if isinstance(options, (GradCamOptions, WhatIfOptions)):
        look = replace(look, signed=options.signed, max_side=options.max_side)
    return look


def _importance_layer(options: GateOptions, network: NetworkSpec) -> str:
    """The layer of which the importance of channels is told: the first that is named, the pixels aside."""
    given: Sequence[str] = ()
    if isinstance(options, GradCamOptions):
        given = [name for name in options.layer if not _is_pixels(name, network)]
    elif isinstance(options, LayerOptions) and options.layer:
        given = [options.layer]
    return layer_name(given[0] if given else network.default_layer, network)


def bound_drawing(images: int, plan: Plan, look: Look) -> None:
    """Raise InvalidOption where the pictures asked for could be larger than a request is worth.

    A picture that is being drawn can't be stopped, so what it may cost is known before it begins.
    """
    tiles = sum((len(tap.channels) or tap.count) * (3 if tap.gate else 1) for tap in plan.taps) * look.tile**2
    drawn = max(1, len(plan.targets)) * max(1, len(plan.wanted)) if "grad_cam" in look.parts else 0
    sides = drawn * (2 if look.overlay else 1) * look.max_side**2
    if plan.edit is not None:  # the maps before and after, and their difference
        sides += 3 * max(1, len(plan.targets)) * look.max_side**2
    pixels = images * (tiles + sides)
    if pixels > _MOST_DRAWN:
        raise InvalidOption(
            f"The pictures could have {pixels // 10**6} million pixels, at most {_MOST_DRAWN // 10**6} are drawn for a "
            "request. Ask for fewer images, targets, methods, layers or channels, or a smaller `max_side` or `tile`."
        )
