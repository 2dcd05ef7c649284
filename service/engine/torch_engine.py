"""The network under torch, on a CPU or a CUDA device."""

from __future__ import annotations

import time
from functools import lru_cache

import torch
from torch import Tensor, fx, nn

from models.graph import Cut, TracedNetwork
from models.spec import ModelSpec, NetworkSpec
from service.explain.evidence import ForwardRecord, Head
from service.explain.outcome import explain
from service.types import Batch, Outcome, Plan

# Graphs that are kept: one for each set of outputs that callers ask for together.
_KEPT_GRAPHS = 64


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU. Raises ValueError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"there is no device {name}: {torch.cuda.device_count()} CUDA devices were found")
    return device


class TorchEngine:
    """One network on one device, in fp32. Takes uint8 pixels; normalises them there."""

    def __init__(self, net: nn.Module, spec: ModelSpec, device: torch.device) -> None:
        self._device = device
        net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network = TracedNetwork(net, spec.preprocess.size)
        mean, std = spec.preprocess.mean, spec.preprocess.std
        # (value / 255 - mean) / std as one multiplication and one addition
        self._scale = torch.tensor([1 / (255 * s) for s in std], device=device)[:, None, None]
        self._shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)[:, None, None]
        self._trunk = lru_cache(_KEPT_GRAPHS)(self._network.trunk)
        self._cut = lru_cache(_KEPT_GRAPHS)(self._network.cut)

    @property
    def network(self) -> NetworkSpec:
        """Layers, gates and defaults of the network."""
        return self._network.spec

    def lane(self, plan: Plan) -> str:
        """The layer whose head must be differentiated; empty where no backward pass is needed."""
        return "" if plan.layer is None or self._network.has_linear_head(plan.layer) else plan.layer

    def run(self, batch: Batch) -> list[Outcome]:
        """See Engine.run. The plans of a batch are of one lane, so at most one layer among them needs its head."""
        started = time.perf_counter()
        layers = {plan.layer for plan in batch.plans if plan.layer is not None}
        if len(layers) > 1:
            raise ValueError(f"one batch can be cut at one layer only, not at {sorted(layers)}")
        cut = self._cut(layers.pop()) if layers else None
        with torch.no_grad():
            record = self._forward(batch, cut)
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)  # else the time of the pass would be counted as explaining
            infer_s = time.perf_counter() - started
            head = Head(cut.head, cut.linear) if cut else None
            return explain(record, batch.plans, self.network.gates, head, infer_s)

    def _forward(self, batch: Batch, cut: Cut | None) -> ForwardRecord:
        """One pass of the trunk; not in inference_mode, whose tensors can't become a leaf of the head."""
        taps = tuple(dict.fromkeys(tap.layer for plan in batch.plans for tap in plan.taps))
        gates = self._network.gates if any(plan.gates for plan in batch.plans) else ()
        crossing = cut.inputs if cut else ()
        names = (self._network.logits, *crossing, *map(self._network.value, taps), *(value for _, value in gates))
        trunk: fx.GraphModule = self._trunk(names)
        values: list[Tensor] = list(trunk(self._pixels(batch)))
        after_cut, after_taps = 1 + len(crossing), 1 + len(crossing) + len(taps)
        return ForwardRecord(
            logits=values[0],
            crossing=tuple(values[1:after_cut]),
            taps=dict(zip(taps, values[after_cut:after_taps], strict=True)),
            gates=tuple(values[after_taps:]),
        )

    def _pixels(self, batch: Batch) -> Tensor:
        """uint8 ``[B, H, W, 3]`` -> normalised ``[B, 3, H, W]``, channels last in memory as the pixels came."""
        pixels = torch.from_numpy(batch.pixels).to(self._device, non_blocking=True).permute(0, 3, 1, 2)
        return pixels * self._scale + self._shift
