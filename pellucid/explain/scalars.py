"""The explained scalars of a plan, as rows of weights of the logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pellucid.explain.evidence import has_importance
from pellucid.explain.scores import Scores
from pellucid.network.spec import OutputSpec
from pellucid.types import Contrast, Floats, Plan, Region


def settled(plan: Plan, scores: Scores, image: int) -> Plan:
    """The plan with its targets and, for a dense output, the mask of each one's region."""
    against = plan.contrast.against if plan.contrast else ()
    targets = plan.targets or (scores.default_target(image, against),)
    if targets != plan.targets:
        plan = replace(plan, targets=targets)
    if scores.output.kind != "dense":
        return plan
    regions = (_masked(plan.region(number), scores, image, index) for number, index in enumerate(targets))
    return replace(plan, regions=tuple(regions))


def _masked(region: Region, scores: Scores, image: int, index: int) -> Region:
    if region.mask is not None:
        return region
    mask = scores.where(image, index)
    if not mask.any():
        return Region("picture", mask=np.ones_like(mask))
    return replace(region, mask=mask)


def needs_logits(plan: Plan, output: OutputSpec) -> bool:
    """Whether the logits decide which scalars are differentiated, other than the top class's logit."""
    if output.kind == "dense":
        return not plan.targets or any(region.kind == "class" for region in plan.regions or (Region(),))
    return plan.changes_the_scalar and not plan.targets


def scalars(plan: Plan, output: OutputSpec, count: int) -> Floats:
    """The explained scalars ``[K, count]`` of a settled plan, one row of weights for each target.

    A row is 1 at its target. Over a region it is 1 / n at each of the n positions. For an embedding it is the
    reference. A contrast subtracts ``weight`` times the mean logit of ``against``. A direction down changes the sign.
    """
    return plan.direction * _rows(plan, plan.targets, plan.contrast, output, count)


def uncontrasted(plan: Plan, output: OutputSpec, count: int) -> Floats:
    """The scalar ``[1, count]`` of the first target without contrast and direction."""
    return _rows(plan, plan.targets[:1], None, output, count)


def _rows(plan: Plan, targets: Sequence[int], contrast: Contrast | None, output: OutputSpec, count: int) -> Floats:
    rows: Floats = np.zeros((len(targets), count), np.float32)
    weights = [(contrast.against, -contrast.weight / len(contrast.against))] if contrast else []
    if output.kind == "embedding":
        if plan.reference is not None:
            rows[:] = plan.reference.vector
    elif output.kind == "dense":
        maps = rows.reshape(len(targets), *output.shape)
        for number, target in enumerate(targets):
            mask = plan.region(number).mask
            assert mask is not None  # the plan is settled
            maps[number, target][mask] = 1 / mask.sum()
            for against, weight in weights:
                for index in against:
                    maps[number, index][mask] += weight / mask.sum()
    else:
        rows[range(len(targets)), targets] = 1
        for against, weight in weights:
            rows[:, against] += weight
    return rows


def wanted(plan: Plan, output: OutputSpec, count: int) -> Floats:
    """The scalars whose gradients a settled plan needs, as rows of weights ``[R, count]``.

    The first rows are those of ``scalars``. Channel importance and gate effects are of the target's logit itself. If
    the scalars are not, a plan that needs both gets one more row: ``uncontrasted``.
    """
    rows = scalars(plan, output, count)
    if not plan.changes_the_scalar or not (has_importance(plan) or (plan.gates and plan.effects)):
        return rows
    return np.concatenate((rows, uncontrasted(plan, output, count)))


def first_target_row(plan: Plan, rows: Floats) -> Floats:
    """The row that belongs to ``uncontrasted``. ``rows`` is in the order of ``wanted``."""
    row: Floats = rows[-1 if plan.changes_the_scalar else 0]
    return row
