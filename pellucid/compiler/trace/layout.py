"""Finds which axes of each value are channels and positions: maps, maps with channels last, and tokens.

Callers see every layer as a map ``[B, C, h, w]``. Swin and ConvNeXt compute ``[B, h, w, C]``. A vision transformer
computes tokens ``[B, P + h * w, C]``, where the first P are not positions (the class token and registers). Selective
kernels and split attention compute several maps ``[B, P, C, h, w]``.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn

from pellucid.network.layout import Axes, Layout

# Operations that only move or regroup numbers. Their axes follow from the shape or from the permutation.
_REGROUP = {"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "stack", "unfold", "sum"}
_PRODUCTS = {"matmul", "bmm", "einsum", "scaled_dot_product_attention"}
_PERMUTE = {"permute", "transpose", "swapaxes", "movedim"}
_MOST_EXTRA_TOKENS = 16
_PERMUTED: tuple[Axes, ...] = ("BCHW", "BHWC", "BNC", "BCN")
_MERGES = (1, 2, 4)  # how many positions on a side a regrouping may merge into one


def kind_of(node: fx.Node, root: nn.Module) -> str:
    """The class of the node's module, or the name of its function or method."""
    if node.op == "call_module":
        return type(root.get_submodule(str(node.target))).__name__
    if isinstance(node.target, str):
        return node.target
    return str(getattr(node.target, "__name__", "")).partition(".")[0]  # an operation of ATen: expit.default


def operation(node: fx.Node, root: nn.Module) -> str:
    """The lower-case name of the node's operation: a module's class, a function or a method."""
    return kind_of(node, root).lower()


def find_layouts(graph: fx.Graph, root: nn.Module) -> dict[fx.Node, Layout]:
    """The layout of each value of a traced graph that has one. Follows the graph from the pixels."""
    known: dict[fx.Node, Layout] = {}
    nearest: dict[fx.Node, Layout] = {}  # also for values without a layout: that of their first source
    for node in graph.nodes:
        sources = [source for source in node.all_input_nodes if source in nearest]
        shape = node.meta.get("shape")
        if node.meta.get("number"):
            continue
        found = None
        if node.op == "placeholder":
            found = Layout("BCHW", shape[2], shape[3])
        elif sources and shape is not None:
            source = next((source for source in sources if source in known), sources[0])
            found = _follow(node, operation(node, root), shape, known.get(source), nearest[source], source)
        if found is not None:
            known[node] = nearest[node] = found
        elif sources:
            nearest[node] = nearest[sources[0]]
    return known


def _follow(
    node: fx.Node, kind: str, shape: tuple[int, ...], layout: Layout | None, near: Layout, source: fx.Node
) -> Layout | None:
    if layout is not None and kind in _PERMUTE:
        return _permuted(node, layout, len(shape))
    if layout is None or kind in _REGROUP | _PRODUCTS or len(shape) != len(layout.axes):
        if kind.endswith("norm2d") or kind.startswith("conv2d"):
            return Layout("BCHW", shape[2], shape[3])
        return _from_shape(shape, layout or near)
    if "H" in layout.axes:
        at = layout.axes.index("H")
        return Layout(layout.axes, shape[at], shape[at + 1])
    extra = shape[layout.axes.index("N")] - layout.height * layout.width
    if extra > layout.extra and not (kind in ("cat", "concat") and _comes_last(node, source)):
        return None
    return Layout(layout.axes, layout.height, layout.width, extra) if 0 <= extra <= _MOST_EXTRA_TOKENS else None


def _comes_last(node: fx.Node, source: fx.Node) -> bool:
    """Whether ``source`` is the last part of a concatenation, so that the other parts precede its positions."""
    parts: Any = node.args[0]
    return parts[-1] is source


def _permuted(node: fx.Node, layout: Layout, dims: int) -> Layout | None:
    """The layout with its axes in their new order, or None if no such layout exists."""
    numbers: list[Any] = [*node.args[1:]] or [*node.kwargs.values()]
    order: list[Any] = [*numbers[0]] if isinstance(numbers[0], (tuple, list)) else [*numbers]
    if len(order) == 2 and dims != 2:  # transpose
        one, other = (int(axis) % dims for axis in order)
        order = [other if axis == one else one if axis == other else axis for axis in range(dims)]
    moved = "".join(layout.axes[axis] for axis in order)
    axes = next((known for known in _PERMUTED if known == moved), None)
    return Layout(axes, layout.height, layout.width, layout.extra) if axes else None


def _from_shape(shape: tuple[int, ...], near: Layout) -> Layout | None:
    """The layout of a regrouped value: its sides must be those of the map ``near``, whole or divided by a merge."""
    extents: dict[int, list[tuple[Axes, tuple[int, ...]]]] = {
        5: [("BPCHW", shape[3:])],
        4: [("BCHW", shape[2:]), ("BHWC", shape[1:3])],
        3: [("BNC", shape[1:2]), ("BCN", shape[2:])],
    }
    fitting = []
    for axes, extent in extents.get(len(shape), []):
        if extent == (near.height * near.width,):
            fitting.append(Layout(axes, near.height, near.width))
        elif len(extent) == 2 and any(
            (extent[0] * merge, extent[1] * merge) == (near.height, near.width) for merge in _MERGES
        ):
            fitting.append(Layout(axes, *extent))
    # If there are as many channels as positions, the channel axis keeps its place.
    fitting.sort(key=lambda layout: (layout.height != near.height, _channels_first(layout) != _channels_first(near)))
    return fitting[0] if fitting else None


def _channels_first(layout: Layout) -> bool:
    return layout.axes.index("C") < max(map(layout.axes.find, "HN"))


def positions_are_read(node: fx.Node, layouts: dict[fx.Node, Layout], within: set[fx.Node]) -> bool:
    """Whether any node ``within`` reads the positions of the tokens ``node``, not only its extra tokens.

    After its last attention, a vision transformer reads only the class token.
    """
    extra = layouts[node].extra
    for user in within & {*node.users}:
        picked = user.args[1] if user.target is operator.getitem else None
        if isinstance(picked, tuple) and len(picked) > 1 and _among_first(picked[1], extra, user.args[0]):
            continue
        layout = layouts.get(user)
        same = layout is not None and layout.axes == "BNC" and layout.extra == extra
        if not same or positions_are_read(user, layouts, within):
            return True
    return False


def _among_first(index: Any, extra: int, tokens: Any) -> bool:
    chosen = torch.arange(tokens.meta["shape"][1])[index]
    return bool((chosen < extra).all())
