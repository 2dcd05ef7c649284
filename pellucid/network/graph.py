"""A network as one graph of ATen operations: plain data that any runtime can prune, cut and build, without torch.

The inputs are normalised ``pixels`` ``[B, C, H, W]``, and ``wanted`` ``[K, classes]``: the weights of the logits whose
gradients to compute. Operations have the names and arguments of torch's ATen library (``aten.convolution.default``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any, Final

PIXELS_INPUT: Final = "pixels"
WANTED_INPUT: Final = "wanted"
# The two operations that are not ATen's: an input of the graph, and an array of the file by name.
INPUT: Final = "input"
WEIGHT: Final = "weight"
# The operations that round an operand of a convolution to 8 bits: its input, and its weight.
ROUNDING: Final = ("aten.fake_quantize_per_tensor_affine.default", "aten.fake_quantize_per_channel_affine.default")
DTYPES: Final = ("float32", "float64", "int64", "int32", "bool")
_MOST_NODES: Final = 200_000
_DEEPEST: Final = 4
_OPERATION: Final = re.compile(r"aten\.[A-Za-z0-9_]{1,60}\.[A-Za-z0-9_]{1,60}")


class GraphError(ValueError):
    """The data is not a graph. The message says why."""


@dataclass(frozen=True, slots=True)
class Ref:
    """The value of another node."""

    name: str


@dataclass(frozen=True, slots=True)
class Batch:
    """A size: ``times`` times the number of rows of the input ``of``."""

    of: str
    times: int = 1


@dataclass(frozen=True, slots=True)
class Scaled:
    """A number that follows the size of the pixels.

    It is ``number`` at the graph's base size. ``number - offset`` is proportional to the height to the power ``height``
    and to the width to the power ``width``, each -1, 0 or 1.
    """

    number: int | float
    height: int
    width: int
    offset: int = 0

    def at(self, rows: Fraction, columns: Fraction) -> int | float:
        """The number at the base size times these ratios. Raises GraphError if a whole number becomes a fraction."""
        ratio = rows**self.height * columns**self.width
        if isinstance(self.number, float):
            return self.number * float(ratio)
        number = (self.number - self.offset) * ratio
        if number.denominator != 1:
            raise GraphError("a side would be no whole number of positions")
        return int(number) + self.offset


@dataclass(frozen=True, slots=True)
class Dtype:
    """A dtype, by the name that numpy and torch share."""

    name: str


@dataclass(frozen=True, slots=True)
class Node:
    """One operation. An argument is a number, a string, None, a Ref, Batch, Scaled or Dtype, or a tuple of such."""

    name: str
    op: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    refs: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """The names of the nodes that this node reads."""

    def __post_init__(self) -> None:
        names = tuple(leaf.name for leaf in self.leaves() if isinstance(leaf, Ref))
        object.__setattr__(self, "refs", names)

    def leaves(self) -> list[Any]:
        """The arguments in order, and in place of each tuple what it holds."""
        found: list[Any] = []
        waiting = [*self.args, *self.kwargs.values()][::-1]
        while waiting:
            value = waiting.pop()
            if isinstance(value, tuple):
                waiting += value[::-1]
            else:
                found.append(value)
        return found


def walk(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """Apply ``leaf`` to every item of nested tuples."""
    return tuple(walk(each, leaf) for each in value) if isinstance(value, tuple) else leaf(value)


@dataclass(frozen=True, slots=True)
class Part:
    """The nodes between ``inputs`` and ``outputs``, which are values of the whole graph, in order.

    ``batches`` maps each input of the whole graph to the input of this part that has as many rows. It resolves
    the sizes that are a ``Batch``.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    batches: Mapping[str, str]


