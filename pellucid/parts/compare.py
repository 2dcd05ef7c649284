"""Two classes, two pictures or two networks beside each other: options, plans, and JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from pydantic import Field

from pellucid.errors import InvalidOption, PellucidError
from pellucid.lookup import class_index
from pellucid.network.spec import ModelSpec
from pellucid.parts.figures import contents, figure, side_by_side
from pellucid.parts.figures.figure import FigureOptions
from pellucid.parts.grad_cam import COLOURS, METHOD, SAMPLES, SIGNED_COLOURS, GradCamOptions, Samples
from pellucid.parts.option_types import MAX_SIDE, ColormapName, Fit, LeastSide, Name, Names, Offer, OneName, Side
from pellucid.parts.predictions import TopOptions, prediction_json, target_json
from pellucid.parts.result import image_info
from pellucid.parts.targets import TargetOptions
from pellucid.ranks import spearman
from pellucid.types import BEST, Box, DecodedImage, Explanation, Floats, GateReading, MethodSpec, Outcome, Plan

Kind = Literal["classes", "pictures", "models"]
SideOutcome = tuple[DecodedImage, Outcome]
# The length of ``most_changed``.
_NAMED: Final = 10
_NAMES: Final = {"pictures": "picture", "models": "network"}


class CompareOptions(TopOptions, TargetOptions, FigureOptions):
    """Options of /v1/compare."""

    never = ("provenance", "reference")

    target: Names = Field(
        default_factory=list,
        max_length=2,
        description="Class to explain, by index or by label. Give two to compare classes of one picture. With two "
        "pictures, or with `against_model`, give at most one. Default: the most probable class of the first side.",
        examples=[["Egyptian cat", "tabby"]],
    )
    against_model: Name | None = Field(
        None,
        description="A second network, by a name from /v1/models. Both networks are compared on one picture.",
        examples=["lite0-plain"],
    )
    layer: OneName | None = Field(
        None,
        description="Layer to explain at, by a name from /v1/models/{name}, or `pixels`. Default: the last layer "
        "with a spatial extent, but `pixels` for `smoothgrad` and `integrated-gradients`.",
        examples=["head"],
    )
    against_layer: OneName | None = Field(
        None,
        description="The layer of the network `against_model`. Default: the layer that `layer` names, or else that "
        "network's default layer.",
        examples=["head"],
    )
    method: OneName = Field(
        METHOD, description="Method of both maps, by a name from /v1/models/{name}, but not `best`.", examples=[METHOD]
    )
    samples: Samples = Field(
        SAMPLES,
        description="Number of gradients that `smoothgrad` and `integrated-gradients` compute.",
        examples=[SAMPLES],
    )
    signed: bool = Field(
        False, description="Keep evidence against the class in both masks. Their difference always has a sign."
    )
    colormap: ColormapName = Field(SIGNED_COLOURS, description="Colours of the difference.", examples=[SIGNED_COLOURS])
    max_side: Side = Field(MAX_SIDE, description="Longest side of the pictures in pixels.", examples=[MAX_SIDE])
    min_side: LeastSide = Field(
        0,
        description="Smaller pictures are enlarged until their longer side has this many pixels, but not beyond "
        "`max_side`.",
        examples=[512],
    )
    fit: Fit = Field(
        "box",
        description="Area that the masks cover. `box`: the part of the picture that both sides saw. `source`: the "
        "whole photograph, with the level of no evidence outside of the box. For two photographs, only `box` is "
        "allowed.",
        examples=["source"],
    )


def kind_of(options: CompareOptions, images: int) -> Kind:
    """The kind of a comparison. Raises InvalidOption, which lists the kinds."""
    if options.reference is not None:
        raise InvalidOption("reference: Leave it out. The two pictures are each other's reference.")
    if options.provenance:
        raise InvalidOption("provenance: /v1/compare does not report it. Ask /v1/grad-cam for each side.")
    if options.method == BEST:
        raise InvalidOption(
            "method: 'best' can't be compared. It stretches the maps of its layers to 0 to 1, so a class without "
            "evidence looks as strong as the right one. Use `elementwise` or `grad-cam`."
        )
    targets, networks = len(options.target), 2 if options.against_model else 1
    if options.against_layer and networks == 1:
        raise InvalidOption("against_layer: It needs `against_model`, the network that has the layer.")
    if options.fit == "source" and images > 1:
        raise InvalidOption("fit: The maps of two photographs cover what the network saw of each. Leave `fit` out.")
    if targets <= 1 and (images, networks) in ((1, 2), (2, 1)):
        return "models" if networks == 2 else "pictures"
    if (images, networks, targets) == (1, 1, 2):
        return "classes"
    raise InvalidOption(
        f"Images: {images}, targets: {targets}, networks: {networks}. They can't be compared. Allowed are one image "
        "and two `target` (two classes), two images and at most one `target` (two pictures), and one image, "
        "`against_model` and at most one `target` (two networks)."
    )


def counterpart(index: int, spec: ModelSpec, other: ModelSpec) -> int:
    """The index in ``other`` of a class of ``spec``: by label, unless all labels are equal. Raises UnknownName."""
    return index if other.labels == spec.labels else class_index(spec.labels[index], other)


@contextmanager
def naming(side: str) -> Iterator[None]:
    """Put the name of a side in front of an error; an empty name leaves it as it is."""
    try:
        yield
    except PellucidError as error:
        if side:
            raise error.about(side) from None
        raise


def sides(kind: Kind, first: Offer, second: Offer, options: CompareOptions) -> list[tuple[str, Offer, Plan]]:
    """The passes of a comparison: a name for errors, the network, and the plan of each.

    ``second`` is ``first`` unless networks are compared. Raises what ``Options.plan`` does.
    """
    embeds = {offer.spec.output.kind == "embedding" for offer in (first, second)}
    if True in embeds and (kind != "pictures" or False in embeds):
        raise InvalidOption("The output is an embedding, which has no classes: send two pictures to compare.")
    targets = [class_index(name, first.spec) for name in options.target]
    if len(targets) > len(set(targets)):
        raise InvalidOption(f"target: Both name the class {targets[0]} ({first.spec.labels[targets[0]]}). Name two.")
    found = []
    for number, offer in enumerate((first, second)[: 1 if kind == "classes" else 2]):
        name = f"The {'second' if number else 'first'} {_NAMES[kind]}" if kind != "classes" else "The picture"
        layer = options.layer if offer is first else options.against_layer or options.layer
        with naming(name if kind == "models" else ""):
            chosen = [counterpart(index, first.spec, offer.spec) for index in targets]
            found.append((name, offer, _plan(offer, options, layer, chosen)))
    return found


def _plan(offer: Offer, options: CompareOptions, layer: str | None, targets: Sequence[int]) -> Plan:
    maps = GradCamOptions(
        target=[*map(str, targets)],
        layer=[layer] if layer else [],
        **({"method": [options.method]} if "method" in options.model_fields_set else {}),
        samples=options.samples,
        signed=options.signed,
        max_side=options.max_side,
        **options.model_dump(include=options.model_fields_set & {"region", "region_mask", "view", "detail"}),
        reference="" if offer.spec.output.kind == "embedding" else None,
    )
    return replace(maps.plan(offer, 1), top_k=options.top_k, gates=len(targets) < 2 and bool(offer.network.gates))


@dataclass(frozen=True, slots=True)
class _Found:
    """One side: its network, its image and outcome, and the map that is compared."""

    model: ModelSpec
    seen: SideOutcome
    explanation: Explanation

    @property
    def box(self) -> Box:
        return self.seen[0].box

    def as_json(self) -> dict[str, Any]:
        image, outcome = self.seen
        return {
            "model": self.model.name,
            "image": image_info(image.info),
            "box": image.box,
            **({"tiles": image.tile_boxes} if image.tiling else {}),
            "predictions": [prediction_json(each, self.model) for each in outcome.predictions],
            "target": prediction_json(self.explanation.target, self.model),
            "layer": self.explanation.layer,
        }


def comparison_json(
    kind: Kind, models: Sequence[ModelSpec], seen: Sequence[SideOutcome], options: CompareOptions
) -> dict[str, Any]:
    """The field ``compare``. Pictures are still ``render.encode.Picture``."""
    one, other = _pair(models, seen)
    maps, box = _maps(kind, one, other)
    info = one.seen[0].info
    source = (info.width or 1, info.height or 1) if options.fit == "source" else None
    canvas = side_by_side.Canvas(box, options.max_side, options.min_side, source)
    return {
        "kind": kind,
        "method": one.explanation.method,
        "first": one.as_json(),
        "second": other.as_json(),
        "maps": {
            "frame": "input" if kind == "pictures" else "picture",
            **side_by_side.maps_json(*maps, canvas, options.signed, options.colormap),
        },
        "gates": _gates_json(one.seen[1].gates, other.seen[1].gates) if kind != "classes" else [],
    }


def _pair(models: Sequence[ModelSpec], seen: Sequence[SideOutcome]) -> tuple[_Found, _Found]:
    one, other = (
        _Found(model, each, explanation)
        for model, each in zip(models, seen, strict=True)
        for explanation in each[1].explanations
    )
    return one, other


def _maps(kind: Kind, one: _Found, other: _Found) -> tuple[tuple[Floats, Floats], Box]:
    """Both maps over one box: that of the picture, or of the network's input for two pictures.

    Raises InvalidOption if the network sees two pictures in two shapes: a position of one is then none of the other.
    """
    maps = one.explanation.heat, other.explanation.heat
    if kind == "pictures":
        first, second = (side.seen[0].pixels.shape for side in (one, other))
        if first[:2] != second[:2]:
            raise InvalidOption(
                f"view: The network sees the first picture at {first[1]} x {first[0]} pixels and the second at "
                f"{second[1]} x {second[0]}, so their maps have no positions in common. Choose view=squash or "
                "view=centre."
            )
        return maps, (0, 0, first[1], first[0])
    box = side_by_side.common(one.box, other.box)
    return (side_by_side.over(maps[0], one.box, box), side_by_side.over(maps[1], other.box, box)), box


def comparison_sheet(
    kind: Kind,
    models: Sequence[ModelSpec],
    seen: Sequence[SideOutcome],
    options: CompareOptions,
    methods: Sequence[MethodSpec],
) -> figure.Sheet:
    """What the figure of a comparison shows. Both maps have one scale, and their difference its own."""
    one, other = sides = _pair(models, seen)
    maps, box = _maps(kind, one, other)
    *_, difference, reach = side_by_side.compared(*maps)
    shown = SIGNED_COLOURS if options.signed else COLOURS
    look = contents.Look(shown, options.signed, reach=reach or 1.0)
    unit = contents.map_unit(one.explanation, methods, one.model)
    two_pictures, two_networks = kind == "pictures", kind == "models"
    overlays: list[figure.Panel | None] = []
    for side, heat in zip(sides, maps, strict=True):
        target = target_json(side.explanation.target, side.model)
        title = f"{target['label']}, {contents.score(target)}"
        note = f"{side.explanation.method} at {side.explanation.layer}"
        if two_networks:
            title = f"{side.model.name}: {title}"
        place = side.box if two_pictures else box
        overlays.append(contents.overlay(title, note, side.seen[0], heat, place, look, unit))
    common = None if two_pictures else one.seen[0]
    less = contents.difference(
        "Second minus first, over the frames" if two_pictures else "Second minus first",
        common,
        difference,
        box,
        options.colormap,
        f"{unit}: below 0, the first has more",
    )
    names = " and ".join(dict.fromkeys(side.model.name for side in sides))
    pictures = " and ".join(dict.fromkeys(contents.picture_words(side.seen[0].info) for side in sides))
    if two_pictures:
        photographs = [contents.photograph(side.seen[0], name) for side, name in zip(sides, _PICTURES, strict=True)]
        panels: list[list[figure.Panel | None]] = [[*photographs, None], [*overlays, less]]
    else:
        panels = [[contents.photograph(one.seen[0]), overlays[0]], [overlays[1], less]]
    what = {"classes": "two classes", "pictures": "two pictures", "models": "two networks"}[kind]
    return figure.Sheet(
        f"{names}: {what}" if not two_networks else names,
        pictures,
        panels,
        _facts(kind, sides),
        [],
        contents.sources(
            [side.seen[0] for side in sides], [side.model for side in sides], [one.explanation.method], methods
        ),
    )


_PICTURES: Final = ("First picture", "Second picture")


def _facts(kind: Kind, sides: tuple[_Found, _Found]) -> list[figure.Bars | None]:
    one, other = sides
    if one.model.output.kind == "embedding":
        return [contents.likeness(target_json(one.explanation.target, one.model))]
    if kind == "classes":
        return [contents.predictions("Predictions", one.seen[1].predictions, one.model)]
    facts = []
    for side, name in zip(sides, _PICTURES if kind == "pictures" else (one.model.name, other.model.name), strict=True):
        facts.append(contents.predictions(f"{name}: predictions", side.seen[1].predictions, side.model))
    gates = _gates_json(one.seen[1].gates, other.seen[1].gates)
    changed = [
        (f"{gate['layer']}, channel {most['channel']}", most) for gate in gates for most in gate["most_changed"][:1]
    ]
    rows = [
        (name, float(most["difference"]), f"{most['first']:.2f} \N{RIGHTWARDS ARROW} {most['second']:.2f}")
        for name, most in sorted(changed, key=lambda pair: -abs(pair[1]["difference"]))
    ]
    facts.append(
        contents.changes(
            "What the gates changed most",
            "a channel's factor in the first and the second; the bar is the difference",
            rows,
        )
    )
    return facts


def _gates_json(first: Sequence[GateReading], second: Sequence[GateReading]) -> list[dict[str, Any]]:
    others = {(gate.layer, len(gate.weights)): gate.weights for gate in second}
    return [
        _gate_json(gate.layer, gate.weights, others[key])
        for gate in first
        if (key := (gate.layer, len(gate.weights))) in others
    ]


def _gate_json(layer: str, first: Any, second: Any) -> dict[str, Any]:
    differences = second - first
    magnitudes = np.abs(differences)
    order = np.argsort(-magnitudes, kind="stable")[:_NAMED].tolist()
    agreement = spearman(first, second)
    return {
        "layer": layer,
        "channels": len(differences),
        "differences": differences,
        "mean_absolute": magnitudes.mean(),
        "rank_agreement": None if agreement is None else np.float32(agreement),
        "most_changed": [
            {"channel": channel, "first": first[channel], "second": second[channel], "difference": differences[channel]}
            for channel in order
            if magnitudes[channel] > 0
        ],
    }
