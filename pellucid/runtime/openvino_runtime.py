"""The graph under OpenVINO, on x86 CPUs: each set of outputs that callers ask for together is a model of its own."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from pathlib import Path
from typing import Any, Final

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset15 as ops

from pellucid.network.file import CompiledNetwork, Value
from pellucid.network.graph import PIXELS_INPUT, WANTED_INPUT, Part
from pellucid.network.spec import PreprocessSpec
from pellucid.runtime import convert
from pellucid.runtime.base import Cores, Facts, parts_behind, shuffled_weights
from pellucid.runtime.cores import processor
from pellucid.runtime.turns import Turns
from pellucid.types import Floats, Pixels

log = logging.getLogger(__name__)

Array = NDArray[Any]

# Models that are kept: sets of outputs, and networks behind a cut. Each holds its weights as the processor wants them.
_KEPT: Final = 12
# Batches that run side by side. Each has its own activations in memory.
_MOST_SLOTS: Final = 4
# An image costs as much in a batch of four as in one of eight, whose activations fall out of the caches.
_PAYING_BATCH: Final = 4
# Copies of one image that go through a network behind a cut together: each has its activations in memory.
_MOST_COPIES: Final = 8
# How far OpenVINO's threads stand back (``nice``) from those that feed them: a network never lacks work for the want of
# a core to decode on, and batches come out larger.
_NICENESS: Final = 5


def has_bf16() -> bool:
    """Whether OpenVINO computes in bfloat16 on this CPU."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVINORuntime:
    """See Runtime.

    Which model computes a value depends on the set of outputs alone, so an answer never depends on what else was in
    the batch, not even by the rounding of bfloat16.
    """

    runs_ahead = True  # OpenVINO starts a pass that waits without asking Python

    def __init__(
        self, network: CompiledNetwork, *, bf16: bool, threads: int, cache: Path | None = None, slots: int | None = None
    ) -> None:
        """``cache`` is a folder that keeps compiled models between starts; None keeps none."""
        self.network = network
        self.slots = slots or min(threads, _MOST_SLOTS)
        self.paying_batch = _PAYING_BATCH
        self.bf16 = bf16
        self._threads = threads
        precision = "bf16" if bf16 else "fp32"
        description = f"OpenVINO {ov.__version__.partition('-')[0]} on cpu, {precision}"
        self.facts = Facts("openvino", "cpu", precision, threads, description, processor())
        self._core = ov.Core()
        self._cache = cache if cache is not None and _writable(cache) else None
        self._models = Kept(_KEPT)
        self._turns = Turns(self.slots)

    def run(
        self, images: Pixels, wanted: Floats | None, outputs: Sequence[str], cores: Cores
    ) -> tuple[dict[str, Array], float]:
        """See Runtime."""
        names = _names(outputs)
        inputs: list[Array] = [images, *([] if wanted is None else [wanted])]
        with self._turns.turn() as turn:
            found = dict(zip(names, self._of_images(names)(inputs, cores), strict=True))
        if PIXELS_INPUT in outputs:
            found[PIXELS_INPUT] = normalised(images, self.network.model.preprocess)
        return found, turn.waited_s

    def ready(self, outputs: Sequence[str], cores: Cores) -> bool:
        """See Runtime."""
        return self.known(_names(outputs), cores)

    def known(self, key: Hashable, cores: Cores) -> bool:
        """Whether the model of that key has been compiled for these cores."""
        model = self._models.known(key)
        return model is not None and model.ready(cores)

    def prepare(self, outputs: Sequence[str], cores: Cores, keep: bool = False) -> None:
        """See Runtime."""
        names = _names(outputs)
        if keep:
            self._models.pin(names)
        self._of_images(names).compiled(cores)

    def behind(self, value: Value) -> OpenVINOHead:
        """See Runtime."""
        return OpenVINOHead(self, value)

    def example(self, outputs: Sequence[str]) -> list[Array]:
        """Zeros of the shapes and types that the values of these nodes have for one image."""
        model = self._from_images(_names(outputs))
        found = []
        for name in outputs:
            if name == PIXELS_INPUT:
                found.append(np.zeros((1, 3, *self.network.model.preprocess.size), np.float32))
            else:
                sides = model.output(name).get_partial_shape()
                shape = [side.get_length() if side.is_static else 1 for side in sides]
                found.append(np.zeros(shape, model.output(name).get_element_type().to_dtype()))
        return found

    def _of_images(self, outputs: tuple[str, ...]) -> Model:
        return self.model(outputs, outputs, lambda _: self._from_images(outputs))

    def model(self, key: Hashable, outputs: Sequence[str], build: Callable[[Sequence[Array]], ov.Model]) -> Model:
        """The model of that key; ``build`` makes it of the first inputs, should it not be there."""
        return self._models.get(key, lambda keep: Model(self, outputs, build, keep))

    def _from_images(self, outputs: tuple[str, ...]) -> ov.Model:
        """uint8 images ``[B, H, W, 3]``, and where a gradient is among the outputs wanted logits -> the outputs."""
        network = self.network
        spec, graph = network.model.preprocess, network.graph
        images = ops.parameter([-1, *spec.size, 3], np.uint8, name="images")
        wanted = ops.parameter([-1, len(network.model.labels)], np.float32, name="wanted")
        mean = np.array([255 * each for each in spec.mean], np.float32).reshape(1, 3, 1, 1)
        std = np.array([255 * each for each in spec.std], np.float32).reshape(1, 3, 1, 1)
        pixels = ops.transpose(ops.convert(images, np.float32), ops.constant(np.array([0, 3, 1, 2])))
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
        """An OpenVINO model of a part."""
        outputs = convert.build(part, inputs, weights, bf16=self.bf16)
        results = []
        for name, output in zip(part.outputs, outputs, strict=True):
            if output.get_element_type() == ov.Type.bf16:
                output = ops.convert(output, np.float32).output(0)
            results.append(ops.result(output))
            results[-1].output(0).set_names({name})
        model = ov.Model(results, list(parameters), "pellucid")
        # By default a node is named by how many the process has made, so no start would find what another has kept.
        for number, node in enumerate(model.get_ordered_ops()):
            node.set_friendly_name(f"{node.get_type_name()}_{number}")
        return model

    def form(self, cores: Cores) -> tuple[int, int]:
        """How many streams a model has for these cores, and how many threads they share."""
        single = min(self.slots, self._threads)
        return {"shared": (self.slots, self._threads), "whole": (1, self._threads), "exact": (single, single)}[cores]

    def compile(self, model: ov.Model, form: tuple[int, int], *, keep: bool = False) -> ov.CompiledModel:
        """The model with so many streams and threads. ``keep``: in the cache, if there is one, for other starts."""
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.bf16 else "f32",
            "NUM_STREAMS": form[0],
            "INFERENCE_NUM_THREADS": form[1],
            # Pinned, the calling thread and all that it starts would share one core.
            "ENABLE_CPU_PINNING": False,
            # What callers ask for is any of very many sets of layers: their models would fill the disk.
            "CACHE_DIR": str(self._cache) if keep and self._cache is not None else "",
        }
        with ThreadPoolExecutor(1, initializer=_stand_back) as pool:  # the threads it starts are as nice as it is
            return pool.submit(self._core.compile_model, model, "CPU", options).result()


