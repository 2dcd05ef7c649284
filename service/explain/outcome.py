"""A batch's forward record and plans -> one Outcome for each image."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from service.explain import attention, maps
from service.explain.cam import METHODS, channel_weights
from service.explain.evidence import ForwardRecord, Head, View, gather
from service.types import Explanation, FeatureMaps, Floats, GateReading, Outcome, Plan, Prediction


def explain(record: ForwardRecord, plans: Sequence[Plan], view: View, infer_s: float) -> list[Outcome]:
    """What each plan asks for, from one forward pass of the whole batch. ``view`` must hold what the plans look at."""
    started = time.perf_counter()
    scores = _Scores(record.values[view.logits].float().cpu())
    predictions = [scores.top(i, plan.top_k) for i, plan in enumerate(plans)]
    targets = [list(plan.targets) or [predictions[i][0].index] for i, plan in enumerate(plans)]
    explanations: list[tuple[Explanation, ...]] = [() for _ in plans]
    if view.head is not None:
        explanations = _explanations(record, plans, targets, scores, view.head)
    gates = _gates(record, plans, [classes[0] for classes in targets], scores, view)
    feature_maps = [_feature_maps(record, i, plan, view) for i, plan in enumerate(plans)]
    explain_s = time.perf_counter() - started
    finite = scores.logits.isfinite().all(1).tolist()
    return [
        Outcome(
            tuple(predictions[i]),
            gates[i],
            explanations[i],
            feature_maps[i],
            infer_s,
            explain_s,
            _fault(finite[i], gates[i], explanations[i], feature_maps[i]),
        )
        for i in range(len(plans))
    ]


def _fault(
    finite_logits: bool,
    gates: Sequence[GateReading],
    explanations: Sequence[Explanation],
    feature_maps: Sequence[FeatureMaps],
) -> str:
    """Which numbers are NaN or infinite: NaN would be drawn as a plausible black mask, and JSON has no word for it."""
    parts = {
        "logits": finite_logits,
        "heat map": _finite(values for found in explanations for values in (found.heat, found.channel_weights)),
        "gates": _finite(values for gate in gates for values in (gate.weights, gate.effects, gate.restored)),
        "feature maps": _finite(found.mean for found in feature_maps),  # over all positions of each channel
    }
    wrong = ", ".join(name for name, finite in parts.items() if not finite)
    return f"The network's numbers for this image are NaN or infinite: {wrong}." if wrong else ""


def _finite(arrays: Iterable[Floats | None]) -> bool:
    return all(np.isfinite(values).all() for values in arrays if values is not None)


@dataclass(frozen=True)
class _Scores:
    """Logits ``[B, classes]``, fp32, on the CPU."""

    logits: Tensor

    def of(self, image: int, index: int) -> Prediction:
        row = self.logits[image]
        return Prediction(index, float(row.softmax(0)[index]), float(row[index]))

    def top(self, image: int, count: int) -> list[Prediction]:
        """The classes with the largest logits, largest first; all of them where there are fewer than ``count``."""
        row = self.logits[image]
        values, indices = row.topk(min(count, len(row)))
        probabilities = row.softmax(0)[indices]
        return [
            Prediction(*each) for each in zip(indices.tolist(), probabilities.tolist(), values.tolist(), strict=True)
        ]


def _explanations(
    record: ForwardRecord, plans: Sequence[Plan], targets: list[list[int]], scores: _Scores, head: Head
) -> list[tuple[Explanation, ...]]:
    """Explanations of the images that ask for them; the head runs on those alone."""
    asking = [i for i, plan in enumerate(plans) if plan.layer is not None]
    found: list[tuple[Explanation, ...]] = [() for _ in plans]
    evidences = gather(record.rows(head.inputs, asking), [targets[i] for i in asking], head)
    for i, evidence in zip(asking, evidences, strict=True):
        plan = plans[i]
        heat = METHODS[plan.method](evidence).float().cpu().numpy()  # K h w
        weights = channel_weights(evidence).float().cpu().numpy()  # K C
        found[i] = tuple(
            Explanation(scores.of(i, index), plan.layer or "", plan.method, heat[k], weights[k])
            for k, index in enumerate(targets[i])
        )
    return found


def _gates(
    record: ForwardRecord, plans: Sequence[Plan], targets: list[int], scores: _Scores, view: View
) -> list[tuple[GateReading, ...]]:
    """Each image's gates with their weights; what they did, for the images that ask."""
    read = [attention.weights(record.values[gate.weights]).float().cpu().numpy() for gate in view.gates]  # B C each
    readings = [
        [GateReading(gate.spec.layer, gate.spec.type, values[i]) for gate, values in zip(view.gates, read, strict=True)]
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
    for i, plan in enumerate(plans):
        for n, gate in enumerate(view.gates):
            if plan.gates and gate.spec.layer in plan.restore:
                head = attention.measured(gate)
                (before,), crossing = record.rows((gate.before,), [i]), record.rows(head.inputs, [i])
                logit = float(scores.logits[i, targets[i]])
                changes = attention.restored(before, crossing, targets[i], logit, head)
                readings[i][n] = replace(readings[i][n], restored=changes.float().cpu().numpy())
    return [tuple(each) for each in readings]


def _feature_maps(record: ForwardRecord, image: int, plan: Plan, view: View) -> tuple[FeatureMaps, ...]:
    """One image's feature maps, in the order in which its plan names layers and gates."""
    gates = {gate.spec.layer: gate for gate in view.gates}
    found: list[FeatureMaps] = []
    for tap in plan.taps:
        if tap.gate:
            gate = gates[tap.layer]
            found += maps.of_gate(record.values[gate.before][image], record.values[gate.after][image], tap)
        else:
            found.append(maps.of_layer(record.values[view.layers[tap.layer]][image], tap))
    return tuple(found)
