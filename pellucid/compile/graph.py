"""A network traced once by torch.fx: its layers by name, its gates, and the cut into trunk and head.

No hooks: they leak, race between threads and break under compilation. A layer's value is an output of a graph instead,
and an explanation's gradient comes from the head, the part of the graph behind the cut.
"""

from __future__ import annotations

import linecache
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from pellucid.compile.gates import Gate, find_gates, names_without_gates
from pellucid.compile.heads import linear_behind
from pellucid.compile.in_place import out_of_place
from pellucid.compile.layout import MapViews, find_layouts, kind_of, positions_are_read
from pellucid.compile.stages import (
    NO_WAIST,
    ancestors,
    early_middle_late,
    has_weights_behind,
    only_hands_on,
    waists,
    why_default,
)
from pellucid.compile.tracing import Trace, check_same, opaque, trace
from pellucid.network.spec import PIXELS, GateSpec, LayerSpec, NetworkSpec


class UntraceableError(ValueError):
    """The network can't run on pixels of that size, or returns no logits, a single one, or others beside other images.

    The message says which.
    """


@dataclass(frozen=True)
class Cut:
    """The network split at one layer.

    ``inputs`` names the graph values that cross the cut: first the layer's activation, then those that by-pass it, as
    a residual connection does. ``head(*inputs)`` returns logits ``[B, classes]``. Where the head is global average
    pooling and one linear layer, ``linear`` is its weight ``[classes, C]``: the gradient of logit k by the activation
    is then ``linear[k, c] / (H * W)`` everywhere, known without a backward pass.
    """

    inputs: tuple[str, ...]
    head: nn.Module
    linear: Tensor | None


@dataclass(frozen=True)
class TracedGate:
    """A gate and the graph values that hold its ``weights`` (one number per channel), its input and its output, both
    as maps ``[B, C, h, w]``.
    """

    spec: GateSpec
    weights: str
    before: str
    after: str


