"""A network for pixels of any size: two recordings at different sizes -> one graph whose numbers follow the size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any, Final

from pellucid.compiler.gradient.full_graph import FullGraph
from pellucid.compiler.trace.graph import TracedNetwork
from pellucid.network.file import AnySize, MapSides, Nodes
from pellucid.network.graph import PIXELS_INPUT, Graph, Node, Scaled

Size = tuple[int, int]
# Of each side in pixels: the product of the strides of most networks.
MULTIPLE: Final = 32
_FEWEST: Final = 3  # multiples of a side
_POWERS: Final = [(1, 0), (0, 1), (1, 1), (-1, 0), (0, -1), (-1, -1)]
# Of sides, from convolutions without padding, and of the ends of slices.
_OFFSETS: Final = sorted(range(-8, 9), key=abs)


class FixedSizeError(ValueError):
    """The network runs at one size only. The message says why."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A network that was traced and recorded at one size."""

    size: Size
    traced: TracedNetwork
    full: FullGraph


def sizes(size: Size) -> tuple[Size, Size, Size]:
    """The sizes (height, width) to record at, twice, and to check at. The first is square and close to ``size``.

    The check is at a smaller size, which is faster, if the first leaves room for one.
    """
    count = max(_FEWEST, round(min(size) / MULTIPLE))
    check = (count - 2, count - 3) if count >= _FEWEST + 3 else (count + 2, count - 1)
    of = [(count, count), (count + 1, count + 2), check]
    one, two, three = ((MULTIPLE * height, MULTIPLE * width) for height, width in of)
    return one, two, three


def any_size(record: Callable[[Size], Recorded], size: Size, expected: TracedNetwork) -> tuple[AnySize, Graph]:
    """The graph for any size. ``record`` records the network at a size; ``expected`` is its trace at its own ``size``.

    Raises FixedSizeError, and what ``record`` raises.
    """
    if expected.attentions:
        raise FixedSizeError("it has attention between tokens")
    base, other = map(record, sizes(size)[:2])
    traced = (base.traced, other.traced)
    if any([*each.gates, *each.spatial_gates] != [*expected.gates, *expected.spatial_gates] for each in traced):
        raise FixedSizeError("it has other gates at another size")
    names = [layer.name for layer in expected.spec.layers]
    if any([layer.name for layer in each.spec.layers] != names for each in traced):
        raise FixedSizeError("it has other layers at another size")
    ratios = Fraction(other.size[0], base.size[0]), Fraction(other.size[1], base.size[1])
    full = base.full

    def nodes(value: str) -> Nodes:
        return Nodes(full.values[value], full.gradients[value])

    return AnySize(
        base=base.size,
        multiple=MULTIPLE,
        logits=full.logits,
        pixels=nodes(PIXELS_INPUT),
        values={name: nodes(base.traced.value(name)) for name in names},
        gates={gate: nodes(value) for gate, value in base.traced.gates.items()},
        spatial_gates={gate: nodes(value) for gate, value in base.traced.spatial_gates.items()},
        sides={name: _sides(base.traced, other.traced, name, ratios) for name in names},
    ), _graph(full, other.full, ratios)


def _sides(base: TracedNetwork, other: TracedNetwork, layer: str, ratios: tuple[Fraction, Fraction]) -> MapSides:
    one, two = base.layout(layer), other.layout(layer)
    height = _number(one.height, two.height, (ratios[0], Fraction(1)))
    width = _number(one.width, two.width, (Fraction(1), ratios[1]))
    if not isinstance(height, Scaled) or not isinstance(width, Scaled) or (height.height, width.width) != (1, 1):
        raise FixedSizeError(f"the map at {layer} does not follow the size")
    return MapSides(int(height.number), int(width.number), height.offset, width.offset)


def _graph(base: FullGraph, other: FullGraph, ratios: tuple[Fraction, Fraction]) -> Graph:
    nodes, others = [*base.graph.nodes.values()], [*other.graph.nodes.values()]
    if [(node.name, node.op) for node in nodes] != [(node.name, node.op) for node in others] or (
        (base.logits, base.values, base.gradients) != (other.logits, other.values, other.gradients)
    ):
        raise FixedSizeError("it runs different operations at different sizes")
    return Graph(_scaled(*pair, ratios) for pair in zip(nodes, others, strict=True))


def _scaled(node: Node, other: Node, ratios: tuple[Fraction, Fraction]) -> Node:
    if node == other:
        return node
    kwargs: Mapping[str, Any] = {key: _number(value, other.kwargs[key], ratios) for key, value in node.kwargs.items()}
    return Node(node.name, node.op, _number(node.args, other.args, ratios), kwargs)


def _number(value: Any, other: Any, ratios: tuple[Fraction, Fraction]) -> Any:
    if value == other:
        return value
    if isinstance(value, tuple) and isinstance(other, tuple) and len(value) == len(other):
        return tuple(_number(*pair, ratios) for pair in zip(value, other, strict=True))
    if type(value) is type(other) and isinstance(value, (int, float)) and not isinstance(value, bool):
        offsets = _OFFSETS if isinstance(value, int) else (0,)
        for offset, (height, width) in product(offsets, _POWERS):
            expected = (value - offset) * ratios[0] ** height * ratios[1] ** width + offset
            if expected == other if isinstance(value, int) else abs(expected - other) <= 1e-12 * abs(other):
                return Scaled(value, height, width, offset)
    raise FixedSizeError(f"a number that is {value} at one size and {other} at another does not follow the size")