class Model:
    """An OpenVINO model, compiled for the cores that its passes ask for."""

    def __init__(
        self, runtime: OpenVINORuntime, outputs: Sequence[str], build: Callable[[Sequence[Array]], ov.Model], keep: bool
    ) -> None:
        self._runtime, self._outputs, self._build, self._keep = runtime, outputs, build, keep
        self._compiled: dict[tuple[int, int], ov.CompiledModel] = {}
        self._lock = threading.Lock()
        self._own = _OwnRequests()
        self._whole: ov.InferRequest | None = None

    def ready(self, cores: Cores) -> bool:
        """Whether a pass on these cores need not wait: one that is alone takes what its share would run on."""
        return bool(self._compiled) if cores != "exact" else self._runtime.form(cores) in self._compiled

    def compiled(self, cores: Cores, inputs: Sequence[Array] = ()) -> ov.CompiledModel:
        """The compiled model, compiled when it is first asked for."""
        form = self._runtime.form(cores)
        with self._lock:
            if form not in self._compiled:
                self._compiled[form] = self._runtime.compile(self._build(inputs), form, keep=self._keep)
            return self._compiled[form]

    def __call__(self, inputs: Sequence[Array], cores: Cores) -> list[Array]:
        """One pass. The outputs lie in memory that the next pass of the thread, or one with all cores, writes into."""
        request = self._request(cores, inputs)
        held = [np.require(array, requirements=("C", "W")) for array in inputs]  # OpenVINO does not hold them
        for number, array in enumerate(held):
            request.set_input_tensor(number, ov.Tensor(array, shared_memory=True))
        request.start_async()  # not by ``infer``, which wraps, and copies, every output
        request.wait()
        return [request.get_output_tensor(number).data for number in range(len(self._outputs))]

    def _request(self, cores: Cores, inputs: Sequence[Array]) -> ov.InferRequest:
        form = self._runtime.form(cores)
        if cores == "whole" and (form in self._compiled or not self._compiled):
            if self._whole is None:  # there is one such pass at a time, whatever its thread
                self._whole = self.compiled(cores, inputs).create_infer_request()
            return self._whole
        if cores == "whole":  # not compiled yet: that of a share of the cores need not wait for it
            form = self._runtime.form("shared")
        if form not in self._own.requests:
            self._own.requests[form] = self.compiled(cores, inputs).create_infer_request()
        return self._own.requests[form]


