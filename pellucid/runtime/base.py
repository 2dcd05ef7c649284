"""The seam behind which a runtime sits: images and wanted logits in, the values of a compiled network's graph out."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pellucid.network.file import CompiledNetwork, Value
from pellucid.network.graph import WANTED_INPUT, WEIGHT, Part
from pellucid.types import Floats, Pixels

Array = NDArray[Any]
# What a pass may use. ``shared``: its share of the cores, beside other passes. ``whole``: all of them, since it is
# alone. ``exact``: one thread, so that no sum is split by how many there are.
Cores = Literal["shared", "whole", "exact"]


@dataclass(frozen=True, slots=True)
class Facts:
    """``engine``, ``device`` and ``precision`` as the settings of these names take them; ``threads`` of the network;
    ``description`` for people to read."""

    engine: str
    device: str
    precision: str
    threads: int
    description: str
    processor: str


class Runtime(Protocol):
    """Runs one compiled network. Methods may be called from any thread; at most ``slots`` passes are run at a time.

    Arrays that a pass returns may lie in memory that the calling thread's next pass of the same outputs writes into.
    """

    facts: Facts
    slots: int
    paying_batch: int  # the largest batch that pays: in larger ones an image costs no less

    @property
    def runs_ahead(self) -> bool:
        """Whether a pass may be handed over while all slots are busy, to begin when the first is free."""
        ...

    def run(
        self, images: Pixels, wanted: Floats | None, outputs: Sequence[str], cores: Cores
    ) -> tuple[dict[str, Array], float]:
        """One pass: uint8 ``[B, H, W, 3]`` and weights of the logits ``[K, classes]`` -> the named nodes' values.

        A row of zeros in ``wanted`` stands for the top class. ``wanted`` may be None where no gradient is among the
        ``outputs``. With the values come the seconds in which the pass waited for others.
        """
        ...

    def behind(self, value: Value) -> Head:
        """The network behind a value, or behind its pixels. Built when it is first run."""
        ...

    def ready(self, outputs: Sequence[str], cores: Cores) -> bool:
        """Whether a pass with these outputs can begin at once."""
        ...

    def prepare(self, outputs: Sequence[str], cores: Cores, keep: bool = False) -> None:
        """Build what a pass with these outputs on these cores needs, and ``keep`` it for good; may take a second."""
        ...


class Head(Protocol):
    """The network behind a value. ``inputs`` are the nodes that cross the cut, the value's own first."""

    inputs: tuple[str, ...]

    def logits(self, crossing: Sequence[Array], cores: Cores) -> Floats:
        """The crossing values, each ``[n, ...]`` -> logits ``[n, classes]``, a fresh array."""
        ...

    def gradient(self, crossing: Sequence[Array], wanted: Floats, cores: Cores) -> Array:
        """The gradient by the value of ``wanted`` ``[n, classes]`` times the logits: as the value, a fresh array."""
        ...

    def shuffled(self, draw: int) -> Head:
        """The same with the numbers of each parameter in another order, which ``draw`` alone decides."""
        ...

    def ready(self, gradient: bool, cores: Cores) -> bool:
        """Whether ``gradient``, or else ``logits``, can begin at once."""
        ...

    def prepare(self, gradient: bool, cores: Cores) -> None:
        """Build what ``gradient``, or else ``logits``, needs on these cores; may take a second."""
        ...


def shuffled_weights(network: CompiledNetwork, part: Part, draw: int) -> Mapping[str, Array]:
    """The network's arrays with those of the part's parameters shuffled; norms keep their statistics."""
    fixed = set(network.manifest.buffers)
    names = {node.args[0] for node in part.nodes if node.op == WEIGHT} - fixed
    return {**network.weights, **{name: _shuffled(network.weights[name], name, draw) for name in names}}


def _shuffled(array: Array, name: str, draw: int) -> Array:
    chance = np.random.default_rng((draw, zlib.crc32(name.encode())))
    return chance.permutation(array.reshape(-1)).reshape(array.shape)


def parts_behind(network: CompiledNetwork, value: Value) -> tuple[tuple[str, ...], Part, Part | None]:
    """What crosses the cut at a value, the part behind it that leads to the logits, and the one that leads to the
    gradient by the value, where there is one."""
    graph, logits = network.graph, network.manifest.logits
    outputs = [logits, *([value.gradient] if value.gradient else [])]
    crossing = graph.crossing(value.node, outputs)
    gradient = graph.part((*crossing, WANTED_INPUT), (value.gradient,)) if value.gradient else None
    return crossing, graph.part(crossing, (logits,)), gradient
