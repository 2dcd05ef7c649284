"""A batch's forward record and plans -> one Outcome for each image."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from pellucid.explain import attention, maps
from pellucid.explain import what_if as what_ifs
from pellucid.explain.evidence import ForwardRecord, View
from pellucid.explain.heats import heats
from pellucid.explain.methods.gradient import grad_cam
from pellucid.types import (
    Batch,
    Contrast,
    Explanation,
    FeatureMaps,
    Floats,
    GateReading,
    Importance,
    Outcome,
    Plan,
    Prediction,
    Seen,
    Tap,
    WhatIf,
)


def explain(record: ForwardRecord, batch: Batch, view: View, infer_s: float) -> list[Outcome]:
    """What each plan asks for, from one forward pass of the whole batch. ``view`` must hold what the plans look at."""
    started = time.perf_counter()
    plans = batch.plans
    scores = _Scores.of_logits(record.values[view.logits].float().cpu())
    predictions = scores.top([plan.top_k for plan in plans])
    targets = [
        list(plan.targets)
        or [predictions[i][0].index if predictions[i] and plan.contrast is None else scores.best(i, plan.contrast)]
        for i, plan in enumerate(plans)
    ]
    found = heats(record, batch, targets, view, scores.of)
    what_if = _what_if(record, batch, targets, view, found.given_up)
    gates = _gates(record, plans, [classes[0] for classes in targets], view)
    given_up = found.given_up | _restore(record, batch, [classes[0] for classes in targets], view, gates)
    feature_maps = _feature_maps(record, plans, view)
    explain_s = time.perf_counter() - started
    finite = scores.logits.isfinite().all(1).tolist()
    return [
        Outcome(
            tuple(predictions[i]),
            tuple(gates[i]),
            found.explanations[i],
            feature_maps[i],
            infer_s,
            explain_s,
            i in given_up,
            _fault(finite[i], gates[i], found.explanations[i], found.importances[i], feature_maps[i]),
            found.importances[i],
            tuple(scores.of(i, index) for index in plans[i].scored),
            what_if.get(i),
            record.waited_s,
        )
        for i in range(len(plans))
    ]


def _fault(
    finite_logits: bool,
    gates: Sequence[GateReading],
    explanations: Sequence[Explanation],
    importance: Importance | None,
    feature_maps: Sequence[FeatureMaps],
) -> str:
    """Which numbers are NaN or infinite: NaN would be drawn as a plausible black mask, and JSON has no word for it."""
    parts = {
        "logits": finite_logits,
        "heat map": _finite(found.heat for found in explanations),
        "importance": importance is None or _finite([importance.weights]),
        "gates": _finite(values for gate in gates for values in (gate.weights, gate.effects, gate.restored)),
        "feature maps": _finite(found.mean for found in feature_maps),  # over all positions of each channel
    }
    wrong = ", ".join(name for name, finite in parts.items() if not finite)
    return f"The network's numbers for this image are NaN or infinite: {wrong}." if wrong else ""


def _finite(arrays: Iterable[Floats | None]) -> bool:
    return all(np.isfinite(values).all() for values in arrays if values is not None)


@dataclass(frozen=True)
class _Scores:
    """Logits ``[B, classes]`` and their softmax, fp32, on the CPU."""

    logits: Tensor
    probabilities: Tensor

    @classmethod
    def of_logits(cls, logits: Tensor) -> _Scores:
        return cls(logits, logits.softmax(1))

    def of(self, image: int, index: int) -> Prediction:
        return Prediction(index, float(self.probabilities[image, index]), float(self.logits[image, index]))

    def best(self, image: int, contrast: Contrast | None) -> int:
        """The class with the largest logit, of those that it is not to be explained against."""
        others = () if contrast is None else contrast.against
        ranked: list[int] = self.logits[image].argsort(descending=True, stable=True)[: len(others) + 1].tolist()
        return next((index for index in ranked if index not in others), ranked[0])

    def top(self, counts: Sequence[int]) -> list[list[Prediction]]:
        """For each image its ``count`` classes with the largest logits, largest first; all where there are fewer.

        Of equals the first comes first: which of them ``topk`` takes depends on how many are asked for beside it.
        """
        ranked = self.logits.sort(dim=1, descending=True, stable=True)
        values, indices = ranked.values[:, : max(counts)], ranked.indices[:, : max(counts)]
        probabilities = self.probabilities.gather(1, indices)
        rows = zip(indices.tolist(), probabilities.tolist(), values.tolist(), strict=True)
        return [
            [Prediction(*each) for each in zip(*(column[:count] for column in row), strict=True)]
            for count, row in zip(counts, rows, strict=True)
        ]


def _what_if(
    record: ForwardRecord, batch: Batch, targets: list[list[int]], view: View, given_up: set[int]
) -> dict[int, WhatIf]:
    """What a change of channels would do, by image; those that nobody waited for any more go into ``given_up``."""
    found = {}
    gates = {gate.spec.layer: gate for gate in view.gates}
    for i, plan in enumerate(batch.plans):
        if plan.edit is None or plan.layer is None:
            continue
        if _void(batch, i)():
            given_up.add(i)
            continue
        head = view.heads[plan.layer]
        crossing = record.rows(head.inputs, [i])
        answer = what_ifs.edited(crossing, targets[i], plan.edit, head, grad_cam)
        scores = _Scores.of_logits(answer.logits.float().cpu())
        before, after = scores.top([plan.top_k, plan.top_k])
        heat = answer.heat.float().cpu().numpy()
        ranking = None
        if plan.edit.ranked:
            gate = attention.weights(record.values[gates[plan.edit.gate].weights])[i] if plan.edit.gate else None
            ranking = what_ifs.ranking(crossing, targets[i][0], head, gate, _void(batch, i))
            if ranking is None:
                given_up.add(i)
        of_targets = tuple(
            (Seen(scores.of(0, index), heat[0, k]), Seen(scores.of(1, index), heat[1, k]))
            for k, index in enumerate(targets[i])
        )
        found[i] = WhatIf(plan.layer, plan.edit, tuple(before), tuple(after), of_targets, ranking)
    return found


def _void(batch: Batch, image: int) -> Callable[[], bool]:
    return batch.void[image] if batch.void else lambda: False


def _gates(record: ForwardRecord, plans: Sequence[Plan], targets: list[int], view: View) -> list[list[GateReading]]:
    """Each image's gates with their weights; what they did, for the images that ask."""
    # Copies: an engine may use the record's memory for its next pass.
    read = [attention.weights(record.values[gate.weights]).float().cpu().numpy().copy() for gate in view.gates]  # B C
    ascending = [values.argsort(1, kind="stable") for values in read]  # of all images at once
    readings = [
        [
            GateReading(gate.spec.layer, gate.spec.type, values[i], order[i])
            for gate, values, order in zip(view.gates, read, ascending, strict=True)
        ]
        if plan.gates
        else []
        for i, plan in enumerate(plans)
    ]
    asking = [i for i, plan in enumerate(plans) if plan.effects and plan.gates]
    if asking and view.effects is not None:
        crossing = record.rows(view.effects.inputs, asking)
        found = attention.effects(crossing, [targets[i] for i in asking], view.effects)
        for row, i in enumerate(asking):
            readings[i] = [
                replace(reading, effects=effects[row].float().cpu().numpy())
                for reading, effects in zip(readings[i], found, strict=True)
            ]
    return readings


