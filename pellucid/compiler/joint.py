"""The one graph of a network: its logits, every layer's value and the gradient of wanted logits by each.

torch's autograd is run once, while its operations are recorded, for batches of two and of three images: a number that
differs between the two is a multiple of the batch. So the graph is for any batch, and no autograd runs afterwards.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from pellucid.compiler.backward import DECOMPOSITIONS
from pellucid.network.graph import INPUT, PIXELS_INPUT, WANTED_INPUT, WEIGHT, Batch, Dtype, Graph, Node, Ref

aten = torch.ops.aten

_BATCHES = (2, 3)
# Of these a shape may leave one side open, which is then the batch's.
_RESHAPES = {aten.view.default, aten._unsafe_view.default, aten.reshape.default}
# What hands on the same numbers.
_SAME = {
    aten.alias.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
    aten.clone.default,
    aten.contiguous.default,
}


class TracingError(ValueError):
    """The operations of a network can't be recorded as one graph. The message says why."""


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
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            leaf = pixels.detach().requires_grad_(gradients)
            *values, logits = forward(leaf)
            values = [leaf, *values]
            if not gradients:
                return (*values, logits)
            wanted = _or_the_top_class(wanted, logits.detach())
            leaves = [value for value in values if value.requires_grad]
            found = iter(
                torch.autograd.grad(logits, leaves, wanted, allow_unused=True)
                if logits.requires_grad and leaves
                else ()
            )
            of_values = [next(found, None) if value.requires_grad else None for value in values]
        known[:] = [value is not None for value in of_values]
        return (*values, logits, *(value for value in of_values if value is not None))

    traces = []
    for count in _BATCHES:
        generator = torch.Generator().manual_seed(count)
        pixels = torch.randn(count, *shape, generator=generator).to(kind)
        wanted = torch.rand(count, classes, generator=generator).to(kind)
        module = make_fx(both, decomposition_table=DECOMPOSITIONS, tracing_mode="real")(pixels, wanted)
        module.graph.eliminate_dead_code()
        traces.append(module)
    writer = _Writer(traces, root)
    outputs = writer.outputs
    values = dict(zip(names, outputs, strict=False))
    rest = iter(outputs[len(names) + 1 :])
    return Joint(
        Graph(_scales_into_kernels(writer.nodes)),
        writer.weights,
        outputs[len(names)],
        values,
        {name: next(rest) if known and known[number] else None for number, name in enumerate(names)},
    )


def _or_the_top_class(wanted: Tensor, logits: Tensor) -> Tensor:
    """``wanted``, and the class with the largest logit where a row is all zeros; of equals the first."""
    top = logits.argmax(1, keepdim=True) == torch.arange(logits.shape[1])
    return torch.where((wanted != 0).any(1, keepdim=True), wanted, top.to(wanted.dtype))


