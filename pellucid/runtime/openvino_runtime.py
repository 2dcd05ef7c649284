"""Runs the graph with OpenVINO on x86 CPUs. Each set of outputs is compiled into its own model."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import copy
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import openvino as ov
from openvino import opset15 as ops

from pellucid.network.file import CompiledNetwork, Value, is_writable
from pellucid.network.graph import PIXELS_INPUT, WANTED_INPUT, Part
from pellucid.network.spec import PreprocessSpec
from pellucid.runtime import aten_to_openvino
from pellucid.runtime.base import Cores, RuntimeInfo, parts_behind, shuffled_weights
from pellucid.runtime.cores import processor
from pellucid.runtime.queueing import SlotQueue
from pellucid.types import Array, Floats, InputPixels

log = logging.getLogger(__name__)

# Models in the cache besides the pinned ones. Each holds a copy of its weights, packed for the processor.
_MOST_MODELS: Final = 12
# Seconds after which a model that is not pinned frees its activations.
_IDLE_S: Final = 3
# Parallel batches. Each holds its own activations in memory.
_MOST_SLOTS: Final = 4
# A larger batch is no cheaper per image, because its activations fall out of the CPU caches.
_PAYING_BATCH: Final = 4
# Copies of one image that run through a head in one batch. Each holds its own activations in memory.
_MOST_COPIES: Final = 8
# The niceness of OpenVINO's threads. Decoding threads then get a core first, so the network does not wait for images
# and batches are larger.
_NICENESS: Final = 5


def has_bf16() -> bool:
    """Whether OpenVINO computes in bfloat16 on this CPU."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVINORuntime:
    """See Runtime.

    The set of outputs alone decides which model computes a value. So an answer never depends on the rest of the batch,
    not even through the rounding of bfloat16.
    """

    runs_ahead = True  # OpenVINO starts a queued pass without waiting for Python

    def __init__(
        self, network: CompiledNetwork, *, bf16: bool, threads: int, cache: Path | None = None, slots: int | None = None
    ) -> None:
        """``cache`` is a folder that keeps compiled models between starts, or None."""
        self.network = network
        self.slots = slots or min(threads, _MOST_SLOTS)
        self.paying_batch = _PAYING_BATCH
        self.bf16 = bf16
        self._threads = threads
        precision = ("int8+" if network.graph.rounded else "") + ("bf16" if bf16 else "fp32")
        description = f"OpenVINO {ov.__version__.partition('-')[0]} on cpu, {precision}"
        self.info = RuntimeInfo("openvino", "cpu", precision, threads, description, processor())
        self._core = ov.Core()
        self._cache = cache
        if cache is not None and not is_writable(cache):
            log.warning("compiled models are not cached, so each start takes longer: %s is not writable", cache)
            self._cache = None
        self._models = ModelCache(_MOST_MODELS)
        self.example = lru_cache(_MOST_MODELS)(self._find_example)
        self._queue = SlotQueue(self.slots)

    def at(self, network: CompiledNetwork) -> OpenVINORuntime:
        other = copy(self)
        other.network = network
        other.example = lru_cache(_MOST_MODELS)(other._find_example)
        return other

    def run(
        self, images: InputPixels, wanted: Floats | None, outputs: Sequence[str], cores: Cores
    ) -> tuple[dict[str, Array], float]:
        names = _names(outputs)
        inputs: list[Array] = [images, *([] if wanted is None else [wanted])]
        with self._queue.occupy() as wait:
            found = dict(zip(names, self._of_images(names)(inputs, cores), strict=True))
        if PIXELS_INPUT in outputs:
            found[PIXELS_INPUT] = normalised(images, self.network.model.preprocess)
        return found, wait.waited_s

    def ready(self, outputs: Sequence[str], cores: Cores) -> bool:
        return self.known(_names(outputs), cores)

    def known(self, key: Hashable, cores: Cores) -> bool:
        """Whether the model of this key has been compiled for these cores."""
        model = self._models.known(self._key(key))
        return model is not None and model.ready(cores)

    def prepare(self, outputs: Sequence[str], cores: Cores, keep: bool = False) -> None:
        names = _names(outputs)
        if keep:
            self._models.pin(self._key(names))
        self._of_images(names).compiled(cores)

    def behind(self, value: Value) -> OpenVINOHead:
        return OpenVINOHead(self, value)

    def _find_example(self, outputs: tuple[str, ...]) -> list[Array]:
        """Arrays with the shapes and dtypes that these nodes have for one image. They take no memory."""
        model = self._from_images(_names(outputs))
        examples: list[Array] = []
        for name in outputs:
            if name == PIXELS_INPUT:
                examples.append(np.broadcast_to(np.float32(0), (1, *self.network.model.preprocess.shape)))
            else:
                sides = model.output(name).get_partial_shape()
                shape = [side.get_length() if side.is_static else 1 for side in sides]
                examples.append(np.broadcast_to(np.zeros((), model.output(name).get_element_type().to_dtype()), shape))
        return examples

    def _of_images(self, outputs: tuple[str, ...]) -> Model:
        return self.model(outputs, outputs, lambda _: self._from_images(outputs))

    def model(self, key: Hashable, outputs: Sequence[str], build: Callable[[Sequence[Array]], ov.Model]) -> Model:
        """The model of this key. If it is new, ``build`` builds it from the first inputs."""
        return self._models.get(self._key(key), lambda keep: Model(self, outputs, build, keep))

    def _key(self, key: Hashable) -> Hashable:
        return self.network.manifest.model.preprocess.size, key

    def _from_images(self, outputs: tuple[str, ...]) -> ov.Model:
        """A model of images ``[B, H, W, C]`` and, if an output is a gradient, of the wanted logits."""
        network = self.network
        spec, graph = network.model.preprocess, network.graph
        channels, *size = spec.shape
        images = ops.parameter([-1, *size, channels], np.dtype(spec.depth), name="images")
        wanted = ops.parameter([-1, network.model.scalars], np.float32, name="wanted")
        mean = np.array(spec.blank, np.float32).reshape(1, channels, 1, 1)
        std = np.array(spec.spread, np.float32).reshape(1, channels, 1, 1)
        floats = ops.convert(images, np.float32) if spec.depth == "uint8" else images
        pixels = ops.transpose(floats, ops.constant(np.array([0, 3, 1, 2])))
        pixels = ops.divide(ops.subtract(pixels, ops.constant(mean)), ops.constant(std))
        inputs = {PIXELS_INPUT: pixels.output(0)}
        parameters = [images]
        if not graph.of_wanted.isdisjoint(outputs):
            inputs[WANTED_INPUT] = wanted.output(0)
            parameters.append(wanted)
        return self.built(graph.part(tuple(inputs), outputs), inputs, parameters, network.weights)

    def built(
        self, part: Part, inputs: Mapping[str, Any], parameters: Sequence[Any], weights: Mapping[str, Array]
    ) -> ov.Model:
        """Build the OpenVINO model of a part."""
        outputs = aten_to_openvino.build(part, inputs, weights, bf16=self.bf16)
        results = []
        for name, output in zip(part.outputs, outputs, strict=True):
            if output.get_element_type() == ov.Type.bf16:
                output = ops.convert(output, np.float32).output(0)
            results.append(ops.result(output))
            results[-1].output(0).set_names({name})
        model = ov.Model(results, list(parameters), "pellucid")
        # Default names count the nodes of the process, so a second start would not find the cached model of the first.
        for number, node in enumerate(model.get_ordered_ops()):
            node.set_friendly_name(f"{node.get_type_name()}_{number}")
        return model

    def form(self, cores: Cores) -> tuple[int, int]:
        """The numbers of streams and of threads of a model for these cores."""
        single = min(self.slots, self._threads)
        return {"shared": (self.slots, self._threads), "whole": (1, self._threads), "exact": (single, single)}[cores]

    def compile(self, model: ov.Model, form: tuple[int, int], *, keep: bool = False) -> ov.CompiledModel:
        """Compile a model for the streams and threads in ``form``. ``keep``: store it in the cache folder, if any."""
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.bf16 else "f32",
            "NUM_STREAMS": form[0],
            "INFERENCE_NUM_THREADS": form[1],
            # With pinning, the calling thread and all threads that it starts would share one core.
            "ENABLE_CPU_PINNING": False,
            # Callers can name very many sets of layers. Storing all their models would fill the disk.
            "CACHE_DIR": str(self._cache) if keep and self._cache is not None else "",
        }
        with ThreadPoolExecutor(1, initializer=_lower_priority) as pool:  # OpenVINO's threads inherit it
            return pool.submit(self._core.compile_model, model, "CPU", options).result()


