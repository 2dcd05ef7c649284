"""Gates put into a network by the names of its layers, and the file that holds their weights."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from pellucid.compiler.gates import Gated
from pellucid.compiler.graph import TracedNetwork
from pellucid.compiler.weights import WeightsError, load_strict

from .attention import ChannelAttention

# A gate's type -> its module, made for a number of channels.
GATE_TYPES = {"channel": ChannelAttention}


class InsertionError(ValueError):
    """A gate can't be put there. The message says why, and what there is instead."""


def with_gates(net: nn.Module, gates: Mapping[str, str], size: tuple[int, int] = (224, 224)) -> nn.Module:
    """A copy of ``net`` with an untrained gate behind each named layer, e.g. ``{"layer3": "channel"}``.

    Untrained gates change nothing. ``size`` is any (height, width) that the network accepts. Traced, the copy keeps all
    names: ``layer3`` is the value before the gate, ``layer3.gate`` the one after it, which the next layer receives. The
    copy's state dict has ``layer3.layer.*`` for the layer and ``layer3.gate.*`` for its gate, so load a plain
    checkpoint first. Raises InsertionError, and UntraceableError for a network without a graph.
    """
    layers = TracedNetwork(copy.deepcopy(net), size).spec.by_name  # a copy, since tracing freezes the network
    runs = _runs(net, gates, size)
    modules = dict(net.named_modules())
    for path, kind in gates.items():
        if kind not in GATE_TYPES:
            raise InsertionError(f"unknown gate type {kind!r}; known: {', '.join(GATE_TYPES)}")
        if path not in layers or path not in modules:
            known = ", ".join(name for name in layers if name in modules)
            raise InsertionError(f"no layer {path!r} with a spatial output to gate; there are: {known}")
        if isinstance(modules[path], Gated):
            raise InsertionError(f"layer {path!r} has a gate already")
        if runs[path] != 1:
            raise InsertionError(f"layer {path!r} runs {runs[path]} times, and one gate can't serve them all")
    gated = copy.deepcopy(net)
    insert(gated, {path: GATE_TYPES[kind](layers[path].shape[0]) for path, kind in gates.items()})
    return gated


def insert(net: nn.Module, gates: Mapping[str, nn.Module]) -> None:
    """Put each gate behind the layer of that name, which is known to fit and to run once: ``with_gates`` looks."""
    like = next(net.parameters(), torch.empty(0))
    # The innermost first: a wrapped parent would change the path of what lies in it.
    for path in sorted(gates, key=lambda path: -path.count(".")):
        net.set_submodule(path, Gated(net.get_submodule(path), gates[path].to(like)))


def _runs(net: nn.Module, paths: Iterable[str], size: tuple[int, int]) -> Counter[str]:
    """How often each of the modules runs for one batch of images."""
    net = copy.deepcopy(net).eval()
    modules, runs = dict(net.named_modules(remove_duplicate=False)), Counter[str]()
    for path in {*paths} & modules.keys():
        modules[path].register_forward_hook(lambda *_, path=path: runs.update([path]))
    like = next(net.parameters(), torch.empty(0))
    with torch.no_grad():
        net(torch.zeros(2, 3, *size, dtype=like.dtype, device=like.device))
    return runs


def gates_of(net: nn.Module) -> Iterator[tuple[str, Gated]]:
    """The gated layers that ``with_gates`` made, by path."""
    for path, module in net.named_modules():
        if isinstance(module, Gated):
            yield path, module


def gate_state(net: nn.Module) -> dict[str, Tensor]:
    """The weights of the inserted gates alone: ``layer3.gate.squeeze.weight`` and so on."""
    return {
        f"{path}.gate.{name}": value for path, gated in gates_of(net) for name, value in gated.gate.state_dict().items()
    }


def load_gates(net: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Fill the inserted gates with ``state``. Raises WeightsError, naming keys and shapes, unless they fit exactly."""
    differing = sorted(gate_state(net).keys() ^ state.keys())
    if differing:
        raise WeightsError(
            f"the gates of {source} are not those of this network; they differ in {', '.join(differing)}"
        )
    load_strict(net, {**net.state_dict(), **state}, source)
