"""The graph under torch, on a CUDA device or a CPU: its operations one by one, and no autograd."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property, lru_cache
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
# Parts that are kept: one for each set of outputs that callers ask for together. They share their weights.
_KEPT: Final = 64
# Networks behind a cut that are kept. One whose weights are shuffled has weights of its own.
_KEPT_HEADS: Final = 16
# Batches that run side by side on a CPU. Each has its own activations in memory.
_MOST_SLOTS: Final = 4
# On a CPU an image costs as much in a batch of four as in one of eight, whose activations fall out of the caches.
_PAYING_BATCH: Final = {"cpu": 4, "cuda": 8}
# Text that an operation may be given: how it rounds, or which of its formulas it takes. A name of a file is none.
_TEXTS: Final = {"rounding_mode", "approximate", "reduce", "padding_mode", "mode"}
# By chance, or by what lies in memory.
_NOT_PLAIN: Final = (torch.Tag.nondeterministic_seeded, torch.Tag.data_dependent_output)
_NO_ARITHMETIC: Final = re.compile("empty|resize|sym_|storage|sparse|nested|quantize|mkldnn|cudnn|pin_memory|from_file")
# Of those that are torch's own, what networks and their gradients consist of, beside its core set.
_INNER: Final = re.compile(
    "_(unsafe|safe|softmax|log_softmax|prelu|adaptive|upsample|fft|cdist|conj|weight_norm|linalg)"
)
# What the logits come from: in single precision always, since two classes may be closer than bfloat16 can tell.
_PRODUCTS: Final = {"aten.addmm.default", "aten.mm.default"}
_TOP: Final = "aten.argmax.default"
# A view is refused of a tensor that lies otherwise in memory; a copy has the same numbers.
_INSTEAD: Final = {"aten.view.default": "aten.reshape.default"}


def build(
    part: Part,
    weights: Mapping[str, Array],
    device: torch.device,
    dtype: torch.dtype | None,
    constants: dict[tuple[str, bool], Tensor] | None = None,
) -> Callable[..., list[Tensor]]:
    """The part as a function of its inputs. ``dtype`` is that of all floating-point numbers, but for a matrix product
    that is an output; None leaves each its own.

    ``constants``: what parts of one graph, with the same weights, have computed from these alone; gains what this one
    computes. Raises NetworkFileError for an operation that torch does not have, or that is no plain arithmetic.
    """
    shared = {} if constants is None else constants

    def cast(value: Tensor) -> Tensor:
        return value.to(dtype) if dtype is not None and value.is_floating_point() else value

    steps: list[tuple[Node, Callable[..., Any]]] = []
    fixed: dict[str, Node] = {}
    for node in part.nodes:
        reads = node.refs()
        if node.op == WEIGHT or (reads and fixed.keys() >= {*reads} and not _follows_batch(node)):
            fixed[node.name] = node
        else:
            steps.append((node, operation(node.op)))
    exact = {node.name for node, _ in steps if node.op in _PRODUCTS and node.name in part.outputs and dtype is not None}
    # What is constant, and whether it is read by such a product.
    read = {(name, node.name in exact) for node, _ in steps for name in node.refs() if name in fixed}
    read |= {(name, False) for name in part.outputs if name in fixed}
    missing = read - shared.keys()
    computed = _computed(fixed, {name for name, _ in missing}, weights)
    for name, exactly in missing:
        value = (computed[name] if exactly else cast(computed[name])).to(device)
        value = value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value.contiguous()
        shared[name, exactly] = value
    last: dict[str, int] = {name: number for number, (node, _) in enumerate(steps) for name in node.refs()}
    over: dict[int, list[str]] = {}
    for name, number in last.items():
        if name not in part.outputs and name not in fixed:
            over.setdefault(number, []).append(name)

    def operands(node: Node, found: Mapping[str, Any]) -> Mapping[str, Any]:
        if node.name in exact:
            return {name: shared[name, True] if name in fixed else found[name].float() for name in node.refs()}
        if exact.isdisjoint(node.refs()) or node.op == _TOP:  # the top class is that of the exact logits
            return found
        return {name: cast(found[name]) for name in node.refs()}

    def run(*inputs: Tensor) -> list[Tensor]:
        found: dict[str, Any] = {name: shared[name, False] for name, exactly in read if not exactly}
        found |= zip(part.inputs, map(cast, inputs), strict=True)
        sizes = {of: len(found[name]) for of, name in part.batches.items() if name in found}
        for number, (node, function) in enumerate(steps):
            found[node.name] = _run(node, function, operands(node, found), sizes, None if node.name in exact else dtype)
            for name in over.get(number, ()):
                del found[name]
        return [found[name] for name in part.outputs]

    return run


def _computed(fixed: dict[str, Node], names: set[str], weights: Mapping[str, Array]) -> dict[str, Tensor]:
    """The values called ``names``, which follow from weights alone. ``fixed``: all such operations, in order."""
    needed = set(names)
    for name in reversed(fixed):
        if name in needed:
            needed.update(fixed[name].refs())
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
    """The function of an ATen operation. Raises NetworkFileError where it is unknown, or could do more than compute."""
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
    inner = (
        packet.startswith("_") and not _INNER.match(packet) and tags.isdisjoint((torch.Tag.core, torch.Tag.pointwise))
    )
    if (
        not computes
        or schema.is_mutable
        or texts - _TEXTS
        or inner
        or not tags.isdisjoint(_NOT_PLAIN)
        or _NO_ARITHMETIC.search(packet)
    ):
        raise NetworkFileError(f"{name} is no operation of a network")
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


def _follows_batch(node: Node) -> bool:
    """Whether one of its arguments is a multiple of the batch."""
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


def gains_by_bf16(device: torch.device) -> bool:
    """Whether torch is faster in bfloat16 here: on CUDA devices and CPUs that compute in it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


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
        fixed = set(network.manifest.buffers)  # constants among them, which may be of any type
        kinds = (array.dtype for name, array in network.weights.items() if name not in fixed)
        kind = next((each for each in kinds if each.kind == "f"), np.dtype(np.float32))
        self._kind = getattr(torch, kind.name)
        # (value / 255 - mean) / std as one multiplication and one addition
        scale = torch.tensor([1 / (255 * each) for each in spec.std], dtype=self._kind, device=device)
        shift = torch.tensor(
            [-mean / each for mean, each in zip(spec.mean, spec.std, strict=True)], dtype=self._kind, device=device
        )
        self._scale, self._shift = scale[:, None, None], shift[:, None, None]
        self._parts = lru_cache(_KEPT)(self._built)
        self._heads = lru_cache(_KEPT_HEADS)(lambda value, draw: TorchHead(self, value, draw))
        self._constants: dict[tuple[str, bool], Tensor] = {}
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
        constants = self._constants if weights is self.network.weights else None
        return build(part, weights, self._device, self._dtype, constants)

    def behind(self, value: Value) -> TorchHead:
        """See Runtime."""
        return self._heads(value, None)

    def shuffled(self, value: Value, draw: int) -> TorchHead:
        """See Head."""
        return self._heads(value, draw)

    def ready(self, outputs: Sequence[str], cores: Cores) -> bool:
        """See Runtime: there is nothing to compile."""
        return True

    def prepare(self, outputs: Sequence[str], cores: Cores, keep: bool = False) -> None:
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
        self.inputs, self._to_logits, self._to_gradient = parts_behind(runtime.network, value)
        self._draw = draw

    @cached_property
    def _logits(self) -> Callable[..., list[Tensor]]:
        return self._built(self._to_logits)

    @cached_property
    def _gradient(self) -> Callable[..., list[Tensor]]:
        assert self._to_gradient is not None  # whoever offers a layer's gradient has asked
        return self._built(self._to_gradient)

    def _built(self, part: Part) -> Callable[..., list[Tensor]]:
        network, draw = self._runtime.network, self._draw
        return self._runtime.built(part, network.weights if draw is None else shuffled_weights(network, part, draw))

    def logits(self, crossing: Sequence[Array], cores: Cores) -> Floats:
        """See Head."""
        with self._runtime.computing(cores):
            return self._runtime.array(self._logits(*map(self._runtime.tensor, crossing))[0])

    def gradient(self, crossing: Sequence[Array], wanted: Floats, cores: Cores) -> Array:
        """See Head."""
        with self._runtime.computing(cores):
            return self._runtime.array(self._gradient(*map(self._runtime.tensor, (*crossing, wanted)))[0])

    def shuffled(self, draw: int) -> TorchHead:
        """See Head."""
        return self._runtime.shuffled(self._value, draw)

    def ready(self, gradient: bool, cores: Cores) -> bool:
        """See Head: there is nothing to compile."""
        return True

    def prepare(self, gradient: bool, cores: Cores) -> None:
        """See Head."""


def _computes(device: torch.device) -> str:
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return f"{name}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"  # type: ignore[no-untyped-call]
    return f"{processor()}, {torch.backends.cpu.get_cpu_capability()}"
