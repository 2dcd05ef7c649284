"""A network traced once by torch.fx: its layers by name, its gates and its default layers.

A layer's value is an output of the graph. Hooks could read it too, but they leak, race between threads and break under
compilation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from pellucid.compiler.trace.gates import FoundGate, find_gates, names_without_gates
from pellucid.compiler.trace.heads import linear_behind
from pellucid.compiler.trace.in_place import out_of_place
from pellucid.compiler.trace.layout import find_layouts, kind_of, positions_are_read
from pellucid.compiler.trace.stages import (
    NO_WAIST,
    ancestors,
    early_middle_late,
    has_weights_behind,
    only_copies,
    waists,
    why_default,
)
from pellucid.compiler.trace.tracing import Trace, check_same, trace
from pellucid.network.layout import Layout
from pellucid.network.spec import GateSpec, LayerSpec, NetworkSpec, OutputKind


class UntraceableError(ValueError):
    """The network can't be traced or can't run on pixels of that size; its output does not have the shape of its kind;
    or it depends on the other images in the batch. The message says which.
    """


class TracedNetwork:
    """One network as a read-only graph. It shares the parameters of ``net`` and freezes them.

    ``size`` is the (height, width) of the pixels, and ``channels`` the number of their channels. ``output`` is the kind
    of the output, or None if it is to be found out; ``kind`` is what was found. ``shape`` is that of the output without
    the batch, ``[classes]`` or ``[classes, h, w]``. ``spec`` lists the layers, gates and default layers that callers
    can name.

    Raises UntraceableError.
    """

    def __init__(
        self, net: nn.Module, size: tuple[int, int], output: OutputKind | None = "softmax", channels: int = 3
    ) -> None:
        net = net.eval().requires_grad_(False)
        public = names_without_gates(net)
        self._kinds = {public(path): type(module).__name__ for path, module in net.named_modules()}
        name = type(net).__name__
        try:
            traced = trace(net, (channels, *size))
            out_of_place(traced.module)
            check_same(net, traced.module, (channels, *size))
        except Exception as error:  # the network's code can raise anything when it meets a symbol
            raise UntraceableError(f"{name} can't be traced with pixels of {size[0]}x{size[1]}: {error}") from error
        self._root, self._pixels, self._batch = traced.module, traced.pixels, traced.batch
        graph = self._root.graph
        graph.eliminate_dead_code()
        returned = _returned(traced, name)
        last = kind_of(returned, self._root)
        self.kind = _checked_kind(returned, last, name, output)
        self.shape: tuple[int, ...] = tuple(returned.meta["shape"][1:])
        self._logits = _logits(graph, returned, self.kind, last)
        layouts = find_layouts(graph, self._root)
        self._layouts = layouts
        self._qualnames = {node: public(qualname) for node, qualname in traced.qualnames.items()}
        named = [(public(path), node, kind) for path, (node, kind) in traced.returned.items()]
        named += [(name, node, kind_of(node, self._root)) for node, name in self._qualnames.items()]
        order = {node: position for position, node in enumerate(graph.nodes)}
        self._towards_logits = ancestors([self._logits], stop=[self._batch])
        spatial: list[tuple[fx.Node, LayerSpec]] = []
        for name, node, kind in named:
            layout = layouts.get(node) if node in self._towards_logits else None
            if layout is None or layout.axes == "BCN" or layout.height * layout.width == 1 or node is self._pixels:
                continue
            shape = layout.channels(node.meta["shape"]), layout.height, layout.width
            spatial.append((node, LayerSpec(name, kind, shape)))
        # Modules that return the same value share a position. The inner module, with the longer name, comes first.
        spatial.sort(key=lambda entry: (order[entry[0]], -entry[1].name.count(".")))
        self._layers = {layer.name: node for node, layer in spatial}
        layers = {*self._layers.values()}  # the pixels are not a layer, so a gate on them is left out
        gates = find_gates(graph, self._root, layouts)
        found = [gate for gate in gates if {gate.gated, gate.output} <= layers]
        gate_specs = self._gate_specs(found)
        # A gate's name -> the graph's value that holds its weights, one number per channel.
        self.gates = {spec.layer: gate.weights.name for spec, gate in zip(gate_specs, found, strict=True)}
        self._live = self._depending_on(self._pixels)
        self.spec = self._describe([layer for _, layer in spatial], gate_specs)
        self._parameters = {id(value): name for name, value in net.named_parameters()}

    @property
    def logits(self) -> str:
        """The graph value that holds the logits ``[B, classes]``.

        A dense output is flattened, and an embedding scaled to length 1. A softmax or sigmoid at the end of the network
        is left out.
        """
        return str(self._logits.name)

    def value(self, layer: str) -> str:
        """The graph value of a layer. Raises KeyError."""
        return str(self._layers[layer].name)

    def values(self) -> list[str]:
        """The graph values of all layers and of all gates' weights, in order of execution."""
        named = {node.name for node in self._layers.values()} | {*self.gates.values()}
        return [node.name for node in self._root.graph.nodes if node.name in named]

    def layout(self, layer: str) -> Layout:
        """The layout of a layer's value. Raises KeyError."""
        return self._layouts[self._layers[layer]]

    def linear(self, layer: str) -> str | None:
        """The name of the linear weight ``[classes, C]`` if only global average pooling and one linear layer follow.

        The gradient of logit k at the layer is then ``weight[k, c] / (h * w)`` at every position. Otherwise None.
        """
        weight = self._linear_behind(self._layers[layer])
        return None if weight is None else self._parameters.get(id(weight))

    def trunk(self, outputs: Sequence[str]) -> fx.GraphModule:
        """A module that maps normalised pixels ``[B, C, H, W]`` to the graph values named in ``outputs``, as a tuple.

        It runs only the nodes that these need, and shares the parameters.
        """
        graph = fx.Graph()
        copies = {self._pixels: graph.placeholder(self._pixels.name)}
        nodes = {node.name: node for node in self._root.graph.nodes}
        needed = ancestors([nodes[name] for name in outputs])
        for node in self._root.graph.nodes:
            if node in needed and node not in copies:
                copies[node] = graph.node_copy(node, copies.__getitem__)
        graph.output(tuple(copies[nodes[name]] for name in outputs))
        return fx.GraphModule(self._root, graph)

    def _depending_on(self, node: fx.Node) -> set[fx.Node]:
        """``node`` and the nodes towards the logits that depend on its numbers, not only on its batch size."""
        dependent = {node}
        for other in self._root.graph.nodes:
            if other in self._towards_logits and other is not self._batch and dependent & {*other.all_input_nodes}:
                dependent.add(other)
        return dependent

    def _linear_behind(self, node: fx.Node) -> Tensor | None:
        layout = self._layouts[node]
        return (
            None if layout.extra else linear_behind(node, layout.axes, self._logits, self._towards_logits, self._root)
        )

    # -- gates and defaults

    def _gate_specs(self, gates: list[FoundGate]) -> tuple[GateSpec, ...]:
        """The gates. A gate alone in its module has the module's name; others have their multiplication's name."""
        owners = [self._qualnames[gate.output].rpartition(".")[0] for gate in gates]
        shared = Counter(owners)
        return tuple(
            self._gate_spec(gate, owner if owner and shared[owner] == 1 else self._qualnames[gate.output], owner)
            for gate, owner in zip(gates, owners, strict=True)
        )

    def _gate_spec(self, gate: FoundGate, name: str, owner: str) -> GateSpec:
        before = self._shortest_name(gate.gated)
        after = name if self._layers.get(name) is gate.output else self._shortest_name(gate.output)
        kind = self._kinds[owner] if owner else "functional"
        return GateSpec(name, kind, gate.shape, before, after, gate.squash)

    def _shortest_name(self, node: fx.Node) -> str:
        return min((name for name, named in self._layers.items() if named is node), key=lambda name: name.count("."))

    def _describe(self, layers: list[LayerSpec], gates: tuple[GateSpec, ...]) -> NetworkSpec:
        passed = waists(self._root.graph, self._live)
        named = [layer for layer in layers if self._layers[layer.name] in passed]
        # The last one. Of several names of one value, the shortest comes last.
        default = next((layer for layer in reversed(named) if self._is_map_of_features(layer)), None)
        return NetworkSpec(
            layers=tuple(layers),
            gates=gates,
            default_layer=default.name if default else "",
            default_layer_reason=self._reason(default) if default else NO_WAIST,
            feature_layers=early_middle_late(named, default, self._kinds),
        )

    def _is_map_of_features(self, layer: LayerSpec) -> bool:
        node = self._layers[layer.name]
        return (
            not only_copies(layer.kind, node)
            and has_weights_behind(self._depending_on(node) - {node}, self._live, self._root)
            and (self._layouts[node].extra == 0 or positions_are_read(node, self._layouts, self._live))
        )

    def _reason(self, layer: LayerSpec) -> str:
        node = self._layers[layer.name]
        return why_default(layer, tokens=self._layouts[node].extra > 0, linear=self._linear_behind(node) is not None)


