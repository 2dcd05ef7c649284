"""Chooses the default layers: one for heat maps, and an early, a middle and a late one for feature maps."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from torch import fx, nn

from pellucid.network.spec import LayerSpec, stages

NO_WAIST = "there is no heat map by default: the network has no layer with a spatial extent that all passes through"

# Modules that only pass on, pool or pad their input, so they compute no features of their own.
_COPIES = ("Identity", "Dropout", "AdaptiveAvgPool", "ZeroPad", "ReflectionPad", "ConstantPad", "ReplicationPad")


def waists(graph: fx.Graph, live: set[fx.Node]) -> set[fx.Node]:
    """The nodes that every path from the pixels to the logits passes through.

    ``live``: the nodes that depend on the pixels.
    """
    nodes = [node for node in graph.nodes if node in live]
    last_use = {source: i for i, node in enumerate(nodes) for source in node.all_input_nodes}
    found = set()
    ends: list[int] = []  # the position of the last use of each value that is still needed
    for i, node in enumerate(nodes):
        ends = [end for end in ends if end > i]
        if not ends:
            found.add(node)
        if last_use.get(node, i) > i:
            ends.append(last_use[node])
    return found


def only_copies(kind: str, node: fx.Node) -> bool:
    """Whether the value is only a copy, padding or pooling of another value."""
    copied = node.op == "call_module" and kind.startswith(_COPIES)
    return copied or kind in ("pad", "adaptive_avg_pool2d", "getitem")


def has_weights_behind(behind: set[fx.Node], live: set[fx.Node], root: nn.Module) -> bool:
    """Whether any node ``behind`` a layer has or reads weights. ``live``: the nodes that depend on the pixels.

    False if the channels are the classes already, as at the end of SqueezeNet: only pooling and reshaping follow.
    """
    modules = [str(other.target) for other in behind if other.op == "call_module"]
    fixed = {source for other in behind for source in other.all_input_nodes} - live
    return any(_has_parameters(root, path) for path in modules) or any(
        source.op == "get_attr" for source in ancestors(fixed)
    )


def why_default(layer: LayerSpec, tokens: bool, linear: bool) -> str:
    """A sentence that says why this layer is the default.

    ``tokens``: its value is a sequence of tokens. ``linear``: global average pooling and one linear layer follow it.
    """
    channels, height, width = layer.shape
    what = "whose positions are read" if tokens else "with a spatial extent"
    reason = f"the last layer {what} ({height}x{width}, {channels} channels): the most class-specific map"
    if not linear:
        return reason
    return (
        f"{reason}; global average pooling and a linear classifier follow, so the Grad-CAM weight of channel c "
        f"for class k is exactly W[k, c] / {height * width}"
    )


def early_middle_late(waists: list[LayerSpec], default: LayerSpec | None, modules: Container[str]) -> tuple[str, ...]:
    """The default feature layers, by name.

    Takes the last waist at each resolution and returns the first and the middle of these, then the default layer. A
    network with one resolution gets evenly spaced waists, preferably ones that are ``modules``.
    """
    if default is None:
        return ()
    until = waists[: waists.index(default) + 1]
    in_order = sorted(stages(until).values(), key=lambda layer: -layer.shape[1] * layer.shape[2])
    if len(in_order) == 1:
        even = [layer for layer in until if layer.name in modules] or until
        in_order = even[:: max(1, len(even) // 2)]
    return tuple(dict.fromkeys(layer.name for layer in (in_order[0], in_order[len(in_order) // 2], default)))


def ancestors(nodes: Iterable[fx.Node], stop: Sequence[fx.Node] = ()) -> set[fx.Node]:
    """``nodes`` and every node that they are computed from. The search ends at the nodes in ``stop``."""
    found: set[fx.Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            if node not in stop:
                waiting.extend(node.all_input_nodes)
    return found


def _has_parameters(root: nn.Module, path: str) -> bool:
    return next(root.get_submodule(path).parameters(), None) is not None
