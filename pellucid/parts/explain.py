"""Any mix of the parts from one forward pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from pellucid.network.spec import NetworkSpec
from pellucid.parts.attention import GateOptions
from pellucid.parts.feature_maps import FeatureMapOptions
from pellucid.parts.grad_cam import GradCamOptions
from pellucid.parts.names import is_pixels, layer_name
from pellucid.parts.option_types import Analysis, CommaSeparated, Offer, Options
from pellucid.parts.predictions import PredictOptions
from pellucid.render.encode import Picture
from pellucid.trust.perturbations import Design
from pellucid.types import Plan

Part = Literal["predictions", "attention", "feature_maps", "grad_cam"]
PARTS: Final[tuple[Part, ...]] = ("predictions", "attention", "feature_maps", "grad_cam")
# Of several wrong names, the first part here has its own refused.
_OPTIONS: Final[dict[Part, type[Options]]] = {
    "predictions": PredictOptions,
    "feature_maps": FeatureMapOptions,
    "grad_cam": GradCamOptions,
    "attention": GateOptions,
}


class ExplainOptions(PredictOptions, GradCamOptions, GateOptions, FeatureMapOptions):
    """Options of /v1/explain: those of all its parts."""

    include: Annotated[list[Part], CommaSeparated] = Field(
        default_factory=lambda: list(PARTS),
        min_length=1,
        description="Parts of the reply; several between commas or repeated. Default: all.",
        examples=[["predictions", "grad_cam"]],
    )

    @property
    def design(self) -> Design | None:
        return super().design if "grad_cam" in self.include else None

    @property
    def explains(self) -> bool:
        return "grad_cam" in self.include or super().explains

    def importance_layer(self, network: NetworkSpec) -> str:
        named = [name for name in self.layer if not is_pixels(name, network)]
        return layer_name(named[0] if named else network.default_layer, network)

    def asks(self, offer: Offer, plan: Plan) -> Plan:
        for options in self._included():
            plan = options.asks(self, offer, plan)
        return plan

    def written(self, analysis: Analysis) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for part in PARTS:
            if part in self.include:
                found |= _OPTIONS[part].written(self, analysis)
            if "segmentation" in found:  # drawn once
                analysis = replace(analysis, outcome=replace(analysis.outcome, segmentation=None))
        return found

    @property
    def has_output(self) -> bool:
        return "predictions" in self.include or "grad_cam" in self.include

    def pictures(self, plan: Plan) -> int:
        return sum(options.pictures(self, plan) for options in self._included())

    def picture(self, entry: dict[str, Any], media_type: str) -> tuple[Picture, dict[str, str]]:
        (options,) = (options for options in self._included() if options is not PredictOptions)
        return options.picture(self, entry, media_type)

    def pixels(self, plan: Plan) -> int:
        return sum(options.pixels(self, plan) for options in self._included())

    def _included(self) -> list[type[Options]]:
        return [options for part, options in _OPTIONS.items() if part in self.include]