class _OwnRequests(threading.local):
    """The calling thread's requests, by the form of their model."""

    def __init__(self) -> None:
        self.requests: dict[tuple[int, int], ov.InferRequest] = {}


class Kept:
    """Models by key: those that are pinned, and so many of the others as were used last."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._models: OrderedDict[Hashable, Model] = OrderedDict()
        self._pinned: set[Hashable] = set()
        self._lock = threading.Lock()

    def known(self, key: Hashable) -> Model | None:
        """The model of that key, if it is there; it counts as used."""
        with self._lock:
            model = self._models.get(key)
            if model is not None:
                self._models.move_to_end(key)
            return model

    def pin(self, key: Hashable) -> None:
        """Keep the model of that key for good."""
        self._pinned.add(key)

    def get(self, key: Hashable, make: Callable[[bool], Model]) -> Model:
        """The model of that key, made if it is not there; then one that was not used for long may go."""
        with self._lock:
            model = self._models.get(key)
            if model is None:
                model = self._models[key] = make(key in self._pinned)
                loose = [each for each in self._models if each not in self._pinned]
                for each in loose[: max(0, len(loose) - self._most)]:
                    del self._models[each]
            self._models.move_to_end(key)
            return model


class OpenVINOHead:
    """See Head."""

    def __init__(self, runtime: OpenVINORuntime, value: Value) -> None:
        self._runtime = runtime
        self._draw: int | None = None
        self.inputs, self._to_logits, self._to_gradient = parts_behind(runtime.network, value)

    def logits(self, crossing: Sequence[Array], cores: Cores) -> Floats:
        """See Head."""
        return self._run(self._part(gradient=False), crossing, cores)

    def gradient(self, crossing: Sequence[Array], wanted: Floats, cores: Cores) -> Array:
        """See Head."""
        return self._run(self._part(gradient=True), (*crossing, wanted), cores)

    def shuffled(self, draw: int) -> OpenVINOHead:
        """See Head."""
        other = copy(self)
        other._draw = draw
        return other

    def ready(self, gradient: bool, cores: Cores) -> bool:
        """See Head."""
        return self._runtime.known(self._key(self._part(gradient)), cores)

    def prepare(self, gradient: bool, cores: Cores) -> None:
        """See Head."""
        classes = len(self._runtime.network.model.labels)
        wanted = [np.zeros((1, classes), np.float32)] if gradient else []
        self._model(self._part(gradient)).compiled(cores, [*self._runtime.example(self.inputs), *wanted])

    def _part(self, gradient: bool) -> Part:
        part = self._to_gradient if gradient else self._to_logits
        assert part is not None  # whoever offers a layer's gradient has asked
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
        """Some copies of an image, of each input its part; what has one row for all copies stays whole."""
        copies = len(inputs[0])
        return [
            each[start * (len(each) // copies) : (start + _MOST_COPIES) * (len(each) // copies)]
            if copies > _MOST_COPIES
            else each
            for each in inputs
        ]


def normalised(images: Pixels, spec: PreprocessSpec) -> Floats:
    """uint8 images ``[B, H, W, 3]`` -> the network's pixels ``[B, 3, H, W]``."""
    mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
    pixels: Floats = ((images.astype(np.float32) / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)
    return pixels


def _names(outputs: Sequence[str]) -> tuple[str, ...]:
    """Sorted, so that the order of asking makes no other model. The pixels need none."""
    return tuple(sorted({*outputs} - {PIXELS_INPUT}))


def _writable(folder: Path) -> bool:
    """Whether files can be kept in the folder, which is made if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        log.warning("compiled models are not kept, so each start takes longer: %s can't be written to", folder)
        return False


def _stand_back() -> None:
    """Let the calling thread, and those that it will start, stand back from the process's others."""
    if sys.platform == "linux":  # elsewhere a process has one niceness for all its threads
        niceness = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(niceness + _NICENESS, 19))
