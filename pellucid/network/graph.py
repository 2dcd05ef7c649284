"""A network as one graph of ATen operations: plain data that any runtime can prune, cut and build. No torch here.

The inputs are ``pixels`` ``[B, C, H, W]``, normalised, and ``wanted`` ``[K, classes]``, weights of the logits.
Operations have the names and arguments of torch's ATen library (``aten.convolution.default``), which documents them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

PIXELS_INPUT: Final = "pixels"
WANTED_INPUT: Final = "wanted"
# Two operations are not ATen's: an input of the graph, and an array of the file, by its name.
INPUT: Final = "input"
WEIGHT: Final = "weight"
DTYPES: Final = ("float32", "float64", "int64", "int32", "bool")
_MOST_NODES: Final = 200_000
_DEEPEST: Final = 4
_OPERATION: Final = re.compile(r"aten\.[A-Za-z0-9_]{1,60}\.[A-Za-z0-9_]{1,60}")


class GraphError(ValueError):
    """Data that are no graph. The message says why."""


@dataclass(frozen=True, slots=True)
class Ref:
    """The value of another node."""

    name: str


@dataclass(frozen=True, slots=True)
class Batch:
    """A size: ``times`` the number of rows of the input ``of``."""

    of: str
    times: int = 1


@dataclass(frozen=True, slots=True)
class Dtype:
    """A type of numbers; numpy and torch call it the same."""

    name: str


@dataclass(frozen=True, slots=True)
class Node:
    """One operation. An argument is a number, a string, None, a Ref, Batch or Dtype, or a tuple of such."""

    name: str
    op: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def refs(self) -> list[str]:
        """The names of the nodes that it reads."""
        found: list[str] = []
        walk(
            (self.args, tuple(self.kwargs.values())),
            lambda leaf: found.append(leaf.name) if isinstance(leaf, Ref) else None,
        )
        return found


def walk(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """``value`` with ``leaf`` applied to everything in it that is no tuple."""
    return tuple(walk(each, leaf) for each in value) if isinstance(value, tuple) else leaf(value)


@dataclass(frozen=True, slots=True)
class Part:
    """The nodes that lead from ``inputs``, which are values of the whole graph, to ``outputs``, in order.

    ``batches``: for each input of the whole graph whose number of rows is asked for, the input of the part that has as
    many rows.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    batches: Mapping[str, str]


class Graph:
    """All nodes, each after those that it reads."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        """Raises GraphError for nodes that are out of order or read what is not there."""
        self.nodes: dict[str, Node] = {}
        for node in nodes:
            missing = [name for name in node.refs() if name not in self.nodes]
            if missing or node.name in self.nodes:
                raise GraphError(
                    f"the operation {node.name[:80]} reads {missing[0][:80]} before it is there"
                    if missing
                    else f"two operations are named {node.name[:80]}"
                )
            self.nodes[node.name] = node

    @cached_property
    def _reads(self) -> dict[str, list[str]]:
        return {name: node.refs() for name, node in self.nodes.items()}

    def ancestors(self, outputs: Iterable[str], stop: Collection[str] = ()) -> set[str]:
        """``outputs`` and all that they are computed from, up to and including ``stop``."""
        found: set[str] = set()
        waiting = list(outputs)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                if name not in stop:
                    waiting += self._reads[name]
        return found

    def depending(self, sources: Collection[str]) -> set[str]:
        """``sources`` and all that is computed from one of them."""
        found = set(sources)
        for name, reads in self._reads.items():
            if not found.isdisjoint(reads):
                found.add(name)
        return found

    @cached_property
    def of_pixels(self) -> set[str]:
        """What depends on the pixels."""
        return self.depending({PIXELS_INPUT})

    @cached_property
    def of_wanted(self) -> set[str]:
        """What depends on the wanted logits: the gradients."""
        return self.depending({WANTED_INPUT})

    def crossing(self, value: str, outputs: Sequence[str]) -> tuple[str, ...]:
        """The values that the part behind ``value`` needs to compute ``outputs``: ``value``, then what by-passes it."""
        changed = self.depending({value}) | self.of_wanted
        behind = (self.ancestors(outputs, {value}) & changed) - {value}
        read = {name for node in behind for name in self._reads[node]}
        bypass = (read & self.of_pixels) - changed
        return (value, *(name for name in self.nodes if name in bypass))

    def part(self, inputs: Sequence[str], outputs: Sequence[str]) -> Part:
        """The nodes from ``inputs`` to ``outputs`` and no others. Raises GraphError where they need another input."""
        needed = self.ancestors(outputs, inputs)
        nodes = tuple(node for name, node in self.nodes.items() if name in needed and name not in inputs)
        batches: dict[str, str] = {WANTED_INPUT: WANTED_INPUT, PIXELS_INPUT: inputs[0] if inputs else PIXELS_INPUT}
        for node in nodes:
            if node.op == INPUT:
                raise GraphError(f"{', '.join(outputs)} can't be computed from {', '.join(inputs)} without {node.name}")
        return Part(nodes, tuple(inputs), tuple(outputs), batches)

    def as_data(self) -> list[Any]:
        """The nodes as JSON has them: ``[name, operation, arguments, named arguments]``."""
        return [
            [node.name, node.op, _plain(node.args), {key: _plain(value) for key, value in node.kwargs.items()}]
            for node in self.nodes.values()
        ]

    @classmethod
    def of_data(cls, data: Any) -> Graph:
        """The inverse of ``as_data``, for data of any origin. Raises GraphError."""
        if not isinstance(data, list) or len(data) > _MOST_NODES:
            raise GraphError(f"a graph is a list of at most {_MOST_NODES} operations")
        return cls(map(_node, data))


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Ref):
        return {"ref": value.name}
    if isinstance(value, Batch):
        return {"batch": value.of, "times": value.times}
    if isinstance(value, Dtype):
        return {"dtype": value.name}
    if isinstance(value, float) and not math.isfinite(value):  # JSON has no word for it
        return {"float": str(value)}
    return value


def _node(data: Any) -> Node:
    match data:
        case [str(name), str(op), list(args), dict(kwargs)] if op in (INPUT, WEIGHT) or _OPERATION.fullmatch(op):
            named = {str(key): _read(value, 0) for key, value in kwargs.items()}
            return Node(name, op, tuple(_read(each, 0) for each in args), named)
    raise GraphError("an operation is written as [name, aten.NAME.OVERLOAD, arguments, named arguments]")


def _read(value: Any, depth: int) -> Any:
    if isinstance(value, list) and depth < _DEEPEST:
        return tuple(_read(each, depth + 1) for each in value)
    if value is None or isinstance(value, (bool, str, float)):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    match value:
        case {"ref": str(name)} if len(value) == 1:
            return Ref(name)
        case {"batch": "pixels" | "wanted" as of, "times": int(times)} if 0 < times < 2**31 and len(value) == 2:
            return Batch(of, times)
        case {"dtype": str(name)} if name in DTYPES and len(value) == 1:
            return Dtype(name)
        case {"float": "inf" | "-inf" | "nan" as text} if len(value) == 1:
            return float(text)
    raise GraphError(f"an argument can't be read: {str(value)[:80]}")
