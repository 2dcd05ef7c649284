"""A network traced once by torch.fx: its layers by name, its gates and its default layers.

A layer's value is an output of the graph. Hooks could read it too, but they leak, race between threads and break under
compilation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from pellucid.compiler.trace.attention import OWNER, FoundAttention, find_attentions, write_out
from pellucid.compiler.trace.gates import FoundGate, find_gates, names_without_gates
from pellucid.compiler.trace.heads import linear_behind
from pellucid.compiler.trace.in_place import out_of_place
from pellucid.compiler.trace.layout import find_layouts, kind_of, operation, positions_are_read
from pellucid.compiler.trace.stages import (
    NO_WAIST,
    ancestors,
    early_middle_late,
    has_weights_behind,
    only_copies,
    waists,
    why_default,
)
from pellucid.compiler.trace.tracing import Trace, any_parameter, check_same, trace
from pellucid.network.layout import Layout
from pellucid.network.spec import AttentionSpec, GateSpec, LayerSpec, NetworkSpec, OutputKind


class UntraceableError(ValueError):
    """The network can't be traced or can't run on pixels of that size; its output does not have the shape of its kind;
    or it depends on the other images in the batch. The message says which.
    """


class TracedNetwork:
    """One network as a read-only graph. It shares the parameters of ``net`` and freezes them.

    ``size`` is the (height, width) of the pixels, and ``channels`` the number of their channels. ``output`` is the kind
    of the output, or None if it is to be found out; ``kind`` is what was found. ``shape`` is that of the output without
    the batch, ``[classes]`` or ``[classes, h, w]``. ``spec`` lists the layers, gates and default layers that callers
    can name. The graph is compared with the network on ``images`` images, and on one.

    Raises UntraceableError.
    """

    def __init__(
        self,
        net: nn.Module,
        size: tuple[int, int],
        output: OutputKind | None = "softmax",
        channels: int = 3,
        images: int = 4,
    ) -> None:
        net = net.eval().requires_grad_(False)
        public = names_without_gates(net)
        self._kinds = {public(path): type(module).__name__ for path, module in net.named_modules()}
        name = type(net).__name__
        try:
            traced = trace(net, (channels, *size))
            out_of_place(traced.module)
            write_out(traced.module, lambda node: traced.qualnames[node].rpartition(".")[0], traced.moved)
            check_same(net, traced.module, (channels, *size), images)
        except Exception as error:  # the network's code can raise anything when it meets a symbol
            _require_tensor(net, (channels, *size))
            raise UntraceableError(f"{name} can't be traced with pixels of {size[0]}x{size[1]}: {error}") from error
        self._root, self._pixels, self._batch = traced.module, traced.pixels, traced.batch
        graph = self._root.graph
        graph.eliminate_dead_code()
        returned = _returned(traced, name)
        last = _squash(returned, self._root, name)
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
        all_gates = [gate for gate in gates if {gate.gated, gate.output} <= layers]
        found = [gate for gate in all_gates if not gate.spatial]
        spatial_gates = [gate for gate in all_gates if gate.spatial]
        gate_specs, spatial_specs = self._gate_specs(found, found), self._gate_specs(spatial_gates, all_gates)
        # A gate's name -> the graph's value that holds its weights, one number per channel, or per position.
        self.gates = {spec.layer: gate.weights.name for spec, gate in zip(gate_specs, found, strict=True)}
        self.spatial_gates = {
            spec.layer: gate.weights.name for spec, gate in zip(spatial_specs, spatial_gates, strict=True)
        }
        self._live = self._depending_on(self._pixels)
        self._waists = waists(graph, self._live)
        attentions = find_attentions(graph, self._root, layouts)
        names = self._attention_names(attentions, public)
        # An attention's name -> the graph's value of its matrix, and that of its block's tokens.
        self.attentions = {name: found.matrix.name for name, found in zip(names, attentions, strict=True)}
        self.blocks = self._blocks(names, attentions)
        specs = self._attention_specs(names, attentions)
        self.spec = replace(
            self._describe([layer for _, layer in spatial], gate_specs), spatial_gates=spatial_specs, attentions=specs
        )
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
        """The graph values of all layers and of all gates' weights, in order of execution. Not those of attention."""
        named = {node.name for node in self._layers.values()}
        named |= {*self.gates.values(), *self.spatial_gates.values()}
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

    def head(self, value: str) -> fx.GraphModule:
        """A module that maps a graph value that everything passes through to the logits ``[B, classes]``."""
        graph = fx.Graph()
        cut = next(node for node in self._root.graph.nodes if node.name == value)
        given = graph.placeholder(cut.name)
        copies = {cut: given, self._batch: graph.call_method("size", (given, 0))}
        needed = ancestors([self._logits], stop=[*copies])
        for node in self._root.graph.nodes:
            if node in needed and node not in copies:
                copies[node] = graph.node_copy(node, copies.__getitem__)
        graph.output(copies[self._logits])
        return fx.GraphModule(self._root, graph)

    def block_scores(self) -> dict[str, tuple[str, Callable[[Tensor], Tensor]] | None]:
        """For the graph value of each attention: the value of its block's tokens, and a function from these to scores.

        The scores are the logits ``[B, classes]`` that the head behind the last block gives if every token is the mean
        of all tokens. None if not all attentions have a block.
        """
        if not self.blocks:
            return dict.fromkeys(self.attentions.values())
        last = [*self.blocks.values()][-1]
        head, axes = self.head(last), _axes(self._layout_of(last), "HWN")

        def scores(tokens: Tensor) -> Tensor:
            logits: Tensor = head(tokens.mean(axes, keepdim=True).expand(tokens.shape))
            return logits

        return {matrix: (self.blocks[name], scores) for name, matrix in self.attentions.items()}

    def _layout_of(self, value: str) -> Layout:
        return next(self._layouts[node] for node in self._layers.values() if node.name == value)

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

    # -- gates

    def _gate_specs(self, gates: list[FoundGate], among: list[FoundGate]) -> tuple[GateSpec, ...]:
        """The gates. A gate alone in its module, ``among`` these, has the module's name; others have their
        multiplication's name.
        """
        owners = [self._qualnames[gate.output].rpartition(".")[0] for gate in gates]
        shared = Counter(self._qualnames[gate.output].rpartition(".")[0] for gate in among)
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

    # -- attention

    def _attention_names(self, attentions: list[FoundAttention], public: Callable[[str], str]) -> list[str]:
        """The path of each attention's module, with a number from its second attention on."""
        runs: Counter[str] = Counter()
        names = []
        for found in attentions:
            own = self._qualnames.get(found.matrix, "").rpartition(".")[0]
            path = public(found.matrix.meta.get(OWNER, own)) or "attention"
            names.append(f"{path}_{runs[path]}" if runs[path] else path)
            runs[path] += 1
        return names

    def _blocks(self, names: list[str], attentions: list[FoundAttention]) -> dict[str, str]:
        """An attention's name -> the graph value of the tokens that its block returns. Empty if some have no block.

        Its block is the smallest module around it whose tokens everything passes through.
        """
        blocks = {}
        for name, found in zip(names, attentions, strict=True):
            parts = name.split(".")
            around = (self._layers.get(".".join(parts[:count])) for count in range(len(parts), 0, -1))
            behind = self._depending_on(found.matrix)
            block = next((node for node in around if node in self._waists and node in behind), None)
            if block is None:
                return {}
            layout = self._layouts[block]
            if (layout.extra, (layout.height, layout.width)) != (found.extra, found.grid):
                return {}
            blocks[name] = block
        read = ancestors([self._logits], stop=[*blocks.values(), self._batch])
        whole = len({*blocks.values()}) == len(blocks) and self._pixels not in read
        return {name: str(block.name) for name, block in blocks.items()} if whole else {}

    def _attention_specs(self, names: list[str], attentions: list[FoundAttention]) -> tuple[AttentionSpec, ...]:
        if not attentions:
            return ()
        read = self._read_tokens(attentions[-1], self.blocks.get(names[-1]))
        return tuple(
            AttentionSpec(name, found.heads, found.extra, found.grid, read)
            for name, found in zip(names, attentions, strict=True)
        )

    def _read_tokens(self, last: FoundAttention, block: str | None) -> tuple[int, int]:
        """The first token that the logits depend on behind the last block, and one past the last such token."""
        count = last.extra + last.grid[0] * last.grid[1]
        if block is None:
            return 0, count
        node = next(node for node in self._layers.values() if node.name == block)
        kind = next((each.dtype for each in self._root.parameters()), torch.float32)
        tokens = torch.randn(node.meta["shape"], generator=torch.Generator().manual_seed(3)).to(kind).requires_grad_()
        with torch.enable_grad():
            logits = self.head(block)(tokens)
            gradient = torch.autograd.grad(logits.square().sum(), tokens)[0] if logits.requires_grad else 0 * tokens
        read = (gradient != 0).amax(_axes(self._layouts[node], "BC")).flatten().nonzero().flatten().tolist()
        return (read[0], read[-1] + 1) if read else (0, last.extra or count)  # zeros: torchvision's untrained head

    # -- defaults

    def _describe(self, layers: list[LayerSpec], gates: tuple[GateSpec, ...]) -> NetworkSpec:
        named = [layer for layer in layers if self._layers[layer.name] in self._waists]
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
        raise UntraceableError(f"{name} returns {what}: {_ONE_TENSOR}")
    node: fx.Node = returned
    return node


