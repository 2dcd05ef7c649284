"""A network for pixels of any size: two recordings at different sizes -> one graph whose numbers follow the size."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from itertools import product
from typing import Any, Final

from pellucid.compiler.gradient.full_graph import FullGraph
from pellucid.network.graph import Graph, Node, Scaled

Size = tuple[int, int]
# Of each side in pixels: the product of the strides of most networks.
MULTIPLE: Final = 32
_POWERS: Final = [(1, 0), (0, 1), (1, 1), (-1, 0), (0, -1), (-1, -1)]
# Of sides, from convolutions without padding, and of the ends of slices.
_OFFSETS: Final = sorted(range(-8, 9), key=abs)


class FixedSizeError(ValueError):
    """The network runs at one size only. The message says why."""


def any_size(base: FullGraph, other: FullGraph, base_size: Size, other_size: Size) -> Graph:
    """The graph for any size, from recordings of a network at two sizes.

    The ratios of the heights, of the widths, their product and their quotient must all differ. Raises FixedSizeError.
    """
    ratios = Fraction(other_size[0], base_size[0]), Fraction(other_size[1], base_size[1])
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
