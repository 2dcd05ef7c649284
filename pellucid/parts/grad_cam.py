"""Where the evidence for a class lies: options, plan, and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from pellucid.errors import InvalidOption, UnknownName
from pellucid.lookup import class_index, is_pixels, layer_name
from pellucid.network.spec import PIXELS, ModelSpec, NetworkSpec
from pellucid.parts.figures import side_by_side
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
from pellucid.types import BEST, OF_ATTENTION, Contrast, Explanation, MapSpec, MethodSpec, Plan, Region

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
        description="Layer to explain at, by a name from /v1/models/{name}, or `pixels`, the network's input. "
        "Separate several by commas, or repeat the option. Each layer has its own maps, unless `fuse` combines them. "
        "Default: the last layer with a spatial extent, but `pixels` for `smoothgrad` and `integrated-gradients`.",
        examples=[["head"], ["blocks.10", "head"]],
    )
    method: Annotated[list[Name], CommaSeparated] = Field(
        default_factory=lambda: [METHOD],
        min_length=1,
        max_length=32,
        description="Method of the map, by a name from /v1/models/{name}. Separate several by commas, or repeat the "
        "option. Methods that need one gradient share it. `best` is the mean of the maps of Element-wise Grad-CAM at "
        "up to three layers: the most faithful one on photographs, for two networks. Default: `grad-cam`, but "
        "`hirescam` for a segmentation, because Grad-CAM at the last layer does not depend on the region.",
        examples=[[METHOD], [METHOD, "hirescam"]],
    )
    fuse: Literal["mean", "max", "product"] | None = Field(
        None,
        description="Combine the maps of several layers into one. Each map is stretched to 0 to 1 and enlarged to "
        "the finest of them. The result is their `mean`, their `max`, or their `product`, which keeps what all of "
        "them show (RefineCAM, arXiv 2605.14641).",
        examples=["mean"],
    )
    against: Names = Field(
        default_factory=list,
        max_length=20,
        description="Explain what speaks for the target and not for this class, given by index or by label. As in "
        "Finer-CAM (arXiv 2501.11309), the explained scalar is the target's logit minus `against_weight` times this "
        "class's logit. If the option is repeated, the mean of these logits is used. Without `target`, the most "
        "probable of the other classes is explained.",
        examples=[["tabby"]],
    )
    against_weight: float = Field(
        1.0, ge=0, le=10, description="Weight of `against`. Finer-CAM's authors use 0.6.", examples=[1.0]
    )
    direction: Direction = Field(
        "up",
        description="Explain what raises the target's logit or value, or, with `down`, what lowers it (Grad-CAM, "
        "section 3.3: counterfactual explanations).",
        examples=["up"],
    )
    samples: Samples = Field(
        SAMPLES,
        description="Number of gradients that `smoothgrad` and `integrated-gradients` compute. With more, the map is "
        "finer and takes longer.",
        examples=[SAMPLES],
    )
    signed: bool = Field(
        False,
        description="Keep evidence against the class. In the mask, 128 then means no evidence, higher levels mean "
        "evidence for the class, and lower levels evidence against it. Otherwise, evidence against the class is set "
        "to 0.",
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
        description="Opacity of the overlay's colours where the evidence is at least three quarters of the largest "
        "value. Where the evidence is half of the largest value, the opacity is half of this. From a quarter down, "
        "it is 0.",
        examples=[0.6],
    )
    max_side: Side = Field(
        MAX_SIDE,
        description="Longest side of mask and overlay in pixels. Up to this size, they have the resolution of the "
        "source.",
        examples=[MAX_SIDE],
    )
    min_side: LeastSide = Field(
        0,
        description="A smaller mask or overlay is enlarged until its longer side has at least this many pixels and "
        "its shorter side at least half as many, but not beyond `max_side`.",
        examples=[512],
    )
    fit: Fit = Field(
        "box",
        description="Area that the mask covers. `box`: the part of the picture that the network saw. `source`: the "
        "whole photograph. Outside of the box, its level is then 0, or 128 with `signed`.",
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
                "provenance: The passes of `trust` share batches with other requests, so they can't be reproduced to "
                "the bit. Ask for `provenance` or `trust`, not for both."
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
    names = options.method if "method" in options.model_fields_set else [next(iter(methods))]
    if BEST in names:
        layer_name(network.default_layer, network)
        if given or options.fuse:
            raise InvalidOption(
                "method: 'best' chooses its layers. Leave `layer` and `fuse` out, or name another method."
            )
    if options.fuse and len(given) < 2:
        raise InvalidOption("fuse: It combines the maps of several layers. Name at least two in `layer`.")
    found: list[MapSpec] = []
    for name in dict.fromkeys(names):
        if name in OF_ATTENTION and not network.attentions:
            raise InvalidOption(
                f"The method {name!r} reads the attention between the tokens of a vision transformer, and this "
                f"network has no attention that covers all tokens. Available: {', '.join(methods)}."
            )
        if name not in methods:
            raise UnknownName.among("method", name, [*methods])
        if best := methods[name].stands_for:
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
            f"The method {name!r} is available at layers, not at the pixels. Available at the pixels: "
            f"{', '.join(offered)}."
        )
    if not methods[name].at_layers and not is_pixels(layer, network):
        raise InvalidOption(
            f"The method {name!r} makes one map from all layers. Leave `layer` out, or choose the pixels."
        )


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
                f"against: The class {index} ({spec.labels[index]}) is the target itself. Name another class."
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
