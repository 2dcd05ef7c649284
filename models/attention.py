"""Channel-attention gates: their definition, and how they are found in a traced network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F


class ChannelAttention(nn.Module):
    """Scale each channel by a weight in (0, 2) that depends on the whole picture; by exactly 1 until it is trained.

    ``gate = 2 sigmoid(MLP(mean_hw(x)) + MLP(max_hw(x)))``, one MLP with max(8, C/4) hidden units for both poolings
    (Woo et al., "CBAM", arXiv 1807.06521, eq. 2). The factor 2 and the zero last layer let a gate be put into a trained
    network without changing it. ``[B, C, H, W] -> [B, C, H, W]``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(8, channels // 4)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)
        nn.init.zeros_(self.excite.weight)
        nn.init.zeros_(self.excite.bias)

    def mlp(self, pooled: Tensor) -> Tensor:
        """Pooled channels ``[B, C]`` -> pre-activation of the gate ``[B, C]``."""
        logits: Tensor = self.excite(F.relu(self.squeeze(pooled)))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        gate = 2 * torch.sigmoid(self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3))))  # B C
        return x * gate[:, :, None, None]


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
    """A function from module paths to names in which a gated layer is called as if it had no gate: a.layer.b -> a.b."""
    wrappers = [f"{path}.layer" for path, module in net.named_modules() if isinstance(module, Gated)]

    def name(path: str) -> str:
        for wrapper in reversed(wrappers):  # inner ones first
            if path == wrapper or path.startswith(f"{wrapper}."):
                path = wrapper.removesuffix(".layer") + path.removeprefix(wrapper)
        return path

    return name


@dataclass(frozen=True, slots=True)
class Gate:
    """A gate found in a graph: ``weights`` is the node whose value, one number per channel, scales ``gated`` into
    ``output``.
    """

    weights: fx.Node
    gated: fx.Node
    output: fx.Node


_MULTIPLY = {"mul", "mul_", "multiply"}
_SIGMOID = {"sigmoid", "sigmoid_", "hardsigmoid", "hard_sigmoid"}
# Operations that only rearrange or repeat a gate's numbers on their way to the multiplication.
_SHAPE_ONLY = {"view", "reshape", "expand", "expand_as", "unsqueeze", "getitem", "flatten", "contiguous"}


def _operation(node: fx.Node, root: nn.Module) -> str:
    """The node's operation by its plain lower-case name, whether it is a module, a function or a method."""
    if node.op == "call_module":
        return type(root.get_submodule(str(node.target))).__name__.lower()
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name.lower()


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(getattr(node.meta.get("tensor_meta"), "shape", ()))


def _gate_behind(node: fx.Node, channels: int, root: nn.Module) -> fx.Node | None:
    """Walk up from a factor of a multiplication to one number per channel that a sigmoid made, or None."""
    weights: fx.Node | None = None
    while True:
        shape = _shape(node)
        if len(shape) >= 2 and shape[1] == channels and shape[2:].count(1) == len(shape) - 2:
            weights = weights or node  # the first such node is what is really multiplied, a later one an ingredient
        operation = _operation(node, root)
        if operation in _SIGMOID:
            return weights
        scaled = operation in _MULTIPLY and sum(isinstance(arg, fx.Node) for arg in node.args) == 1
        if operation not in _SHAPE_ONLY and not scaled:
            return None
        node = next(arg for arg in node.args if isinstance(arg, fx.Node))


def find_gates(graph: fx.Graph, root: nn.Module) -> Iterator[Gate]:
    """Every channel-attention gate of a traced graph whose nodes carry their shapes (``tensor_meta``), in order.

    A gate is a product of a feature map ``[B, C, H, W]`` and a sigmoid's output with one number per image and channel.
    So torchvision's SqueezeExcitation, timm's SE, eSE, ECA and CBAM channel gates, and ChannelAttention above are
    found by what they compute, under whatever class name; spatial gates, hard-swish and layer scale are not.
    """
    for node in graph.nodes:
        if _operation(node, root) not in _MULTIPLY or len(node.args) != 2:
            continue
        left, right = node.args
        if not (isinstance(left, fx.Node) and isinstance(right, fx.Node)):
            continue
        for gated, factor in ((left, right), (right, left)):
            shape = _shape(gated)
            if len(shape) == 4 and shape[2] * shape[3] > 1:
                weights = _gate_behind(factor, shape[1], root)
                if weights is not None:
                    yield Gate(weights, gated, node)
                    break