class Graph:
    """All nodes, sorted so that a node follows the nodes that it reads."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        """Raises GraphError for a node that is out of order, reads an unknown node or has a name that is taken."""
        self.nodes: dict[str, Node] = {}
        for node in nodes:
            missing = [name for name in node.refs if name not in self.nodes]
            if missing or node.name in self.nodes:
                raise GraphError(
                    f"the operation {node.name[:80]} reads {missing[0][:80]}, which does not precede it"
                    if missing
                    else f"two operations are named {node.name[:80]}"
                )
            self.nodes[node.name] = node

    def ancestors(self, outputs: Iterable[str], stop: Collection[str] = ()) -> set[str]:
        """``outputs`` and every node that they are computed from. The search ends at the nodes in ``stop``."""
        found: set[str] = set()
        waiting = list(outputs)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                if name not in stop:
                    waiting += self.nodes[name].refs
        return found

    def depending(self, sources: Collection[str]) -> set[str]:
        """``sources`` and every node that depends on one of them."""
        found = set(sources)
        for node in self.nodes.values():
            if not found.isdisjoint(node.refs):
                found.add(node.name)
        return found

    @cached_property
    def of_pixels(self) -> set[str]:
        """The nodes that depend on the pixels."""
        return self.depending({PIXELS_INPUT})

    @cached_property
    def of_wanted(self) -> set[str]:
        """The nodes that depend on the wanted logits: the gradients."""
        return self.depending({WANTED_INPUT})

    def crossing(self, value: str, outputs: Sequence[str]) -> tuple[str, ...]:
        """The inputs of the part that computes ``outputs`` behind ``value``: ``value``, then those that bypass it."""
        changed = self.depending({value}) | self.of_wanted
        behind = (self.ancestors(outputs, {value}) & changed) - {value}
        read = {name for node in behind for name in self.nodes[node].refs}
        bypass = (read & self.of_pixels) - changed
        return (value, *(name for name in self.nodes if name in bypass))

    def part(self, inputs: Sequence[str], outputs: Sequence[str]) -> Part:
        """The nodes that compute ``outputs`` from ``inputs``. A part with a gradient is one of the unrounded graph.

        Raises GraphError if the outputs need another input.
        """
        graph = self if self.of_wanted.isdisjoint(outputs) else self.unrounded
        needed = graph.ancestors(outputs, inputs)
        nodes = tuple(node for name, node in graph.nodes.items() if name in needed and name not in inputs)
        batches: dict[str, str] = {WANTED_INPUT: WANTED_INPUT, PIXELS_INPUT: inputs[0] if inputs else PIXELS_INPUT}
        for node in nodes:
            if node.op == INPUT:
                raise GraphError(f"{', '.join(outputs)} can't be computed from {', '.join(inputs)} without {node.name}")
        return Part(nodes, tuple(inputs), tuple(outputs), batches)

    @cached_property
    def rounded(self) -> bool:
        """Whether operands are rounded to 8 bits."""
        return any(node.op in ROUNDING for node in self.nodes.values())

    @cached_property
    def unrounded(self) -> Graph:
        """The graph whose operations read operands that are not rounded to 8 bits."""
        if not self.rounded:
            return self
        instead: dict[str, Ref] = {}

        def leaf(value: Any) -> Any:
            return instead.get(value.name, value) if isinstance(value, Ref) else value

        nodes = []
        for name, node in self.nodes.items():
            if node.op in ROUNDING:
                instead[name] = leaf(node.args[0])
            else:
                kwargs = {key: walk(value, leaf) for key, value in node.kwargs.items()}
                node = Node(name, node.op, walk(node.args, leaf), kwargs)
            nodes.append(node)
        return Graph(nodes)

    @cached_property
    def _following(self) -> frozenset[str]:
        """The nodes with a number that follows the size."""
        nodes = self.nodes.values()
        return frozenset(node.name for node in nodes if any(isinstance(leaf, Scaled) for leaf in node.leaves()))

    def at(self, rows: Fraction, columns: Fraction) -> Graph:
        """The graph for pixels of the base size times these ratios. Raises GraphError for a size that does not fit.

        It shares everything with this graph but the nodes that follow the size.
        """

        def leaf(value: Any) -> Any:
            return value.at(rows, columns) if isinstance(value, Scaled) else value

        def sized(node: Node) -> Node:
            kwargs = {key: walk(each, leaf) for key, each in node.kwargs.items()}
            return Node(node.name, node.op, walk(node.args, leaf), kwargs)

        following = self._following
        _ = self.of_pixels, self.of_wanted
        graph = copy(self)
        graph.__dict__.pop("unrounded", None)
        graph.nodes = {name: sized(node) if name in following else node for name, node in self.nodes.items()}
        return graph

    def as_data(self) -> list[Any]:
        """The nodes as JSON data, each ``[name, operation, arguments, named arguments]``."""
        return [
            [node.name, node.op, _plain(node.args), {key: _plain(value) for key, value in node.kwargs.items()}]
            for node in self.nodes.values()
        ]

    @classmethod
    def of_data(cls, data: Any, *, scaled: bool = False) -> Graph:
        """The inverse of ``as_data``, for untrusted data. ``scaled`` allows Scaled arguments. Raises GraphError."""
        if not isinstance(data, list) or len(data) > _MOST_NODES:
            raise GraphError(f"a graph must be a list of at most {_MOST_NODES} operations")
        return cls(_node(each, scaled) for each in data)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Ref):
        return {"ref": value.name}
    if isinstance(value, Batch):
        return {"batch": value.of, "times": value.times}
    if isinstance(value, Scaled):
        return {"scaled": value.number, "height": value.height, "width": value.width, "offset": value.offset}
    if isinstance(value, Dtype):
        return {"dtype": value.name}
    if isinstance(value, float) and not math.isfinite(value):  # JSON has no such number
        return {"float": str(value)}
    return value


def _node(data: Any, scaled: bool) -> Node:
    match data:
        case [str(name), str(op), list(args), dict(kwargs)] if op in (INPUT, WEIGHT) or _OPERATION.fullmatch(op):
            named = {str(key): _read(value, 0, scaled) for key, value in kwargs.items()}
            return Node(name, op, tuple(_read(each, 0, scaled) for each in args), named)
    raise GraphError("an operation must be [name, aten.NAME.OVERLOAD, arguments, named arguments]")


def _read(value: Any, depth: int, scaled: bool) -> Any:
    if isinstance(value, list) and depth < _DEEPEST:
        return tuple(_read(each, depth + 1, scaled) for each in value)
    if value is None or isinstance(value, (bool, str, float)):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    match value:
        case {"ref": str(name)} if len(value) == 1:
            return Ref(name)
        case {"batch": "pixels" | "wanted" as of, "times": int(times)} if 0 < times < 2**31 and len(value) == 2:
            return Batch(of, times)
        case {
            "scaled": int() | float() as number,
            "height": int(height),
            "width": int(width),
            "offset": int(offset),
        } if scaled and len(value) == 4 and {height, width} <= {-1, 0, 1} and max(abs(number), abs(offset)) < 2**31:
            return Scaled(number, height, width, offset)
        case {"dtype": str(name)} if name in DTYPES and len(value) == 1:
            return Dtype(name)
        case {"float": "inf" | "-inf" | "nan" as text} if len(value) == 1:
            return float(text)
    raise GraphError(f"an argument is invalid: {str(value)[:80]}")