_ONE_TENSOR: Final = "it must return one tensor, [B, outputs] or [B, classes, h, w]. A module around it can choose one."


def _require_tensor(net: nn.Module, shape: tuple[int, int, int]) -> None:
    """Raise UntraceableError if the network itself does not run on pixels, or returns anything but a tensor."""
    name, (channels, height, width) = type(net).__name__, shape
    try:
        with torch.no_grad():
            found: Any = net(any_parameter(net).new_zeros(2, *shape))
    except Exception as error:  # the network's code can raise anything
        why = str(error).partition("\n")[0]
        raise UntraceableError(
            f"{name} can't be traced with pixels of {height}x{width}: it does not run on them ({why}). It must take "
            f"one batch of pictures, [B, {channels}, {height}, {width}], and nothing else."
        ) from error
    if not isinstance(found, torch.Tensor):
        first = found[0] if isinstance(found, (list, tuple)) and found else found
        keys = f" of {', '.join(map(str, first))}" if isinstance(first, dict) else ""
        raise UntraceableError(f"{name} returns a {type(found).__name__}{keys}: {_ONE_TENSOR}")


def _checked_kind(returned: fx.Node, squashes: str, name: str, kind: OutputKind | None) -> OutputKind:
    """The kind of the output, found out only if nothing else is possible. Raises UntraceableError if it does not fit.

    ``squashes`` is the squash at the end of the network, or "".
    """
    shape = list(returned.meta["shape"][1:])
    if kind is None and shape[1:] not in ([], [1, 1]):
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
    if {kind, squashes} == {"softmax", "sigmoid"}:
        raise UntraceableError(
            f"{name} ends with a {squashes}, and the output {kind} is declared. Declare {squashes}, or end the network "
            "before it."
        )
    if kind == "dense" and squashes == "sigmoid" and shape[0] > 1:
        raise UntraceableError(
            f"{name} ends with a sigmoid of {shape[0]} classes, which apply independently at each position. The output "
            "dense has one class at a position: compile a network for each class."
        )
    if kind == "softmax" and shape == [1]:
        raise UntraceableError(
            f"{name} returns a single number, whose softmax is always 1. Declare the output: sigmoid for a label that "
            "applies or not, or linear for a quantity."
        )
    return kind


