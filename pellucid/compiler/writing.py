"""Two recordings of the same operations, for two and for three images -> the nodes of a graph for any batch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, fx, nn

from pellucid.network.graph import INPUT, PIXELS_INPUT, WANTED_INPUT, WEIGHT, Batch, Dtype, Node, Ref

aten = torch.ops.aten

BATCHES: Final = (2, 3)
_CONSTANT: Final = "constant."
# Of these a shape may leave one side open, which is then the batch's.
_RESHAPES: Final = {aten.view.default, aten._unsafe_view.default, aten.reshape.default}
# What hands on the same numbers.
_SAME: Final = {
    aten.alias.default,
    aten.detach.default,
    aten.lift_fresh.default,
    aten.lift_fresh_copy.default,
    aten.clone.default,
    aten.contiguous.default,
}
# What makes a tensor of one number: its position among the arguments, or the number.
_FILLED: Final[dict[Any, Any]] = {
    aten.zeros.default: 0,
    aten.zeros_like.default: 0,
    aten.new_zeros.default: 0,
    aten.ones.default: 1,
    aten.ones_like.default: 1,
    aten.new_ones.default: 1,
    aten.empty_like.default: 0,
    aten.new_empty.default: 0,
    aten.empty.memory_format: 0,
    aten.full.default: "fill",
    aten.full_like.default: "fill",
    aten.new_full.default: "fill",
}
_IGNORED: Final = ("device", "layout", "pin_memory", "memory_format")
Shape = tuple[tuple[int, ...], tuple[int, ...]]  # for two and for three images


class TracingError(ValueError):
    """The operations of a network can't be recorded as one graph. The message says why."""