class _Writer:
    """Two recordings of the same operations -> nodes."""

    def __init__(self, traces: Sequence[fx.GraphModule], root: nn.Module) -> None:
        self.nodes: list[Node] = []
        self.weights: dict[str, Tensor] = {}
        self._names: dict[fx.Node, Any] = {}  # of the first trace
        self._same: dict[str, str] = {}  # an operation as text -> the node that has its result
        self._of_wanted: set[str] = set()
        self._modules = traces
        self._known = {id(value): name for name, value in (*root.named_parameters(), *root.named_buffers())}
        first, other = (list(trace.graph.nodes) for trace in traces)
        if [(node.op, str(node.target)) for node in first if node.op != "get_attr"] != [
            (node.op, str(node.target)) for node in other if node.op != "get_attr"
        ]:
            raise TracingError("it runs other operations for two images than for three")
        for pair in zip(first, other, strict=True):
            self._add(*pair)

    def _add(self, node: fx.Node, other: fx.Node) -> None:
        if node.op == "placeholder":
            name = (PIXELS_INPUT, WANTED_INPUT)[len(self._names)]
            self._names[node] = Ref(name)
            self.nodes.append(Node(name, INPUT, (), {}))
            if name == WANTED_INPUT:
                self._of_wanted.add(name)
        elif node.op == "get_attr":
            self._names[node] = self._weight(node, other)
        elif node.op == "output":
            values: Any = node.args[0]
            self.outputs = [self._names[value].name for value in values]
        elif node.target in _SAME:
            self._names[node] = self._names[node.args[0]]  # type: ignore[index]
        elif getattr(node.target, "__name__", "") == "getitem":
            self._names[node] = self._operation("aten.getitem.default", node, other)
        else:
            self._names[node] = self._operation(str(node.target), node, other)

    def _weight(self, node: fx.Node, other: fx.Node) -> Ref:
        value, also = (
            getattr(module, str(each.target)) for module, each in zip(self._modules, (node, other), strict=True)
        )
        if value.shape != also.shape or not torch.equal(value, also):
            raise TracingError("it makes another constant for two images than for three")
        return self._array(value)

    def _array(self, value: Tensor) -> Ref:
        """A parameter or buffer by its name, any other array by its contents."""
        name = self._known.get(id(value), "")
        value = value.detach()
        if not name:
            digest = hashlib.sha256(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            digest.update(repr((value.dtype, value.shape)).encode())
            name = f"constant.{digest.hexdigest()[:16]}"
        if name not in self.weights:
            self.weights[name] = value
            self.nodes.append(Node(f"weight:{name}", WEIGHT, (name,), {}))
        return Ref(f"weight:{name}")

    def _operation(self, op: str, node: fx.Node, other: fx.Node) -> Ref:
        of_wanted = any(self._names[source].name in self._of_wanted for source in node.all_input_nodes)
        of = WANTED_INPUT if of_wanted else PIXELS_INPUT
        args = tuple(self._argument(*pair, of) for pair in zip(node.args, other.args, strict=True))
        kwargs = {
            key: self._argument(value, other.kwargs[key], of)
            for key, value in node.kwargs.items()
            if key not in ("device", "layout", "pin_memory", "memory_format")
        }
        if not node.all_input_nodes and "Batch(" not in repr(args):
            return self._array(node.target(*node.args, **node.kwargs))  # type: ignore[operator]
        if node.target in _RESHAPES:
            sides = args[1]
            if sum(isinstance(side, Batch) for side in sides) == 1 and -1 not in sides:
                sides = tuple(-1 if isinstance(side, Batch) else side for side in sides)
            op, args = "aten.view.default", (args[0], sides)
        if node.target is aten.expand.default:
            source = node.args[0].meta["val"].shape  # type: ignore[union-attr]
            padded = (None,) * (len(args[1]) - len(source)) + tuple(source)
            args = (
                args[0],
                tuple(
                    -1 if isinstance(side, Batch) and given == _BATCHES[0] * side.times else side
                    for side, given in zip(args[1], padded, strict=True)
                ),
            )
        text = repr((op, args, sorted(kwargs.items())))
        if text not in self._same:
            name = node.name
            self.nodes.append(Node(name, op, args, kwargs))
            self._same[text] = name
            if of_wanted:
                self._of_wanted.add(name)
        return Ref(self._same[text])

    def _argument(self, value: Any, other: Any, of: str) -> Any:
        if isinstance(value, fx.Node):
            return self._names[value]
        if isinstance(value, (list, tuple)):
            return tuple(self._argument(*pair, of) for pair in zip(value, other, strict=True))
        if isinstance(value, torch.dtype):
            return Dtype(str(value).removeprefix("torch."))
        if isinstance(value, bool) or value is None or isinstance(value, str):
            return value
        if isinstance(value, (int, float)) and value == other:
            return value
        if isinstance(value, float) and math.isnan(value):
            return value
        if isinstance(value, int) and value * _BATCHES[1] == other * _BATCHES[0] and value % _BATCHES[0] == 0:
            return Batch(of, value // _BATCHES[0])
        raise TracingError(f"a number is {value} for two images and {other} for three")


def _scales_into_kernels(nodes: Sequence[Node]) -> list[Node]:
    """Convolutions of a map whose channels are scaled by weights, as those of the map by scaled kernels.

    So the norm's part of a gradient costs nothing.
    """
    by_name = {node.name: node for node in nodes}
    constant: set[str] = set()
    for node in nodes:
        if node.op == WEIGHT or (node.op != INPUT and node.refs() and constant.issuperset(node.refs())):
            constant.add(node.name)
    made: list[Node] = []
    for node in nodes:
        scaled = by_name.get(node.args[0].name) if node.op == "aten.convolution.default" else None
        if scaled is None or scaled.op != "aten.mul.Tensor" or node.args[2] is not None:
            made.append(node)
            continue
        x, scale = scaled.args
        kernel, groups, transposed = node.args[1], node.args[8], node.args[6]
        axis = 0 if transposed or groups > 1 else 1
        if not isinstance(scale, Ref) or scale.name not in constant or (isinstance(x, Ref) and x.name in constant):
            made.append(node)
            continue
        sides = by_name[scale.name].args[1] if by_name[scale.name].op == "aten.view.default" else ()
        if (
            sides[:1] != (-1,)
            or any(side != 1 for side in sides[1:])
            or (groups > 1 and not transposed and not _depthwise(node, by_name))
        ):
            made.append(node)
            continue
        shaped = Node(
            f"{node.name}.scale",
            "aten.view.default",
            (
                by_name[scale.name].args[0],
                (-1,) if axis == 1 and False else ((1, -1) if axis else (-1, 1)) + (1,) * (len(sides) - 1),
            ),
            {},
        )
        product = Node(f"{node.name}.kernel", "aten.mul.Tensor", (kernel, Ref(shaped.name)), {})
        made += [shaped, product, Node(node.name, node.op, (x, Ref(product.name), *node.args[2:]), node.kwargs)]
    return made


def _depthwise(node: Node, by_name: Any) -> bool:
    return True
