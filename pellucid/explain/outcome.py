"""A batch's forward record and plans -> one Outcome for each image."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from pellucid.explain import attention, heats, maps, what_if
from pellucid.explain.evidence import ForwardRecord, resolved
from pellucid.explain.image import Image
from pellucid.explain.probe import GivenUpError
from pellucid.explain.scores import Scores
from pellucid.network.spec import GateSpec, NetworkSpec
from pellucid.types import Batch, Explanation, FeatureMaps, Floats, GateReading, Importance, Outcome, WhatIf


def explain(record: ForwardRecord, batch: Batch, network: NetworkSpec, infer_s: float) -> list[Outcome]:
    """An outcome for each image of the batch. ``record`` must hold what the plans ask for.

    The outcomes share no memory with the record.
    """
    started = time.perf_counter()
    plans = batch.plans
    with np.errstate(all="ignore"):  # the outcome's fault names NaN and infinity
        scores = Scores.of_logits(record.logits)
        predictions = scores.top([plan.top_k for plan in plans])
        void = batch.void or (lambda: False,) * len(plans)
        images = [
            Image(i, plan, resolved(plan, record.logits[i]), record, partial(scores.of, i), void[i])
            for i, plan in enumerate(plans)
        ]
        readings = attention.readings(record, images, network.gates)
        found = [_found(*of_image, network.gates) for of_image in zip(images, readings, strict=True)]
        feature_maps = maps.tapped(record, plans, network.gates)
    explain_s = time.perf_counter() - started
    return [
        Outcome(
            predictions[i],
            of_image.gates,
            of_image.explanations,
            feature_maps[i],
            infer_s,
            explain_s,
            of_image.given_up,
            _fault(record.logits[i], of_image, feature_maps[i]),
            of_image.importance,
            tuple(images[i].score(index) for index in plans[i].scored),
            of_image.what_if,
            record.waited_s,
        )
        for i, of_image in enumerate(found)
    ]


@dataclass
class _Found:
    """One image's answer so far. It stays incomplete if the caller leaves."""

    gates: tuple[GateReading, ...]
    importance: Importance | None = None
    explanations: tuple[Explanation, ...] = ()
    what_if: WhatIf | None = None
    given_up: bool = False


def _found(image: Image, readings: tuple[GateReading, ...], gates: Sequence[GateSpec]) -> _Found:
    found = _Found(readings)
    try:
        found.importance = heats.importance(image)
        found.explanations = heats.explanations(image)
        found.what_if = what_if.answer(image)
        if readings:
            found.gates = tuple(attention.measured(image, *of_gate) for of_gate in zip(gates, readings, strict=True))
    except GivenUpError:
        found.given_up = True
    return found


def _fault(logits: Floats, found: _Found, feature_maps: Sequence[FeatureMaps]) -> str:
    """Which numbers are NaN or infinite: NaN would be drawn as a plausible black mask, and JSON has no word for it."""
    parts: dict[str, list[Floats | None]] = {
        "logits": [logits],
        "heat map": [each.heat for each in found.explanations],
        "importance": [found.importance.weights] if found.importance else [],
        "gates": [values for gate in found.gates for values in (gate.weights, gate.effects, gate.restored)],
        "feature maps": [each.mean for each in feature_maps],  # over all positions of each channel
    }
    wrong = [name for name, arrays in parts.items() if not _finite(arrays)]
    return f"The network's numbers for this image are NaN or infinite: {', '.join(wrong)}." if wrong else ""


def _finite(arrays: Sequence[Floats | None]) -> bool:
    there = [values.ravel() for values in arrays if values is not None]
    return not there or bool(np.isfinite(np.concatenate(there)).all())
