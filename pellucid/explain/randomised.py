"""The maps that heads with random weights have: what a map must differ from to tell anything of the network.

Adebayo et al., "Sanity Checks for Saliency Maps", arXiv 1810.03292.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from pellucid.explain.evidence import Evidence, Head, gather
from pellucid.types import Contrast


def maps(
    crossing: tuple[Tensor, ...],
    targets: list[int],
    contrast: Contrast | None,
    head: Head,
    method: Callable[[Evidence], Tensor],
    draws: int,
    void: Callable[[], bool],
) -> Tensor | None:
    """One image's maps ``[draws, K, h, w]``, each of a head whose weights are shuffled among themselves.

    Seeded by the draw alone, so all images meet the same heads. None as soon as the image is ``void``.
    """
    found = []
    for evidence in _evidence(crossing, targets, contrast, head, draws):
        if void():
            return None
        found.append(method(evidence))
    return torch.stack(found)


def _evidence(
    crossing: tuple[Tensor, ...], targets: list[int], contrast: Contrast | None, head: Head, draws: int
) -> Iterator[Evidence]:
    for draw in range(draws):
        generator = torch.Generator().manual_seed(draw)
        if head.linear is not None:
            # The classes' rows of a shuffled matrix are as many of its weights by chance.
            weights = head.linear.flatten()
            chosen = torch.randint(len(weights), (len(targets), head.linear.shape[1]), generator=generator)
            rows = weights[chosen.to(weights.device)]  # K C
            if contrast is not None:
                others = torch.randint(len(weights), (len(contrast.against), rows.shape[1]), generator=generator)
                rows = rows - contrast.weight * weights[others.to(weights.device)].mean(0)
            rows = rows[:, :, None, None]
            yield Evidence(crossing[0][0], rows / (crossing[0].shape[2] * crossing[0].shape[3]))
        else:
            shuffled = Head(head.inputs, _shuffled(head, generator))
            (evidence,) = gather(crossing, [targets], shuffled, [contrast])
            yield evidence


def _shuffled(head: Head, generator: torch.Generator) -> Callable[..., Tensor]:
    """The head with the values of each of its parameters in another order. Norms keep their statistics.

    A copy: the head's parameters are every request's, and torch.func.functional_call would swap them for all threads
    as long as it runs.
    """
    module = head.forward
    assert isinstance(module, nn.Module)
    shuffled = copy.deepcopy(module)
    with torch.no_grad():
        for value in shuffled.parameters():
            value.copy_(
                value.flatten()[torch.randperm(value.numel(), generator=generator).to(value.device)].view_as(value)
            )
    return shuffled