class TracedNetwork:
    """One network as a graph. The parameters are those of ``net``, shared and frozen; the graph is read-only
    afterwards.

    ``spec`` says what callers may choose from, and what the network can't do. ``size`` is the (height, width) of the
    pixels. Raises UntraceableError.
    """

    def __init__(self, net: nn.Module, size: tuple[int, int]) -> None:
        net = net.eval().requires_grad_(False)
        public = names_without_gates(net)
        self._kinds = {public(path): type(module).__name__ for path, module in net.named_modules()}
        untraceable = ""
        try:
            traced = trace(net, size)
            out_of_place(traced.module)
            check_same(net, traced.module, size)
        except Exception as error:  # whatever the network's own code raises when it meets a symbol
            untraceable = f"only predictions are served: {type(net).__name__} can't be traced by torch.fx ({error})"
            traced = self._untraced(net, size)
        self._root, self._pixels, self._batch = traced.module, traced.pixels, traced.batch
        graph = self._root.graph
        graph.eliminate_dead_code()
        logits = _logits_of(traced)
        if logits is None:
            raise UntraceableError(f"{type(net).__name__} returns no single tensor of logits [B, classes]")
        if logits.meta["shape"][1] == 1:
            raise UntraceableError(
                f"{type(net).__name__} returns a single logit, whose softmax is always 1: give its last layer two "
                "outputs, the first with weights and bias of 0, and a label for each, for what its sigmoid says"
            )

        self._logits = logits
        layouts = find_layouts(graph, self._root)
        self._layouts = layouts
        self._qualnames = {node: public(qualname) for node, qualname in traced.qualnames.items()}
        self._views = MapViews(graph, layouts)
        self._nodes = {node.name: node for node in graph.nodes}
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
        # Modules that return the same value share a place in the order; the inner one, with the longer name, comes
        # first.
        spatial.sort(key=lambda entry: (order[entry[0]], -entry[1].name.count(".")))
        self._layers = {layer.name: node for node, layer in spatial}
        layers = {*self._layers.values()}  # the pixels are none: a gate on them is left out
        gates = find_gates(graph, self._root, layouts)
        self.gates = self._traced_gates([gate for gate in gates if {gate.gated, gate.output} <= layers])
        self._live = self._depending_on(self._pixels)
        self.spec = self._describe([layer for _, layer in spatial], untraceable)

    @staticmethod
    def _untraced(net: nn.Module, size: tuple[int, int]) -> Trace:
        try:
            untraced = opaque(net, size)
            if _logits_of(untraced) is not None:
                check_same(net, untraced.module, size)
            return untraced
        except Exception as error:  # whatever the network's own code raises when it is given pixels
            raise UntraceableError(
                f"{type(net).__name__} can't be served with pixels of {size[0]}x{size[1]}: {error}"
            ) from error

    @property
    def logits(self) -> str:
        """The graph value that holds the logits ``[B, classes]``."""
        return str(self._logits.name)

    def value(self, layer: str) -> str:
        """The graph value ``[B, C, h, w]`` of a layer, or of PIXELS. Raises KeyError for any other name."""
        return self._map(self._layer(layer)).name

    def trunk(self, outputs: Sequence[str]) -> fx.GraphModule:
        """pixels ``[B, 3, H, W]``, normalised -> the graph values named in ``outputs``, as a tuple.

        Runs no more than they need.
        """
        return self._part([self._pixels], [self._nodes[name] for name in outputs])

    def has_linear_head(self, layer: str) -> bool:
        """Whether ``cut(layer).linear`` will be there. Far cheaper than cutting."""
        return self._linear_behind(self._layers[layer]) is not None

    def cut(self, layer: str) -> Cut:
        """Split the network at ``layer``, behind which the logits are computed again. At PIXELS the head is all of it.

        Raises KeyError for an unknown name.
        """
        return self._cut(self._layer(layer))

    def cut_behind(self, gate: TracedGate) -> Cut:
        """Split the network at a gate's output."""
        return self._cut(self._layers[gate.spec.after])

    def cut_before_gates(self) -> Cut:
        """Split the network before its first gate; this head returns ``(logits, *weights)`` of all gates, in order.

        Where gates lie on parallel branches, there is no such place, and the head is the whole network.
        """
        weights = [self._nodes[gate.weights] for gate in self.gates]
        first = self._layers[self.gates[0].spec.before]
        return self._cut(first if self._depending_on(first).issuperset(weights) else self._pixels, weights)

    # -- parts of the graph

    def _layer(self, name: str) -> fx.Node:
        return self._pixels if name == PIXELS and name not in self._layers else self._layers[name]

    def _cut(self, node: fx.Node, also: Sequence[fx.Node] = ()) -> Cut:
        extra = [self._views.extras[node]] if node in self._views.extras else []
        crossing = [self._map(node), *extra, *self._bypass(node)]
        head = self._part(crossing, [self._logits, *also], single=not also, behind=node)
        return Cut(tuple(entry.name for entry in crossing), head, self._linear_behind(node))

    def _map(self, node: fx.Node) -> fx.Node:
        return self._views.maps.get(node, node)

    def _part(
        self, inputs: list[fx.Node], outputs: list[fx.Node], single: bool = False, behind: fx.Node | None = None
    ) -> fx.GraphModule:
        """The sub-graph from ``inputs`` to ``outputs``. Parameters that it reads are copied to it by reference.

        Where ``behind`` is a value whose map is among the inputs, it is put together from its map first.
        """
        graph = fx.Graph()
        copies = {node: graph.placeholder(node.name) for node in inputs}
        if behind is not None and behind in self._views.maps:
            copies[behind] = self._views.rejoin(graph, behind, copies)
        needed = ancestors(outputs, stop=[*copies, self._batch])
        if self._batch in needed:  # every input has an entry for each image
            copies[self._batch] = graph.call_method("size", (copies[inputs[0]], 0))
        for node in self._root.graph.nodes:
            if node in needed and node not in copies:
                copies[node] = graph.node_copy(node, copies.__getitem__)
        results = tuple(copies[node] for node in outputs)
        graph.output(results[0] if single else results)
        part = fx.GraphModule(self._root, graph)
        _forget_source(part)
        return part

    def _depending_on(self, node: fx.Node) -> set[fx.Node]:
        """``node`` and the values on the way to the logits that it influences by more than the number of images."""
        dependent = {node}
        for other in self._root.graph.nodes:
            if other in self._towards_logits and other is not self._batch and dependent & {*other.all_input_nodes}:
                dependent.add(other)
        return dependent

    def _bypass(self, node: fx.Node) -> list[fx.Node]:
        """Values that come from the pixels, do not depend on ``node`` and are used behind it."""
        dependent = self._depending_on(node)
        sources = {source for other in dependent - {node} for source in other.all_input_nodes}
        return [other for other in self._root.graph.nodes if other in (sources & self._live) - dependent]

    def _linear_behind(self, node: fx.Node) -> Tensor | None:
        layout = self._layouts[node]
        return (
            None if layout.extra else linear_behind(node, layout.axes, self._logits, self._towards_logits, self._root)
        )

    # -- what callers may choose from

    def _traced_gates(self, gates: list[Gate]) -> tuple[TracedGate, ...]:
        """The gates by name: that of its module for a gate alone in it, else that of its own multiplication."""
        owners = [self._qualnames[gate.output].rpartition(".")[0] for gate in gates]
        shared = Counter(owners)
        return tuple(
            self._traced_gate(gate, owner if owner and shared[owner] == 1 else self._qualnames[gate.output], owner)
            for gate, owner in zip(gates, owners, strict=True)
        )

    def _traced_gate(self, gate: Gate, name: str, owner: str) -> TracedGate:
        before = self._shortest_name(gate.gated)
        after = name if self._layers.get(name) is gate.output else self._shortest_name(gate.output)
        kind = self._kinds[owner] if owner else "functional"
        spec = GateSpec(name, kind, gate.shape, before, after, gate.squash)
        return TracedGate(spec, gate.weights.name, self.value(before), self.value(after))

    def _shortest_name(self, node: fx.Node) -> str:
        return min((name for name, named in self._layers.items() if named is node), key=lambda name: name.count("."))

    def _describe(self, layers: list[LayerSpec], untraceable: str) -> NetworkSpec:
        passed = waists(self._root.graph, self._live)
        named = [layer for layer in layers if self._layers[layer.name] in passed]
        # The last one; names of one value come with the shortest last.
        default = next((layer for layer in reversed(named) if self._is_map_of_features(layer)), None)
        return NetworkSpec(
            layers=tuple(layers),
            gates=tuple(gate.spec for gate in self.gates),
            default_layer=default.name if default else "",
            default_layer_reason=self._reason(default) if default else untraceable or NO_WAIST,
            feature_layers=early_middle_late(named, default, self._kinds),
        )

    def _is_map_of_features(self, layer: LayerSpec) -> bool:
        node = self._layers[layer.name]
        return (
            not only_hands_on(layer.kind, node)
            and has_weights_behind(self._depending_on(node) - {node}, self._live, self._root)
            and (self._layouts[node].extra == 0 or positions_are_read(node, self._layouts, self._live))
        )

    def _reason(self, layer: LayerSpec) -> str:
        node = self._layers[layer.name]
        return why_default(layer, tokens=self._layouts[node].extra > 0, linear=self._linear_behind(node) is not None)


def _forget_source(module: fx.GraphModule) -> None:
    """torch.fx keeps each graph's source for the life of the process, to print it in stack traces: a leak, where every
    new set of layers is a new graph.
    """
    name = type(module).forward.__code__.co_filename
    linecache.cache.pop(name, None)
    fx.graph_module._loader.eval_cache.pop(name, None)


def _logits_of(traced: Trace) -> fx.Node | None:
    logits: Any = traced.module.graph.output_node().args[0]
    return logits if isinstance(logits, fx.Node) and len(logits.meta.get("shape", ())) == 2 else None
