"""The most probable classes: options, plan, and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import Field

from pellucid.parts.option_types import Analysis, Offer, Options
from pellucid.types import Plan, Prediction


class TopOptions(Options):
    """How many classes are listed."""

    top_k: int = Field(5, ge=1, le=10_000, description="How many classes, the most probable first.", examples=[5])


class PredictOptions(TopOptions):
    """Options of /v1/predict."""

    def asks(self, offer: Offer, plan: Plan) -> Plan:
        return replace(plan, top_k=self.top_k)

    def written(self, analysis: Analysis) -> dict[str, Any]:
        return {"predictions": [prediction_json(each, analysis.labels) for each in analysis.outcome.predictions]}


def prediction_json(found: Prediction, labels: Sequence[str]) -> dict[str, Any]:
    """A class with its probability and its logit, as JSON."""
    return {**target_json(found, labels), "logit": np.float32(found.logit)}


def target_json(prediction: Prediction, labels: Sequence[str]) -> dict[str, Any]:
    """A class with its probability, as JSON: single precision, so that no digits are sent that mean nothing."""
    return {
        "index": prediction.index,
        "label": labels[prediction.index],
        "probability": np.float32(prediction.probability),
    }


def class_json(index: int, labels: Sequence[str]) -> dict[str, Any]:
    """A class without its scores, as JSON."""
    return {"index": index, "label": labels[index]}
