"""Activations at the cut, and the gradients of the wanted logits by them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.spec import GateSpec


@dataclass(frozen=True)
class Head:
    """The network behind a cut. ``forward`` takes the values named in ``inputs``, the activation at the cut first.

    It returns logits ``[B, classes]``. ``linear`` ``[classes, C]`` as in models.graph.Cut.
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

    ``layers``: tapped layer -> value. ``head``: behind the layer that is explained. ``gates``: in the network's order,
    empty where no plan asks for them. ``effects``: the head before the first gate; it returns logits and all gates'
    weights.
    """

    logits: str
    layers: Mapping[str, str]
    head: Head | None = None
    gates: tuple[GateView, ...] = ()
    effects: Head | None = None


@dataclass(frozen=True)
class ForwardRecord:
    """What one pass of the trunk left behind, for B images: values by name, each ``[B, ...]``.

    They may be overwritten by the same thread's next pass, so what outlives this one is copied.
    """

    values: Mapping[str, Tensor]

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


def gather(crossing: tuple[Tensor, ...], targets: list[list[int]], head: Head) -> list[Evidence]:
    """Evidence for each of B images and its own classes ``targets[b]``.

    Global average pooling and a linear classifier behind the cut have the gradient W[k, c] / (h * w) at every position;
    any other head is run once and differentiated once for all images and classes.
    """
    activation = crossing[0]  # B C h w
    if head.linear is not None:
        positions = activation.shape[2] * activation.shape[3]
        constant = head.linear[[index for classes in targets for index in classes]][:, :, None, None] / positions
        of_images = torch.split(constant, [len(classes) for classes in targets])  # each K C 1 1
        return [Evidence(*of_image) for of_image in zip(activation, of_images, strict=True)]
    gradients = _differentiate(crossing, targets, head)  # K B C h w
    return [Evidence(activation[image], gradients[: len(classes), image]) for image, classes in enumerate(targets)]


def _differentiate(crossing: tuple[Tensor, ...], targets: list[list[int]], head: Head) -> Tensor:
    """d logit / d activation ``[K, B, C, h, w]`` for the k-th class of every image, K the most that any image asks for.

    Images don't influence each other in eval mode, so the gradient of a sum over the batch is each image's own. Images
    with fewer classes repeat their last. ``grad`` and not ``backward``: that would write into the shared parameters.
    """
    most = max(len(classes) for classes in targets)
    padded = torch.tensor([[*classes, *[classes[-1]] * (most - len(classes))] for classes in targets])
    leaf = crossing[0].detach().requires_grad_()
    with torch.enable_grad():
        logits: Tensor = head.forward(leaf, *crossing[1:])
        if not logits.requires_grad:  # behind a comparison or a rounding: the logits don't follow the activation
            return leaf.new_zeros(most, *leaf.shape)
        wanted = torch.zeros(most, *logits.shape, dtype=logits.dtype, device=logits.device)  # K B classes
        wanted.scatter_(2, padded.to(logits.device).T[:, :, None], 1)
        if most == 1:
            (gradient,) = torch.autograd.grad(logits, leaf, wanted[0])
            return gradient[None]
        (gradient,) = torch.autograd.grad(logits, leaf, wanted, is_grads_batched=True)
        return gradient
