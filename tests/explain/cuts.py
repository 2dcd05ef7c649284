"""Explanations with torch's autograd as the runtime, of seeded networks (see tests.networks) in float64.

Rounding is then smaller than the distance of any value from a kink, so maps are compared without luck.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from pellucid.compiler.graph import Cut, TracedNetwork
from pellucid.explain.evidence import Behind, Evidence, ForwardRecord, resolved, scalars, wanted
from pellucid.explain.image import Image
from pellucid.explain.methods import differentiated, explained
from pellucid.explain.outcome import explain
from pellucid.explain.probe import Probe
from pellucid.types import Batch, Contrast, Floats, Heat, Outcome, Plan, Prediction
from tests.networks import images, network, traced


def pictures(count: int) -> Tensor:
    """As tests.networks.images, in float64."""
    return images(count, dtype=torch.float64)


def exact(name: str) -> nn.Module:
    """The network in float64."""
    return network(name, torch.float64)


@dataclass(frozen=True)
class TorchBehind:
    """The head of a cut as ``Behind``, with what by-passes the layer for one image ``[1, ...]``."""

    head: nn.Module
    bypass: tuple[Tensor, ...]
    weight: Tensor | None = None

    @property
    def linear(self) -> Floats | None:
        return None if self.weight is None else self.weight.numpy()

    def run(self, maps: Tensor) -> Tensor:
        """``[n, C, h, w]`` -> ``[n, classes]``, with torch's graph of it."""
        logits: Tensor = self.head(maps, *(value.expand(len(maps), *value.shape[1:]) for value in self.bypass))
        return logits

    def logits(self, maps: Floats) -> Floats:
        with torch.no_grad():
            return self.run(torch.from_numpy(maps)).numpy()

    def gradients(self, maps: Floats, wanted: Floats) -> Floats:
        leaf = torch.from_numpy(maps).requires_grad_()
        return gradients(self.run(leaf), (leaf,), wanted)[0]

    def shuffled(self, draw: int) -> Behind:
        chance, head = torch.Generator().manual_seed(draw), copy.deepcopy(self.head)
        with torch.no_grad():
            for value in head.parameters():
                value.copy_(value.flatten()[torch.randperm(value.numel(), generator=chance)].view_as(value))
        return TorchBehind(head, self.bypass)


def gradients(logits: Tensor, values: Sequence[Tensor], rows: Floats) -> list[Floats]:
    """d (rows[k] . logits) / d value of each: ``[K, ...]``; zeros where the logits don't follow the value."""
    if not logits.requires_grad:
        return [value.new_zeros(len(rows), *value.shape).numpy() for value in values]
    of_rows = [torch.autograd.grad((logits * row).sum(), values, retain_graph=True) for row in torch.from_numpy(rows)]
    return [torch.stack(of_value).numpy() for of_value in zip(*of_rows, strict=True)]


