"""Explains the seeded, compiled networks of tests.networks in float64, without decoding a picture.

In float64, rounding errors are smaller than the distance of any value from a kink. So maps can be compared reliably.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.engine import Behind, Engine
from pellucid.explain.batch import explain
from pellucid.explain.evidence import Evidence, ForwardRecord
from pellucid.explain.image_record import ImageRecord
from pellucid.explain.probe import Probe
from pellucid.explain.scalars import scalars
from pellucid.explain.scores import Scores
from pellucid.network.file import CompiledNetwork
from pellucid.network.spec import SOFTMAX
from pellucid.runtime import torch_runtime
from pellucid.runtime.base import parts_behind
from pellucid.types import Batch, Contrast, Floats, MapSpec, Outcome, Plan
from tests.networks import compiled, images, network

CPU = torch.device("cpu")


def pictures(count: int) -> Tensor:
    """The pictures of ``tests.networks.images`` in float64."""
    return images(count, dtype=torch.float64)


def exact(name: str) -> nn.Module:
    """The network in float64."""
    return network(name, torch.float64)


@cache
def runtime(net: CompiledNetwork) -> torch_runtime.TorchRuntime:
    """The torch runtime in the network's own precision."""
    return torch_runtime.TorchRuntime(net, CPU)


@cache
def engine(net: CompiledNetwork) -> Engine:
    return Engine(net, runtime(net))


@dataclass(frozen=True)
class TorchBehind(Behind):
    """The network behind a layer for one image, which can also run under torch's autograd, as an oracle."""

    to_logits: Callable[..., list[Tensor]]

    def run(self, maps: Tensor) -> Tensor:
        """The logits ``[n, classes]`` of the layer's maps ``[n, C, h, w]``. Differentiable."""
        assert self.value.layout.axes == "BCHW"
        bypass = (torch.from_numpy(each).expand(len(maps), *each.shape[1:]) for each in self.crossing[1:])
        return self.to_logits(maps, *bypass)[0]


@dataclass(frozen=True)
class Passes:
    """Runs normalised pictures ``[B, 3, H, W]`` through a compiled network."""

    net: CompiledNetwork
    pixels: Tensor

    def value(self, node: str) -> Floats:
        """The value of a node of the graph."""
        return runtime(self.net).run(self._levels(), None, (node,), "exact")[0][node]

    @property
    def logits(self) -> Floats:
        return self.value(self.net.manifest.logits)

    def map(self, layer: str) -> Floats:
        value = self.net.value(layer)
        return value.layout.to_map(self.value(value.node))

    def behind(self, layer: str, image: int, *, linear: bool = True) -> TorchBehind:
        """The network behind a layer. ``linear=False`` hides that the head is linear, so that it must run."""
        found: Any = self.record([_cut_at(layer)] * len(self.pixels)).behind(layer, image)
        _, to_logits, _ = parts_behind(self.net, found.value)
        known = found.linear if linear else None
        head = torch_runtime.build(to_logits, self.net.weights, CPU, None)
        return TorchBehind(found.head, found.value, found.crossing, known, found.broadcasts, "exact", head)

    def record(self, plans: Sequence[Plan]) -> ForwardRecord:
        """The engine's ForwardRecord for plans of one lane."""
        return engine(self.net).record(Batch(self._levels(), tuple(plans)), "exact")

    def run(self, *plans: Plan, void: tuple[Callable[[], bool], ...] = ()) -> list[Outcome]:
        """Return an outcome for each picture. Pictures of one lane run as a batch."""
        lanes, levels = [engine(self.net).lane(plan) for plan in plans], self._levels()
        found: dict[int, Outcome] = {}
        for lane in dict.fromkeys(lanes):
            numbers = [number for number, other in enumerate(lanes) if other == lane]
            some: Any = [[every[number] for number in numbers if every] for every in (plans, void)]
            batch = Batch(levels[numbers], *map(tuple, some))
            batch, _ = engine(self.net).aimed(batch, "exact")
            record = engine(self.net).record(batch, "exact")
            found |= zip(numbers, explain(record, batch, self.net.spec, 0.0), strict=True)
        return [found[number] for number in range(len(plans))]

    def _levels(self) -> Any:
        """The pictures as an engine takes them, ``[B, H, W, 3]`` from 0 to 255, but not rounded."""
        expected = self.net.model.preprocess
        mean, std = (torch.tensor(each, dtype=self.pixels.dtype) for each in (expected.mean, expected.std))
        return (255 * (self.pixels.permute(0, 2, 3, 1) * std + mean)).numpy()


def _cut_at(layer: str) -> Plan:
    return Plan(heat_maps=(MapSpec("ablation-cam", (layer,)),))  # needs no gradient


def run(name: str, *plans: Plan, void: tuple[Callable[[], bool], ...] = ()) -> list[Outcome]:
    """Return the outcomes of one picture for each plan."""
    return Passes(compiled(name, torch.float64), pictures(len(plans))).run(*plans, void=void)


def evidence_at(net: CompiledNetwork, layer: str, pixels: Tensor, targets: Sequence[Sequence[int]]) -> list[Evidence]:
    """The Evidence of each image for its own ``targets``."""
    plans = [Plan(targets=tuple(classes), heat_maps=(MapSpec("grad-cam", (layer,)),)) for classes in targets]
    record = Passes(net, pixels).record(plans)
    return [
        ImageRecord(i, plan, record, Scores.of_logits(record.logits, SOFTMAX), lambda: False).evidence(layer)
        for i, plan in enumerate(plans)
    ]


def evidence(name: str, layer: str, pixels: Tensor, targets: Sequence[Sequence[int]]) -> list[Evidence]:
    """The Evidence of each image for its own ``targets``, for the network of this name."""
    return evidence_at(compiled(name, pixels.dtype), layer, pixels, targets)


def probe_at(
    net: CompiledNetwork,
    layer: str,
    picture: Tensor,
    targets: Sequence[int],
    *,
    varied: str = "",
    linear: bool = True,
    contrast: Contrast | None = None,
    samples: int = 8,
) -> Probe:
    """The Probe of one image. ``linear=False`` hides that the head is linear, so that it must run."""
    passes = Passes(net, picture)
    rows = scalars(Plan(targets=tuple(targets), contrast=contrast), SOFTMAX, passes.logits.shape[1])
    behind = passes.behind(varied or layer, 0, linear=linear)
    return Probe(passes.map(layer)[0], passes.map(varied or layer)[0], rows, behind, samples, lambda: False)


def probe(name: str, layer: str, *, varied: str = "", linear: bool = True, dtype: torch.dtype = torch.float64) -> Probe:
    """The Probe of one image for the classes 3 and 1."""
    return probe_at(compiled(name, dtype), layer, images(1, dtype=dtype), (3, 1), varied=varied, linear=linear)
