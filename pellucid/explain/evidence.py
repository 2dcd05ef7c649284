"""Activations at the cut, and the gradients of the wanted logits by them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pellucid.network.spec import GateSpec
from pellucid.types import Contrast


@dataclass(frozen=True)
class Head:
    """The network behind a cut. ``forward`` takes the values named in ``inputs``, the activation at the cut first.

    It returns logits ``[B, classes]``. ``linear`` ``[classes, C]`` as in pellucid.compiler.graph.Cut.
    """

    inputs: tuple[str, ...]
    forward: Callable[..., Any]
    linear: Tensor | None = None


@dataclass(frozen=True)
class GateView:
    """A gate, the names of its values, and, where channels are to be restored, the head behind it."""

    spec: GateSpec
    weights: str
    before: str
    after: str
    head: Head | None = None


@dataclass(frozen=True)
class View:
    """What of the network the plans of one batch look at. Names are those of values in the ForwardRecord.

    ``layers``: layer that is tapped or explained -> value. ``heads``: layer that is explained -> the head behind it.
    ``gates``: in the network's order, empty where no plan asks for them. ``effects``: the head before the first gate;
    it returns logits and all gates' weights.
    """

    logits: str
    layers: Mapping[str, str]
    heads: Mapping[str, Head] = field(default_factory=dict)
    gates: tuple[GateView, ...] = ()
    effects: Head | None = None


@dataclass(frozen=True)
class ForwardRecord:
    """What one pass of the trunk left behind, for B images: values by name, each ``[B, ...]``.

    They may be overwritten by a later pass, so what outlives this one is copied. ``waited_s``: seconds before it began.
    """

    values: Mapping[str, Tensor]
    waited_s: float = 0.0

    def rows(self, names: Sequence[str], images: Sequence[int]) -> tuple[Tensor, ...]:
        """The named values of these images alone."""
        everything = all(len(images) == len(self.values[name]) for name in names)
        return tuple(self.values[name] if everything else self.values[name][list(images)] for name in names)


@dataclass(frozen=True)
class Evidence:
    """For one image: the activation ``[C, h, w]`` and, for K classes, the gradient of each one's logit by it.

    ``gradient`` is ``[K, C, h, w]``, or ``[K, C, 1, 1]`` where it is the same at every position; it broadcasts either
    way.
    """

    activation: Tensor
    gradient: Tensor


def weighted(weights: Tensor, activation: Tensor) -> Tensor:
    """sum_c weights[k, c] A[c]: ``[K, C]`` and ``[C, h, w]`` -> ``[K, h, w]``."""
    heat = weights @ activation.flatten(1)  # K C @ C hw
    return heat.view(-1, *activation.shape[1:])


def gather(
    crossing: tuple[Tensor, ...],
    targets: Sequence[Sequence[int]],
    head: Head,
    contrasts: Sequence[Contrast | None] | None = None,
) -> list[Evidence]:
    """Evidence for each of B images and its own classes ``targets[b]``, less what ``contrasts[b]`` subtracts of each.

    Global average pooling and a linear classifier behind the cut have the gradient W[k, c] / (h * w) at every position;
    any other head is run once and differentiated once for all images and classes.
    """
    activation = crossing[0]  # B C h w
    contrasts = contrasts or [None] * len(targets)
    if head.linear is not None:
        positions = activation.shape[2] * activation.shape[3]
        rows = head.linear[[index for classes in targets for index in classes]]  # of all images at once
        of_images = list(torch.split(rows[:, :, None, None] / positions, [len(classes) for classes in targets]))
        for image, contrast in enumerate(contrasts):
            if contrast is not None:
                others = head.linear[list(contrast.against)].mean(0)[:, None, None]
                of_images[image] = of_images[image] - contrast.weight * others / positions
        return [Evidence(*of_image) for of_image in zip(activation, of_images, strict=True)]  # each K C 1 1
    most = max(len(classes) for classes in targets)
    leaf = activation.detach().requires_grad_()
    with torch.enable_grad():
        logits: Tensor = head.forward(leaf, *crossing[1:])
    # Images with fewer classes repeat their last.
    padded = [[*classes, *[classes[-1]] * (most - len(classes))] for classes in targets]
    wanted = [scalars(*of_image, logits) for of_image in zip(padded, contrasts, strict=True)]
    gradients = differentiate(logits, leaf, torch.stack(wanted, 1))  # K B C h w
    return [Evidence(activation[image], gradients[: len(classes), image]) for image, classes in enumerate(targets)]


def scalars(targets: Sequence[int], contrast: Contrast | None, logits: Tensor) -> Tensor:
    """The scalars that are explained, as weights of the logits ``[..., classes]``: ``[K, classes]``."""
    weights = torch.zeros(len(targets), logits.shape[-1], dtype=logits.dtype, device=logits.device)
    weights[range(len(targets)), list(targets)] = 1
    if contrast is not None:
        weights[:, list(contrast.against)] -= contrast.weight / len(contrast.against)
    return weights


def differentiate(logits: Tensor, leaf: Tensor, wanted: Tensor, *, keep: bool = False) -> Tensor:
    """d (wanted[k] . logits) / d leaf ``[K, B, C, h, w]``; ``wanted`` is ``[K, B, classes]``.

    Images don't influence each other in eval mode, so the gradient of a sum over the batch is each image's own.
    ``grad`` and not ``backward``: that would write into the shared parameters. ``keep`` allows a further call.

    One pass for each k: on CPUs all at once (``is_grads_batched``) takes as long behind a late layer, and twice as long
    behind an early one. And of sums, since with gradients of the logits given, torch loads SymPy to compare shapes.
    """
    if not logits.requires_grad:  # behind a comparison or a rounding: the logits don't follow the activation
        return leaf.new_zeros(len(wanted), *leaf.shape)
    with torch.enable_grad():
        sums = [(logits * weights).sum() for weights in wanted]
    last = len(sums) - 1
    gradients = [
        torch.autograd.grad(each, leaf, retain_graph=keep or number < last)[0] for number, each in enumerate(sums)
    ]
    return torch.stack(gradients)
