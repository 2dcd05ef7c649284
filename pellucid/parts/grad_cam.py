"""Where the evidence for a class lies: options, plan, and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from pellucid.errors import InvalidOption, UnknownName
from pellucid.network.spec import PIXELS, ModelSpec, NetworkSpec
from pellucid.parts import side_by_side
from pellucid.parts.names import class_index, is_pixels, layer_name
from pellucid.parts.option_types import (
    MAX_SIDE,
    Analysis,
    ColormapName,
    CommaSeparated,
    Fit,
    LeastSide,
    Name,
    Names,
    Offer,
    Side,
)
from pellucid.parts.predictions import class_json, output_json, target_json
from pellucid.parts.targets import Direction, TargetOptions
from pellucid.parts.trust import RANDOM_HEADS, TrustOptions, trust_json
from pellucid.render import compose
from pellucid.render.encode import Picture, encode
from pellucid.types import OF_ATTENTION, Contrast, Explanation, MapSpec, MethodSpec, Plan, Region

METHOD: Final = "grad-cam"
COLOURS: Final = "turbo"
SIGNED_COLOURS: Final = "coolwarm"
SAMPLES: Final = Plan().samples
Samples = Annotated[int, Field(ge=1, le=256)]


class MapOptions(TargetOptions):
    """The options of heat maps, without ``trust``."""

    layer: Annotated[list[Name], CommaSeparated] = Field(
        default_factory=list,
        max_length=8,
        description="Layer to explain at, by a name from /v1/models/{name}, or `pixels`, the network's input; several "
        "between commas or repeated, each with maps of its own unless `fuse` makes one of them. Default: the last "
        "layer with a spatial extent; the pixels for methods that are offered there.",
        examples=[["head"], ["blocks.10", "head"]],
    )
    method: Annotated[list[Name], CommaSeparated] = Field(
        default_factory=lambda: [METHOD],
        min_length=1,
        max_length=32,
        description="How the map is made, by a name from /v1/models/{name}; several between commas or repeated. All "
        "that need one gradient share it. `best` is the most faithful map that was measured: Element-wise Grad-CAM at "
        "up to three layers that it chooses, and their mean. Default: the first there, Grad-CAM, or HiResCAM for a "
        "segmentation, where Grad-CAM at the last layer does not depend on the region.",
        examples=[[METHOD], [METHOD, "hirescam"]],
    )
    fuse: Literal["mean", "max", "product"] | None = Field(
        None,
        description="One map of several layers, each stretched to 0 to 1 and enlarged to the finest of them: their "
        "`mean`, the `max` of them, or their `product`, which keeps what all of them show (RefineCAM, arXiv "
        "2605.14641).",
        examples=["mean"],
    )
    against: Names = Field(
        default_factory=list,
        max_length=20,
        description="Explain what speaks for the class and not for this one, by index or by label: the target's logit "
        "less `against_weight` times this one's (the mean of them, where it is repeated) in place of the logit, as "
        "Finer-CAM (arXiv 2501.11309). "
        "Without `target`, the most probable of the other classes is explained.",
        examples=[["tabby"]],
    )
    against_weight: float = Field(
        1.0, ge=0, le=10, description="How much `against` weighs. Finer-CAM's authors use 0.6.", examples=[1.0]
    )
    direction: Direction = Field(
        "up",
        description="Explain what raises the target's logit or value, or, with `down`, what lowers it (Grad-CAM, "
        "section 3.3: counterfactual explanations).",
        examples=["up"],
    )
    samples: Samples = Field(
        SAMPLES,
        description="How many gradients `smoothgrad` and `integrated-gradients` take: more are finer, and take longer.",
        examples=[SAMPLES],
    )
    signed: bool = Field(
        False,
        description="Keep evidence against the class: 128 in the mask is none, above it for, below it against. "
        "Without it, evidence against is cut to 0.",
        examples=[False],
    )
    overlay: bool = Field(
        False,
        description="Also return the whole photograph with the map over the box that the network saw; the rest is "
        "dimmed.",
        examples=[True],
    )
    colormap: ColormapName | None = Field(
        None,
        description=f"Colours of the overlay. Default: {COLOURS}, {SIGNED_COLOURS} where `signed`.",
        examples=[COLOURS],
    )
    alpha: float = Field(
        0.6,
        ge=0,
        le=1,
        description="Opacity of the overlay's colours where the evidence is at least three quarters of the largest. It "
        "falls to half of it at half of the largest, and to 0 at a quarter.",
        examples=[0.6],
    )
    max_side: Side = Field(
        MAX_SIDE,
        description="Longest side of mask and overlay in pixels. Up to it they have the resolution of the source.",
        examples=[MAX_SIDE],
    )
    min_side: LeastSide = Field(
        0,
        description="Mask and overlay whose longer side is shorter are enlarged to this many pixels, and those whose "
        "shorter side is shorter than half of it to that half, at most to `max_side`.",
        examples=[512],
    )
    fit: Fit = Field(
        "box",
        description="What the mask covers: the `box` that the network saw, or with `source` the whole photograph: 0 "
        "outside of the box, 128 with `signed`.",
        examples=["source"],
    )

    def aim(self, plan: Plan, spec: ModelSpec) -> Plan:
        plan = super().aim(plan, spec)
        if not self.against or self.target or spec.output.kind != "linear":
            return plan
        against = _against(self, spec)
        others = (index for index in range(len(spec.labels)) if index not in against)
        return replace(plan, targets=(next(others, 0),))


class GradCamOptions(TrustOptions, MapOptions):
    """Options of /v1/grad-cam."""

    @property
    def picture_side(self) -> int | None:
        return self.max_side if self.overlay else None

    def asks(self, offer: Offer, plan: Plan) -> Plan:
        if self.design and self.provenance:
            raise InvalidOption(
                "provenance: The trials of `trust` run in batches with others', so they can't be reproduced to the "
                "bit. Ask for one of the two."
            )
        plan = self.aim(plan, offer.spec)
        return replace(
            plan,
            heat_maps=_heat_maps(self, offer.network, {method.name: method for method in offer.methods}),
            contrast=_contrast(self, plan.targets, offer.spec),
            direction=1 if self.direction == "up" else -1,
            samples=self.samples,
            random_heads=RANDOM_HEADS if self.design else 0,
        )

    def written(self, analysis: Analysis) -> dict[str, Any]:
        maps = [_map_json(explanation, self, analysis) for explanation in analysis.outcome.explanations]
        for found, trusted in zip(maps, analysis.trusted, strict=False):
            found["trust"] = trust_json(trusted, found["target"]["label"], self.direction == "down")
        return {"grad_cam": maps, **output_json(analysis)}

    @property
    def has_output(self) -> bool:
        return True

    def pictures(self, plan: Plan) -> int:
        return max(1, len(plan.targets)) * len(plan.wanted)

    def picture(self, entry: dict[str, Any], media_type: str) -> tuple[Picture, dict[str, str]]:
        (found,) = entry["grad_cam"]
        headers = {
            "Pellucid-Layer": found["layer"],
            "Pellucid-Box": ",".join(map(str, found["box"])),
            "Pellucid-Target": str(found["target"]["index"]),
            "Pellucid-All-Negative": str(found["raw"]["all_negative"]).lower(),
        }
        return found["overlay"] or found["mask"], headers

    def pixels(self, plan: Plan) -> int:
        return max(1, len(plan.targets)) * max(1, len(plan.wanted)) * (2 if self.overlay else 1) * self.max_side**2


def _heat_maps(options: MapOptions, network: NetworkSpec, methods: Mapping[str, MethodSpec]) -> tuple[MapSpec, ...]:
    """The heat maps, in the order of methods, then layers.

    Raises UnknownName, Unexplainable for a network without layers, and InvalidOption for a wrong combination.
    """
    given = [name if is_pixels(name, network) else layer_name(name, network) for name in dict.fromkeys(options.layer)]
    if options.fuse and len(given) < 2:
        raise InvalidOption("fuse: Name several layers in `layer`: their maps are fused into one.")
    found: list[MapSpec] = []
    names = options.method if "method" in options.model_fields_set else [next(iter(methods))]
    for name in dict.fromkeys(names):
        if name in OF_ATTENTION and not network.attentions:
            raise InvalidOption(
                f"The method {name!r} reads the attention between the tokens of a vision transformer, and this network "
                f"has none that covers them all. Offered: {', '.join(methods)}."
            )
        if name not in methods:
            raise UnknownName.among("method", name, [*methods])
        if best := methods[name].stands_for:
            if given:
                raise InvalidOption(
                    f"layer: The method {name!r} chooses its layers. Leave `layer` and `fuse` out, or ask for "
                    f"{best.method!r} at your own layers."
                )
            found.append(best)
            continue
        layers = given or [PIXELS if methods[name].at_pixels else layer_name(network.default_layer, network)]
        for layer in layers:
            _require_offered(methods, name, layer, network)
        found += (
            [MapSpec(name, tuple(layers), options.fuse)] if options.fuse else [MapSpec(name, (one,)) for one in layers]
        )
    return tuple(dict.fromkeys(found))


def _require_offered(methods: Mapping[str, MethodSpec], name: str, layer: str, network: NetworkSpec) -> None:
    if is_pixels(layer, network) and not methods[name].at_pixels:
        offered = [spec.name for spec in methods.values() if spec.at_pixels]
        raise InvalidOption(
            f"The method {name!r} is offered at layers, not at the pixels. Offered there: {', '.join(offered)}."
        )
    if not methods[name].at_layers and not is_pixels(layer, network):
        raise InvalidOption(f"The method {name!r} has one map, of all layers: leave `layer` out, or name the pixels.")


def region_json(region: Region) -> dict[str, Any]:
    """The region of a target, as JSON."""
    assert region.mask is not None  # the engine settled it
    return {"kind": region.kind, "positions": int(region.mask.sum())}


def _against(options: MapOptions, spec: ModelSpec) -> tuple[int, ...]:
    """The other classes of a contrast. Raises UnknownName, and InvalidOption for an embedding."""
    if options.against and not spec.labels:
        raise InvalidOption(f"against: {spec.name} has no classes: its output is an embedding.")
    return tuple(dict.fromkeys(class_index(name, spec) for name in options.against))


def _contrast(options: MapOptions, targets: Sequence[int], spec: ModelSpec) -> Contrast | None:
    """The contrast to other classes. Raises UnknownName, and InvalidOption for a class against itself."""
    against = _against(options, spec)
    for index in targets:
        if index in against:
            raise InvalidOption(
                f"against: The class {index} ({spec.labels[index]}) is a target: nothing would be left."
            )
    return Contrast(against, options.against_weight) if against else None


def _map_json(explanation: Explanation, options: MapOptions, analysis: Analysis) -> dict[str, Any]:
    image, spec, media_type = analysis.image, analysis.spec, analysis.media_type
    source = image.info.width or 1, image.info.height or 1
    frame = compose.scaled_size(*source, options.max_side, options.min_side)
    covered = source if options.fit == "source" else None
    canvas = side_by_side.Canvas(image.box, options.max_side, options.min_side, covered)
    heat, contrast = explanation.heat, explanation.contrast
    overlay = None
    if options.overlay and image.picture is not None:
        colours = options.colormap or (SIGNED_COLOURS if options.signed else COLOURS)
        drawn = compose.overlay(image.picture, source, image.box, heat, colours, options.alpha, options.signed, frame)
        overlay = encode(drawn, media_type)
    return {
        "target": target_json(explanation.target, spec),
        **({"against": [class_json(index, spec) for index in contrast.against]} if contrast else {}),
        **({"direction": options.direction} if options.direction == "down" else {}),
        **({"region": region_json(explanation.region)} if explanation.region else {}),
        "layer": explanation.layer,
        **({"fused": explanation.fuse} if explanation.fuse else {}),
        "method": explanation.method,
        "mask": encode(canvas.drawn(lambda size: compose.mask(heat, size, options.signed), options.signed), media_type),
        "overlay": overlay,
        "box": image.box,
        "raw": side_by_side.raw_json(heat),
    }
