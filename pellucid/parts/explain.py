"""Any mix of the parts from one forward pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field

from pellucid.errors import InvalidOption
from pellucid.lookup import is_pixels, layer_name
from pellucid.network.spec import NetworkSpec
from pellucid.parts.attention import GateOptions
from pellucid.parts.feature_maps import FeatureMapOptions
from pellucid.parts.figures import contents, figure
from pellucid.parts.figures.figure import FigureOptions
from pellucid.parts.grad_cam import COLOURS, SIGNED_COLOURS, GradCamOptions
from pellucid.parts.option_types import Analysis, CommaSeparated, Offer, Options
from pellucid.parts.predictions import PredictOptions, class_json, target_json
from pellucid.parts.trust import trust_json
from pellucid.trust.perturbations import Design
from pellucid.types import Explanation, Plan

Part = Literal["predictions", "attention", "feature_maps", "grad_cam"]
PARTS: Final[tuple[Part, ...]] = ("predictions", "attention", "feature_maps", "grad_cam")
# Of several wrong names, the first part here has its own refused.
_OPTIONS: Final[dict[Part, type[Options]]] = {
    "predictions": PredictOptions,
    "feature_maps": FeatureMapOptions,
    "grad_cam": GradCamOptions,
    "attention": GateOptions,
}


# How many panels of a figure stand beside each other, by their number.
_COLUMNS: Final = {1: 2, 2: 2, 3: 3, 4: 2, 5: 3, 6: 3}
# Panels of pictures whose width by height is more than this stand below each other.
_STRIP: Final = 4


class ExplainOptions(PredictOptions, GradCamOptions, GateOptions, FeatureMapOptions, FigureOptions):
    """Options of /v1/explain: those of all its parts."""

    include: Annotated[list[Part], CommaSeparated] = Field(
        default_factory=lambda: list(PARTS),
        min_length=1,
        description="Parts of the reply. Separate several by commas, or repeat the option. Default: all.",
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

    def as_picture(self) -> Self:
        if "include" in self.model_fields_set and "feature_maps" in self.include:
            raise InvalidOption(
                "include: A figure shows predictions, grad_cam and attention; /v1/feature-maps draws feature maps."
            )
        included = [part for part in self.include if part != "feature_maps"]
        return super().as_picture().model_copy(update={"include": included})

    def maps(self, plan: Plan) -> int:
        return GradCamOptions.pictures(self, plan) if "grad_cam" in self.include else 0

    def sheet(self, analysis: Analysis) -> figure.Sheet:
        outcome, spec = analysis.outcome, analysis.spec
        explanations = outcome.explanations if "grad_cam" in self.include else ()
        panels = [contents.photograph(analysis.image)]
        if self.has_output and (segmentation := contents.segmentation(analysis)):
            panels.append(segmentation)
        panels += [self._panel(explanation, analysis) for explanation in explanations]
        columns = 1 if panels[0].proportion > _STRIP else _COLUMNS.get(len(panels), 4)
        places = [*panels, *[None] * (-len(panels) % columns)]
        facts = []
        if "predictions" in self.include:
            facts.append(contents.predictions("Predictions", outcome.predictions, spec))
        if explanations and spec.output.kind == "embedding":
            facts.append(contents.likeness(target_json(explanations[0].target, spec)))
        if "attention" in self.include:
            facts.append(contents.changed_gates(outcome.gates))
        return figure.Sheet(
            spec.name,
            contents.picture_words(analysis.image.info),
            [places[start : start + columns] for start in range(0, len(places), columns)],
            facts,
            self._trust(analysis),
            contents.sources([analysis.image], [spec], (each.method for each in explanations), analysis.methods),
        )

    def _panel(self, explanation: Explanation, analysis: Analysis) -> figure.Panel:
        spec, target = analysis.spec, target_json(explanation.target, analysis.spec)
        unit = contents.map_unit(explanation, analysis.methods, spec)
        title = f"{target['label']}, {contents.score(target)}"
        if explanation.contrast:
            against = " or ".join(class_json(index, spec)["label"] for index in explanation.contrast.against)
            title = f"{title}: why not {against}"
        if self.direction == "down":
            title, unit = f"{title}: what lowers it", f"{unit}, for a lower score"
        look = contents.Look(self.colormap or (SIGNED_COLOURS if self.signed else COLOURS), self.signed, self.alpha)
        place = f", {explanation.fuse} of" if explanation.fuse else " at"
        note = f"{explanation.method}{place} {explanation.layer}"
        return contents.overlay(title, note, analysis.image, explanation.heat, analysis.image.box, look, unit)

    def _trust(self, analysis: Analysis) -> list[str]:
        explanations, several = analysis.outcome.explanations, len(analysis.trusted) > 1
        found = []
        for explanation, trusted in zip(explanations, analysis.trusted, strict=False):
            label = target_json(explanation.target, analysis.spec)["label"]
            said = trust_json(trusted, label, self.direction == "down")["sentence"]
            found.append(f"{explanation.method} at {explanation.layer}: {said}" if several else said)
        return found

    def pixels(self, plan: Plan) -> int:
        return sum(options.pixels(self, plan) for options in self._included())

    def _included(self) -> list[type[Options]]:
        return [options for part, options in _OPTIONS.items() if part in self.include]
