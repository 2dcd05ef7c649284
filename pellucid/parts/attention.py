"""Weights of channels, a gate's and Grad-CAM's: options, plan, and JSON."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
from pydantic import Field

from pellucid.lookup import gate_names, layer_name
from pellucid.network.spec import NetworkSpec
from pellucid.parts.channels import AtlasOptions
from pellucid.parts.figures.contents import picture_words
from pellucid.parts.option_types import Analysis, Name, Names, Offer
from pellucid.parts.predictions import class_json
from pellucid.parts.targets import LayerOptions, TargetOptions
from pellucid.render import compose, plot
from pellucid.render.encode import Picture, encode
from pellucid.render.figure import THEMES, written
from pellucid.types import GateReading, ImageInfo, Plan, SpatialGateReading

# The length of ``strongest`` and ``weakest``.
_EXTREMES: Final = 5
# The axis of a gate's bars goes from 1 at least this far: less is next to nothing.
_LEAST_REACH: Final = 0.1
# The longest side in pixels of a spatial gate's picture. Its weights are few: 56 x 56 at an early layer.
_SPATIAL_SIDE: Final = 256


class GateOptions(TargetOptions, AtlasOptions):
    """The options of gates beside their weights."""

    effects: bool = Field(
        False,
        description="Also report the effect of each gate's channels on the class: gradient x activation behind the "
        "gate. Costs a backward pass through the network. /v1/attention reports it by default.",
        examples=[True],
    )
    restore: Name | None = Field(
        None,
        description="Also measure the effect of each channel of this gate, named by its `layer`: how the class's "
        "logit changes when the channel's weight is set to 1. Costs a forward pass behind the gate for each channel. "
        "Other requests wait meanwhile.",
        examples=["blocks.15.gate"],
    )

    @property
    def explains(self) -> bool:
        return self.restore is not None

    def importance_layer(self, network: NetworkSpec) -> str:
        """The layer of ``importance``. Raises UnknownName and Unexplainable."""
        raise NotImplementedError

    def asks(self, offer: Offer, plan: Plan) -> Plan:
        plan = replace(self.aim(plan, offer.spec), gates=True)
        if offer.spec.output.kind == "embedding" and self.reference is None:  # there is nothing to explain
            return plan
        return replace(
            plan,
            layer=self.importance_layer(offer.network),
            effects=self.effects and bool(offer.network.gates),
            restore=gate_names([self.restore] if self.restore else [], offer.network),
        )

    def written(self, analysis: Analysis) -> dict[str, Any]:
        outcome = analysis.outcome
        found: dict[str, Any] = {"gates": [_gate_json(gate) for gate in outcome.gates]}
        if outcome.spatial_gates:
            found["spatial_gates"] = [_spatial_gate_json(gate, analysis) for gate in outcome.spatial_gates]
        if importance := outcome.importance:
            found["importance"] = {
                "layer": importance.layer,
                "target": class_json(importance.target.index, analysis.spec),
                "weights": importance.weights,
            }
        return {"attention": found}

    def pictures(self, plan: Plan) -> int:
        return 1

    def picture(self, entry: dict[str, Any], media_type: str) -> tuple[Picture, dict[str, str]]:
        importance, headers = entry["attention"].get("importance"), {}
        if importance:
            headers = {"Pellucid-Layer": importance["layer"], "Pellucid-Target": str(importance["target"]["index"])}
        heading, under = f"{entry['model']}: channel weights", picture_words(ImageInfo(**entry["image"]))
        return written(plot.bars(heading, under, _strips(entry["attention"]), THEMES["light"]), media_type), headers


class AttentionOptions(GateOptions, LayerOptions):
    """Options of /v1/attention."""

    target: Names = Field(
        default_factory=list,
        max_length=1,
        description="Class to explain, by index or by label. Default: the most probable class.",
        examples=[["Egyptian cat"]],
    )
    effects: bool = Field(
        True,
        description="Report the effect of each gate's channels on the class: gradient x activation behind the gate. "
        "Costs a backward pass through the network, unless the network has no gates. /v1/explain reports it only on "
        "request.",
        examples=[True],
    )

    def importance_layer(self, network: NetworkSpec) -> str:
        return layer_name(self.layer or network.default_layer, network)


def _gate_json(gate: GateReading) -> dict[str, Any]:
    order = gate.ascending.tolist()

    def weights(channels: list[int]) -> list[dict[str, Any]]:
        return [{"channel": channel, "weight": gate.weights[channel]} for channel in channels]

    did = {"effects": gate.effects, "restored": gate.restored}
    return {
        "layer": gate.layer,
        "type": gate.type,
        "channels": len(gate.weights),
        "weights": gate.weights,
        "mean": gate.weights.mean(),
        "strongest": weights(order[: -_EXTREMES - 1 : -1]),
        "weakest": weights(order[:_EXTREMES]),
        **{name: values for name, values in did.items() if values is not None},
    }


def _spatial_gate_json(gate: SpatialGateReading, analysis: Analysis) -> dict[str, Any]:
    x0, y0, x1, y1 = box = analysis.image.box
    levels = compose.mask(gate.weights, compose.scaled_size(x1 - x0, y1 - y0, _SPATIAL_SIDE), False)
    return {
        "layer": gate.layer,
        "type": gate.type,
        "weights": gate.weights,
        "min": gate.weights.min(),
        "max": gate.weights.max(),
        "mask": encode(levels, analysis.media_type),
        "box": box,
    }


def _strips(attention: dict[str, Any]) -> list[plot.Strip]:
    # One axis for all gates, so that bars can be compared.
    reach = max([_LEAST_REACH, *(float(np.abs(gate["weights"] - 1).max()) for gate in attention["gates"])])
    strips = [
        plot.Strip(
            gate["layer"],
            f"{gate['channels']} channels, {gate['weights'].min():.2f} to {gate['weights'].max():.2f}",
            gate["weights"],
            neutral=1,
            reach=reach,
            leads="changed most",
        )
        for gate in attention["gates"]
    ]
    importance = attention.get("importance")
    if importance is None:
        return strips
    largest = float(np.abs(importance["weights"]).max()) or 1.0
    title = f"Grad-CAM's channel weights at {importance['layer']} for {importance['target']['label']}"
    note = f"{len(importance['weights'])} channels, no gate"
    return [*strips, plot.Strip(title, note, importance["weights"], 0, largest, "largest")]