class Writer:
    """``nodes``, the ``outputs``' and ``inputs``' names, each node's shape for two and for three images, and the
    ``weights``, which are the parameters and buffers of ``root`` and constants by their contents.

    Raises TracingError.
    """

    def __init__(self, traces: Sequence[fx.GraphModule], root: nn.Module) -> None:
        self.nodes: list[Node] = []
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        self.shapes: dict[str, Shape] = {}
        self.weights: dict[str, Tensor] = {}
        self._written: dict[str, Node] = {}
        self._names: dict[fx.Node, Ref] = {}  # of the first trace
        self._same: dict[str, str] = {}  # an operation as text -> the node that has its result
        self._of_wanted: set[str] = set()
        self._modules = traces
        self._known = {id(value): name for name, value in (*root.named_parameters(), *root.named_buffers())}
        first, other = (list(trace.graph.nodes) for trace in traces)
        if [_what(node) for node in first] != [_what(node) for node in other]:
            raise TracingError("it runs other operations for two images than for three")
        for pair in zip(first, other, strict=True):
            self._add(*pair)

    def _add(self, node: fx.Node, other: fx.Node) -> None:
        if node.op == "placeholder":
            name = (PIXELS_INPUT, WANTED_INPUT)[len(self.inputs)]
            self.inputs.append(name)
            self._names[node] = self._write(Node(name, INPUT, (), {}), _shape(node, other))
            if name == WANTED_INPUT:
                self._of_wanted.add(name)
        elif node.op == "get_attr":
            self._names[node] = self._weight(node, other)
        elif node.op == "output":
            values: Any = node.args[0]
            self.outputs = [self._names[value].name for value in values]
        elif node.target in _SAME:
            self._names[node] = self._names[node.args[0]]  # type: ignore[index]
        elif node.target in _FILLED:
            self._names[node] = self._filled(node, other)
        else:
            self._names[node] = self._operation(node, other)

    def _write(self, node: Node, shape: Shape | None) -> Ref:
        """The node, or the one that is there already and has its result."""
        text = repr((node.op, node.args, sorted(node.kwargs.items())))
        if node.op != INPUT and text in self._same:
            return Ref(self._same[text])
        self._same[text] = node.name
        self.nodes.append(node)
        self._written[node.name] = node
        if shape is not None:
            self.shapes[node.name] = shape
        if not self._of_wanted.isdisjoint(node.refs()):
            self._of_wanted.add(node.name)
        return Ref(node.name)

    # -- arrays

    def _weight(self, node: fx.Node, other: fx.Node) -> Ref:
        value, also = (
            getattr(module, str(each.target)) for module, each in zip(self._modules, (node, other), strict=True)
        )
        if value is not also and (value.shape != also.shape or not torch.equal(value, also)):
            raise TracingError("it makes another constant for two images than for three")
        return self._array(value)

    def _array(self, value: Tensor) -> Ref:
        """A parameter or buffer by its name, any other array by its contents."""
        name = self._known.get(id(value), "")
        value = value.detach()
        if not name:
            digest = hashlib.sha256(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            digest.update(repr((value.dtype, value.shape)).encode())
            name = f"{_CONSTANT}{digest.hexdigest()[:16]}"
        self.weights.setdefault(name, value)
        return self._write(Node(f"weight:{name}", WEIGHT, (name,), {}), (tuple(value.shape),) * 2)

    def _filled(self, node: fx.Node, other: fx.Node) -> Ref:
        """A constant with one entry for the batch, repeated."""
        shape = _shape(node, other)
        assert shape is not None  # it makes a tensor
        fill = _FILLED[node.target]
        number: Any = node.args[2 if node.target is aten.new_full.default else 1] if fill == "fill" else fill
        of = self._source(node)
        sides = tuple(self._argument(*pair, of) for pair in zip(*shape, strict=True))
        ones = [1 if isinstance(side, Batch) else side for side in sides]
        made = self._array(torch.full(ones, number, dtype=node.meta["val"].dtype))
        if not any(isinstance(side, Batch) for side in sides):
            return made
        open_ = tuple(side if isinstance(side, Batch) else -1 for side in sides)
        return self._write(Node(node.name, "aten.expand.default", (made, open_), {}), shape)

    # -- operations

    def _source(self, node: fx.Node) -> str:
        """The input whose rows are counted where the operation's numbers follow the batch."""
        names = (self._names[source].name for source in node.all_input_nodes)
        return PIXELS_INPUT if self._of_wanted.isdisjoint(names) else WANTED_INPUT

    def _operation(self, node: fx.Node, other: fx.Node) -> Ref:
        of = self._source(node)
        args = tuple(self._argument(*pair, of) for pair in zip(node.args, other.args, strict=True))
        kwargs = {
            key: self._argument(value, other.kwargs[key], of)
            for key, value in node.kwargs.items()
            if key not in _IGNORED
        }
        shape = _shape(node, other)
        made = Node(node.name, str(node.target), args, kwargs)
        folded = self._folded(node, made)
        if folded is not None:
            return folded
        if node.target in _RESHAPES and shape is not None:
            return self._view(node.name, args[0], args[1], shape)
        if node.target is aten.expand.default and shape is not None:
            return self._expand(node.name, args[0], args[1], shape)
        if node.target is aten.bmm.default and shape is not None:
            return self._product(node.name, args[0], args[1], shape)
        if getattr(node.target, "__name__", "") == "getitem":
            made = Node(node.name, "aten.getitem.default", args, kwargs)
        return self._write(made, shape)

    def _folded(self, node: fx.Node, made: Node) -> Ref | None:
        """The result as a constant where it is computed from constants; parameters keep their names."""
        read = [self._written[name] for name in made.refs()]
        if any(each.op != WEIGHT or not each.args[0].startswith(_CONSTANT) for each in read) or "Batch(" in repr(made):
            return None

        def value(source: fx.Node) -> Tensor:
            return self.weights[self._written[self._names[source].name].args[0]]

        args, kwargs = fx.map_arg((node.args, node.kwargs), value)
        with torch.no_grad():
            result = node.target(*args, **kwargs)  # type: ignore[operator]  # a call_function's target is a function
        return self._array(result) if isinstance(result, Tensor) else None

    def _view(self, name: str, source: Ref, sides: tuple[Any, ...], shape: Shape) -> Ref:
        while self._written[source.name].op == "aten.view.default":
            source = self._written[source.name].args[0]
        if self.shapes.get(source.name) == shape:
            return source
        if sum(isinstance(side, Batch) for side in sides) == 1 and -1 not in sides:
            sides = tuple(-1 if isinstance(side, Batch) else side for side in sides)
        return self._write(Node(name, "aten.view.default", (source, sides), {}), shape)

    def _expand(self, name: str, source: Ref, sides: tuple[Any, ...], shape: Shape) -> Ref:
        given = self.shapes[source.name]
        if given == shape:
            return source
        lead = len(sides) - len(given[0])
        kept = [number >= lead and given[0][number - lead] == side for number, side in enumerate(shape[0])]
        kept = [each and given[1][number - lead] == shape[1][number] for number, each in enumerate(kept)]
        sides = tuple(-1 if keep else side for keep, side in zip(kept, sides, strict=True))
        return self._write(Node(name, "aten.expand.default", (source, sides), {}), shape)

    def _product(self, name: str, x: Ref, y: Ref, shape: Shape) -> Ref:
        """A product of batches of matrices, with images and heads as axes of their own: so one image's activations
        meet the gradients of several classes.
        """
        apart = [self._apart(each) for each in (x, y)]
        lead = [self.shapes[each.name] for each in apart if each is not None]
        if None in apart or lead[0][0][:2] != lead[1][0][:2] or lead[0][1][:2] != lead[1][1][:2]:
            return self._write(Node(name, "aten.matmul.default", (x, y), {}), shape)
        whole = (*lead[0][0][:2], *shape[0][1:]), (*lead[0][1][:2], *shape[1][1:])
        product = self._write(Node(f"{name}.product", "aten.matmul.default", tuple(apart), {}), whole)
        return self._write(Node(name, "aten.view.default", (product, (-1, *shape[0][1:])), {}), shape)

    def _apart(self, value: Ref) -> Ref | None:
        """The value ``[a, b, n, m]`` whose first axes were merged into ``[a * b, n, m]``."""
        node = self._written[value.name]
        if node.op != "aten.view.default" or node.args[0].name not in self.shapes:
            return None
        given, merged = self.shapes[node.args[0].name], self.shapes[value.name]
        fits = len(given[0]) == 4 and given[0][2:] == merged[0][1:] and given[1][2:] == merged[1][1:]
        return node.args[0] if fits else None

    def _argument(self, value: Any, other: Any, of: str) -> Any:
        if isinstance(value, fx.Node):
            return self._names[value]
        if isinstance(value, (list, tuple)):
            return tuple(self._argument(*pair, of) for pair in zip(value, other, strict=True))
        if isinstance(value, torch.dtype):
            return Dtype(str(value).removeprefix("torch."))
        if isinstance(value, (bool, str)) or value is None:
            return value
        if isinstance(value, (int, float)) and (value == other or math.isnan(value)):
            return value
        if isinstance(value, int) and value * BATCHES[1] == other * BATCHES[0] and value % BATCHES[0] == 0:
            return Batch(of, value // BATCHES[0])
        raise TracingError(f"a number is {value} for two images and {other} for three")


def _what(node: fx.Node) -> tuple[str, str]:
    return node.op, "" if node.op == "get_attr" else str(node.target)


def _shape(node: fx.Node, other: fx.Node) -> Shape | None:
    values = [each.meta.get("val") for each in (node, other)]
    two, three = values
    return (tuple(two.shape), tuple(three.shape)) if isinstance(two, Tensor) and isinstance(three, Tensor) else None
