"""Records a function of maps with its gradient, and runs it by torch, by OpenVINO and by autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset15 as ops
from torch import Tensor, nn

from pellucid.compiler.gradient.full_graph import FullGraph, record
from pellucid.network.graph import PIXELS_INPUT, WANTED_INPUT, Dtype, Graph, Part, walk
from pellucid.runtime import aten_to_openvino, torch_runtime
from pellucid.types import Array

CLASSES = 4
Function = Callable[[Tensor], Tensor]


class Head(nn.Module):
    """``layer``, followed by a linear layer to ``CLASSES`` logits."""

    def __init__(self, layer: Function, shape: tuple[int, int, int]) -> None:
        super().__init__()
        if isinstance(layer, nn.Module):
            self.part = layer
        self._layer = [layer]  # in a list, so that it is not registered twice
        size = layer(torch.zeros(1, *shape, dtype=torch.float64)).numel()
        chance = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(size, CLASSES, generator=chance, dtype=torch.float64))

    def forward(self, pixels: Tensor) -> tuple[Tensor]:
        return (self._layer[0](pixels).flatten(1) @ self.weight,)


def recorded(layer: Function, shape: tuple[int, int, int], gradients: bool = True) -> tuple[FullGraph, Head]:
    """The graph of a layer and a linear head in float64."""
    net = Head(layer, shape).requires_grad_(False)
    return record(net, (PIXELS_INPUT,), net, shape, CLASSES, gradients=gradients), net


def part_of(full: FullGraph) -> Part:
    """Pixels and wanted logits -> logits and the gradient at the pixels."""
    gradient = full.gradients[PIXELS_INPUT]
    assert gradient is not None
    return full.graph.part((PIXELS_INPUT, WANTED_INPUT), (full.logits, gradient))


def by_torch(full: FullGraph, pixels: Tensor, wanted: Tensor) -> list[Tensor]:
    """The graph's outputs in float64, computed by torch."""
    weights = {name: value.numpy() for name, value in full.weights.items()}
    with torch.no_grad():
        return torch_runtime.build(part_of(full), weights, torch.device("cpu"), None)(pixels, wanted)


def in_float32(graph: Graph, weights: Mapping[str, Array]) -> tuple[Graph, dict[str, Array]]:
    """A float64 graph and its weights, converted to float32."""

    def leaf(value: Any) -> Any:
        return Dtype("float32") if value == Dtype("float64") else value

    nodes = [
        replace(node, args=walk(node.args, leaf), kwargs={key: walk(value, leaf) for key, value in node.kwargs.items()})
        for node in graph.nodes.values()
    ]
    narrow = {name: each.astype(np.float32) if each.dtype == np.float64 else each for name, each in weights.items()}
    return Graph(nodes), narrow


def in_openvino(full: FullGraph, shape: tuple[int, int, int]) -> Callable[[Tensor, Tensor], list[Tensor]]:
    """The graph compiled by OpenVINO in float32 for any batch: pixels, wanted -> its outputs."""
    graph, weights = in_float32(full.graph, {name: value.numpy() for name, value in full.weights.items()})
    part = part_of(replace(full, graph=graph))
    inputs = [ops.parameter([-1, *shape], np.float32) for shape in (shape, (CLASSES,))]
    values = dict(zip(part.inputs, (each.output(0) for each in inputs), strict=True))
    outputs = aten_to_openvino.build(part, values, weights)
    model = ov.Model([ops.result(output) for output in outputs], inputs, "part")
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(pixels: Tensor, wanted: Tensor) -> list[Tensor]:
        found = compiled([pixels.float().numpy(), wanted.float().numpy()])
        return [torch.from_numpy(np.array(found[number])).double() for number in range(len(outputs))]

    return run


def by_autograd(net: Head, pixels: Tensor, wanted: Tensor) -> list[Tensor]:
    """The logits and the gradient in float64, computed by autograd."""
    leaf = pixels.clone().requires_grad_()
    (logits,) = net(leaf)
    (gradient,) = torch.autograd.grad(logits, leaf, wanted)
    return [logits.detach(), gradient]
