"""The trunk under OpenVINO, on x86 CPUs. What needs a gradient, and layers that few ask for, stay in torch."""

from __future__ import annotations

import hashlib
import inspect
import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino.preprocess import PrePostProcessor
from torch import Tensor, fx, nn

from models.weights import digest_of
from pellucid.compiler import in_place, layout
from pellucid.explain.evidence import ForwardRecord
from pellucid.network.spec import ModelSpec, PreprocessSpec
from pellucid.types import Batch, Pixels, Plan
from service.engine.facts import EngineFacts
from service.engine.torch_engine import TorchEngine
from service.engine.turns import Turns

log = logging.getLogger(__name__)

# The lanes that are compiled: what most requests look at, and that with the default feature maps.
_USUAL, _MAPS = "", "maps"
# How far OpenVINO's threads stand back (``nice``) from those that feed them: a network never lacks work for the want of
# a core to decode on, and batches come out larger.
_NICENESS = 5


def has_bf16() -> bool:
    """Whether OpenVINO computes in bfloat16 on this CPU."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVINOEngine(TorchEngine):
    """A TorchEngine whose trunk runs under OpenVINO for the usual values; torch runs as much of it as others need.

    A plan's lane depends on the plan alone, and so does what computes each of its values. So an answer never depends on
    what else was in the batch, not even by the rounding of bfloat16.
    """

    def __init__(
        self,
        net: nn.Module,
        spec: ModelSpec,
        *,
        bf16: bool,
        threads: int,
        cache: Path | None,
        slots: int | None = None,
    ) -> None:
        """``cache`` is a folder that keeps converted and compiled graphs between starts; None keeps none.

        Converted graphs are read from it even where it can't be written to. Compiled ones are not: they are of one
        processor, and what can't be written was filled on another, as when an image was built.
        """
        super().__init__(net, spec, torch.device("cpu"), threads=threads, slots=slots)
        network = self._network
        default = network.spec.default_layer
        usual = [network.logits, *(self._cut(default).inputs if default else ())]
        usual += [gate.weights for gate in network.gates]
        maps = [network.value(layer) for layer in network.spec.feature_layers]
        self._precision = "bf16" if bf16 else "fp32"
        core = ov.Core()
        kept = _Kept(cache) if cache is not None else None
        if kept is not None and kept.writable:
            core.set_property({"CACHE_DIR": str(kept.folder)})
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "INFERENCE_NUM_THREADS": threads,
            # Pinned, the calling thread and all that it starts would share one core: torch would crawl beside it.
            "ENABLE_CPU_PINNING": False,
        }
        weights = spec.parameters_sha256 or digest_of(net)
        self._compiled = {}
        # A network without layers could not be traced: it may branch on its pixels, and a conversion would freeze that.
        for lane, values in ((_USUAL, usual), (_MAPS, [*usual, *maps])) if network.spec.layers else ():
            names = tuple(sorted(set(values)))
            model = _converted(network.trunk(names), spec.preprocess, weights, kept)
            self._compiled[lane] = _Compiled(core, model, names, options, self.slots)
        self._lane = lru_cache(4096)(self._find_lane)

    @property
    def description(self) -> str:
        """See TorchEngine.description."""
        return f"OpenVINO {ov.__version__.partition('-')[0]} on cpu, {self._precision}"

    @property
    def facts(self) -> EngineFacts:
        """See TorchEngine.facts."""
        return replace(super().facts, engine="openvino", precision=self._precision)

    def queues(self, lane: str) -> bool:
        """See Engine.queues: OpenVINO starts a pass that waits without asking Python."""
        return lane in self._compiled

    def _computed(self, plan: Plan) -> str:
        """See TorchEngine; plans that look at other layers have a lane of their own, in which torch runs too."""
        return self._lane(plan)

    def _find_lane(self, plan: Plan) -> str:
        heads = super()._computed(plan)
        if heads:
            return heads
        needed = set(self._names((plan,), self._view((plan,))))
        return next((lane for lane, graph in self._compiled.items() if needed.issubset(graph.names)), "other layers")

    def _threads_for(self, batch: Batch, alone: bool) -> int:
        # OpenVINO's threads spin on for a while after a pass: the little that torch does then is fastest done by one.
        return 1 if self._computed(batch.plans[0]) in self._compiled else super()._threads_for(batch, alone)

    def _forward(self, batch: Batch, names: tuple[str, ...], alone: bool) -> ForwardRecord:
        graph = self._compiled.get(self._computed(batch.plans[0]), self._compiled.get(_USUAL))
        if graph is None:
            return super()._forward(batch, names, alone)
        # Whatever is asked for beside them, a picture's class, gates and default map are those of the usual graph.
        wanted = tuple(name for name in names if name in graph.names)
        values, waited_s = graph(batch.pixels, wanted, alone, exact=batch.plans[0].reproducible)
        others = tuple(name for name in names if name not in graph.names)
        if others:
            values.update(super()._forward(batch, others, alone).values)
        return ForwardRecord(values, waited_s)


class _Compiled:
    """A compiled graph: uint8 pixels ``[B, H, W, 3]`` -> the named values. At most ``slots`` passes run at a time."""

    def __init__(
        self,
        core: ov.Core,
        model: ov.Model | str,
        names: tuple[str, ...],
        options: dict[str, Any],
        slots: int,
    ) -> None:
        self.names = names
        self._outputs = {name: index for index, name in enumerate(names)}

        def compiled(streams: int, num_threads: int) -> ov.CompiledModel:
            chosen = {**options, "NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": num_threads}
            with ThreadPoolExecutor(1, initializer=_stand_back) as pool:  # the threads it starts are as nice as it is
                return pool.submit(core.compile_model, model, "CPU", chosen).result()

        threads = options["INFERENCE_NUM_THREADS"]
        single = min(slots, threads)
        self._compiled = lru_cache(None)(compiled)
        self._compiling = threading.Lock()
        self._usual, self._exact = (slots, threads), (single, single)  # streams, and the threads that they share
        self._whole = self._compiled(1, threads).create_infer_request()
        self._compiled(*self._usual)
        self._own = _OwnRequests()
        self._turns = Turns(slots)

    def __call__(
        self, pixels: Pixels, wanted: tuple[str, ...], alone: bool, exact: bool
    ) -> tuple[dict[str, Tensor], float]:
        """The values, and the seconds in which the pass waited for others.

        ``alone``: no other thread runs a batch, so the pass may have all the cores. ``exact``: the pass has one thread,
        since their number may decide where sums are split. The values lie in memory that the next pass of this thread,
        or the next one that is alone, writes into.
        """
        request = self._whole if alone and not exact else self._own_request(self._exact if exact else self._usual)
        pixels = np.require(pixels, requirements=("C", "W"))  # a batch of turned pictures lies in memory as they do
        request.set_input_tensor(ov.Tensor(pixels, shared_memory=True))
        with self._turns.turn() as turn:  # not by ``infer``, which wraps, and copies, every output of the graph
            request.start_async()
            request.wait()
        outputs = {name: request.get_output_tensor(self._outputs[name]).data for name in wanted}
        return {name: torch.from_numpy(output) for name, output in outputs.items()}, turn.waited_s

    def _own_request(self, form: tuple[int, int]) -> ov.InferRequest:
        if form not in self._own.requests:
            with self._compiling:  # the exact form, where it is another, only once it is asked for: it takes memory
                self._own.requests[form] = self._compiled(*form).create_infer_request()
        return self._own.requests[form]


class _OwnRequests(threading.local):
    """The calling thread's requests, by the streams of their graph and the threads that these share."""

    def __init__(self) -> None:
        self.requests: dict[tuple[int, int], ov.InferRequest] = {}


