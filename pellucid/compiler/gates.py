"""Channel-attention gates in a traced network: how a gated layer is named, and how gates are found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor, fx, nn

from pellucid.compiler.layout import operation
from pellucid.network.layout import Layout


class Gated(nn.Module):
    """A layer with a gate behind it.

    A traced network names the layer as before and the gate's value ``<layer>.gate``.
    """

    def __init__(self, layer: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(self.layer(x))  # type: ignore[no-any-return]


def names_without_gates(net: nn.Module) -> Callable[[str], str]:
    """A function from module paths to names in which a gated layer is called as if it had no gate: a.layer.b -> a.b.

    A part of the layer that is itself called ``gate`` keeps its path: a.gate is the gate.
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
    """A gate found in a graph: ``weights`` is the node whose value, one number per channel, scales ``gated`` into
    ``output``; ``shape`` is (channels, height, width) of what it scales; ``squash`` is the function that bounds the
    numbers, before what stretches or shifts them.
    """

    weights: fx.Node
    gated: fx.Node
    output: fx.Node
    shape: tuple[int, int, int]
    squash: str


_MULTIPLY = {"mul", "multiply"}
# What stretches or shifts a gate's numbers, by a number.
_SCALE = _MULTIPLY | {"div", "divide", "truediv", "add", "radd", "sub", "rsub"}
# What keeps a gate's numbers within bounds. Hard sigmoids are also written as relu6(x + 3) / 6, or with a clamp.
_SQUASH = {"sigmoid", "hardsigmoid", "softmax", "tanh", "relu6", "hardtanh", "clamp"}
# Operations that only rearrange or repeat a gate's numbers on their way to the multiplication.
_SHAPE_ONLY = {
    *("view", "reshape", "expand", "expand_as", "unsqueeze", "squeeze", "getitem", "flatten", "contiguous"),
    *("permute", "transpose", "identity", "dropout", "chunk", "split", "unbind", "reshape_as", "view_as"),
}


def _name(node: fx.Node, root: nn.Module) -> str:
    return operation(node, root).rstrip("_").replace("hard_", "hard")


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta.get("shape", ()))


def _per_channel(factor: tuple[int, ...], gated: tuple[int, ...], extent: slice) -> bool:
    """Whether a factor has one number for each image and channel: it is as large as the map, but 1 in its extent."""
    ones = [1] * len(gated[extent])
    return len(factor) == len(gated) and [*factor[extent]] == ones and _others(factor, extent) == _others(gated, extent)


def _others(shape: tuple[int, ...], extent: slice) -> list[int]:
    others = [*shape]
    del others[extent]
    return others


def _gate_behind(node: fx.Node, gated: tuple[int, ...], extent: slice, root: nn.Module) -> tuple[fx.Node, str] | None:
    """Walk up from a factor of a multiplication to one number per channel that a squashing function made.

    Returns what is multiplied and that function's name, or None.
    """
    weights: fx.Node | None = None
    while True:
        if _per_channel(_shape(node), gated, extent) or _shape(node) == tuple(_others(gated, extent)):
            weights = weights or node  # the first such node is what is really multiplied, a later one an ingredient
        name = _name(node, root)
        if name in _SQUASH:
            return (weights, name) if weights is not None else None
        sources = [arg for arg in node.args if isinstance(arg, fx.Node)]
        scaled = name in _SCALE and len(sources) == 1
        if (name not in _SHAPE_ONLY and not scaled) or not sources:
            return None
        node = sources[0]


def find_gates(graph: fx.Graph, root: nn.Module, layouts: dict[fx.Node, Layout]) -> Iterator[FoundGate]:
    """Every channel-attention gate of a traced graph (pellucid.compiler.tracing), in order.

    A gate is a product of a map and a factor with one number per image and channel that a sigmoid, or a function like
    it, made. So torchvision's SqueezeExcitation, timm's SE, eSE, ECA, GE, GC and CBAM channel gates, and
    ChannelAttention above are found by what they compute, under whatever class name. Selective kernels and split
    attention scale several maps ``[B, paths, C, H, W]`` by a softmax over the paths: such a gate has paths * C
    channels. Spatial gates, hard-swish, layer scale and global response normalisation are none.
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
            at = layout.axes.index("H")
            shape = _shape(gated)
            found = _gate_behind(factor, shape, slice(at, at + 2), root)
            if found is not None:
                weights, squash = found
                yield FoundGate(weights, gated, node, (layout.channels(shape), layout.height, layout.width), squash)
                break
