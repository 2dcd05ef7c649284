"""A network traced once by torch.fx: its layers by name, its gates, and the cut into trunk and head.

No hooks: they leak, race between threads and break under compilation. A layer's value is an output of a graph instead,
and an explanation's gradient comes from the head, the part of the graph behind the cut.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torchvision.models.feature_extraction import NodePathTracer

from models.attention import Gate, Gated, find_gates, names_without_gates
from models.spec import GateSpec, LayerSpec, NetworkSpec


class UntraceableError(Exception):
    """The network can't be traced, or offers no spatial layer to explain. The message says which."""


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
    """A gate and the graph values that hold its ``weights`` (``[B, C]`` or ``[B, C, 1, 1]``), its input and its
    output.
    """

    spec: GateSpec
    weights: str
    before: str
    after: str


class _Tracer(NodePathTracer):  # type: ignore[misc]  # torchvision is not typed
    """Also remembers which value each module returned, so that ``layer3`` names what layer3 puts out."""

    def __init__(self) -> None:
        super().__init__()
        self.returned: dict[str, fx.Node] = {}

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        value = super().call_module(m, forward, args, kwargs)
        if isinstance(value, fx.Proxy) and not isinstance(m, Gated):  # its value has a name already: the gate's
            self.returned[self.path_of_module(m)] = value.node
        return value


def _out_of_place(module: fx.GraphModule) -> None:
    """Replace in-place operations. A tap must keep the value that its layer returned, whatever comes after it."""
    for part in module.modules():
        if getattr(part, "inplace", False) is True:
            part.inplace = False  # type: ignore[assignment]  # a flag, whatever nn.Module.__setattr__ admits
    augmented = {operator.iadd: operator.add, operator.imul: operator.mul, operator.isub: operator.sub}
    for node in module.graph.nodes:
        if node.kwargs.get("inplace"):
            node.update_kwarg("inplace", False)
        if node.op == "call_function":
            node.target = augmented.get(node.target, node.target)
        elif node.op == "call_method" and node.target.endswith("_") and not node.target.endswith("__"):
            node.target = node.target[:-1]