class _Kept:
    """A folder of converted graphs, which is made if it is not there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                self.writable = True
        except OSError:
            self.writable = False

    def model(self, name: str, convert: Callable[[], ov.Model]) -> ov.Model | str:
        """The path of the graph of this name. What is not there is made by ``convert``, and kept where that can be."""
        path = self.folder / name / "model.xml"
        if os.access(path, os.R_OK):
            return str(path)
        if not self.writable:
            log.warning("a graph is not kept, so this start takes longer: %s can't be written to", self.folder)
            return convert()
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            ov.save_model(convert(), Path(scratch, path.name), compress_to_fp16=False)
            try:
                os.rename(scratch, path.parent)  # whole or not at all, also when two processes start at once
                os.mkdir(scratch)  # for TemporaryDirectory to remove
            except OSError:
                if not path.exists():
                    raise
        return str(path)


def _stand_back() -> None:
    """Let the calling thread, and those that it will start, stand back from the process's others."""
    if sys.platform == "linux":  # elsewhere a process has one niceness for all its threads
        niceness = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(niceness + _NICENESS, 19))


def _converted(trunk: fx.GraphModule, spec: PreprocessSpec, weights: str, kept: _Kept | None) -> ov.Model | str:
    """The trunk as an OpenVINO model that takes uint8 pixels; from the cache, as its path, where it is there."""
    if kept is None:
        return _convert(trunk, spec)
    called = (inspect.getsource(module) for module in (layout, in_place))  # of which the code has the names alone
    parts = (weights, trunk.code, *called, repr(spec), ov.__version__, torch.__version__)
    return kept.model(hashlib.sha256("|".join(parts).encode()).hexdigest()[:32], lambda: _convert(trunk, spec))


def _convert(trunk: fx.GraphModule, spec: PreprocessSpec) -> ov.Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit, through which OpenVINO converts, is deprecated in torch
        model = ov.convert_model(trunk, example_input=torch.zeros(1, 3, *spec.size))
    model.reshape([-1, 3, *spec.size])
    with_pixels = PrePostProcessor(model)
    with_pixels.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    with_pixels.input().model().set_layout(ov.Layout("NCHW"))
    steps: Any = with_pixels.input().preprocess().convert_element_type(ov.Type.f32)
    steps.mean([255 * mean for mean in spec.mean]).scale([255 * std for std in spec.std])
    return with_pixels.build()