class Model:
    """An OpenVINO model, compiled on demand for each kind of ``Cores``."""

    def __init__(
        self, runtime: OpenVINORuntime, outputs: Sequence[str], build: Callable[[Sequence[Array]], ov.Model], keep: bool
    ) -> None:
        self._runtime, self._outputs, self._build, self._keep = runtime, outputs, build, keep
        self._compiled: dict[tuple[int, int], ov.CompiledModel] = {}
        self._lock = threading.Lock()
        self._own = _OwnRequests()
        self._whole: ov.InferRequest | None = None
        self._ended: float | None = None  # when the last pass ended, unless its activations are freed

    def free_if_idle(self) -> None:
        """Free the activations if no pass has ended for a while. The next pass allocates them again."""
        if self._ended is not None and time.monotonic() - self._ended > _IDLE_S:
            self._ended = None
            for compiled in list(self._compiled.values()):
                with suppress(RuntimeError):  # a pass is running
                    compiled.release_memory()

    def ready(self, cores: Cores) -> bool:
        """Whether the model has been compiled for these cores."""
        return self._runtime.form(cores) in self._compiled

    def compiled(self, cores: Cores, inputs: Sequence[Array] = ()) -> ov.CompiledModel:
        """The compiled model for these cores. Compiles it on the first call."""
        form = self._runtime.form(cores)
        with self._lock:
            if form not in self._compiled:
                self._compiled[form] = self._runtime.compile(self._build(inputs), form, keep=self._keep)
            return self._compiled[form]

    def __call__(self, inputs: Sequence[Array], cores: Cores) -> list[Array]:
        """Run one pass. The thread's next pass, or the next ``whole`` pass, overwrites the returned arrays."""
        request = self._request(cores, inputs)
        arrays = [np.require(array, requirements=("C", "W")) for array in inputs]  # referenced until the pass ends
        for number, array in enumerate(arrays):
            request.set_input_tensor(number, ov.Tensor(array, shared_memory=True))
        request.start_async()  # ``infer`` would wrap and copy every output
        request.wait()
        self._ended = time.monotonic()
        return [request.get_output_tensor(number).data for number in range(len(self._outputs))]

    def _request(self, cores: Cores, inputs: Sequence[Array]) -> ov.InferRequest:
        form = self._runtime.form(cores)
        if cores == "whole" and (form in self._compiled or not self._compiled):
            if self._whole is None:  # one such pass runs at a time, so threads share the request
                self._whole = self.compiled(cores, inputs).create_infer_request()
            return self._whole
        if cores == "whole":  # not compiled yet: use the shared model instead of waiting
            cores, form = "shared", self._runtime.form("shared")
        if form not in self._own.requests:
            self._own.requests[form] = self.compiled(cores, inputs).create_infer_request()
        return self._own.requests[form]


