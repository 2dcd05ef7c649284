"""Finds gates of channels and of positions in a traced network, and names gated layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor, fx, nn

from pellucid.compiler.trace.layout import operation
from pellucid.network.layout import Layout


class Gated(nn.Module):
    """A layer followed by a gate.

    In a traced network the layer keeps its name, and the gate's output is named ``<layer>.gate``.
    """

    def __init__(self, layer: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(self.layer(x))  # type: ignore[no-any-return]


def names_without_gates(net: nn.Module) -> Callable[[str], str]:
    """A function that maps a module path to its name without the ``Gated`` wrapper: a.layer.b -> a.b.

    A submodule of the layer that is itself named ``gate`` keeps its path, because a.gate is the gate.
    """
    wrappers = [f"{path}.layer" for path, module in net.named_modules() if isinstance(module, Gated)]

    def name(path: str) -> str:
        for wrapper in reversed(wrappers):  # inner ones first
            part = path.removeprefix(wrapper)
            if part != path and part[:1] in ("", ".") and part.split(".")[1:2] != ["gate"]:
                path = wrapper.removesuffix(".layer") + part
        return path

    return name


@dataclass(frozen=True, slots=True)
class FoundGate:
    """A gate in a graph: the product ``output`` of the map ``gated`` and ``weights``, one number per channel.

    A ``spatial`` gate has one number per position in place of one per channel. ``shape`` is (channels, height, width)
    of the map. ``squash`` is the function that bounds the weights, applied before any scaling or shift by a constant.
    """

    weights: fx.Node
    gated: fx.Node
    output: fx.Node
    shape: tuple[int, int, int]
    squash: str
    spatial: bool = False


_MULTIPLY = {"mul", "multiply"}
# Scaling or shifting a gate's weights by a constant.
_SCALE = _MULTIPLY | {"div", "divide", "truediv", "add", "radd", "sub", "rsub"}
# Functions that bound a gate's weights. Hard sigmoids are also written as relu6(x + 3) / 6, or with a clamp.
_SQUASH = {"sigmoid", "special_expit", "hardsigmoid", "softmax", "tanh", "relu6", "hardtanh", "clamp", "clip"}
# Operations that only rearrange or repeat a gate's weights before the multiplication.
_SHAPE_ONLY = {
    *("view", "reshape", "expand", "expand_as", "unsqueeze", "squeeze", "getitem", "flatten", "contiguous"),
    *("permute", "transpose", "identity", "dropout", "chunk", "split", "unbind", "reshape_as", "view_as"),
}


def _name(node: fx.Node, root: nn.Module) -> str:
    return operation(node, root).rstrip("_").replace("hard_", "hard")


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta.get("shape", ()))


def _fits(factor: tuple[int, ...], gated: tuple[int, ...], extent: slice) -> bool:
    """Whether a factor has one number for all of the ``extent``: the map's shape, with sides of 1 there."""
    ones = [1] * len(gated[extent])
    return len(factor) == len(gated) and [*factor[extent]] == ones and _others(factor, extent) == _others(gated, extent)


def _others(shape: tuple[int, ...], extent: slice) -> list[int]:
    others = [*shape]
    del others[extent]
    return others


def _gate_behind(node: fx.Node, gated: tuple[int, ...], extent: slice, root: nn.Module) -> tuple[fx.Node, str] | None:
    """Walk up from a factor of a product to the function that bounds it.

    Returns the node of the weights, one for all of the ``extent``, and that function's name. Returns None if the factor
    is no gate.
    """
    weights: fx.Node | None = None
    while True:
        if _fits(_shape(node), gated, extent) or _shape(node) == tuple(_others(gated, extent)):
            weights = weights or node  # the node nearest to the multiplication holds the final weights
        name = _name(node, root)
        if name in _SQUASH:
            return (weights, name) if weights is not None else None
        sources = [arg for arg in node.args if isinstance(arg, fx.Node)]
        scaled = name in _SCALE and len(sources) == 1
        if (name not in _SHAPE_ONLY and not scaled) or not sources:
            return None
        node = sources[0]


def find_gates(graph: fx.Graph, root: nn.Module, layouts: dict[fx.Node, Layout]) -> Iterator[FoundGate]:
    """Every gate of channels or positions in a traced graph (pellucid.compiler.trace.tracing), in order.

    A channel gate is a product of a map and a factor with one number per image and channel, where a sigmoid or a
    similar function computed the factor. Class names do not matter: this finds torchvision's SqueezeExcitation, timm's
    SE, eSE, ECA, GE, GC and CBAM channel gates, and models.attention.ChannelAttention. Selective kernels and split
    attention scale several maps ``[B, paths, C, H, W]`` by a softmax over the paths; such a gate has paths * C
    channels. A spatial gate, as CBAM's, has one number per image and position. Gates with one number per row,
    hard-swish, layer scale and global response normalisation do not count as gates.
    """
    for node in graph.nodes:
        if _name(node, root) not in _MULTIPLY or len(node.args) != 2:
            continue
        left, right = node.args
        if not (isinstance(left, fx.Node) and isinstance(right, fx.Node)):
            continue
        for gated, factor in ((left, right), (right, left)):
            layout = layouts.get(gated)
            if layout is None or "H" not in layout.axes or layout.height * layout.width == 1 or node not in layouts:
                continue
            shape, positions, channels = _shape(gated), layout.axes.index("H"), layout.axes.index("C")
            of_map = layout.channels(shape), layout.height, layout.width
            if (found := _gate_behind(factor, shape, slice(positions, positions + 2), root)) is not None:
                yield FoundGate(found[0], gated, node, of_map, found[1])
                break
            per_position = layout.axes in ("BCHW", "BHWC") and of_map[0] > 1
            if per_position and (found := _gate_behind(factor, shape, slice(channels, channels + 1), root)) is not None:
                yield FoundGate(found[0], gated, node, of_map, found[1], spatial=True)
                break