def _restore(
    record: ForwardRecord,
    batch: Batch,
    targets: list[int],
    view: View,
    readings: list[list[GateReading]],
) -> set[int]:
    """Put what was measured into the readings of the gates that are to be restored.

    Returns the images that nobody waited for any more.
    """
    given_up: set[int] = set()
    for i, plan in enumerate(batch.plans):
        for n, gate in enumerate(view.gates):
            if plan.gates and gate.spec.layer in plan.restore:
                head = attention.measured(gate)
                (before,), crossing = record.rows((gate.before,), [i]), record.rows(head.inputs, [i])
                changes = attention.restored(before, crossing, targets[i], head, _void(batch, i))
                if changes is None:
                    given_up.add(i)
                    break
                readings[i][n] = replace(readings[i][n], restored=changes.float().cpu().numpy())
    return given_up


def _feature_maps(record: ForwardRecord, plans: Sequence[Plan], view: View) -> list[tuple[FeatureMaps, ...]]:
    """Each image's feature maps, in the order in which its plan names layers and gates.

    Images that ask for the same are computed together.
    """
    gates = {gate.spec.layer: gate for gate in view.gates}
    found: list[dict[Tap, list[FeatureMaps]]] = [{} for _ in plans]
    for tap in dict.fromkeys(tap for plan in plans for tap in plan.taps):
        asking = [i for i, plan in enumerate(plans) if tap in plan.taps]
        if tap.gate:
            gate = gates[tap.layer]
            before, after = record.rows((gate.before, gate.after), asking)
            of_images = maps.of_gate(before, after, tap)
        else:
            (values,) = record.rows((view.layers[tap.layer],), asking)
            of_images = maps.of_layer(values, tap)
        for i, of_image in zip(asking, of_images, strict=True):
            found[i][tap] = of_image
    return [tuple(each for tap in plan.taps for each in of_tap[tap]) for plan, of_tap in zip(plans, found, strict=True)]
