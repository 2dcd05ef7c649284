"""Folds a norm's constant scale of a gradient into the kernel of the convolution that follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pellucid.network.graph import INPUT, WEIGHT, Node, Ref

Shapes = Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]


def scales_into_kernels(nodes: Sequence[Node], shapes: Shapes) -> list[Node]:
    """Replace each convolution of ``x * scale``, with a constant scale per channel, by one with a scaled kernel.

    ``shapes``: each node's shape for two and for three images.
    """
    by_name = {node.name: node for node in nodes}
    constant: set[str] = set()
    for node in nodes:
        if node.op == WEIGHT or (node.op != INPUT and node.refs and constant.issuperset(node.refs)):
            constant.add(node.name)
    made: list[Node] = []
    for node in nodes:
        product = by_name[node.args[0].name] if node.op == "aten.convolution.default" else None
        factors = _factors(product, constant, shapes) if product is not None and node.args[1].name in constant else None
        if factors is None:
            made.append(node)
            continue
        x, scale = factors
        scaled = _scaled(node, scale, shapes[node.args[1].name][0])
        made += [*scaled, Node(node.name, node.op, (x, Ref(scaled[-1].name), *node.args[2:]), node.kwargs)]
    return made


def _factors(product: Node, constant: set[str], shapes: Shapes) -> tuple[Ref, Ref] | None:
    """The map ``[B, C, ...]`` and the constant scale ``[C, 1, ...]`` of a product, or None if it is another product."""
    if product.op != "aten.mul.Tensor" or not all(isinstance(each, Ref) for each in product.args):
        return None
    for x, scale in (product.args, product.args[::-1]):
        whole, sides = shapes[x.name][0], shapes[scale.name][0]
        ones = (1,) * (len(whole) - 2)
        per_channel = sides in ((whole[1], *ones), (1, whole[1], *ones)) if len(whole) > 2 else False
        if scale.name in constant and x.name not in constant and per_channel:
            return x, scale
    return None


def _scaled(convolution: Node, scale: Ref, kernel: tuple[int, ...]) -> list[Node]:
    """The nodes that multiply a convolution's kernel by the scale of its input channels. The last is the product.

    ``kernel`` is the kernel's shape.
    """
    weight, transposed, groups = convolution.args[1], convolution.args[6], convolution.args[8]
    name = f"{convolution.name}.kernel"

    def view(what: str, of: Ref, sides: Sequence[int]) -> Node:
        return Node(f"{name}.{what}", "aten.view.default", (of, tuple(sides)), {})

    def times(one: Ref, other: Node) -> Node:
        return Node(name, "aten.mul.Tensor", (one, Ref(other.name)), {})

    ones = [1] * (len(kernel) - 2)
    if transposed:  # [in, out / groups, ...]
        shaped = view("scale", scale, [-1, 1, *ones])
        return [shaped, times(weight, shaped)]
    if groups == 1:  # [out, in, ...]
        shaped = view("scale", scale, [1, -1, *ones])
        return [shaped, times(weight, shaped)]
    if kernel[:2] == (groups, 1):  # depthwise
        shaped = view("scale", scale, [-1, 1, *ones])
        return [shaped, times(weight, shaped)]
    shaped = view("scale", scale, [groups, 1, kernel[1], *ones])  # [groups * out, in, ...]
    apart = view("groups", weight, [groups, kernel[0] // groups, *kernel[1:]])
    scaled = Node(f"{name}.scaled", "aten.mul.Tensor", (Ref(apart.name), Ref(shaped.name)), {})
    whole: Any = Node(name, "aten.view.default", (Ref(scaled.name), kernel), {})
    return [shaped, apart, scaled, whole]
