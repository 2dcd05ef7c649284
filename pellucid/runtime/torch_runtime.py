"""Runs the graph with torch on a CUDA device or a CPU, operation by operation, without autograd."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy
from functools import cached_property, lru_cache
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from pellucid.network.file import CompiledNetwork, NetworkFileError, Value
from pellucid.network.graph import PIXELS_INPUT, WANTED_INPUT, WEIGHT, Batch, Dtype, Node, Part, Ref, walk
from pellucid.runtime.base import Cores, RuntimeInfo, parts_behind, shuffled_weights
from pellucid.runtime.cores import processor
from pellucid.types import Array, Floats, InputPixels

# Cached parts, one for each set of outputs. They share their weights.
_MOST_PARTS: Final = 64
# Cached heads. A head with shuffled weights holds a copy of them.
_MOST_HEADS: Final = 16
# Parallel batches on a CPU. Each holds its own activations in memory.
_MOST_SLOTS: Final = 4
# On a CPU a larger batch is no cheaper per image, because its activations fall out of the CPU caches.
_PAYING_BATCH: Final = {"cpu": 4, "cuda": 8}
# The allowed string arguments of operations: rounding modes and variants, never file names.
_TEXTS: Final = {"rounding_mode", "approximate", "reduce", "padding_mode", "mode"}
# Refused: random operations, and operations whose control flow depends on data.
_NOT_PLAIN: Final = (torch.Tag.nondeterministic_seeded, torch.Tag.data_dependent_output)
_NO_ARITHMETIC: Final = re.compile(
    "empty|resize|sym_|storage|sparse|nested|(?<!fake_)quantize|mkldnn|cudnn|pin_memory|from_file"
)
# The allowed operations with a leading underscore, besides torch's core and pointwise sets.
_ALLOWED_PRIVATE: Final = re.compile(
    "_(unsafe|safe|softmax|log_softmax|prelu|adaptive|upsample|fft|cdist|conj|weight_norm|linalg)"
)
# Products that compute the logits. They run in float32, because two logits can be closer than bfloat16 resolves.
_PRODUCTS: Final = {"aten.addmm.default", "aten.mm.default"}
_TOP: Final = "aten.argmax.default"
# torch refuses some views of tensors in another memory format. A reshape copies them and has the same numbers.
_INSTEAD: Final = {"aten.view.default": "aten.reshape.default"}


def build(
    part: Part,
    weights: Mapping[str, Array],
    device: torch.device,
    dtype: torch.dtype | None,
    constants: dict[tuple[str, bool], Tensor] | None = None,
) -> Callable[..., list[Tensor]]:
    """Build a function that maps the part's inputs to its outputs.

    ``dtype`` is the dtype of all floating-point numbers, except in a matrix product that is an output. None keeps the
    dtypes of the graph. ``constants`` caches values that depend on weights only; parts with the same weights share it.

    Raises NetworkFileError for an operation that torch does not have, or that is not plain arithmetic.
    """
    shared = {} if constants is None else constants

    def cast(value: Tensor) -> Tensor:
        return value.to(dtype) if dtype is not None and value.is_floating_point() else value

    steps: list[tuple[Node, Callable[..., Any]]] = []
    fixed: dict[str, Node] = {}
    for node in part.nodes:
        reads = node.refs
        follows_batch = any(isinstance(leaf, Batch) for leaf in node.leaves())
        if node.op == WEIGHT or (reads and fixed.keys() >= {*reads} and not follows_batch):
            fixed[node.name] = node
        else:
            steps.append((node, operation(node.op)))
    exact = {node.name for node, _ in steps if node.op in _PRODUCTS and node.name in part.outputs and dtype is not None}
    # The constants that are read, each with whether a float32 product reads it.
    read = {(name, node.name in exact) for node, _ in steps for name in node.refs if name in fixed}
    read |= {(name, False) for name in part.outputs if name in fixed}
    missing = read - shared.keys()
    computed = _computed(fixed, {name for name, _ in missing}, weights)
    for name, exactly in missing:
        value = (computed[name] if exactly else cast(computed[name])).to(device)
        value = value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value.contiguous()
        shared[name, exactly] = value
    last: dict[str, int] = {name: number for number, (node, _) in enumerate(steps) for name in node.refs}
    freed: dict[int, list[str]] = {}  # step number -> the values that no later step reads
    for name, number in last.items():
        if name not in part.outputs and name not in fixed:
            freed.setdefault(number, []).append(name)

    def operands(node: Node, found: Mapping[str, Any]) -> Mapping[str, Any]:
        if node.name in exact:
            return {name: shared[name, True] if name in fixed else found[name].float() for name in node.refs}
        if exact.isdisjoint(node.refs) or node.op == _TOP:  # choose the top class from float32 logits
            return found
        return {name: cast(found[name]) for name in node.refs}

    def run(*inputs: Tensor) -> list[Tensor]:
        found: dict[str, Any] = {name: shared[name, False] for name, exactly in read if not exactly}
        found |= zip(part.inputs, map(cast, inputs), strict=True)
        sizes = {of: len(found[name]) for of, name in part.batches.items() if name in found}
        for number, (node, function) in enumerate(steps):
            found[node.name] = _run(node, function, operands(node, found), sizes, None if node.name in exact else dtype)
            for name in freed.get(number, ()):
                del found[name]
        return [found[name] for name in part.outputs]

    return run


def _computed(fixed: dict[str, Node], names: set[str], weights: Mapping[str, Array]) -> dict[str, Tensor]:
    """The values named ``names``, which depend on weights only. ``fixed``: all such nodes, in order."""
    needed = set(names)
    for name in reversed(fixed):
        if name in needed:
            needed.update(fixed[name].refs)
    values: dict[str, Tensor] = {}
    for node in (node for name, node in fixed.items() if name in needed):
        values[node.name] = (
            torch.from_numpy(np.array(weights[node.args[0]]))
            if node.op == WEIGHT
            else _run(node, operation(node.op), values, {}, None)
        )
    return {name: values[name] for name in names}


@lru_cache(None)
def operation(name: str) -> Callable[..., Any]:
    """The function of an ATen operation. Raises NetworkFileError if it is unknown or not plain arithmetic."""
    if name == "aten.getitem.default":
        return lambda values, index: values[index]
    _, packet, overload = _INSTEAD.get(name, name).split(".")
    found = getattr(getattr(torch.ops.aten, packet, None), overload, None)
    if not isinstance(found, torch._ops.OpOverload):
        raise NetworkFileError(f"torch {torch.__version__} has no operation {name}")
    schema, tags = found._schema, {*found.tags}
    computes = all("Tensor" in str(each.type) for each in schema.returns) and any(
        "Tensor" in str(each.type) for each in schema.arguments
    )
    texts = {
        argument.name
        for argument in schema.arguments
        if str(argument.type).removeprefix("Optional[").rstrip("]") == "str"
    }
    private = (
        packet.startswith("_")
        and not _ALLOWED_PRIVATE.match(packet)
        and tags.isdisjoint((torch.Tag.core, torch.Tag.pointwise))
    )
    if (
        not computes
        or schema.is_mutable
        or texts - _TEXTS
        or private
        or not tags.isdisjoint(_NOT_PLAIN)
        or _NO_ARITHMETIC.search(packet)
    ):
        raise NetworkFileError(f"{name} is not an operation that a network may use")
    function: Callable[..., Any] = found
    return function


def _run(
    node: Node,
    function: Callable[..., Any],
    values: Mapping[str, Any],
    sizes: Mapping[str, int],
    dtype: torch.dtype | None,
) -> Any:
    def leaf(value: Any) -> Any:
        if isinstance(value, Ref):
            return values[value.name]
        if isinstance(value, Batch):
            return value.times * sizes[value.of]
        if not isinstance(value, Dtype):
            return value
        named: torch.dtype = getattr(torch, value.name)
        return dtype if dtype is not None and named.is_floating_point else named

    args = [_listed(walk(value, leaf)) for value in node.args]
    return function(*args, **{key: _listed(walk(value, leaf)) for key, value in node.kwargs.items()})


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def pick_device(name: str) -> torch.device:
    """The torch device. ``auto`` is CUDA if available, else the CPU. Raises ValueError for a missing device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"there is no device {name}: {torch.cuda.device_count()} CUDA devices were found")
    return device


