"""Classes as they stand in a reply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pellucid.types import Prediction


def target(prediction: Prediction, labels: Sequence[str]) -> dict[str, Any]:
    """A class with its probability, as JSON: single precision, so that no digits are sent that mean nothing."""
    return {
        "index": prediction.index,
        "label": labels[prediction.index],
        "probability": np.float32(prediction.probability),
    }


def prediction(found: Prediction, labels: Sequence[str]) -> dict[str, Any]:
    """A class with its probability and its logit, as JSON."""
    return {**target(found, labels), "logit": np.float32(found.logit)}
