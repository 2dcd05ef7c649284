"""Combines two recordings of a network, for two and for three images, into graph nodes for any batch size."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from pellucid.compiler.gradient.recording import Recording, Step, TracingError, Value, each_leaf
from pellucid.network.graph import INPUT, PIXELS_INPUT, WANTED_INPUT, WEIGHT, Batch, Dtype, Node, Ref

aten = torch.ops.aten

BATCHES: Final = (2, 3)
# One side of their shape may be -1; it then stands for the batch size.
_RESHAPES: Final = {aten.view.default, aten._unsafe_view.default, aten.reshape.default}
_IGNORED: Final = ("device", "layout", "pin_memory", "memory_format", "non_blocking")
Shape = tuple[tuple[int, ...], tuple[int, ...]]  # for two and for three images


class Writer:
    """Holds the ``nodes`` in order, the names of ``inputs`` and ``outputs``, each node's shape for two and for three
    images, and the ``weights``: parameters and buffers by name, constants by a digest of their contents.

    Raises TracingError if the recordings differ in more than the batch size.
    """

    def __init__(self, two: Recording, three: Recording, weights: Mapping[str, Tensor], values: int) -> None:
        """``weights``: the tensors that the recordings follow besides the inputs, by name. The first ``values`` outputs
        have one row per image; the others have one row per row of the wanted logits.
        """
        self.nodes: list[Node] = []
        self.inputs = (PIXELS_INPUT, WANTED_INPUT)
        self.shapes: dict[str, Shape] = {}
        self.weights: dict[str, Tensor] = {}
        self._written: dict[str, Node] = {}
        self._names: dict[int, Ref] = {}  # a Value's number in the first recording -> the node that holds it
        self._same: dict[str, str] = {}  # an operation as text -> the node that already computes it
        self._of_wanted = {WANTED_INPUT}
        for name, value, other in zip(self.inputs, two.inputs, three.inputs, strict=False):
            self._names[value.number] = self._write(Node(name, INPUT, (), {}), (value.shape, other.shape))
        for value, (name, array) in zip(two.inputs[len(self.inputs) :], weights.items(), strict=True):
            self._names[value.number] = Ref(f"weight:{name}")
            self.weights[name] = array.detach()
            self._write(Node(f"weight:{name}", WEIGHT, (name,), {}), (value.shape, value.shape))
        if [step.target for step in two.steps] != [step.target for step in three.steps]:
            raise TracingError("it runs different operations for two images and for three")
        for number, steps in enumerate(zip(two.steps, three.steps, strict=True)):
            self._add(f"{steps[0].name.split('.')[1]}_{number}", *steps)
        self.outputs = [
            self._argument(value, other, PIXELS_INPUT if number < values else WANTED_INPUT).name
            for number, (value, other) in enumerate(zip(two.outputs, three.outputs, strict=True))
        ]

    def _add(self, name: str, step: Step, other: Step) -> None:
        of = WANTED_INPUT if any(name in self._of_wanted for name in self._read(step)) else PIXELS_INPUT
        args = tuple(self._argument(*pair, of) for pair in zip(step.args, other.args, strict=True))
        kwargs = {
            key: self._argument(value, other.kwargs[key], of)
            for key, value in step.kwargs.items()
            if key not in _IGNORED
        }
        shapes = [(two.shape, three.shape) for two, three in zip(step.results, other.results, strict=True)]
        if step.many:
            node = self._write(Node(name, step.name, args, kwargs), None)
            for i, (value, shape) in enumerate(zip(step.results, shapes, strict=True)):
                part = Node(f"{name}.{i}", "aten.getitem.default", (node, i), {})
                self._names[value.number] = self._write(part, shape)
            return
        made = self._special(name, step.target, args, shapes[0])
        self._names[step.results[0].number] = made or self._write(Node(name, step.name, args, kwargs), shapes[0])

    def _read(self, step: Step) -> set[str]:
        found: set[str] = set()
        each_leaf(
            (step.args, tuple(step.kwargs.values())),
            lambda leaf: found.add(self._names[leaf.number].name) if isinstance(leaf, Value) else None,
        )
        return found

    def _write(self, node: Node, shape: Shape | None) -> Ref:
        """Add the node, or return the existing node that computes the same."""
        text = node.name if node.op == INPUT else repr((node.op, node.args, sorted(node.kwargs.items())))
        if text in self._same:
            return Ref(self._same[text])
        self._same[text] = node.name
        self.nodes.append(node)
        self._written[node.name] = node
        if shape is not None:
            self.shapes[node.name] = shape
        if not self._of_wanted.isdisjoint(node.refs):
            self._of_wanted.add(node.name)
        return Ref(node.name)

    def _constant(self, two: Tensor, three: Tensor, of: str) -> Ref:
        """Store a constant under a digest of its contents.

        If it has one row per image and the rows are equal, one row is stored and expanded.
        """
        shape = tuple(two.shape), tuple(three.shape)
        sides = [self._argument(*pair, of) for pair in zip(*shape, strict=True)]
        rows = [isinstance(side, Batch) for side in sides]
        first, first_of_three = (
            value.detach()[tuple(slice(0, 1) if row else slice(None) for row in rows)] for value in (two, three)
        )
        if not torch.equal(first, first_of_three) or not (two == first).all() or not (three == first).all():
            raise TracingError("it makes different constants for two images and for three")
        digest = hashlib.sha256(first.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        digest.update(repr((first.dtype, first.shape)).encode())
        name = f"constant.{digest.hexdigest()[:16]}"
        self.weights.setdefault(name, first.contiguous())
        made = self._write(Node(f"weight:{name}", WEIGHT, (name,), {}), (tuple(first.shape),) * 2)
        if not any(rows):
            return made
        wide = tuple(side if row else -1 for side, row in zip(sides, rows, strict=True))
        return self._write(Node(f"{made.name}.{of}", "aten.expand.default", (made, wide), {}), shape)

    # -- operations that the graph writes in another form

    def _special(self, name: str, target: Any, args: tuple[Any, ...], shape: Shape) -> Ref | None:
        if target in _RESHAPES:
            return self._view(name, args[0], args[1], shape)
        if target is aten.t.default and self._written[args[0].name].op == str(target):
            source: Ref = self._written[args[0].name].args[0]
            return source
        if target is aten.expand.default:
            return self._expand(name, args[0], args[1], shape)
        if target is aten.bmm.default:
            return self._product(name, args[0], args[1], shape)
        return None

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
        kept = [
            axis >= lead and all(given[run][axis - lead] == shape[run][axis] for run in (0, 1))
            for axis in range(len(sides))
        ]
        sides = tuple(-1 if keep else side for keep, side in zip(kept, sides, strict=True))
        return self._write(Node(name, "aten.expand.default", (source, sides), {}), shape)

    def _product(self, name: str, x: Ref, y: Ref, shape: Shape) -> Ref:
        """A batched matrix product with separate axes for images and heads, so that one image's activations broadcast
        over the gradients of several classes.
        """
        known = next((source for source in map(self._unmerged, (x, y)) if source is not None), None)
        if known is None:
            return self._write(Node(name, "aten.matmul.default", (x, y), {}), shape)
        two, three = self.shapes[known.name]
        factors = tuple(
            self._unmerged(factor) or self._split_first_axis(factor, two[:2], three[:2]) for factor in (x, y)
        )
        whole = (*two[:2], *shape[0][1:]), (*three[:2], *shape[1][1:])
        product = self._write(Node(f"{name}.product", "aten.matmul.default", factors, {}), whole)
        return self._write(Node(name, "aten.view.default", (product, (-1, *shape[0][1:])), {}), shape)

    def _unmerged(self, value: Ref) -> Ref | None:
        """The value ``[a, b, n, m]`` that was merged into ``value`` ``[a * b, n, m]``, or None if there is none."""
        node = self._written[value.name]
        if node.op == "aten.transpose.int" and {each % 3 for each in node.args[1:]} == {1, 2}:
            source = self._unmerged(node.args[0])
            if source is None:
                return None
            shape = self.shapes[source.name]
            turned = tuple((*sides[:2], sides[3], sides[2]) for sides in shape)
            return self._write(Node(f"{value.name}.apart", node.op, (source, 2, 3), {}), (turned[0], turned[1]))
        if node.op != "aten.view.default" or node.args[0].name not in self.shapes:
            return None
        given, merged = self.shapes[node.args[0].name], self.shapes[value.name]
        fits = len(given[0]) == 4 and given[0][2:] == merged[0][1:] and given[1][2:] == merged[1][1:]
        return node.args[0] if fits else None

    def _split_first_axis(self, value: Ref, two: tuple[int, ...], three: tuple[int, ...]) -> Ref:
        """The value ``[a * b, n, m]`` as ``[a, b, n, m]``."""
        shape = self.shapes[value.name]
        sides = (-1, two[1], *shape[0][1:])
        return self._view(f"{value.name}.divided", value, sides, ((*two, *shape[0][1:]), (*three, *shape[1][1:])))

    def _argument(self, value: Any, other: Any, of: str) -> Any:
        if isinstance(value, Value):
            return self._names[value.number]
        if isinstance(value, Tensor):
            return self._constant(value, other, of)
        if isinstance(value, tuple):
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
