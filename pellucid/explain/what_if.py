"""What if channels weighed more, less, or nothing? The head behind the cut is asked, without another trunk pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.explain import attention
from pellucid.explain.evidence import Evidence, Head, gather
from pellucid.types import ChannelRanking, Edit, Floats


@dataclass(frozen=True, slots=True)
class Answer:
    """Logits ``[2, classes]`` and K classes' maps ``[2, K, h, w]``: as it is, and as edited; by the same head."""

    logits: Tensor
    heat: Tensor


def edited(
    crossing: tuple[Tensor, ...], targets: list[int], edit: Edit, head: Head, method: Callable[[Evidence], Tensor]
) -> Answer:
    """One image's activation at the cut ``crossing[0]`` ``[1, C, h, w]`` with each channel c times its factor s_c.

    Behind a gate that is the gate's weight times s_c, since its output is weight times input.
    """
    activation, *bypass = crossing
    both = (
        torch.cat((activation, activation * factors(edit, activation)[None, :, None, None])),
        *(value.expand(2, *value.shape[1:]) for value in bypass),
    )
    logits = head.forward(*both)
    heat = torch.stack([method(evidence) for evidence in gather(both, [targets, targets], head)])
    return Answer(logits, heat)


def factors(edit: Edit, activation: Tensor) -> Tensor:
    """The factor ``[C]`` of every channel."""
    values = activation.new_full((activation.shape[1],), edit.others)
    for channel, factor in edit.channels:
        values[channel] = factor
    return values


def ranking(
    crossing: tuple[Tensor, ...],
    target: int,
    head: Head,
    gate: Tensor | None,
    void: Callable[[], bool],
) -> ChannelRanking | None:
    """Which channels mattered for one class of one image, by measurement and by what is taken for it.

    None as soon as the image is ``void``. ``gate`` ``[C]`` are the weights of the gate that ends at the cut.
    """
    activation = crossing[0]
    (evidence,) = gather(crossing, [[target]], head)
    gradient = evidence.gradient[0]  # C h w or C 1 1
    if head.linear is not None:
        # The logit is linear in the mean of each channel: what muting takes is its share.
        muted: Tensor | None = -head.linear[target] * activation[0].mean((1, 2))
    else:
        muted = attention.restored(torch.zeros_like(activation), crossing, target, head, void)
    if muted is None:
        return None
    return ChannelRanking(
        muted=_array(muted),
        gradient_weights=_array(gradient.mean((1, 2))),
        gradient_activation=_array((gradient * activation[0]).sum((1, 2))),
        gate_weights=None if gate is None else _array(gate),
    )


def _array(values: Tensor) -> Floats:
    array: Floats = values.float().cpu().numpy()
    return array
