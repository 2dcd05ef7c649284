"""Explains a batch: its ForwardRecord and its plans -> one Outcome for each image."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.explain import attention, feature_maps, heat_maps, what_if
from pellucid.explain.evidence import ForwardRecord
from pellucid.explain.image_record import ImageRecord
from pellucid.explain.probe import GivenUpError
from pellucid.explain.scalars import settled
from pellucid.explain.scores import Scores
from pellucid.network.spec import NetworkSpec
from pellucid.types import (
    Batch,
    Explanation,
    FeatureMaps,
    Floats,
    GateReading,
    Importance,
    Outcome,
    Prediction,
    SpatialGateReading,
    WhatIf,
)


def explain(record: ForwardRecord, batch: Batch, network: NetworkSpec, infer_s: float) -> list[Outcome]:
    """Return one outcome for each image of the batch, in order.

    ``record`` must hold the arrays that the plans need. ``infer_s`` is the seconds of the forward pass; it goes into
    the outcomes. The outcomes share no memory with the record.
    """
    started = time.perf_counter()
    plans = batch.plans
    with np.errstate(all="ignore"):  # NaN and infinity are reported by _fault
        scores = Scores.of_logits(record.logits, record.output)
        predictions = scores.top([plan.top_k for plan in plans])
        void = batch.void or (lambda: False,) * len(plans)
        last = network.attentions[-1] if network.attentions else None
        images = [
            ImageRecord(i, settled(plan, scores, i), record, scores, void[i], last)
            for i, plan in enumerate(plans)
            if plan.scored or not plan.predicts_alone
        ]
        answers = [_Answer() for _ in plans]
        maps: list[tuple[FeatureMaps, ...]] = [()] * len(plans)
        if images:
            for image, gates in zip(images, attention.readings(record, images, network.gates), strict=True):
                answers[image.number] = _answer(image, gates, network)
            maps = feature_maps.tapped(record, plans, network.gates)
    explain_s = time.perf_counter() - started
    return [
        Outcome(
            predictions[i],
            answer.gates,
            answer.explanations,
            maps[i],
            infer_s,
            explain_s,
            answer.given_up,
            _fault(record.logits[i], answer, maps[i]),
            answer.importance,
            answer.scored,
            answer.what_if,
            record.waited_s,
            record.logits[i].copy() if record.output.kind == "embedding" else None,
            scores.segmentations[i] if scores.segmentations else None,
            answer.spatial_gates,
        )
        for i, answer in enumerate(answers)
    ]


@dataclass
class _Answer:
    """One image's results so far. They stay incomplete if the caller leaves."""

    gates: tuple[GateReading, ...] = ()
    spatial_gates: tuple[SpatialGateReading, ...] = ()
    scored: tuple[Prediction, ...] = ()
    importance: Importance | None = None
    explanations: tuple[Explanation, ...] = ()
    what_if: WhatIf | None = None
    given_up: bool = False


def _answer(image: ImageRecord, readings: tuple[GateReading, ...], network: NetworkSpec) -> _Answer:
    answer = _Answer(readings, attention.spatial_readings(image, network.spatial_gates), image.scored())
    try:
        answer.importance = heat_maps.importance(image)
        answer.explanations = heat_maps.explanations(image)
        answer.what_if = what_if.answer(image)
        if readings:
            pairs = zip(network.gates, readings, strict=True)
            answer.gates = tuple(attention.with_effects(image, *pair) for pair in pairs)
    except GivenUpError:
        answer.given_up = True
    return answer


def _fault(logits: Floats, answer: _Answer, maps: Sequence[FeatureMaps]) -> str:
    """A sentence that names the numbers that are NaN or infinite, or an empty string.

    NaN must not pass: it would be drawn as a plausible black mask, and JSON cannot represent it.
    """
    numbers: dict[str, list[Floats | None]] = {
        "logits": [logits],
        "heat map": [explanation.heat for explanation in answer.explanations],
        "importance": [answer.importance.weights] if answer.importance else [],
        "gates": [
            *(values for gate in answer.gates for values in (gate.weights, gate.effects, gate.restored)),
            *(gate.weights for gate in answer.spatial_gates),
        ],
        "feature maps": [shown.mean for shown in maps],  # a channel's mean covers all its positions
    }
    wrong = [name for name, arrays in numbers.items() if not _finite(arrays)]
    return f"The network's numbers for this image are NaN or infinite: {', '.join(wrong)}." if wrong else ""


def _finite(arrays: Sequence[Floats | None]) -> bool:
    present = [values.ravel() for values in arrays if values is not None]
    return not present or bool(np.isfinite(np.concatenate(present)).all())
