"""What the network puts out: options, plan, and JSON."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import Field

from pellucid.network.spec import ModelSpec
from pellucid.parts.option_types import SEGMENTATION_SIDE, Analysis, Offer, Options
from pellucid.render import compose
from pellucid.render.encode import encode
from pellucid.types import Plan, Prediction


class TopOptions(Options):
    """How many classes are listed."""

    top_k: int = Field(
        5,
        ge=1,
        le=10_000,
        description="Number of classes or labels to list, the most probable first. For a segmentation, they are "
        "those with the largest share. Quantities come in the network's order.",
        examples=[5],
    )


class PredictOptions(TopOptions):
    """Options of /v1/predict."""

    def asks(self, offer: Offer, plan: Plan) -> Plan:
        return replace(plan, top_k=self.top_k)

    def written(self, analysis: Analysis) -> dict[str, Any]:
        outcome = analysis.outcome
        found: dict[str, Any] = {"predictions": [prediction_json(each, analysis.spec) for each in outcome.predictions]}
        return {**found, **output_json(analysis)}

    @property
    def has_output(self) -> bool:
        return True


def output_json(analysis: Analysis) -> dict[str, Any]:
    """The fields of outputs that are no list: ``embedding`` and ``segmentation``, with their names."""
    outcome, spec = analysis.outcome, analysis.spec
    if outcome.embedding is not None:
        return {"embedding": outcome.embedding}
    if outcome.segmentation is None:
        return {}
    x0, y0, x1, y1 = analysis.image.box
    size = compose.scaled_size(x1 - x0, y1 - y0, SEGMENTATION_SIDE)
    levels = compose.enlarged(outcome.segmentation, size)
    found = np.unique(outcome.segmentation).tolist()
    labels = {index: class_json(index, spec) for index in found if len(spec.labels) > 1} or {1: class_json(0, spec)}
    return {
        "segmentation": {
            "mask": encode(levels, analysis.media_type),
            "box": analysis.image.box,
            "classes": [{"level": level, **labels[level]} for level in found if level in labels],
        }
    }


def prediction_json(found: Prediction, spec: ModelSpec) -> dict[str, Any]:
    """A class, a label or a quantity with its scores, as JSON."""
    target = target_json(found, spec)
    if spec.output.kind in ("softmax", "sigmoid"):
        target["logit"] = np.float32(found.logit)
    return target


def target_json(found: Prediction, spec: ModelSpec) -> dict[str, Any]:
    """A class, a label or a quantity with its score, as JSON.

    Numbers are single precision, so that no digits are sent that mean nothing.
    """
    output, score = spec.output, np.float32(found.logit)
    if output.kind == "embedding":
        return {"index": 0, "label": "reference", "similarity": score}
    target = class_json(found.index, spec)
    if output.kind == "linear":
        unit = output.units[found.index] if output.units else ""
        return {**target, "value": score, **({"unit": unit} if unit else {})}
    if found.share is not None:
        target["share"] = np.float32(found.share)
    if found.probability is not None:
        target["probability"] = np.float32(found.probability)
    if output.kind == "sigmoid" and found.probability is not None:
        target["applies"] = found.probability >= output.threshold
    return target


def class_json(index: int, spec: ModelSpec) -> dict[str, Any]:
    """A class without its scores, as JSON."""
    return {"index": index, "label": spec.labels[index] if spec.labels else "reference"}
