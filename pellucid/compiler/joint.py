"""The one graph of a network: its logits, every layer's value and the gradient of wanted logits by each.

torch's autograd is run once, while its operations are recorded, for batches of two and of three images: a number that
differs between the two is a multiple of the batch. So the graph is for any batch, and no autograd runs afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from pellucid.compiler import backward, moving, pooling
from pellucid.compiler.kernels import scales_into_kernels
from pellucid.compiler.recording import Recording, recording
from pellucid.compiler.writing import BATCHES, Writer
from pellucid.network.graph import WEIGHT, Graph

_RULES = {**backward.TABLE, **pooling.TABLE, **moving.TABLE}


@dataclass(frozen=True, slots=True)
class Joint:
    """``values`` and ``gradients``: of each value that was asked for, the node that holds it and the one that holds the
    gradient by it, None where the logits don't follow it. ``weights``: the arrays that the graph reads.
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
    classes: int,
    *,
    gradients: bool = True,
) -> Joint:
    """``forward`` maps pixels ``[B, *shape]`` to the values called ``names[1:]`` and, last, logits ``[B, classes]``;
    ``names[0]`` are the pixels.

    Raises TracingError, and whatever the operations raise.
    """
    kind = next((value.dtype for value in root.parameters()), torch.float32)
    known: list[bool] = []

    def both(pixels: Tensor, wanted: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), _Plain():
            leaf = pixels.detach().requires_grad_(gradients)
            *values, logits = forward(leaf)
            values = [leaf, *values]
            of_values = _gradients(values, logits, wanted) if gradients else []
        known[:] = [value is not None for value in of_values]
        return (*values, logits, *(value for value in of_values if value is not None))

    followed = dict((*root.named_parameters(), *root.named_buffers()))

    def recorded(count: int) -> Recording:
        generator = torch.Generator().manual_seed(count)
        pixels = torch.randn(count, *shape, generator=generator).to(kind)
        wanted = torch.rand(count, classes, generator=generator).to(kind)
        return recording(both, (pixels, wanted), followed.values(), _RULES)

    two, three = map(recorded, BATCHES)
    writer = Writer(two, three, followed, len(names) + 1)
    outputs = writer.outputs
    rest = iter(outputs[len(names) + 1 :])
    graph = Graph(scales_into_kernels(writer.nodes, writer.shapes))
    needed = graph.ancestors(outputs)
    nodes = [node for name, node in graph.nodes.items() if name in needed or name in writer.inputs]
    read = {node.args[0] for node in nodes if node.op == WEIGHT}
    return Joint(
        Graph(nodes),
        {name: value for name, value in writer.weights.items() if name in read},
        outputs[len(names)],
        dict(zip(names, outputs, strict=False)),
        {name: next(rest) if known and known[number] else None for number, name in enumerate(names)},
    )


def _gradients(values: Sequence[Tensor], logits: Tensor, wanted: Tensor) -> list[Tensor | None]:
    """The gradient of ``wanted`` times the logits by each value, None where the logits don't follow it."""
    leaves = [value for value in values if value.requires_grad]
    if not logits.requires_grad or not leaves:
        return [None] * len(values)
    wanted = _or_the_top_class(wanted, logits.detach())
    found = iter(torch.autograd.grad(logits, leaves, wanted, allow_unused=True))
    return [next(found) if value.requires_grad else None for value in values]


def _or_the_top_class(wanted: Tensor, logits: Tensor) -> Tensor:
    """``wanted``, and the class with the largest logit where a row is all zeros; of equals the first."""
    top = logits.argmax(1, keepdim=True) == torch.arange(logits.shape[1])
    return torch.where((wanted != 0).any(1, keepdim=True), wanted, top.to(wanted.dtype))


class _Plain(TorchFunctionMode):
    """Replaces what torch computes by writing into memory, or by how its input lies there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.adaptive_avg_pool2d:
            x, sides = args[0], args[1] if len(args) > 1 else kwargs["output_size"]
            if sides in (1, [1, 1], (1, 1)):
                return x.mean((-2, -1), keepdim=True)
        if func is F.pad and "circular" in (*args[2:3], kwargs.get("mode")):
            return _round(args[0], args[1] if len(args) > 1 else kwargs["pad"])
        return func(*args, **kwargs)


def _round(x: Tensor, pads: Sequence[int]) -> Tensor:
    """Each of the last axes with numbers of its end before it, and of its beginning behind it."""
    for number in range(len(pads) // 2):
        dim, (before, after) = x.ndim - 1 - number, pads[2 * number : 2 * number + 2]
        side = x.shape[dim]
        x = torch.cat((x.narrow(dim, side - before, before), x, x.narrow(dim, 0, after)), dim)
    return x