class TracedNetwork:
    """One network as a graph. The parameters are those of ``net``, shared and frozen; the graph is read-only
    afterwards.

    ``spec`` says what callers may choose from. ``size`` is the (height, width) for which shapes are reported. Raises
    UntraceableError.
    """

    def __init__(self, net: nn.Module, size: tuple[int, int]) -> None:
        net = net.eval().requires_grad_(False)
        public = names_without_gates(net)
        self._kinds = {public(path): type(module).__name__ for path, module in net.named_modules()}
        tracer = _Tracer()
        try:
            graph = tracer.trace(net)
        except Exception as error:  # whatever the network's own code raises when it meets a symbol
            raise UntraceableError(f"{type(net).__name__} can't be traced by torch.fx: {error}") from error
        self._root = fx.GraphModule(net, graph)
        _out_of_place(self._root)
        graph.eliminate_dead_code()
        self._nodes = {node.name: node for node in graph.nodes}
        self._pixels = next(node for node in graph.nodes if node.op == "placeholder")
        self._logits = next(node for node in graph.nodes if node.op == "output").args[0]
        if not isinstance(self._logits, fx.Node):
            raise UntraceableError(f"{type(net).__name__} returns several values, one tensor of logits is needed")
        parameter = next(net.parameters())
        with torch.no_grad():
            ShapeProp(self._root).propagate(torch.zeros(1, 3, *size, dtype=parameter.dtype, device=parameter.device))

        self._qualnames = {node: public(qualname) for node, qualname in tracer.node_to_qualname.items()}
        # A leaf that runs several times is a node each time (relu, relu_1): the nodes' names come before the modules'.
        names = {public(path): node for path, node in tracer.returned.items()}
        names |= {name: node for node, name in self._qualnames.items()}
        order = {node: position for position, node in enumerate(graph.nodes)}
        spatial = [
            (order[node], name)
            for name, node in names.items()
            if node in order and node.op not in ("placeholder", "get_attr", "output") and _spatial(node) is not None
        ]
        # Modules that return the same value share a place in the order; the inner one, with the longer name, comes
        # first.
        spatial.sort(key=lambda entry: (entry[0], -entry[1].count(".")))
        self._layers: dict[str, fx.Node] = {name: names[name] for _, name in spatial}
        self.gates = tuple(map(self._traced_gate, find_gates(graph, self._root)))
        self.spec = self._describe()

    @property
    def logits(self) -> str:
        """The graph value that holds the logits ``[B, classes]``."""
        return str(self._logits.name)

    def value(self, layer: str) -> str:
        """The graph value of a layer. Raises KeyError for a name that is not in ``spec.layers``."""
        return self._layers[layer].name

    def trunk(self, outputs: Sequence[str]) -> fx.GraphModule:
        """pixels ``[B, 3, H, W]``, normalised -> the graph values named in ``outputs``, as a tuple.

        Runs no more than they need.
        """
        return self._part([self._pixels], [self._nodes[name] for name in outputs])

    def has_linear_head(self, layer: str) -> bool:
        """Whether ``cut(layer).linear`` will be there. Far cheaper than cutting."""
        return self._linear_behind(self._layers[layer]) is not None

    def cut(self, layer: str) -> Cut:
        """Split the network at ``layer``, behind which the logits are computed again.

        Raises KeyError for an unknown name.
        """
        return self._cut(self._layers[layer])

    def cut_behind(self, gate: TracedGate) -> Cut:
        """Split the network at a gate's output."""
        return self._cut(self._nodes[gate.after])

    def cut_before_gates(self) -> Cut:
        """Split the network before its first gate; this head returns ``(logits, *weights)`` of all gates, in order.

        Where gates lie on parallel branches, there is no such place, and the head is the whole network.
        """
        weights = [self._nodes[gate.weights] for gate in self.gates]
        first = self._nodes[self.gates[0].before]
        return self._cut(first if self._behind(first).issuperset(weights) else self._pixels, weights)

    def _cut(self, node: fx.Node, also: Sequence[fx.Node] = ()) -> Cut:
        crossing = [node, *self._bypass(node)]
        head = self._part(crossing, [self._logits, *also], single=not also)
        return Cut(tuple(entry.name for entry in crossing), head, self._linear_behind(node))

    # -- parts of the graph

    def _part(self, inputs: list[fx.Node], outputs: list[fx.Node], single: bool = False) -> fx.GraphModule:
        """The sub-graph from ``inputs`` to ``outputs``. Parameters that it reads are copied to it by reference."""
        needed = _ancestors(outputs, stop=inputs)
        graph = fx.Graph()
        copies = {node: graph.placeholder(node.name) for node in inputs}
        for node in self._root.graph.nodes:
            if node in needed and node not in copies:
                copies[node] = graph.node_copy(node, copies.__getitem__)
        results = tuple(copies[node] for node in outputs)
        graph.output(results[0] if single else results)
        return fx.GraphModule(self._root, graph)

    def _behind(self, node: fx.Node) -> set[fx.Node]:
        """The nodes between ``node`` and the logits that depend on it; ``node`` itself is not among them."""
        towards_logits = _ancestors([self._logits])
        dependent = {node}
        for other in self._root.graph.nodes:
            if other in towards_logits and any(source in dependent for source in other.all_input_nodes):
                dependent.add(other)
        return dependent - {node}

    def _bypass(self, node: fx.Node) -> list[fx.Node]:
        """Values that do not depend on ``node`` and are used behind it. Parameters are no such values."""
        behind = self._behind(node)
        sources = {source for other in behind for source in other.all_input_nodes} - behind - {node}
        return [other for other in self._root.graph.nodes if other in sources and other.op != "get_attr"]

    def _linear_behind(self, node: fx.Node) -> Tensor | None:
        """The weight of the linear classifier, where global average pooling and reshaping are all that lies between."""
        pooled = False
        while node is not self._logits:
            if len(node.users) != 1:
                return None
            (node,) = node.users
            module = self._root.get_submodule(str(node.target)) if node.op == "call_module" else None
            if isinstance(module, nn.Linear):
                return module.weight.detach() if pooled and node is self._logits else None
            if _is_global_average(node, module):
                pooled = True
            elif not _is_identity_on_channels(node, module):
                return None
        return None

    # -- what callers may choose from

    def _traced_gate(self, gate: Gate) -> TracedGate:
        owner = self._qualnames[gate.output].rpartition(".")[0]
        kind = self._kinds[owner] if owner else "functional"
        shape = _spatial(gate.gated)
        assert shape is not None  # find_gates yields four-dimensional values only
        before = self._shortest_name(gate.gated)
        after = owner if self._layers.get(owner) is gate.output else self._shortest_name(gate.output)
        spec = GateSpec(owner or self._qualnames[gate.output], kind, shape, before, after)
        return TracedGate(spec, gate.weights.name, gate.gated.name, gate.output.name)

    def _shortest_name(self, node: fx.Node) -> str:
        return min((name for name, named in self._layers.items() if named is node), key=lambda name: name.count("."))

    def _describe(self) -> NetworkSpec:
        towards_logits = _ancestors([self._logits])
        layers = [
            LayerSpec(name, self._kinds.get(name) or str(getattr(node.target, "__name__", node.target)), shape)
            for name, node in self._layers.items()
            if (shape := _spatial(node)) is not None and node in towards_logits
        ]
        # A waist is a layer that everything passes through: nothing by-passes it. There a picture is whole.
        nodes = {self._layers[layer.name] for layer in layers}
        waists = {node for node in nodes if not self._bypass(node)}
        named = [layer for layer in layers if self._layers[layer.name] in waists and not layer.kind.endswith("Pad2d")]
        if not named:
            raise UntraceableError("no layer with a spatial extent lies before the logits")
        stages: dict[tuple[int, int], LayerSpec] = {}
        for layer in named:
            best = stages.get(layer.shape[1:])
            if best is None or layer.name.count(".") <= best.name.count("."):
                stages[layer.shape[1:]] = layer
        in_order = sorted(stages.values(), key=lambda layer: -layer.shape[1] * layer.shape[2])
        default = in_order[-1]
        features = dict.fromkeys(layer.name for layer in (in_order[0], in_order[len(in_order) // 2], default))
        return NetworkSpec(
            layers=tuple(layers),
            gates=tuple(gate.spec for gate in self.gates),
            default_layer=default.name,
            default_layer_reason=self._reason(default),
            feature_layers=tuple(features),
        )

    def _reason(self, layer: LayerSpec) -> str:
        channels, height, width = layer.shape
        reason = (
            f"the last layer with a spatial extent ({height}x{width}, {channels} channels): the most class-specific map"
        )
        if self._linear_behind(self._layers[layer.name]) is None:
            return reason
        return (
            f"{reason}; global average pooling and a linear classifier follow, so the Grad-CAM weight of channel c "
            f"for class k is exactly W[k, c] / {height * width}"
        )


def _ancestors(nodes: Iterable[fx.Node], stop: Sequence[fx.Node] = ()) -> set[fx.Node]:
    """``nodes`` and everything that they are computed from, up to and including ``stop``."""
    found: set[fx.Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            if node not in stop:
                waiting.extend(node.all_input_nodes)
    return found


def _spatial(node: fx.Node) -> tuple[int, int, int] | None:
    """(channels, height, width) of a value ``[B, C, H, W]`` with more than one position, else None."""
    meta = node.meta.get("tensor_meta")
    shape = tuple(getattr(meta, "shape", ()))
    return (shape[1], shape[2], shape[3]) if len(shape) == 4 and shape[2] * shape[3] > 1 else None


def _is_global_average(node: fx.Node, module: nn.Module | None) -> bool:
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return module.output_size in (1, (1, 1))
    if node.op == "call_function" and node.target is nn.functional.adaptive_avg_pool2d:
        return node.args[1:] in ((1,), ((1, 1),)) or node.kwargs.get("output_size") in (1, (1, 1))
    if node.target in ("mean", torch.mean):
        dims: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        return isinstance(dims, (list, tuple)) and sorted(dim % 4 for dim in dims) == [2, 3]
    return False


def _is_identity_on_channels(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether the operation leaves a pooled vector ``[B, C]`` or ``[B, C, 1, 1]`` as it is, shape aside."""
    if node.op == "call_module":
        return isinstance(module, (nn.Flatten, nn.Dropout, nn.Identity))
    return node.target in (torch.flatten, nn.functional.dropout, "flatten")
