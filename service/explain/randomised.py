"""The maps that heads with random weights have: what a map must differ from to tell anything of the network.

Adebayo et al., "Sanity Checks for Saliency Maps", arXiv 1810.03292.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call

from service.explain.evidence import Evidence, Head, gather


def maps(
    crossing: tuple[Tensor, ...],
    targets: list[int],
    head: Head,
    method: Callable[[Evidence], Tensor],
    draws: int,
    void: Callable[[], bool],
) -> Tensor | None:
    """One image's maps ``[draws, K, h, w]``, each of a head whose weights are shuffled among themselves.

    Seeded by the draw alone, so all images meet the same heads. None as soon as the image is ``void``.
    """
    found = []
    for evidence in _evidence(crossing, targets, head, draws):
        if void():
            return None
        found.append(method(evidence))
    return torch.stack(found)


def _evidence(crossing: tuple[Tensor, ...], targets: list[int], head: Head, draws: int) -> Iterator[Evidence]:
    for draw in range(draws):
        generator = torch.Generator().manual_seed(draw)
        if head.linear is not None:
            # The classes' rows of a shuffled matrix are as many of its weights by chance.
            weights = head.linear.flatten()
            chosen = torch.randint(len(weights), (len(targets), head.linear.shape[1]), generator=generator)
            rows = weights[chosen.to(weights.device)][:, :, None, None]  # K C 1 1
            yield Evidence(crossing[0][0], rows / (crossing[0].shape[2] * crossing[0].shape[3]))
        else:
            (evidence,) = gather(crossing, [targets], Head(head.inputs, _shuffled(head, generator)))
            yield evidence


def _shuffled(head: Head, generator: torch.Generator) -> Callable[..., Tensor]:
    """The head with the values of each of its parameters in another order. Norms keep their statistics."""
    module = head.forward
    assert isinstance(module, nn.Module)
    parameters = {
        name: value.flatten()[torch.randperm(value.numel(), generator=generator).to(value.device)].view_as(value)
        for name, value in module.named_parameters()
    }
    return lambda *inputs: functional_call(module, parameters, inputs)
