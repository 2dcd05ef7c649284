"""The network under torch, on a CPU or a CUDA device."""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
from torch import Tensor, nn

from pellucid.compiler.graph import Cut, TracedNetwork
from pellucid.explain.evidence import ForwardRecord, GateView, Head, View
from pellucid.explain.methods import METHODS, costly, differentiated, explained
from pellucid.explain.outcome import explain
from pellucid.network.spec import ModelSpec, NetworkSpec
from pellucid.types import Batch, Outcome, Plan
from service.engine.facts import EngineFacts

# Graphs that are kept: one for each set of outputs that callers ask for together.
_KEPT_GRAPHS = 64
# Batches that run side by side on a CPU. Each has its own activations in memory.
_MOST_SLOTS = 4
# On a CPU an image costs as much in a batch of four as in one of eight, whose activations fall out of the caches.
PAYING_BATCH = {"cpu": 4, "cuda": 8}


class TorchEngine:
    """One network on one device. Takes uint8 pixels; normalises them there.

    ``bf16`` runs the trunk in bfloat16 where that helps (autocast); heads, and what leaves the trunk, are fp32 always.
    On a CPU ``threads`` are shared out to as many batches as run at once: batches side by side, each on a core of its
    own, don't wait for one another layer by layer, as the threads of one batch do. One that is alone has them all.
    """

    def __init__(
        self,
        net: nn.Module,
        spec: ModelSpec,
        device: torch.device,
        *,
        bf16: bool = False,
        threads: int = 1,
        slots: int | None = None,
    ) -> None:
        """``slots``: see Engine.slots; by default one on a CUDA device, on a CPU as many as threads, four at most."""
        self._device = device
        self._threads = threads
        self._slots = slots or (1 if device.type == "cuda" else min(threads, _MOST_SLOTS))
        self._running = 0
        self._counting = threading.Lock()
        self._bf16 = bf16
        net = net.to(device)
        self._network = TracedNetwork(net, spec.preprocess.size)
        if self._network.spec.layers:  # the graph, which shares the parameters, has no views that this would break
            nn.utils.convert_conv2d_weight_memory_format(net, torch.channels_last)
        mean, std = spec.preprocess.mean, spec.preprocess.std
        # (value / 255 - mean) / std as one multiplication and one addition
        self._scale = torch.tensor([1 / (255 * s) for s in std], device=device)[:, None, None]
        self._shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)[:, None, None]
        default = self._network.spec.default_layer
        # Where no backward pass is needed, who wants an explanation and who wants none may share a batch.
        free = bool(default) and self._network.has_linear_head(default)
        self._free_cut = self._network.value(default) if free else None
        self._trunk = lru_cache(_KEPT_GRAPHS)(self._network.trunk)
        self._cut = lru_cache(_KEPT_GRAPHS)(self._network.cut)
        self._cut_behind = lru_cache(_KEPT_GRAPHS)(self._network.cut_behind)
        self._cut_before_gates = lru_cache(1)(self._network.cut_before_gates)
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._stream.wait_stream(torch.cuda.current_stream(device))  # which the weights are moved in

    @property
    def slots(self) -> int:
        """See Engine.slots."""
        return self._slots

    @property
    def paying_batch(self) -> int:
        """The largest batch that pays: in larger ones an image costs no less."""
        return PAYING_BATCH.get(self._device.type, 8)

    def queues(self, lane: str) -> bool:
        """See Engine.queues: here a thread more would only share the cores of the others."""
        return False

    @property
    def description(self) -> str:
        """What runs the network, and how, for people to read."""
        return f"torch {torch.__version__} on {self._device}, {'bf16' if self._bf16 else 'fp32'}"

    @property
    def facts(self) -> EngineFacts:
        """What runs the network, for whoever wants to do the same again."""
        return EngineFacts("torch", str(self._device), "bf16" if self._bf16 else "fp32", self._threads)

    @property
    def network(self) -> NetworkSpec:
        """Layers, gates and defaults of the network."""
        return self._network.spec

    def lane(self, plan: Plan) -> str:
        """See Engine.lane: what is computed; what is to be reproducible shares no batch with what is not."""
        return ",".join(filter(None, (self._computed(plan), "reproducible" * plan.reproducible)))

    def _computed(self, plan: Plan) -> str:
        """The heads that must be run again for a plan; empty where none is."""
        cuts = self._cuts(plan)
        # Where the gradient is known, so is that of a random head.
        sanity = f"random*{plan.random_heads}" if cuts and plan.random_heads else ""
        edit = ""
        if plan.edit is not None and plan.layer is not None:
            edit = f"what-if {self._network.value(plan.layer)}{' ranked' * plan.edit.ranked}"
        return ",".join(filter(None, (*cuts, sanity, edit, "effects" * plan.effects, *plan.restore)))

    def _cuts(self, plan: Plan) -> list[str]:
        """The gradients that need a backward pass, and the methods with passes of their own.

        A batch pays for as many backward passes as its image with the most targets: like goes with like.
        """
        targets = _rounded_up(len(plan.targets))
        values = dict.fromkeys(map(self._network.value, differentiated(plan)))
        cuts = [f"{value}*{targets}" for value in values if value != self._free_cut]
        for method, layer in costly(plan):
            several = f"*{targets}*{_rounded_up(plan.samples)}" if METHODS[method].spec.needs == "gradients" else ""
            cuts.append(f"{method}@{self._network.value(layer)}{several}")
        return cuts

    def run(self, batch: Batch) -> list[Outcome]:
        """See Engine.run. The plans of a batch are of one lane, so those that explain need the same heads."""
        with self._counting:
            self._running += 1
            # Of several images another thread would have got its share: only one that is single leaves it idle.
            alone = self._running == 1 and (len(batch.plans) == 1 or self.slots == 1)
        try:
            if batch.plans[0].reproducible:
                return [outcome for single in batch.singles() for outcome in self._run(single, alone=False)]
            return self._run(batch, alone)
        finally:
            with self._counting:
                self._running -= 1

    def _run(self, batch: Batch, alone: bool) -> list[Outcome]:
        started = time.perf_counter()
        torch.set_num_threads(self._threads_for(batch, alone))
        view = self._view(batch.plans)
        exact = self._exactly() if batch.plans[0].reproducible else nullcontext()
        with (
            torch.no_grad(),
            self._in_stream(),
            exact,
        ):  # not inference_mode, whose tensors can't become a leaf of the head
            record = self._forward(batch, self._names(batch.plans, view), alone)
            if self._stream is not None:
                self._stream.synchronize()  # else the time of the pass would be counted as explaining
            infer_s = time.perf_counter() - started - record.waited_s
            return explain(record, batch, view, infer_s)

    def _in_stream(self) -> AbstractContextManager[object]:
        """A stream of the engine's own: nothing that runs beside it on the device is waited for."""
        return torch.cuda.stream(self._stream) if self._stream is not None else nullcontext()

    def _exactly(self) -> AbstractContextManager[object]:
        """Where cuDNN could choose an algorithm that adds in any order, it chooses another."""
        if self._device.type != "cuda":
            return nullcontext()
        flags: AbstractContextManager[object] = torch.backends.cudnn.flags(benchmark=False, deterministic=True)
        return flags

    def _threads_for(self, batch: Batch, alone: bool) -> int:
        if batch.plans[0].reproducible:
            return 1  # the number of threads decides where sums are split
        return self._threads if alone else self._threads // self.slots

    def _view(self, plans: tuple[Plan, ...]) -> View:
        """What of the network these plans look at."""
        cuts = {tuple(self._cuts(plan)) for plan in plans if differentiated(plan) or costly(plan)}
        if len({tuple(cut.partition("*")[0] for cut in of_plan) for of_plan in cuts}) > 1:
            raise ValueError(f"the plans of one batch must need the same passes, not {sorted(cuts)}")
        layers = dict.fromkeys(layer for plan in plans for layer in explained(plan))
        taps = [tap for plan in plans for tap in plan.taps]
        restore = {layer for plan in plans for layer in plan.restore}
        gates: tuple[GateView, ...] = ()
        if any(plan.gates for plan in plans) or any(tap.gate for tap in taps):
            gates = tuple(
                GateView(
                    gate.spec,
                    gate.weights,
                    gate.before,
                    gate.after,
                    _head(self._cut_behind(gate)) if gate.spec.layer in restore else None,
                )
                for gate in self._network.gates
            )
        return View(
            logits=self._network.logits,
            layers={name: self._network.value(name) for name in (*(t.layer for t in taps if not t.gate), *layers)},
            heads={layer: _head(self._cut(layer)) for layer in layers},
            gates=gates,
            effects=_head(self._cut_before_gates()) if gates and any(plan.effects for plan in plans) else None,
        )

    def _forward(self, batch: Batch, names: tuple[str, ...], alone: bool) -> ForwardRecord:
        """One pass of the trunk, for the named values and no other."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            values = self._trunk(names)(self._pixels(batch))
        return ForwardRecord(
            {
                # What by-passes a cut may be a mask, an index, or complex.
                name: value.float() if value.is_floating_point() else value
                for name, value in zip(names, values, strict=True)
            }
        )

    @staticmethod
    def _names(plans: tuple[Plan, ...], view: View) -> tuple[str, ...]:
        """The values that the plans look at, sorted, so that the order of asking makes no other graph."""
        sides = {tap.layer for plan in plans for tap in plan.taps if tap.gate}
        names = [view.logits, *view.layers.values(), *(gate.weights for gate in view.gates)]
        for gate in view.gates:
            if gate.spec.layer in sides or gate.head is not None:
                names += [gate.before, gate.after]
        for head in (*view.heads.values(), view.effects, *(gate.head for gate in view.gates)):
            names += head.inputs if head is not None else ()
        return tuple(sorted(set(names)))

    def _pixels(self, batch: Batch) -> Tensor:
        """uint8 ``[B, H, W, 3]`` -> normalised ``[B, 3, H, W]``, channels last in memory as the pixels came."""
        pixels = torch.from_numpy(batch.pixels)
        if self._stream is not None:
            pixels = pixels.pin_memory()  # else the copy would wait, and take longer
        pixels = pixels.to(self._device, non_blocking=True).permute(0, 3, 1, 2)
        return pixels * self._scale + self._shift


def _rounded_up(count: int) -> int:
    """To a power of two, 1 at least."""
    return 1 << (max(1, count) - 1).bit_length()


def _head(cut: Cut) -> Head:
    return Head(cut.inputs, cut.head, cut.linear)
