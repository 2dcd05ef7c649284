"""The protocol of a runtime: images and wanted logits in, values of a compiled network's graph out."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from pellucid.network.file import CompiledNetwork, Value
from pellucid.network.graph import WANTED_INPUT, WEIGHT, Part
from pellucid.types import Array, Floats, InputPixels

# Which cores a pass uses. ``shared``: an equal share, because other passes run beside it. ``whole``: all, because it
# runs alone. ``exact``: one thread, because the number of threads changes how sums are split and rounded.
Cores = Literal["shared", "whole", "exact"]


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """What runs a network. ``engine``, ``device`` and ``precision`` have the values of the settings of these names.

    ``threads`` is the number of threads of the network. ``description`` is a sentence for readers.
    """

    engine: str
    device: str
    precision: str
    threads: int
    description: str
    processor: str

    def as_json(self) -> dict[str, Any]:
        """What decides the exact bits of an answer, as JSON data for the provenance of a reply."""
        names = ("device", "precision", "threads", "processor")
        return {"name": self.engine, **{name: getattr(self, name) for name in names}}


class Runtime(Protocol):
    """Runs one compiled network. Any thread may call its methods. At most ``slots`` passes run at a time.

    The next pass of the same thread may overwrite the arrays that a pass returned.
    """

    info: RuntimeInfo
    slots: int
    paying_batch: int  # the batch size above which an image gets no cheaper

    @property
    def runs_ahead(self) -> bool:
        """Whether a pass can be queued in the runtime while all slots are busy."""
        ...

    def run(
        self, images: InputPixels, wanted: Floats | None, outputs: Sequence[str], cores: Cores
    ) -> tuple[dict[str, Array], float]:
        """Run one pass. Returns the values of the nodes ``outputs``, and the seconds for which the pass was queued.

        ``images`` is ``[B, H, W, C]``, of the depth that the network declares. ``wanted`` ``[K, classes]`` holds the
        weights of the logits whose gradients to compute; a row of zeros means the top class. It may be None if no
        output is a gradient.
        """
        ...

    def at(self, network: CompiledNetwork) -> Runtime:
        """A runtime of the same network at another size. It shares threads, slots and the memory for models."""
        ...

    def behind(self, value: Value) -> Head:
        """The head: the network behind a value, which may be the pixels. It is built when it first runs."""
        ...

    def ready(self, outputs: Sequence[str], cores: Cores) -> bool:
        """Whether a pass with these outputs can run without compiling anything."""
        ...

    def prepare(self, outputs: Sequence[str], cores: Cores, keep: bool = False) -> None:
        """Compile what a pass with these outputs needs, which can take a second. With ``keep`` it is never evicted."""
        ...


class Head(Protocol):
    """The network behind a value. ``inputs`` are the nodes that cross the cut: the value's node, then the others."""

    inputs: tuple[str, ...]

    def logits(self, crossing: Sequence[Array], cores: Cores) -> Floats:
        """Map the values that cross the cut, each ``[n, ...]``, to logits ``[n, classes]`` in a new array."""
        ...

    def gradient(self, crossing: Sequence[Array], wanted: Floats, cores: Cores) -> Array:
        """The gradient of ``(wanted * logits).sum()`` at the value, in a new array. ``wanted``: ``[n, classes]``."""
        ...

    def shuffled(self, draw: int) -> Head:
        """A copy of the head with the numbers of each parameter shuffled. ``draw`` is the seed."""
        ...

    def ready(self, gradient: bool, cores: Cores) -> bool:
        """Whether ``gradient`` (or ``logits``, if false) runs without compiling."""
        ...

    def prepare(self, gradient: bool, cores: Cores) -> None:
        """Compile what ``gradient`` (or ``logits``, if false) needs, for up to a second."""
        ...


def shuffled_weights(network: CompiledNetwork, part: Part, draw: int) -> Mapping[str, Array]:
    """The network's arrays, with the parameters of ``part`` shuffled. Norms keep their statistics."""
    fixed = set(network.manifest.buffers)
    names = {node.args[0] for node in part.nodes if node.op == WEIGHT} - fixed
    return {**network.weights, **{name: _shuffled(network.weights[name], name, draw) for name in names}}


def _shuffled(array: Array, name: str, draw: int) -> Array:
    generator = np.random.default_rng((draw, zlib.crc32(name.encode())))
    return generator.permutation(array.reshape(-1)).reshape(array.shape)


def parts_behind(network: CompiledNetwork, value: Value) -> tuple[tuple[str, ...], Part, Part | None]:
    """The nodes that cross the cut at a value, the part that computes the logits from them, and the part that computes
    the gradient at the value, or None.
    """
    graph, logits = network.graph, network.manifest.logits
    outputs = [logits, *([value.gradient] if value.gradient else [])]
    crossing = graph.unrounded.crossing(value.node, outputs)
    gradient = graph.part((*crossing, WANTED_INPUT), (value.gradient,)) if value.gradient else None
    return crossing, graph.part(crossing, (logits,)), gradient
