"""The one graph of a network: its logits, every layer's value and the gradient of wanted logits by each.

torch's autograd is run once, while its operations are recorded, for batches of two and of three images: a number that
differs between the two is a multiple of the batch. So the graph is for any batch, and no autograd runs afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from pellucid.compiler import backward, moving, pooling
from pellucid.compiler.kernels import scales_into_kernels
from pellucid.compiler.writing import BATCHES, Writer
from pellucid.network.graph import WEIGHT, Graph

_DECOMPOSITIONS = {**backward.TABLE, **pooling.TABLE, **moving.TABLE}


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

    traces = []
    for count in BATCHES:
        generator = torch.Generator().manual_seed(count)
        pixels = torch.randn(count, *shape, generator=generator).to(kind)
        wanted = torch.rand(count, classes, generator=generator).to(kind)
        traces.append(_recorded(both, pixels, wanted))
    writer = Writer(traces, root)
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


def _recorded(function: Callable[..., Any], *inputs: Tensor) -> fx.GraphModule:
    """The operations of a function; none of them writes into what is there."""
    made = make_fx(function, decomposition_table=_DECOMPOSITIONS)(*inputs)
    made.graph.eliminate_dead_code()
    if any(_writes(node) for node in made.graph.nodes):
        without = torch.func.functionalize(made, remove="mutations")
        made = make_fx(without, decomposition_table=_DECOMPOSITIONS)(*inputs)
        made.graph.eliminate_dead_code()
    return made


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


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
    """Replaces what torch computes in a way that depends on how its input lies in memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.adaptive_avg_pool2d:
            x, sides = args[0], args[1] if len(args) > 1 else kwargs["output_size"]
            if sides in (1, [1, 1], (1, 1)):
                return x.mean((-2, -1), keepdim=True)
        return func(*args, **kwargs)