def _returned(traced: Trace, name: str) -> fx.Node:
    returned: Any = traced.module.graph.output_node().args[0]
    shape = returned.meta.get("shape", ()) if isinstance(returned, fx.Node) else ()
    if len(shape) not in (2, 4):
        what = f"a tensor of shape {list(shape)}" if shape else f"a {type(returned).__name__}"
        raise UntraceableError(
            f"{name} returns {what}: it must return one tensor, [B, outputs] or [B, classes, h, w]. A module around it "
            "can choose one."
        )
    node: fx.Node = returned
    return node


def _checked_kind(returned: fx.Node, last: str, name: str, kind: OutputKind | None) -> OutputKind:
    """The kind of the output, found out only if nothing else is possible. Raises UntraceableError if it does not fit.

    ``last`` is the network's last operation.
    """
    shape, squashes = list(returned.meta["shape"][1:]), last.lower()
    if kind is None and len(shape) == 3:
        kind = "dense"
    elif kind is None and squashes in ("softmax", "sigmoid"):
        kind = "softmax" if squashes == "softmax" else "sigmoid"
    if kind is None:
        raise UntraceableError(
            f"{name} returns {shape[0]} numbers, whose meaning can't be guessed. Declare the output: softmax for "
            "classes of which one applies, sigmoid for independent labels, linear for quantities, or embedding for a "
            "vector."
        )
    if (kind == "dense") != (len(shape) == 3):
        expected = "[B, classes, h, w]" if kind == "dense" else "[B, outputs]"
        given = ", ".join(map(str, shape))
        raise UntraceableError(f"{name} returns [B, {given}], and the output {kind} has the shape {expected}")
    if kind == "softmax" and shape == [1]:
        raise UntraceableError(
            f"{name} returns a single number, whose softmax is always 1. Declare the output: sigmoid for a label that "
            "applies or not, or linear for a quantity."
        )
    return kind


def _logits(graph: fx.Graph, logits: fx.Node, kind: OutputKind, last: str) -> fx.Node:
    """The node of the logits, in two dimensions. It becomes the graph's output."""
    squashed = {"softmax": ("softmax",), "sigmoid": ("sigmoid",), "dense": ("softmax", "sigmoid")}.get(kind, ())
    if last.lower() in squashed and isinstance(logits.args[0], fx.Node):
        logits = logits.args[0]
    with graph.inserting_before(graph.output_node()):
        if kind == "dense":
            logits = graph.call_function(torch.flatten, (logits, 1))
        elif kind == "embedding":
            logits = graph.call_function(F.normalize, (logits,))
    graph.output_node().args = (logits,)
    graph.eliminate_dead_code()
    return logits
