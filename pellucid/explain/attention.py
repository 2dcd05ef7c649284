"""What channel-attention gates did: their weights, the effect of each channel, and that effect measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pellucid.explain.evidence import GateView, Head

# Copies of one image that are sent through a head together when channels are restored.
_COPIES = 32


def weights(gate: Tensor) -> Tensor:
    """A gate's value ``[B, C]`` or ``[B, C, 1, 1]`` as ``[B, C]``."""
    return gate.flatten(1)


def effects(crossing: tuple[Tensor, ...], targets: Sequence[int], head: Head) -> list[Tensor]:
    """Gradient x activation behind every gate, summed over positions: per gate ``[B, C]``, for one class of each image.

    With y = s x the gated activation, sum_hw (dlogit/dy) y = s dlogit/ds: the weight times the logit's gradient by
    it. So one backward pass serves all gates; it takes into account how later gates respond.
    """
    leaf = crossing[0].detach().requires_grad_()
    with torch.enable_grad():
        logits, *gates = head.forward(leaf, *crossing[1:])
        wanted = logits[torch.arange(len(targets)), list(targets)].sum()
        gradients = torch.autograd.grad(wanted, gates)
    return [weights(gate.detach() * gradient) for gate, gradient in zip(gates, gradients, strict=True)]


def restored(
    before: Tensor, crossing: tuple[Tensor, ...], target: int, head: Head, void: Callable[[], bool]
) -> Tensor | None:
    """The class's logit with one channel's weight set to 1, less the one as it is: ``[C]``, for one image.

    ``before`` ``[1, C, h, w]`` is what the gate receives, ``crossing[0]`` what it puts out. Each channel is one copy
    of the image in a batch through the head alone. None as soon as the image is ``void``, asked before each batch.
    """
    after, *bypass = crossing
    unchanged = head.forward(*crossing)[:, target]  # by the same head: what computed the trunk may round otherwise
    channels = after.shape[1]
    changes = []
    for start in range(0, channels, _COPIES):
        if void():
            return None
        chosen = torch.arange(start, min(start + _COPIES, channels), device=after.device)
        copies = after.repeat(len(chosen), 1, 1, 1)  # n C h w
        copies[torch.arange(len(chosen), device=after.device), chosen] = before[0, chosen]
        others = [value.expand(len(chosen), *value.shape[1:]) for value in bypass]
        changes.append(head.forward(copies, *others)[:, target] - unchanged)
    return torch.cat(changes)


def measured(view: GateView) -> Head:
    """The head behind a gate whose channels are to be restored. Raises ValueError where the view has none."""
    if view.head is None:
        raise ValueError(f"the gate {view.spec.layer} was not prepared for restoring channels")
    return view.head