def gains_by_bf16(device: torch.device) -> bool:
    """Whether torch is faster in bfloat16 here: CUDA devices and CPUs with native support."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


class TorchRuntime:
    """See Runtime. With ``bf16`` it computes in bfloat16. A pass always returns float32.

    On a CPU, parallel passes share the ``threads`` equally, and a single pass uses all of them. Passes on separate
    cores are faster than threads of one pass, which wait for each other at every layer.
    """

    runs_ahead = False  # a queued pass would compete for the same cores

    def __init__(
        self,
        network: CompiledNetwork,
        device: torch.device,
        *,
        bf16: bool = False,
        threads: int = 1,
        slots: int | None = None,
    ) -> None:
        """``slots``: by default one on a CUDA device, and one per thread on a CPU, at most four."""
        self.network = network
        self.slots = slots or (1 if device.type == "cuda" else min(threads, _MOST_SLOTS))
        self.paying_batch = _PAYING_BATCH.get(device.type, 8)
        self._device, self._threads = device, threads
        self._dtype = torch.bfloat16 if bf16 else None
        precision = ("int8+" if network.graph.rounded else "") + ("bf16" if bf16 else "fp32")
        description = f"torch {torch.__version__} on {device}, {precision}"
        self.info = RuntimeInfo("torch", str(device), precision, threads, description, _hardware(device))
        spec = network.model.preprocess
        fixed = set(network.manifest.buffers)  # may have any dtype
        kinds = (array.dtype for name, array in network.weights.items() if name not in fixed)
        kind = next((each for each in kinds if each.kind == "f"), np.dtype(np.float32))
        self.kind: torch.dtype = getattr(torch, kind.name)
        # The normalisation as one multiplication and one addition
        scale = torch.tensor([1 / each for each in spec.spread], dtype=self.kind, device=device)
        columns = zip(spec.mean, spec.std, spec.low, spec.high, strict=True)
        shifts = [-(low / (high - low) + mean) / std for mean, std, low, high in columns]
        shift = torch.tensor(shifts, dtype=self.kind, device=device)
        self._scale, self._shift = scale[:, None, None], shift[:, None, None]
        self._parts = lru_cache(_MOST_PARTS)(self._built)
        self.heads = lru_cache(_MOST_HEADS)(lambda value, draw: TorchHead(self, value, draw))
        self._constants: dict[tuple[str, bool], Tensor] = {}
        self._building = threading.Lock()
        self._stream: Any = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def at(self, network: CompiledNetwork) -> TorchRuntime:
        """See Runtime. Constants that do not follow the size are shared."""
        other, same = copy(self), set[str]()
        for name, node in network.graph.nodes.items():
            if node == self.network.graph.nodes.get(name) and same.issuperset(node.refs):
                same.add(name)
        other.network = network
        other._constants = {key: value for key, value in self._constants.items() if key[0] in same}
        other._parts = lru_cache(_MOST_PARTS)(other._built)
        other.heads = lru_cache(_MOST_HEADS)(lambda value, draw: TorchHead(other, value, draw))
        return other

    def run(
        self, images: InputPixels, wanted: Floats | None, outputs: Sequence[str], cores: Cores
    ) -> tuple[dict[str, Array], float]:
        pixels = torch.from_numpy(images)
        if self._stream is not None:
            pixels = pixels.pin_memory()  # makes the copy to the device asynchronous and faster
        names = tuple(sorted({*outputs} - {PIXELS_INPUT}))
        with self.computing(cores):
            moved = pixels.to(self._device, non_blocking=True).permute(0, 3, 1, 2)
            normalised = moved * self._scale + self._shift
            inputs = [normalised, *([] if wanted is None else [torch.from_numpy(wanted).to(self._device, self.kind)])]
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
        """Build a part for this device and precision."""
        constants = self._constants if weights is self.network.weights else None
        return build(part, weights, self._device, self._dtype, constants)

    def behind(self, value: Value) -> TorchHead:
        return self.heads(value, None)

    def ready(self, outputs: Sequence[str], cores: Cores) -> bool:
        """See Runtime: there is nothing to compile."""
        return True

    def prepare(self, outputs: Sequence[str], cores: Cores, keep: bool = False) -> None:
        """See Runtime."""

    @contextmanager
    def computing(self, cores: Cores) -> Iterator[None]:
        """Set threads, stream and algorithms for a pass that runs inside."""
        torch.set_num_threads(
            {"exact": 1, "whole": self._threads, "shared": max(1, self._threads // self.slots)}[cores]
        )
        # The runtime's own stream does not wait for other work on the device. For ``exact``, cuDNN uses only
        # deterministic algorithms.
        exact = torch.backends.cudnn.flags(benchmark=False, deterministic=True) if cores == "exact" else nullcontext()
        stream = torch.cuda.stream(self._stream) if self._stream is not None else nullcontext()
        with torch.inference_mode(), stream, exact:
            yield

    def array(self, value: Tensor) -> Array:
        """A value as a numpy array. bfloat16, which numpy lacks, becomes float32."""
        array: Array = (value.float() if value.dtype == torch.bfloat16 else value).cpu().numpy()
        return array

    def tensor(self, value: Array) -> Tensor:
        """An array as a tensor on the device."""
        return torch.from_numpy(np.ascontiguousarray(value)).to(self._device)


class TorchHead:
    """See Head."""

    def __init__(self, runtime: TorchRuntime, value: Value, draw: int | None) -> None:
        self._runtime, self._value = runtime, value
        self.inputs, self._to_logits, self._to_gradient = parts_behind(runtime.network, value)
        self._draw = draw

    @cached_property
    def _logits(self) -> Callable[..., list[Tensor]]:
        return self._built(self._to_logits)

    @cached_property
    def _gradient(self) -> Callable[..., list[Tensor]]:
        assert self._to_gradient is not None  # callers have checked that the layer has a gradient
        return self._built(self._to_gradient)

    def _built(self, part: Part) -> Callable[..., list[Tensor]]:
        network, draw = self._runtime.network, self._draw
        return self._runtime.built(part, network.weights if draw is None else shuffled_weights(network, part, draw))

    def logits(self, crossing: Sequence[Array], cores: Cores) -> Floats:
        with self._runtime.computing(cores):
            return self._runtime.array(self._logits(*map(self._runtime.tensor, crossing))[0])

    def gradient(self, crossing: Sequence[Array], wanted: Floats, cores: Cores) -> Array:
        with self._runtime.computing(cores):
            rows = self._runtime.tensor(wanted).to(self._runtime.kind)
            return self._runtime.array(self._gradient(*map(self._runtime.tensor, crossing), rows)[0])

    def shuffled(self, draw: int) -> TorchHead:
        return self._runtime.heads(self._value, draw)

    def ready(self, gradient: bool, cores: Cores) -> bool:
        """See Head: there is nothing to compile."""
        return True

    def prepare(self, gradient: bool, cores: Cores) -> None:
        """See Head."""


def _hardware(device: torch.device) -> str:
    """A description of the hardware and its libraries."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return f"{name}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"  # type: ignore[no-untyped-call]
    return f"{processor()}, {torch.backends.cpu.get_cpu_capability()}"
