"""Two recordings of the same operations, for two and for three images -> the nodes of a graph for any batch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from pellucid.compiler.recording import Recording, Step, TracingError, Value, each_leaf
from pellucid.network.graph import INPUT, PIXELS_INPUT, WANTED_INPUT, WEIGHT, Batch, Dtype, Node, Ref

aten = torch.ops.aten

BATCHES: Final = (2, 3)
_CONSTANT: Final = "constant."
# Of these a shape may leave one side open, which is then the batch's.
_RESHAPES: Final = {aten.view.default, aten._unsafe_view.default, aten.reshape.default}
_IGNORED: Final = ("device", "layout", "pin_memory", "memory_format", "non_blocking")
Shape = tuple[tuple[int, ...], tuple[int, ...]]  # for two and for three images


class Writer:
    """``nodes``, the ``outputs``' and ``inputs``' names, each node's shape for two and for three images, and the
    ``weights``, which are the parameters and buffers that are used, and constants by their contents.

    Raises TracingError.
    """

    def __init__(self, two: Recording, three: Recording, weights: Mapping[str, Tensor], values: int) -> None:
        """``weights`` are what is followed beside the inputs. The first ``values`` outputs have a row for each image,
        the others one for each row of the wanted logits.
        """
        self.nodes: list[Node] = []
        self.inputs = (PIXELS_INPUT, WANTED_INPUT)
        self.shapes: dict[str, Shape] = {}
        self.weights: dict[str, Tensor] = {}
        self._written: dict[str, Node] = {}
        self._names: dict[int, Ref] = {}  # a Value's number in the first recording -> the node that holds it
        self._same: dict[str, str] = {}  # an operation as text -> the node that has its result
        self._of_wanted = {WANTED_INPUT}
        for name, value, other in zip(self.inputs, two.inputs, three.inputs, strict=False):
            self._names[value.number] = self._write(Node(name, INPUT, (), {}), (value.shape, other.shape))
        for value, (name, array) in zip(two.inputs[len(self.inputs) :], weights.items(), strict=True):
            self._names[value.number] = Ref(f"weight:{name}")
            self.weights[name] = array.detach()
            self._write(Node(f"weight:{name}", WEIGHT, (name,), {}), (value.shape, value.shape))
        if [step.target for step in two.steps] != [step.target for step in three.steps]:
            raise TracingError("it runs other operations for two images than for three")
        for number, steps in enumerate(zip(two.steps, three.steps, strict=True)):
            self._add(f"{steps[0].name.split('.')[1]}_{number}", *steps)
        self.outputs = [
            self._argument(value, other, PIXELS_INPUT if number < values else WANTED_INPUT).name
            for number, (value, other) in enumerate(zip(two.outputs, three.outputs, strict=True))
        ]

    def _add(self, name: str, step: Step, other: Step) -> None:
        of = WANTED_INPUT if any(each in self._of_wanted for each in self._read(step)) else PIXELS_INPUT
        args = tuple(self._argument(*pair, of) for pair in zip(step.args, other.args, strict=True))
        kwargs = {
            key: self._argument(value, other.kwargs[key], of)
            for key, value in step.kwargs.items()
            if key not in _IGNORED
        }
        shapes = [(one.shape, also.shape) for one, also in zip(step.results, other.results, strict=True)]
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
        """The node, or the one that is there already and has its result."""
        text = node.name if node.op == INPUT else repr((node.op, node.args, sorted(node.kwargs.items())))
        if text in self._same:
            return Ref(self._same[text])
        self._same[text] = node.name
        self.nodes.append(node)
        self._written[node.name] = node
        if shape is not None:
            self.shapes[node.name] = shape
        if not self._of_wanted.isdisjoint(node.refs()):
            self._of_wanted.add(node.name)
        return Ref(node.name)

    def _constant(self, two: Tensor, three: Tensor, of: str) -> Ref:
        """An array by its contents; one whose rows are those of the batch, all alike, as one row that is repeated."""
        shape = tuple(two.shape), tuple(three.shape)
        sides = [self._argument(*pair, of) for pair in zip(*shape, strict=True)]
        rows = [isinstance(side, Batch) for side in sides]
        first, also = (
            value.detach()[tuple(slice(0, 1) if row else slice(None) for row in rows)] for value in (two, three)
        )
        if not torch.equal(first, also) or not (two == first).all() or not (three == first).all():
            raise TracingError(f"it makes another constant for two images than for three {two} {three}")
        digest = hashlib.sha256(first.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        digest.update(repr((first.dtype, first.shape)).encode())
        name = f"constant.{digest.hexdigest()[:16]}"
        self.weights.setdefault(name, first.contiguous())
        made = self._write(Node(f"weight:{name}", WEIGHT, (name,), {}), (tuple(first.shape),) * 2)
        if not any(rows):
            return made
        wide = tuple(side if row else -1 for side, row in zip(sides, rows, strict=True))
        return self._write(Node(f"{made.name}.{of}", "aten.expand.default", (made, wide), {}), shape)

    # -- operations that are written otherwise

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
        kept = [number >= lead and given[0][number - lead] == side for number, side in enumerate(shape[0])]
        kept = [each and given[1][number - lead] == shape[1][number] for number, each in enumerate(kept)]
        sides = tuple(-1 if keep else side for keep, side in zip(kept, sides, strict=True))
        return self._write(Node(name, "aten.expand.default", (source, sides), {}), shape)

    def _product(self, name: str, x: Ref, y: Ref, shape: Shape) -> Ref:
        """A product of batches of matrices, with images and heads as axes of their own: so one image's activations
        meet the gradients of several classes.
        """
        known = next((each for each in map(self._apart, (x, y)) if each is not None), None)
        if known is None:
            return self._write(Node(name, "aten.matmul.default", (x, y), {}), shape)
        two, three = self.shapes[known.name]
        apart = tuple(self._apart(each) or self._divided(each, two[:2], three[:2]) for each in (x, y))
        whole = (*two[:2], *shape[0][1:]), (*three[:2], *shape[1][1:])
        product = self._write(Node(f"{name}.product", "aten.matmul.default", apart, {}), whole)
        return self._write(Node(name, "aten.view.default", (product, (-1, *shape[0][1:])), {}), shape)

    def _apart(self, value: Ref) -> Ref | None:
        """The value ``[a, b, n, m]`` whose first axes were merged into ``[a * b, n, m]``."""
        node = self._written[value.name]
        if node.op == "aten.transpose.int" and {each % 3 for each in node.args[1:]} == {1, 2}:
            source = self._apart(node.args[0])
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

    def _divided(self, value: Ref, two: tuple[int, ...], three: tuple[int, ...]) -> Ref:
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
