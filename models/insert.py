"""Inserts gates into a network by layer name, and loads their weights."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from pellucid.compiler.trace.gates import Gated
from pellucid.compiler.trace.graph import TracedNetwork
from pellucid.compiler.weights import WeightsError, load_strict

from .attention import ChannelAttention

# A gate's type -> its module, which takes the number of channels.
GATE_TYPES = {"channel": ChannelAttention}


class InsertionError(ValueError):
    """A gate can't be inserted there. The message says why, and lists the layers that can have one."""


def with_gates(net: nn.Module, gates: Mapping[str, str], size: tuple[int, int] = (224, 224)) -> nn.Module:
    """A copy of ``net`` with an untrained gate behind each named layer, e.g. ``{"layer3": "channel"}``.

    Untrained gates don't change the logits. ``size`` is any (height, width) that the network accepts.

    A trace of the copy keeps all layer names: ``layer3`` is the value before the gate, and ``layer3.gate`` the value
    after it. The copy's state dict has ``layer3.layer.*`` for the layer and ``layer3.gate.*`` for the gate, so load a
    plain checkpoint before inserting gates.

    Raises InsertionError, and UntraceableError for a network that can't be traced.
    """
    layers = TracedNetwork(copy.deepcopy(net), size).spec.by_name  # a copy, because tracing freezes the network
    runs = _runs(net, gates, size)
    modules = dict(net.named_modules())
    for path, kind in gates.items():
        if kind not in GATE_TYPES:
            raise InsertionError(f"unknown gate type {kind!r}; known: {', '.join(GATE_TYPES)}")
        if path not in layers or path not in modules:
            known = ", ".join(name for name in layers if name in modules)
            raise InsertionError(f"no layer {path!r} with a spatial output; known: {known}")
        if isinstance(modules[path], Gated):
            raise InsertionError(f"layer {path!r} already has a gate")
        if runs[path] != 1:
            raise InsertionError(f"layer {path!r} runs {runs[path]} times, but a gate can follow only one run")
    gated = copy.deepcopy(net)
    insert(gated, {path: GATE_TYPES[kind](layers[path].shape[0]) for path, kind in gates.items()})
    return gated


def insert(net: nn.Module, gates: Mapping[str, nn.Module]) -> None:
    """Insert each gate behind the layer of that name, in place. Does not check that it fits, as ``with_gates`` does."""
    like = next(net.parameters(), torch.empty(0))
    # The innermost layers first, because wrapping a module changes the paths of its submodules.
    for path in sorted(gates, key=lambda path: -path.count(".")):
        net.set_submodule(path, Gated(net.get_submodule(path), gates[path].to(like)))


def _runs(net: nn.Module, paths: Iterable[str], size: tuple[int, int]) -> Counter[str]:
    """How often each of these modules runs for one batch."""
    net = copy.deepcopy(net).eval()
    modules, runs = dict(net.named_modules(remove_duplicate=False)), Counter[str]()
    for path in {*paths} & modules.keys():
        modules[path].register_forward_hook(lambda *_, path=path: runs.update([path]))
    like = next(net.parameters(), torch.empty(0))
    with torch.no_grad():
        net(torch.zeros(2, 3, *size, dtype=like.dtype, device=like.device))
    return runs


def gates_of(net: nn.Module) -> Iterator[tuple[str, Gated]]:
    """The gated layers of a network, by path."""
    for path, module in net.named_modules():
        if isinstance(module, Gated):
            yield path, module


def gate_state(net: nn.Module) -> dict[str, Tensor]:
    """The weights of the inserted gates only: ``layer3.gate.squeeze.weight`` and so on."""
    return {
        f"{path}.gate.{name}": value for path, gated in gates_of(net) for name, value in gated.gate.state_dict().items()
    }


def load_gates(net: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load ``state`` into the inserted gates. Raises WeightsError, with keys and shapes, unless it fits exactly."""
    differing = sorted(gate_state(net).keys() ^ state.keys())
    if differing:
        raise WeightsError(f"the gates of {source} do not fit this network; they differ in {', '.join(differing)}")
    load_strict(net, {**net.state_dict(), **state}, source)