@dataclass(frozen=True)
class Passes:
    """Normalised pictures ``[B, 3, H, W]`` that go through a network."""

    net: TracedNetwork
    pixels: Tensor
    _cuts: dict[str, tuple[Cut, list[Tensor]]] = field(default_factory=dict)

    def values(self, *names: str) -> list[Tensor]:
        """Of the graph."""
        with torch.no_grad():
            return list(self.net.trunk(names)(self.pixels))

    @cached_property
    def logits(self) -> Floats:
        logits: Floats = self.values(self.net.logits)[0].numpy()
        return logits

    def map(self, layer: str) -> Floats:
        values: Floats = self.values(self.net.value(layer))[0].numpy()
        return values

    def behind(self, layer: str, image: int, *, linear: bool = True) -> TorchBehind:
        """``linear`` False hides that the gradient is known."""
        if layer not in self._cuts:
            cut = self.net.cut(layer)
            self._cuts[layer] = cut, self.values(*cut.inputs)
        cut, (_, *bypass) = self._cuts[layer]
        return TorchBehind(cut.head, tuple(_of(image, bypass)), cut.linear if linear else None)

    def record(self, plans: Sequence[Plan]) -> ForwardRecord:
        """As an engine makes it: what the plans ask for, and no more."""
        net, nothing = self.net, np.zeros(0, np.float32)
        rows = [wanted(plan, resolved(plan, of), len(of)) for plan, of in zip(plans, self.logits, strict=True)]
        taps = [tap for plan in plans for tap in plan.taps]
        opened = {tap.layer for tap in taps if tap.gate} | {gate for plan in plans for gate in plan.restore}
        sides = {side for gate in net.spec.gates if gate.layer in opened for side in (gate.before, gate.after)}
        layers = {layer for plan in plans for layer in explained(plan)} | {tap.layer for tap in taps if not tap.gate}
        maps = {layer: self.map(layer) for layer in layers | sides}
        asked = {layer: self.behind(layer, 0).linear for plan in plans for layer in differentiated(plan)}
        effects = [
            self._gate_gradients(i, rows[i]) if plan.gates and plan.effects else {} for i, plan in enumerate(plans)
        ]
        gates = net.gates if any(plan.gates for plan in plans) else ()
        return ForwardRecord(
            logits=self.logits,
            maps=maps,
            gradients={
                layer: [
                    self.behind(layer, i).gradients(maps[layer][i : i + 1], rows[i])[:, 0]
                    if layer in differentiated(plan)
                    else nothing
                    for i, plan in enumerate(plans)
                ]
                for layer, linear in asked.items()
                if linear is None
            },
            gates={gate.spec.layer: self.values(gate.weights)[0].flatten(1).numpy() for gate in gates},
            gate_gradients={gate.spec.layer: [of.get(gate.spec.layer, nothing) for of in effects] for gate in gates},
            behind=self.behind,
            linear={layer: linear for layer, linear in asked.items() if linear is not None},
        )

    def _gate_gradients(self, image: int, rows: Floats) -> dict[str, Floats]:
        """By gate ``[R, C]``."""
        cut = self.net.cut_before_gates()
        leaf, *bypass = _of(image, self.values(*cut.inputs))
        logits, *weights = cut.head(leaf.requires_grad_(), *bypass)
        found = gradients(logits, weights, rows)
        return {gate.spec.layer: of.reshape(len(rows), -1) for gate, of in zip(self.net.gates, found, strict=True)}

    def run(self, *plans: Plan, void: tuple[Callable[[], bool], ...] = ()) -> list[Outcome]:
        """An outcome for each picture."""
        batch = Batch(np.zeros((len(plans), 1, 1, 3), np.uint8), plans, void)
        return explain(self.record(plans), batch, self.net.spec, 0.0)


def _of(image: int, values: Sequence[Tensor]) -> list[Tensor]:
    return [value[image : image + 1] for value in values]


def run(name: str, *plans: Plan, void: tuple[Callable[[], bool], ...] = ()) -> list[Outcome]:
    """Of as many pictures as plans."""
    return Passes(traced(name, torch.float64), pictures(len(plans))).run(*plans, void=void)


def evidence_at(net: TracedNetwork, layer: str, pixels: Tensor, targets: Sequence[Sequence[int]]) -> list[Evidence]:
    """Of each image for its own classes."""
    plans = [Plan(targets=tuple(classes), heats=(Heat("grad-cam", (layer,)),)) for classes in targets]
    record = Passes(net, pixels).record(plans)
    return [
        Image(i, plan, list(plan.targets), record, lambda index: Prediction(index, 0, 0), lambda: False).evidence(layer)
        for i, plan in enumerate(plans)
    ]


def evidence(name: str, layer: str, pixels: Tensor, targets: Sequence[Sequence[int]]) -> list[Evidence]:
    """Of each image for its own classes."""
    return evidence_at(traced(name, pixels.dtype), layer, pixels, targets)


def probe_at(
    net: TracedNetwork,
    layer: str,
    picture: Tensor,
    targets: Sequence[int],
    *,
    varied: str = "",
    linear: bool = True,
    contrast: Contrast | None = None,
    samples: int = 8,
) -> Probe:
    """Of one image; ``linear`` False runs a head of which the gradient would be known."""
    passes = Passes(net, picture)
    rows = scalars(targets, contrast, passes.logits.shape[1])
    behind = passes.behind(varied or layer, 0, linear=linear)
    return Probe(passes.map(layer)[0], passes.map(varied or layer)[0], rows, behind, samples, lambda: False)


def probe(name: str, layer: str, *, varied: str = "", linear: bool = True, dtype: torch.dtype = torch.float64) -> Probe:
    """For the classes 3 and 1."""
    return probe_at(traced(name, dtype), layer, images(1, dtype=dtype), (3, 1), varied=varied, linear=linear)
