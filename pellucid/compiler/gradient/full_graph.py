"""Records a network and its gradients as one graph: logits, every layer's value, and the gradient at every layer.

torch's autograd runs at compile time only, for a batch of two and a batch of three images, and its operations are
recorded. A number that differs between the two recordings is a multiple of the batch size, so the graph works for any
batch size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from pellucid.compiler.gradient import backward, pooling, rewrites
from pellucid.compiler.gradient.kernels import scales_into_kernels
from pellucid.compiler.gradient.merge_recordings import BATCHES, Writer
from pellucid.compiler.gradient.recording import Recording, recording
from pellucid.network.graph import WEIGHT, Graph

_RULES = {**backward.TABLE, **pooling.TABLE, **rewrites.TABLE}


@dataclass(frozen=True, slots=True)
class FullGraph:
    """A graph and where its results are.

    ``values`` and ``gradients`` map each recorded value to the node that holds it and to the node that holds the
    gradient with respect to it. The gradient is None if the logits don't depend on the value. ``weights`` are the
    arrays that the graph reads.
    """

    graph: Graph
    weights: dict[str, Tensor]
    logits: str
    values: dict[str, str]
    gradients: dict[str, str | None]


def record(
    forward: Callable[[Tensor], tuple[Tensor, ...]],
    names: Sequence[str],
    root: nn.Module,
    shape: tuple[int, int, int],
    scalars: int,
    *,
    gradients: bool = True,
    top_class: bool = True,
    scores: Mapping[str, tuple[str, Callable[[Tensor], Tensor]] | None] | None = None,
) -> FullGraph:
    """Record ``forward`` and, unless ``gradients`` is false, its gradients.

    ``forward`` maps pixels ``[B, *shape]`` to the values named ``names[1:]``, followed by the logits ``[B, scalars]``.
    ``names[0]`` is the name of the pixels. ``root`` holds the parameters and buffers. ``top_class``: whether a row of
    zeros in ``wanted`` stands for the class with the largest logit. The last values may have ``scores`` of their own in
    place of the logits: the name of a value, and a function that maps it to ``[B, scalars]``; or None, for no gradient.

    Raises TracingError, and any error of the operations.
    """
    kind = next((value.dtype for value in root.parameters()), torch.float32)
    has_gradient: list[bool] = []
    own = scores or {}
    plain = len(names) - len(own)

    def both(pixels: Tensor, wanted: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), _Plain():
            leaf = pixels.detach().requires_grad_(gradients)
            *values, logits = forward(leaf)
            values = [leaf, *values]
            of_values = _gradients(values[:plain], logits, wanted, top_class) if gradients else []
            if gradients:
                by_name = dict(zip(names, values, strict=True))
                of_values += [_of_scores(by_name, each, of, logits, wanted, top_class) for each, of in own.items()]
        has_gradient[:] = [value is not None for value in of_values]
        return (*values, logits, *(value for value in of_values if value is not None))

    followed = dict((*root.named_parameters(), *root.named_buffers()))

    def recorded(count: int) -> Recording:
        generator = torch.Generator().manual_seed(count)
        pixels = torch.randn(count, *shape, generator=generator).to(kind)
        wanted = torch.rand(count, scalars, generator=generator).to(kind)
        return recording(both, (pixels, wanted), followed.values(), _RULES)

    two, three = map(recorded, BATCHES)
    writer = Writer(two, three, followed, len(names) + 1)
    outputs = writer.outputs
    rest = iter(outputs[len(names) + 1 :])
    graph = Graph(scales_into_kernels(writer.nodes, writer.shapes))
    needed = graph.ancestors(outputs)
    nodes = [node for name, node in graph.nodes.items() if name in needed or name in writer.inputs]
    read = {node.args[0] for node in nodes if node.op == WEIGHT}
    return FullGraph(
        Graph(nodes),
        {name: value for name, value in writer.weights.items() if name in read},
        outputs[len(names)],
        dict(zip(names, outputs, strict=False)),
        {name: next(rest) if has_gradient and has_gradient[number] else None for number, name in enumerate(names)},
    )


def _gradients(values: Sequence[Tensor], logits: Tensor, wanted: Tensor, top_class: bool) -> list[Tensor | None]:
    """The gradient of ``(wanted * logits).sum()`` at each value. None if the logits don't depend on the value."""
    leaves = [value for value in values if value.requires_grad]
    if not logits.requires_grad or not leaves:
        return [None] * len(values)
    if top_class:
        wanted = _default_to_top_class(wanted, logits.detach())
    found = iter(_grad(logits, leaves, wanted))
    return [next(found) if value.requires_grad else None for value in values]


def _of_scores(
    values: Mapping[str, Tensor],
    name: str,
    own: tuple[str, Callable[[Tensor], Tensor]] | None,
    logits: Tensor,
    wanted: Tensor,
    top_class: bool,
) -> Tensor | None:
    """The gradient at a value of ``(wanted * scores).sum()``, with scores of its own. The top class is the logits'."""
    if own is None or not values[name].requires_grad:
        return None
    source, function = own
    if top_class:
        wanted = _default_to_top_class(wanted, logits.detach())
    (found,) = _grad(function(values[source]), [values[name]], wanted)
    return found


class _Weighed(torch.autograd.Function):
    """A number whose gradient at ``logits`` is ``wanted``. No operation is recorded for it.

    With ``grad_outputs``, torch.autograd.grad imports sympy first, which takes half a second.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, wanted: Tensor) -> Tensor:
        ctx.wanted = wanted
        return logits.new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: Any) -> Any:
        return ctx.wanted, None


def _grad(logits: Tensor, leaves: Sequence[Tensor], wanted: Tensor) -> Sequence[Tensor | None]:
    """The gradient of ``(wanted * logits).sum()`` at each of the ``leaves``."""
    weighed = _Weighed.apply(logits, wanted)
    return torch.autograd.grad(weighed, leaves, retain_graph=True, allow_unused=True)


def _default_to_top_class(wanted: Tensor, logits: Tensor) -> Tensor:
    """``wanted`` with each row of zeros replaced by the top class, one-hot. Of equal logits the first counts."""
    top = logits.argmax(1, keepdim=True) == torch.arange(logits.shape[1])
    return torch.where((wanted != 0).any(1, keepdim=True), wanted, top.to(wanted.dtype))


class _Plain(TorchFunctionMode):
    """Replaces functions that torch implements by in-place writes, or differently for each memory format."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.adaptive_avg_pool2d:
            x, sides = args[0], args[1] if len(args) > 1 else kwargs["output_size"]
            if sides in (1, [1, 1], (1, 1)):
                return x.mean((-2, -1), keepdim=True)
        if func is F.pad and "circular" in (*args[2:3], kwargs.get("mode")):
            return _pad_circular(args[0], args[1] if len(args) > 1 else kwargs["pad"])
        return func(*args, **kwargs)


def _pad_circular(x: Tensor, pads: Sequence[int]) -> Tensor:
    """Circular padding of the last axes. ``pads`` is as in ``torch.nn.functional.pad``."""
    for number in range(len(pads) // 2):
        dim, (before, after) = x.ndim - 1 - number, pads[2 * number : 2 * number + 2]
        side = x.shape[dim]
        x = torch.cat((x.narrow(dim, side - before, before), x, x.narrow(dim, 0, after)), dim)
    return x