class _OwnRequests(threading.local):
    """Inference requests of the calling thread, by the form of their model."""

    def __init__(self) -> None:
        self.requests: dict[tuple[int, int], ov.InferRequest] = {}


class ModelCache:
    """An LRU cache of ``most`` models by key, and the pinned models, which are never evicted."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._models: OrderedDict[Hashable, Model] = OrderedDict()
        self._pinned: set[Hashable] = set()
        self._lock = threading.Lock()

    def known(self, key: Hashable) -> Model | None:
        """The model of this key, or None. Counts as a use."""
        with self._lock:
            model = self._models.get(key)
            if model is not None:
                self._models.move_to_end(key)
            return model

    def pin(self, key: Hashable) -> None:
        """Never evict the model of this key."""
        self._pinned.add(key)

    def get(self, key: Hashable, make: Callable[[bool], Model]) -> Model:
        """The model of this key, made by ``make(pinned)`` if it is missing. May evict the least recently used model."""
        with self._lock:
            model = self._models.get(key)
            if model is None:
                model = self._models[key] = make(key in self._pinned)
                unpinned = [each for each in self._models if each not in self._pinned]
                for oldest in unpinned[: max(0, len(unpinned) - self._most)]:
                    del self._models[oldest]
            self._models.move_to_end(key)
            others = [each for name, each in self._models.items() if name not in self._pinned and each is not model]
        for other in others:
            other.free_if_idle()
        return model


class OpenVINOHead:
    """See Head."""

    def __init__(self, runtime: OpenVINORuntime, value: Value) -> None:
        self._runtime = runtime
        self._draw: int | None = None
        self.inputs, self._to_logits, self._to_gradient = parts_behind(runtime.network, value)

    def logits(self, crossing: Sequence[Array], cores: Cores) -> Floats:
        return self._run(self._part(gradient=False), crossing, cores)

    def gradient(self, crossing: Sequence[Array], wanted: Floats, cores: Cores) -> Array:
        return self._run(self._part(gradient=True), (*crossing, wanted), cores)

    def shuffled(self, draw: int) -> OpenVINOHead:
        other = copy(self)
        other._draw = draw
        return other

    def ready(self, gradient: bool, cores: Cores) -> bool:
        return self._runtime.known(self._key(self._part(gradient)), cores)

    def prepare(self, gradient: bool, cores: Cores) -> None:
        wanted = [np.zeros((1, self._runtime.network.model.scalars), np.float32)] if gradient else []
        self._model(self._part(gradient)).compiled(cores, [*self._runtime.example(self.inputs), *wanted])

    def _part(self, gradient: bool) -> Part:
        part = self._to_gradient if gradient else self._to_logits
        assert part is not None  # callers have checked that the layer has a gradient
        return part

    def _key(self, part: Part) -> Hashable:
        return part.inputs, part.outputs, self._draw

    def _model(self, part: Part) -> Model:
        def build(inputs: Sequence[Array]) -> ov.Model:
            network = self._runtime.network
            weights = network.weights if self._draw is None else shuffled_weights(network, part, self._draw)
            parameters = [ops.parameter([-1, *array.shape[1:]], array.dtype) for array in inputs]
            values = {name: each.output(0) for name, each in zip(part.inputs, parameters, strict=True)}
            return self._runtime.built(part, values, parameters, weights)

        return self._runtime.model(self._key(part), part.outputs, build)

    def _run(self, part: Part, inputs: Sequence[Array], cores: Cores) -> Array:
        model = self._model(part)
        parts = [self._rows(inputs, start) for start in range(0, len(inputs[0]), _MOST_COPIES)]
        return np.concatenate([model(each, cores)[0].copy() for each in parts])

    @staticmethod
    def _rows(inputs: Sequence[Array], start: int) -> list[Array]:
        """The inputs of some copies of an image, from copy ``start``."""
        copies = len(inputs[0])
        return [
            each[start * (len(each) // copies) : (start + _MOST_COPIES) * (len(each) // copies)]
            if copies > _MOST_COPIES
            else each
            for each in inputs
        ]


def normalised(images: InputPixels, spec: PreprocessSpec) -> Floats:
    """Normalise images ``[B, H, W, C]`` to float32 pixels ``[B, C, H, W]``."""
    mean, std, low, high = (np.array(each, np.float32) for each in (spec.mean, spec.std, spec.low, spec.high))
    pixels: Floats = (((images.astype(np.float32) - low) / (high - low) - mean) / std).transpose(0, 3, 1, 2)
    return pixels


def _names(outputs: Sequence[str]) -> tuple[str, ...]:
    """The outputs of the model, sorted, so that their order does not matter. The pixels need no model."""
    return tuple(sorted({*outputs} - {PIXELS_INPUT}))


def _lower_priority() -> None:
    """Lower the priority of the calling thread and of the threads that it will start."""
    if sys.platform == "linux":  # on other systems niceness applies to the whole process
        niceness = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(niceness + _NICENESS, 19))