def _squash(returned: fx.Node, root: nn.Module, name: str) -> str:
    """The softmax or sigmoid at the end of the network, or "" if there is none.

    Raises UntraceableError for a softmax over another axis than the classes.
    """
    last = operation(returned, root)
    if last == "softmax2d":
        return "softmax"
    if last == "softmax":
        called = root.get_submodule(str(returned.target)) if returned.op == "call_module" else None
        axis = returned.kwargs.get("dim", returned.args[1] if len(returned.args) > 1 else None)
        axis = called.dim if isinstance(called, nn.Softmax) else axis
        rank = len(returned.meta["shape"])
        if isinstance(axis, int) and axis % rank != 1:
            raise UntraceableError(
                f"{name} ends with a softmax over axis {axis} of {rank}, and the classes are axis 1: end the network "
                "before it."
            )
    return last if last in ("softmax", "sigmoid") else ""


def _logits(graph: fx.Graph, logits: fx.Node, kind: OutputKind, squashed: str) -> fx.Node:
    """The node of the logits, in two dimensions. It becomes the graph's output."""
    if squashed and kind in ("softmax", "sigmoid", "dense"):
        (logits,) = logits.all_input_nodes
    with graph.inserting_before(graph.output_node()):
        if kind == "dense":
            logits = graph.call_function(torch.flatten, (logits, 1))
        elif kind == "embedding":
            logits = graph.call_function(F.normalize, (logits,))
    graph.output_node().args = (logits,)
    graph.eliminate_dead_code()
    return logits


def _axes(layout: Layout, letters: str) -> list[int]:
    return [axis for axis, letter in enumerate(layout.axes) if letter in letters]
