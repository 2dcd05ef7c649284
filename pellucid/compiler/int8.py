"""Rewrites a compiled network so that its convolutions run in int8.

The rounding is written into the graph as ATen's ``fake_quantize`` operations. So a runtime needs no more than the file:
OpenVINO runs the convolutions in int8, torch rounds their operands. A pass with gradients leaves the rounding out
(``Graph.part``): it would be no faster, and near the edge of a ReLU rounding flips whole paths of a gradient.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from pellucid.decode.image import decode
from pellucid.errors import PellucidError, UnsupportedMediaType
from pellucid.network.file import CompiledNetwork, as_json
from pellucid.network.graph import ROUNDING, WEIGHT, Graph, Node, Ref
from pellucid.network.spec import PreprocessSpec
from pellucid.runtime.base import Runtime
from pellucid.types import InputPixels, Upload

_MOST_PICTURES: Final = 300
_MOST_PIXELS: Final = 10**8
_LEAST_SCALE: Final = 1e-12  # of a channel whose weights are all 0
_CONVOLUTION: Final = "aten.convolution.default"
_PAD: Final = "aten.constant_pad_nd.default"


def pictures(folder: Path, spec: PreprocessSpec) -> Iterator[InputPixels]:
    """The pixels of up to 300 pictures below the folder, spread over their names. Files of other types are skipped.

    Raises ValueError at once if there are none, or for a picture that can't be read when it is reached, and OSError.
    """
    found = islice(_decoded(folder, spec), _MOST_PICTURES)
    first = next(found, None)
    if first is None:
        raise ValueError("int8 is calibrated on pictures, and the folder has none")
    return chain([first], found)


def _decoded(folder: Path, spec: PreprocessSpec) -> Iterator[InputPixels]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    step = max(1, -(-len(files) // _MOST_PICTURES))
    for file in chain(*(files[first::step] for first in range(step))):
        try:
            yield decode(Upload(file.read_bytes()), spec, _MOST_PIXELS).pixels
        except UnsupportedMediaType:
            continue
        except PellucidError as error:
            raise ValueError(f"{file} can't calibrate int8: {error}") from error


def quantised(network: CompiledNetwork, runtime: Runtime, shown: Iterable[InputPixels]) -> CompiledNetwork:
    """The network with its convolutions in int8, calibrated on the pixels ``[H, W, C]`` of some pictures.

    ``runtime`` runs the network as it is. Raises ValueError if there are no convolutions.
    """
    manifest = network.manifest
    sources = _sources(network.graph, manifest.logits)
    if not sources:
        raise ValueError(f"{network.model.name} has no convolutions, so there is nothing to run in int8")
    lows, highs = ({name: list[float]() for name in sources.values()} for _ in range(2))
    for pixels in shown:
        values, _ = runtime.run(pixels[None], None, [*lows], "whole")
        for name, value in values.items():
            lows[name].append(float(value.min()))
            highs[name].append(float(value.max()))
    count = len(next(iter(lows.values())))
    # The extremes of all pictures would be those of one outlier, so the range is the mean of each picture's.
    ranges = [(float(np.mean(lows[name])), float(np.mean(highs[name]))) for name in sources.values()]
    scaled = network.scaled
    if manifest.any_size is not None:  # it has the same operations, so the same convolutions in the same order
        other = Graph.of_data(json.loads(scaled), scaled=True)
        scaled = as_json(_rewritten(other, _sources(other, manifest.any_size.logits), ranges))
    source = f"{network.model.source}; convolutions in int8, calibrated on {count} pictures"
    model = replace(network.model, source=source)
    graph = _rewritten(network.graph, sources, ranges)
    return replace(network, manifest=manifest.model_copy(update={"model": model}), graph=graph, scaled=scaled)


def _sources(graph: Graph, logits: str) -> dict[str, str]:
    """The forward convolutions with a weight of the file, each with the value that it reads, before any padding."""
    forward, found = graph.ancestors([logits]), {}
    for name in (name for name in graph.nodes if name in forward):
        op, args = graph.nodes[name].op, graph.nodes[name].args
        if op == _CONVOLUTION and not args[6] and graph.nodes[args[1].name].op == WEIGHT:
            source = args[0].name
            while graph.nodes[source].op == _PAD:
                source = graph.nodes[source].args[0].name
            found[name] = source
    return found


def _rewritten(graph: Graph, sources: Mapping[str, str], ranges: Iterable[tuple[float, float]]) -> Graph:
    """The graph with the operands of the convolutions rounded. ``ranges``: of the values that they read, in order."""
    range_of = dict(zip(sources.values(), ranges, strict=True))
    nodes: dict[str, Node] = {}

    def add(name: str, op: str, *args: Any) -> Ref:
        nodes[name] = Node(name, op, args, {})
        return Ref(name)

    def image(value: Ref) -> Ref:
        """A convolution's input, rounded to 256 levels. It is padded after the rounding."""
        name, node = f"int8:{value.name}", graph.nodes[value.name]
        if name not in nodes and node.op == _PAD:
            padded = (image(node.args[0]), *node.args[1:])
            nodes[name] = replace(node, name=name, args=padded)
        elif name not in nodes:
            low, high = range_of[value.name]
            low, high = min(low, 0.0), max(high, 0.0)
            scale = max((high - low) / 255, _LEAST_SCALE)
            add(name, ROUNDING[0], value, scale, round(-low / scale), 0, 255)  # 0 stays exact
        return Ref(name)

    def kernel(convolution: str, weight: Ref, axes: tuple[int, ...]) -> Ref:
        """A weight, rounded to 255 levels by each output channel's scale, which is computed from the weight."""
        name = f"int8:{convolution}"
        largest = add(f"{name}.max", "aten.amax.default", add(f"{name}.abs", "aten.abs.default", weight), axes)
        step = add(f"{name}.step", "aten.mul.Tensor", largest, 1 / 127)
        scale = add(f"{name}.scale", "aten.clamp_min.default", step, _LEAST_SCALE)
        zero = add(f"{name}.zero", "aten.mul.Tensor", scale, 0.0)
        return add(f"{name}.weight", ROUNDING[1], weight, scale, zero, 0, -127, 127)

    for name, node in graph.nodes.items():
        if name in sources:
            args = node.args
            axes = (1, *(2 + axis for axis in range(len(args[3]))))
            node = replace(node, args=(image(args[0]), kernel(name, args[1], axes), *args[2:]))
        nodes[name] = node
    return Graph(nodes.values())
