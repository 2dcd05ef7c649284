"""Channel-attention gates: their definition, and how they are found in a traced network."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from models.layout import Layout, operation


class ChannelAttention(nn.Module):
    """Scale each channel by a weight in (0, 1) that depends on the whole picture.

    ``gate = sigmoid(MLP(mean_hw(x)) + MLP(max_hw(x)))``, one MLP shared by both poolings
    (Woo et al., "CBAM", arXiv 1807.06521, eq. 2). ``[B, C, H, W] -> [B, C, H, W]``.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)

    def mlp(self, pooled: Tensor) -> Tensor:
        """Pooled channels ``[B, C]`` -> pre-activation of the gate ``[B, C]``."""
        logits: Tensor = self.excite(F.relu(self.squeeze(pooled)))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3))))  # B C
        return x * gate[:, :, None, None]


@dataclass(frozen=True, slots=True)
class Gate:
    """A gate found in a graph: ``weights`` is the node whose value, one number per channel, scales ``gated`` into
    ``output``; ``shape`` is (channels, height, width) of what it scales.
    """

    weights: fx.Node
    gated: fx.Node
    output: fx.Node
    shape: tuple[int, int, int]


_MULTIPLY = {"mul", "multiply"}
_DIVIDE = {"div", "divide", "truediv"}
# What keeps a gate's numbers within bounds. Hard sigmoids are also written as relu6(x + 3) / 6, or with a clamp.
_SQUASH = {"sigmoid", "hardsigmoid", "softmax", "tanh", "relu6", "hardtanh", "clamp"}
# Operations that only rearrange or repeat a gate's numbers on their way to the multiplication.
_SHAPE_ONLY = {
    *("view", "reshape", "expand", "expand_as", "unsqueeze", "squeeze", "getitem", "flatten", "contiguous"),
    *("permute", "transpose", "identity", "dropout"),
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


def _gate_behind(node: fx.Node, gated: tuple[int, ...], extent: slice, root: nn.Module) -> fx.Node | None:
    """Walk up from a factor of a multiplication to one number per channel that a squashing function made, or None."""
    weights: fx.Node | None = None
    while True:
        if _per_channel(_shape(node), gated, extent) or _shape(node) == tuple(_others(gated, extent)):
            weights = weights or node  # the first such node is what is really multiplied, a later one an ingredient
        name = _name(node, root)
        if name in _SQUASH:
            return weights
        sources = [arg for arg in node.args if isinstance(arg, fx.Node)]
        scaled = name in _MULTIPLY | _DIVIDE and len(sources) == 1
        if (name not in _SHAPE_ONLY and not scaled) or not sources:
            return None
        node = sources[0]


def find_gates(graph: fx.Graph, root: nn.Module, layouts: dict[fx.Node, Layout]) -> Iterator[Gate]:
    """Every channel-attention gate of a traced graph (models.tracing), in order.

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
            shape = _shape(gated)
            last = len(shape) == 4 and gated in layouts and layouts[gated].axes == "BHWC"
            extent = slice(1, 3) if last else slice(len(shape) - 2, len(shape))
            if len(shape) in (4, 5) and math.prod(shape[extent]) > 1:
                weights = _gate_behind(factor, shape, extent, root)
                if weights is not None:
                    height, width = shape[extent]
                    yield Gate(weights, gated, node, (math.prod(_others(shape, extent)[1:]), height, width))
                    break
