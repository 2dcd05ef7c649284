"""Where a value keeps its channels and positions: maps, maps with channels last, and tokens.

Every layer is offered as a map ``[B, C, h, w]``. Swin and ConvNeXt hold theirs as ``[B, h, w, C]``, a vision
transformer as tokens ``[B, P + h * w, C]``, P of which are no positions (the class token and registers). Selective
kernels and split attention hold several maps ``[B, P, C, h, w]``.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn

from pellucid.network.layout import Axes, Layout

# What only moves or regroups numbers: there a value's axes follow from its shape or from the permutation.
_REGROUP = {"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "stack", "unfold", "sum"}
_PRODUCTS = {"matmul", "bmm", "einsum", "scaled_dot_product_attention"}
_PERMUTE = {"permute", "transpose", "swapaxes", "movedim"}
_MOST_EXTRA_TOKENS = 16
_PERMUTED: tuple[Axes, ...] = ("BCHW", "BHWC", "BNC", "BCN")
_MERGES = (1, 2, 4)  # positions on a side that a regrouping may put into one


def kind_of(node: fx.Node, root: nn.Module) -> str:
    """The class of the node's module, or the name of its function or method."""
    if node.op == "call_module":
        return type(root.get_submodule(str(node.target))).__name__
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def operation(node: fx.Node, root: nn.Module) -> str:
    """The node's operation by its plain lower-case name, whether it is a module, a function or a method."""
    return kind_of(node, root).lower()


def find_layouts(graph: fx.Graph, root: nn.Module) -> dict[fx.Node, Layout]:
    """The layout of every value of a traced graph that has one, followed from the pixels on."""
    known: dict[fx.Node, Layout] = {}
    nearest: dict[fx.Node, Layout] = {}  # of a value without a layout, that of a value it was made from
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
    """Whether ``source`` is the last part of a concatenation, so that what is added comes before its positions."""
    parts: Any = node.args[0]
    return parts[-1] is source


def _permuted(node: fx.Node, layout: Layout, dims: int) -> Layout | None:
    """The axes in their new order, where that is one of the layouts."""
    numbers: list[Any] = [*node.args[1:]] or [*node.kwargs.values()]
    order: list[Any] = [*numbers[0]] if isinstance(numbers[0], (tuple, list)) else [*numbers]
    if len(order) == 2 and dims != 2:  # transpose
        one, other = (int(axis) % dims for axis in order)
        order = [other if axis == one else one if axis == other else axis for axis in range(dims)]
    moved = "".join(layout.axes[axis] for axis in order)
    found = next((axes for axes in _PERMUTED if axes == moved), None)
    return Layout(found, layout.height, layout.width, layout.extra) if found else None


def _from_shape(shape: tuple[int, ...], near: Layout) -> Layout | None:
    """The layout of a regrouped value, known by the extent of a map that it was made from, or a whole part of it."""
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
    # As many channels as positions: whether they come first is as it was.
    fitting.sort(key=lambda layout: (layout.height != near.height, _channels_first(layout) != _channels_first(near)))
    return fitting[0] if fitting else None


def _channels_first(layout: Layout) -> bool:
    return layout.axes.index("C") < max(map(layout.axes.find, "HN"))


def positions_are_read(node: fx.Node, layouts: dict[fx.Node, Layout], within: set[fx.Node]) -> bool:
    """Whether what follows tokens, ``within`` these nodes, uses their positions.

    Behind its last attention a vision transformer reads the class token alone.
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
