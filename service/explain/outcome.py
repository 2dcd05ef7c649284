"""A batch's forward record and plans -> one Outcome for each image."""

from __future__ import annotations

import time
from collections.abc import Sequence

from torch import Tensor

from models.spec import GateSpec
from service.explain import maps
from service.explain.cam import METHODS, channel_weights
from service.explain.evidence import ForwardRecord, Head, gather
from service.types import Explanation, FeatureMaps, GateReading, Outcome, Plan, Prediction


def explain(
    record: ForwardRecord, plans: Sequence[Plan], gates: Sequence[GateSpec], head: Head | None, infer_s: float
) -> list[Outcome]:
    """What each plan asks for, from one forward pass of the whole batch.

    ``head`` is needed where a plan has a layer.
    """
    started = time.perf_counter()
    logits = record.logits.float().cpu()
    probabilities = logits.softmax(1)
    predictions = [_top(plan.top_k, logits[i], probabilities[i]) for i, plan in enumerate(plans)]
    explanations: list[tuple[Explanation, ...]] = [() for _ in plans]
    if head is not None:
        explanations = _explanations(record, plans, predictions, logits, probabilities, head)
    feature_maps = _feature_maps(record.taps, plans)
    readings = [weights.flatten(1).float().cpu().numpy() for weights in record.gates]  # per gate: B C
    explain_s = time.perf_counter() - started
    return [
        Outcome(
            predictions=tuple(predictions[i]),
            gates=tuple(GateReading(g.layer, g.type, w[i]) for g, w in zip(gates, readings, strict=False))
            if plan.gates
            else (),
            explanations=explanations[i],
            maps=feature_maps[i],
            infer_s=infer_s,
            explain_s=explain_s,
        )
        for i, plan in enumerate(plans)
    ]


def _top(count: int, logits: Tensor, probabilities: Tensor) -> list[Prediction]:
    """The ``count`` classes with the largest logits, at least one, largest first."""
    values, indices = logits.topk(min(max(count, 1), len(logits)))
    return [
        Prediction(index, float(probabilities[index]), logit)
        for index, logit in zip(indices.tolist(), values.tolist(), strict=True)
    ]


def _explanations(
    record: ForwardRecord,
    plans: Sequence[Plan],
    predictions: list[list[Prediction]],
    logits: Tensor,
    probabilities: Tensor,
    head: Head,
) -> list[tuple[Explanation, ...]]:
    """Explanations of the images that ask for them; the head runs on those alone."""
    asking = [i for i, plan in enumerate(plans) if plan.layer is not None]
    crossing = record.crossing if len(asking) == len(plans) else tuple(value[asking] for value in record.crossing)
    targets = [list(plans[i].targets) or [predictions[i][0].index] for i in asking]
    found: list[tuple[Explanation, ...]] = [() for _ in plans]
    for i, classes, evidence in zip(asking, targets, gather(crossing, targets, head), strict=True):
        plan = plans[i]
        heat = METHODS[plan.method](evidence).float().cpu().numpy()  # K h w
        weights = channel_weights(evidence).float().cpu().numpy()  # K C
        found[i] = tuple(
            Explanation(
                target=Prediction(index, float(probabilities[i, index]), float(logits[i, index])),
                layer=plan.layer or "",
                method=plan.method,
                heat=heat[k],
                channel_weights=weights[k],
            )
            for k, index in enumerate(classes)
        )
    return found


def _feature_maps(taps: dict[str, Tensor], plans: Sequence[Plan]) -> list[tuple[FeatureMaps, ...]]:
    """Each image's feature maps, in the order in which its plan names the layers."""
    wanted = [{tap.layer: tap for tap in plan.taps} for plan in plans]
    by_layer = {
        layer: maps.select(values, [plan_taps.get(layer) for plan_taps in wanted]) for layer, values in taps.items()
    }
    return [
        tuple(found for tap in plan.taps if (found := by_layer[tap.layer][i]) is not None)
        for i, plan in enumerate(plans)
    ]
