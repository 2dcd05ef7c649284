"""What-if edits: scale or mute channels of a layer, and run the network behind it again."""

from __future__ import annotations

import numpy as np

from pellucid.explain.evidence import Evidence, gradients
from pellucid.explain.image_record import ImageRecord
from pellucid.explain.methods.gradient import grad_cam
from pellucid.explain.probe import GivenUpError, Probe
from pellucid.explain.scalars import scalars
from pellucid.explain.scores import Scores
from pellucid.types import ChannelRanking, Edit, Floats, TargetMap, WhatIf


def answer(image: ImageRecord) -> WhatIf | None:
    """The logits and Grad-CAM maps before and after the plan's edit, or None if the plan has no edit.

    Both come from the same pass. Raises GivenUpError if the caller has left.
    """
    plan, layer = image.plan, image.plan.layer
    if plan.edit is None or layer is None:
        return None
    if image.void():
        raise GivenUpError
    activation, behind = image.map(layer), image.behind(layer)
    both = np.stack((activation, activation * factors(plan.edit, activation)))  # 2 C h w
    output = image.record.output
    scores = Scores.of_logits(behind.logits(both), output)
    rows = scalars(plan, output, scores.logits.shape[1])
    gradient = gradients(behind, both, rows)  # K 2 C h w
    heat_maps = [grad_cam(Evidence(both[side], gradient[:, side])) for side in (0, 1)]
    targets = tuple(
        (TargetMap(before, heat_maps[0][k]), TargetMap(after, heat_maps[1][k]))
        for k, target in enumerate(image.targets)
        for before, after in [[scores.of(side, target, plan.region(k), plan) for side in (0, 1)]]
    )
    before, after = scores.top([plan.top_k, plan.top_k])
    ranked = ranking(image.uncontrasted_probe(layer), _gate(image)) if plan.edit.ranked else None
    return WhatIf(layer, plan.edit, before, after, targets, ranked)


def factors(edit: Edit, activation: Floats) -> Floats:
    """The factor of every channel: ``[C, 1, 1]``. At a gate's output, it scales the gate's weight as well."""
    values = np.full((len(activation), 1, 1), edit.others, activation.dtype)
    for channel, factor in edit.channels:
        values[channel] = factor
    return values


def ranking(probe: Probe, gate: Floats | None) -> ChannelRanking:
    """How much each channel matters for the probe's first scalar: measured by muting it, and estimated by gradients.

    ``gate`` ``[C]``: the weights of the gate whose output is the layer, None if there is no gate. Raises GivenUpError.
    """
    activation = probe.activation
    gradient = probe.gradients(activation[None])[0, 0]  # C h w or C 1 1
    if probe.linear is None:
        muted = probe.replacement_effect(np.zeros_like(activation))[:, 0]
    else:  # the logit is linear in each channel's mean, so muting a channel removes exactly its term
        muted = -probe.linear[0] * activation.mean((1, 2))
    return ChannelRanking(
        muted=muted,
        gradient_weights=gradient.mean((1, 2)),
        gradient_activation=(gradient * activation).sum((1, 2)),
        gate_weights=gate,
    )


def _gate(image: ImageRecord) -> Floats | None:
    """The weights ``[C]`` of the gate that the edit names, or None."""
    edit = image.plan.edit
    if edit is None or not edit.gate:
        return None
    weights: Floats = image.record.gates[edit.gate][image.number].copy()
    return weights
