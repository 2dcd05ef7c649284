"""The graph under torch, on a CUDA device or a CPU: its operations one by one, and no autograd."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.network.file import CompiledNetwork, NetworkFileError, Value
from pellucid.network.graph import PIXELS_INPUT, WANTED_INPUT, WEIGHT, Batch, Dtype, Node, Part, Ref, walk
from pellucid.runtime.base import Cores, Facts, parts_behind, shuffled_weights
from pellucid.runtime.cores import processor
from pellucid.types import Floats, Pixels

Array = NDArray[Any]
# Parts that are kept: one for each set of outputs that callers ask for together.
_KEPT: Final = 64
# Batches that run side by side on a CPU. Each has its own activations in memory.
_MOST_SLOTS: Final = 4
# On a CPU an image costs as much in a batch of four as in one of eight, whose activations fall out of the caches.
_PAYING_BATCH: Final = {"cpu": 4, "cuda": 8}
# Text that an operation may be given: how it rounds, or which of its formulas it takes. A name of a file is none.
_TEXTS: Final = {"rounding_mode", "approximate", "reduce", "padding_mode", "mode"}
# A view is refused of a tensor that lies otherwise in memory; a copy has the same numbers.
_INSTEAD: Final = {"aten.view.default": "aten.reshape.default"}


def build(
    part: Part, weights: Mapping[str, Array], device: torch.device, dtype: torch.dtype | None
) -> Callable[..., list[Tensor]]:
    """The part as a function of its inputs. ``dtype`` is that of all floating-point numbers; None leaves each its own.

    Raises NetworkFileError for an operation that torch does not have, or that is no plain arithmetic.
    """

    def cast(value: Tensor) -> Tensor:
        return value.to(dtype) if dtype is not None and value.is_floating_point() else value

    constants: dict[str, Tensor] = {}
    steps: list[tuple[Node, Callable[..., Any]]] = []
    arrays: dict[str, Tensor] = {}
    for node in part.nodes:
        if node.op == WEIGHT:
            array = torch.from_numpy(np.array(weights[node.args[0]]))
            arrays[node.name] = array
        elif node.refs() and all(name in arrays for name in node.refs()) and not _follows_batch(node):
            arrays[node.name] = _run(node, operation(node.op), arrays, {})
        else:
            steps.append((node, operation(node.op)))
    read = {name for node, _ in steps for name in node.refs()} | {*part.outputs}
    for name in read & arrays.keys():
        value = cast(arrays[name]).to(device)
        constants[name] = value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value.contiguous()
    last: dict[str, int] = {name: number for number, (node, _) in enumerate(steps) for name in node.refs()}
    over: dict[int, list[str]] = {}
    for name, number in last.items():
        if name not in part.outputs and name not in constants:
            over.setdefault(number, []).append(name)

    def run(*inputs: Tensor) -> list[Tensor]:
        found = constants | dict(zip(part.inputs, map(cast, inputs), strict=True))
        sizes = {of: len(found[name]) for of, name in part.batches.items() if name in found}
        for number, (node, function) in enumerate(steps):
            found[node.name] = _run(node, function, found, sizes)
            for name in over.get(number, ()):
                del found[name]
        return [found[name] for name in part.outputs]

    return run


@lru_cache(None)
def operation(name: str) -> Callable[..., Any]:
    """The function of an ATen operation. Raises NetworkFileError where it is not known, or does more than compute."""
    if name == "aten.getitem.default":
        return lambda values, index: values[index]
    _, packet, overload = _INSTEAD.get(name, name).split(".")
    try:
        found = getattr(getattr(torch.ops.aten, packet), overload)
    except AttributeError as error:
        raise NetworkFileError(f"torch {torch.__version__} has no operation {name}") from error
    schema = found._schema
    texts = {
        argument.name
        for argument in schema.arguments
        if str(argument.type).removeprefix("Optional[").rstrip("]") == "str"
    }
    if schema.is_mutable or texts - _TEXTS:
        raise NetworkFileError(f"{name} is no operation of a network")
    function: Callable[..., Any] = found
    return function


def _run(node: Node, function: Callable[..., Any], values: Mapping[str, Any], sizes: Mapping[str, int]) -> Any:
    def leaf(value: Any) -> Any:
        if isinstance(value, Ref):
            return values[value.name]
        if isinstance(value, Batch):
            return value.times * sizes[value.of]
        return getattr(torch, value.name) if isinstance(value, Dtype) else value

    args = [_listed(walk(value, leaf)) for value in node.args]
    return function(*args, **{key: _listed(walk(value, leaf)) for key, value in node.kwargs.items()})


def _follows_batch(node: Node) -> bool:
    found = False

    def leaf(value: Any) -> None:
        nonlocal found
        found |= isinstance(value, Batch)

    walk((node.args, tuple(node.kwargs.values())), leaf)
    return found


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU. Raises ValueError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"there is no device {name}: {torch.cuda.device_count()} CUDA devices were found")
    return device


class TorchRuntime:
    """See Runtime. ``bf16`` computes in bfloat16; what leaves a pass is fp32 always.

    On a CPU ``threads`` are shared out to as many passes as run at once: passes side by side, each on a core of its
    own, don't wait for one another layer by layer, as the threads of one pass do. One that is alone has them all.
    """

    runs_ahead = False  # a thread more would only share the cores of the others

    def __init__(
        self,
        network: CompiledNetwork,
        device: torch.device,
        *,
        bf16: bool = False,
        threads: int = 1,
        slots: int | None = None,
    ) -> None:
        """``slots``: by default one on a CUDA device, on a CPU as many as threads, four at most."""
        self.network = network
        self.slots = slots or (1 if device.type == "cuda" else min(threads, _MOST_SLOTS))
        self.paying_batch = _PAYING_BATCH.get(device.type, 8)
        self._device, self._threads = device, threads
        self._dtype = torch.bfloat16 if bf16 else None
        precision = "bf16" if bf16 else "fp32"
        description = f"torch {torch.__version__} on {device}, {precision}"
        self.facts = Facts("torch", str(device), precision, threads, description, _computes(device))
        spec = network.model.preprocess
        kind = next(
            (array.dtype for array in network.weights.values() if array.dtype.kind == "f"), np.dtype(np.float32)
        )
        self._kind = getattr(torch, kind.name)
        # (value / 255 - mean) / std as one multiplication and one addition
        scale = torch.tensor([1 / (255 * each) for each in spec.std], dtype=self._kind, device=device)
        shift = torch.tensor(
            [-mean / each for mean, each in zip(spec.mean, spec.std, strict=True)], dtype=self._kind, device=device
        )
        self._scale, self._shift = scale[:, None, None], shift[:, None, None]
        self._parts = lru_cache(_KEPT)(self._built)
        self._heads = lru_cache(_KEPT)(lambda value, draw: TorchHead(self, value, draw))
        self._building = threading.Lock()
        self._stream: Any = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def run(
        self, images: Pixels, wanted: Floats | None, outputs: Sequence[str], cores: Cores
    ) -> tuple[dict[str, Array], float]:
        """See Runtime."""
        pixels = torch.from_numpy(images)
        if self._stream is not None:
            pixels = pixels.pin_memory()  # else the copy would wait, and take longer
        names = tuple(sorted({*outputs} - {PIXELS_INPUT}))
        with self.computing(cores):
            moved = pixels.to(self._device, non_blocking=True).permute(0, 3, 1, 2)
            normalised = moved * self._scale + self._shift
            inputs = [normalised, *([] if wanted is None else [torch.from_numpy(wanted).to(self._device, self._kind)])]
            found = dict(zip(names, self._part(names, wanted is not None)(*inputs), strict=True))
            if PIXELS_INPUT in outputs:
                found[PIXELS_INPUT] = normalised
            return {name: self.array(value) for name, value in found.items()}, 0.0

    def _part(self, outputs: tuple[str, ...], wanted: bool) -> Callable[..., list[Tensor]]:
        with self._building:
            return self._parts(outputs, wanted)

    def _built(self, outputs: tuple[str, ...], wanted: bool) -> Callable[..., list[Tensor]]:
        inputs = (PIXELS_INPUT, WANTED_INPUT) if wanted else (PIXELS_INPUT,)
        return self.built(self.network.graph.part(inputs, outputs), self.network.weights)

    def built(self, part: Part, weights: Mapping[str, Array]) -> Callable[..., list[Tensor]]:
        """A part on this device in this precision."""
        return build(part, weights, self._device, self._dtype)

    def behind(self, value: Value) -> TorchHead:
        """See Runtime."""
        return self._heads(value, None)

    def shuffled(self, value: Value, draw: int) -> TorchHead:
        """See Head."""
        return self._heads(value, draw)

    def ready(self, outputs: Sequence[str]) -> bool:
        """See Runtime: there is nothing to compile."""
        return True

    def prepare(self, outputs: Sequence[str], keep: bool = False) -> None:
        """See Runtime."""

    @contextmanager
    def computing(self, cores: Cores) -> Iterator[None]:
        """What happens inside is a pass, or a part of one."""
        torch.set_num_threads(
            {"exact": 1, "whole": self._threads, "shared": max(1, self._threads // self.slots)}[cores]
        )
        # A stream of the runtime's own: nothing that runs beside it on the device is waited for. And where cuDNN could
        # choose an algorithm that adds in any order, it chooses another.
        exact = torch.backends.cudnn.flags(benchmark=False, deterministic=True) if cores == "exact" else nullcontext()
        stream = torch.cuda.stream(self._stream) if self._stream is not None else nullcontext()
        with torch.inference_mode(), stream, exact:
            yield

    def array(self, value: Tensor) -> Array:
        """A value as an array on the CPU; bfloat16, which numpy has not, as float32."""
        found: Array = (value.float() if value.dtype == torch.bfloat16 else value).cpu().numpy()
        return found

    def tensor(self, value: Array) -> Tensor:
        """The inverse."""
        return torch.from_numpy(np.ascontiguousarray(value)).to(self._device)


class TorchHead:
    """See Head."""

    def __init__(self, runtime: TorchRuntime, value: Value, draw: int | None) -> None:
        self._runtime, self._value = runtime, value
        self.inputs, logits, gradient = parts_behind(runtime.network, value)
        arrays = (
            runtime.network.weights if draw is None else shuffled_weights(runtime.network, gradient or logits, draw)
        )
        self._logits = runtime.built(logits, arrays)
        self._gradient = runtime.built(gradient, arrays) if gradient is not None else None

    def logits(self, crossing: Sequence[Array], cores: Cores) -> Floats:
        """See Head."""
        with self._runtime.computing(cores):
            return self._runtime.array(self._logits(*map(self._runtime.tensor, crossing))[0])

    def gradient(self, crossing: Sequence[Array], wanted: Floats, cores: Cores) -> Array:
        """See Head."""
        assert self._gradient is not None  # whoever offers a layer's gradient has asked
        with self._runtime.computing(cores):
            return self._runtime.array(self._gradient(*map(self._runtime.tensor, (*crossing, wanted)))[0])

    def shuffled(self, draw: int) -> TorchHead:
        """See Head."""
        return self._runtime.shuffled(self._value, draw)


def _computes(device: torch.device) -> str:
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return f"{name}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"  # type: ignore[no-untyped-call]
    return f"{processor()}, {torch.backends.cpu.get_cpu_capability()}"
