"""Runs plans on a compiled network: finds the outputs that they need, runs the passes, and explains the results."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

import numpy as np

from pellucid.errors import Unexplainable
from pellucid.explain.batch import explain
from pellucid.explain.evidence import ForwardRecord
from pellucid.explain.methods import METHODS, attends, costly, differentiated, explained
from pellucid.explain.scalars import needs_logits, settled, wanted
from pellucid.explain.scores import Scores
from pellucid.network.file import CompiledNetwork, NetworkFileError, Value
from pellucid.network.graph import PIXELS_INPUT
from pellucid.network.spec import PIXELS, NetworkSpec
from pellucid.runtime.base import Cores, Head, Runtime, RuntimeInfo
from pellucid.types import Array, Batch, Floats, Outcome, Plan

_KNOWN_PLANS: Final = 4096
# Heads of one plan that are prepared: with the pass over the images, fewer than a runtime keeps.
_MOST_PREPARED: Final = 10
# Graphs of other sizes that are kept. Their models are in the runtime's cache.
_MOST_SIZES: Final = 32


@dataclass(frozen=True, slots=True)
class Pass:
    """The pass that a plan needs.

    ``outputs``: the graph nodes to compute. ``layers``: the layers whose values are read. ``rows``: the number of
    gradients per image, or 0. ``aimed``: the logits decide which gradients to compute, so a first pass computes the
    logits. ``lane``: plans of one lane need the same outputs, so they can share a batch at no extra cost.
    """

    outputs: tuple[str, ...]
    layers: frozenset[str]
    rows: int
    aimed: bool
    lane: str


class Engine:
    """One compiled network on one runtime.

    At most ``slots`` threads may call ``run`` at a time. One more may call it with a batch of a lane that ``queues``.
    """

    def __init__(self, network: CompiledNetwork, runtime: Runtime) -> None:
        self._at_size: OrderedDict[tuple[int, int], Engine] = OrderedDict()
        self._sizing = threading.Lock()
        self._network, self._runtime, self._value = network, runtime, network.value
        self._manifest = manifest = network.manifest
        self._output, self._scalars = manifest.model.output, manifest.model.scalars
        self._running = 0
        self._counting = threading.Lock()
        self._linear: Mapping[str, Floats] = {
            layer: network.weights[value.linear] for layer, value in manifest.values.items() if value.linear
        }
        default = manifest.network.default_layer
        self._gate_nodes = {gate.node for gate in manifest.gate_values.values()}
        self._gate_nodes |= {gate.node for gate in manifest.spatial_gate_values.values()}
        usual = {manifest.logits, *self._gate_nodes}
        usual |= {manifest.values[default].node} if default else set()
        maps = usual | {manifest.values[layer].node for layer in manifest.network.feature_layers}
        # Two output sets that most requests share: the usual outputs, and the same with the default feature maps. A
        # plan that needs some of a set computes all of it. So an image's class, gates and default map come from one
        # model and have the same bits whatever else is requested.
        self._shared = (("", tuple(sorted(usual))), ("maps", tuple(sorted(maps))))
        self._passes = lru_cache(_KNOWN_PLANS)(self._find_pass)
        self._heads_of = lru_cache(_KNOWN_PLANS)(self._find_heads)
        self._head = lru_cache(None)(lambda layer: runtime.behind(network.value(layer)))

    @property
    def network(self) -> NetworkSpec:
        """Layers, gates and defaults of the network."""
        return self._manifest.network

    @property
    def size(self) -> tuple[int, int]:
        """The network's own size of pixels (height, width)."""
        return self._manifest.model.preprocess.size

    @property
    def info(self) -> RuntimeInfo:
        """What runs the network: for readers, and to reproduce an answer."""
        return self._runtime.info

    @property
    def slots(self) -> int:
        """The number of batches that should run in parallel. More than one on a CPU, where each gets its own cores."""
        return self._runtime.slots

    @property
    def paying_batch(self) -> int:
        """The batch size above which an image gets no cheaper."""
        return self._runtime.paying_batch

    def queues(self, lane: str) -> bool:
        """Whether a batch of this lane can be queued in the runtime while all slots are busy."""
        return self._runtime.runs_ahead and lane.partition("@")[0] in (name for name, _ in self._shared)

    def lane(self, plan: Plan) -> str:
        """The lane of a plan. Plans of one lane need the same outputs, so they can share a batch at no extra cost.

        Raises Unexplainable if the plan needs a gradient that the network does not have.
        """
        if plan.size in (None, self.size):
            return self._pass(plan).lane
        pixels = plan.size[0] * plan.size[1] / (self.size[0] * self.size[1])
        return f"{self._pass(plan).lane}@{plan.size[0]}x{plan.size[1]} x{pixels:.3f}"

    def _of(self, plan: Plan) -> Engine:
        """The engine for the plan's size of pixels. Raises ValueError for a size that the network does not have."""
        if plan.size is None or plan.size == self.size:
            return self
        with self._sizing:
            if plan.size not in self._at_size:
                network = self._network.at(plan.size)
                self._at_size[plan.size] = Engine(network, self._runtime.at(network))
                if len(self._at_size) > _MOST_SIZES:
                    self._at_size.popitem(last=False)
            self._at_size.move_to_end(plan.size)
            return self._at_size[plan.size]

    def ready(self, plan: Plan) -> bool:
        """Whether a plan can run now, because the models that it needs have been compiled."""
        if plan.size not in (None, self.size):
            engine = self._at_size.get(plan.size)
            return engine is not None and engine.ready(replace(plan, size=None))
        cores: Cores = "exact" if plan.reproducible else "shared"
        passes = all(self._runtime.ready(outputs, cores) for outputs in self._sets(plan))
        return passes and all(
            self._drawn(layer, draw).ready(gradient, cores) for layer, gradient, draw in self._heads(plan)
        )

    def prepare(self, plan: Plan, alone: bool = False, keep: bool = False) -> None:
        """Compile the models that a plan needs: for parallel batches, or for a single batch if ``alone``.

        With ``keep`` the models are never evicted. Each model can take a second. This needs no slot.
        """
        if plan.size not in (None, self.size):
            self._of(plan).prepare(replace(plan, size=None), alone, keep)
            return
        cores: Cores = "exact" if plan.reproducible else "whole" if alone else "shared"
        for outputs in self._sets(plan):
            self._runtime.prepare(outputs, cores, keep)
        for layer, gradient, draw in self._heads(plan):
            if draw is None or not alone:  # random heads run once for each image: the form for parallel batches will do
                self._drawn(layer, draw).prepare(gradient, cores)

    def _sets(self, plan: Plan) -> list[tuple[str, ...]]:
        """The outputs of each pass over the images."""
        needed = self._pass(plan)
        return [needed.outputs, *([self._shared[0][1]] if needed.aimed else [])]

    def run(self, batch: Batch) -> list[Outcome]:
        """Run a batch whose plans are of one lane. Returns one outcome per image, in order.

        An outcome does not depend on the other images. If nobody waits for an image any more (Batch.void), its outcome
        may be one that was given up.
        """
        with self._counting:
            self._running += 1
            # If several images were queued, another thread would have taken some. So only a single image leaves cores
            # idle.
            alone = self._running == 1 and (len(batch.plans) == 1 or self.slots == 1)
        try:
            engine = self._of(batch.plans[0])
            cores: Cores = "whole" if alone else "shared"
            if batch.plans[0].reproducible:
                return [outcome for single in batch.singles() for outcome in engine._run(single, "exact")]
            return [outcome for part in self._parts(batch) for outcome in engine._run(part, cores)]
        finally:
            with self._counting:
                self._running -= 1

    def _parts(self, batch: Batch) -> Iterator[Batch]:
        """The batch in parts of as many pixels as the largest batch that pays, so that memory is bounded."""
        images, (height, width) = len(batch.plans), batch.pixels.shape[1:3]
        pixels = max(self.paying_batch, images) * self.size[0] * self.size[1]
        most = images if (height, width) == self.size else max(1, pixels // (height * width))
        for start in range(0, images, most):
            part = slice(start, start + most)
            yield Batch(batch.pixels[part], batch.plans[part], batch.void[part])

    def _run(self, batch: Batch, cores: Cores) -> list[Outcome]:
        started = time.perf_counter()
        batch, waited_s = self.aimed(batch, cores)
        record = self.record(batch, cores)
        record = replace(record, waited_s=record.waited_s + waited_s)
        infer_s = time.perf_counter() - started - record.waited_s
        return explain(record, batch, self.network, infer_s)

    def aimed(self, batch: Batch, cores: Cores) -> tuple[Batch, float]:
        """The batch with targets resolved by a first pass, if its plans are aimed, and the seconds that pass was
        queued.
        """
        if not self._pass(batch.plans[0]).aimed:
            return batch, 0.0
        values, waited_s = self._runtime.run(batch.pixels, None, self._shared[0][1], cores)
        scores = Scores.of_logits(values[self._manifest.logits], self._output)
        plans = tuple(settled(plan, scores, i) for i, plan in enumerate(batch.plans))
        return replace(batch, plans=plans), waited_s

    # -- the passes

    def record(self, batch: Batch, cores: Cores) -> ForwardRecord:
        """Run the pass of a batch. Returns every value that its plans need. The next pass may overwrite the arrays."""
        values, gradients, waited_s = self._values(batch, cores)
        return self._record(batch.plans, values, gradients, waited_s, cores)

    def _values(self, batch: Batch, cores: Cores) -> tuple[dict[str, Array], dict[str, list[Array]], float]:
        """The forward values by node, each ``[B, ...]``; a list of gradients per image by node; the seconds queued."""
        passes = [self._pass(plan) for plan in batch.plans]
        if len({each.outputs for each in passes}) > 1:
            raise ValueError("the plans of one batch must need the same outputs")
        outputs = passes[0].outputs
        if not passes[0].rows:
            values, waited_s = self._runtime.run(batch.pixels, None, outputs, cores)
            return values, {}, waited_s
        rows, waited_s = [self._rows(plan) for plan in batch.plans], 0.0
        backward = [name for name in outputs if name in self._network.graph.of_wanted]

        def corrected(gradients: Iterable[Array]) -> list[Array]:
            images = zip(batch.plans, gradients, rows, strict=True)
            return [_zero_for_zero(array, row) if plan.contrast else array for plan, array, row in images]

        if all(len(of_image) == 1 for of_image in rows):
            values, more_s = self._runtime.run(batch.pixels, np.concatenate(rows), outputs, cores)
            return values, {name: corrected(values[name][:, None]) for name in backward}, waited_s + more_s
        passed: list[dict[str, Array]] = []
        for number, of_image in enumerate(rows):  # one pass per image: the trunk once, then all classes in one batch
            copies = 1 if self._manifest.broadcasts else len(of_image)
            images = np.repeat(batch.pixels[number : number + 1], copies, 0)
            arrays, more_s = self._runtime.run(images, of_image, outputs, cores)
            waited_s += more_s
            outputs_of_image = {
                name: array if name in backward else _row(array, 0, copies) for name, array in arrays.items()
            }
            # The next pass overwrites the same memory.
            passed.append(
                outputs_of_image if len(rows) == 1 else {name: array.copy() for name, array in outputs_of_image.items()}
            )
        values = {name: _joined([of_pass[name] for of_pass in passed]) for name in outputs if name not in backward}
        return values, {name: corrected([of_pass[name] for of_pass in passed]) for name in backward}, waited_s

    def _rows(self, plan: Plan) -> Floats:
        """The weights of the logits whose gradients a plan needs. A row of zeros means the top class."""
        if not plan.targets and self._output.kind in ("softmax", "sigmoid"):
            return np.zeros((1, self._scalars), np.float32)
        return wanted(plan if plan.targets else replace(plan, targets=(0,)), self._output, self._scalars)

    def _record(
        self,
        plans: Sequence[Plan],
        values: Mapping[str, Array],
        gradients: Mapping[str, list[Array]],
        waited_s: float,
        cores: Cores,
    ) -> ForwardRecord:
        manifest, logits = self._manifest, values[self._manifest.logits]
        if logits.shape != (len(plans), self._scalars):
            raise NetworkFileError(
                f"{manifest.model.name} has {logits.shape[-1]} logits per image, but describes {self._scalars}"
            )
        layers = {layer for plan in plans for layer in self._pass(plan).layers}
        maps = {layer: self._value(layer).layout.to_map(values[self._value(layer).node]) for layer in layers}
        known = {layer: self._linear[layer] for layer in layers if layer in self._linear}

        def behind(layer: str, image: int) -> Behind:
            head = self._head(layer)
            crossing = [_row(values[name], image, len(plans)) for name in head.inputs]
            return Behind(head, self._value(layer), crossing, self._linear.get(layer), manifest.broadcasts, cores)

        return ForwardRecord(
            logits=logits,
            maps=maps,
            gradients={
                layer: [value.layout.to_map(rows) for rows in gradients[value.gradient or ""]]
                for layer in layers
                if (value := self._value(layer)).gradient in gradients and layer not in known
            },
            gates={
                gate: values[value.node].reshape(len(plans), -1)
                for gate, value in manifest.gate_values.items()
                if value.node in values
            },
            gate_gradients={
                gate: [rows.reshape(len(rows), -1) for rows in gradients[value.gradient or ""]]
                for gate, value in manifest.gate_values.items()
                if value.gradient in gradients
            },
            behind=behind,
            linear=known,
            output=self._output,
            waited_s=waited_s,
            spatial_gates={
                gate.layer: values[node].reshape(len(plans), *gate.shape[1:])
                for gate in manifest.network.spatial_gates
                if (node := manifest.spatial_gate_values[gate.layer].node) in values
            },
            **self._attention(values, gradients),
        )

    def _attention(self, values: Mapping[str, Array], gradients: Mapping[str, list[Array]]) -> dict[str, Any]:
        """The fields of a ForwardRecord for the attentions. A matrix without an axis of heads gets one."""
        found = [(self._manifest.attention_values[each.name], each.heads) for each in self.network.attentions]

        def by_heads(matrix: Array, heads: int) -> Array:
            return matrix.reshape(-1, heads, *matrix.shape[-2:])

        return {
            "attentions": [by_heads(values[nodes.node], heads) for nodes, heads in found if nodes.node in values],
            "attention_gradients": [
                [by_heads(rows, heads) for rows in gradients[nodes.gradient or ""]]
                for nodes, heads in found
                if nodes.gradient in gradients
            ],
        }

    # -- what plans need

    def _pass(self, plan: Plan) -> Pass:
        return self._passes(plan.without_arrays)

    def _heads(self, plan: Plan) -> tuple[tuple[str, bool, int | None], ...]:
        return self._heads_of(plan.without_arrays)

    def _drawn(self, layer: str, draw: int | None) -> Head:
        """The head behind a layer, or its random ``draw``."""
        return self._head(layer) if draw is None else self._head(layer).shuffled(draw)

    def _layers(self, plan: Plan) -> frozenset[str]:
        """The layers whose values a plan reads. PIXELS is one of them if the whole network is run again."""
        layers = {*explained(plan), *(tap.layer for tap in plan.taps if not tap.gate)}
        sides = {*plan.restore, *(tap.layer for tap in plan.taps if tap.gate)}
        for gate in self.network.gates:
            if gate.layer in sides:
                layers |= {gate.before, gate.after}
        return frozenset(layers)

    def _varied(self, plan: Plan) -> Iterator[tuple[str, bool]]:
        """The layers behind which methods run the network again, each with whether they need its gradient."""
        for method, layer in costly(plan):
            spec = METHODS[method].spec
            if spec.needs != "activation" and not spec.of_attention:
                yield PIXELS if spec.needs == "network forwards" else layer, spec.needs == "gradients"

    def _cut_at(self, plan: Plan) -> set[str]:
        """The layers whose heads a plan runs."""
        layers = {gate.after for gate in self.network.gates if gate.layer in plan.restore}
        layers |= {layer for layer, _ in self._varied(plan)}
        if plan.edit is not None and plan.layer is not None:
            layers.add(plan.layer)
        if plan.random_heads:
            layers |= {layer for layer in differentiated(plan) if layer not in self._linear}
        return layers

    def _find_heads(self, plan: Plan) -> tuple[tuple[str, bool, int | None], ...]:
        """The heads that a plan runs: the layer, True for the gradient or False for the logits, and the random draw.

        Empty if a runtime could not keep them all: preparing some would evict others.
        """
        uses = {(gate.after, False) for gate in self.network.gates if gate.layer in plan.restore}
        uses |= {(layer, gradient) for layer, gradient in self._varied(plan) if layer not in self._linear}
        if plan.edit is not None and plan.layer is not None:
            uses |= {(plan.layer, False), (plan.layer, True)}
        heads: list[tuple[str, bool, int | None]] = [
            (layer, gradient, None) for layer, gradient in sorted(uses) if not gradient or layer not in self._linear
        ]
        for layer in differentiated(plan) if plan.random_heads else ():
            if layer not in self._linear:
                heads += [(layer, True, draw) for draw in range(plan.random_heads)]
        return tuple(heads) if len(heads) <= _MOST_PREPARED else ()

    def _require_gradients(self, plan: Plan) -> None:
        """Raise Unexplainable if a plan needs a gradient at a layer or gate that has none."""
        manifest = self._manifest
        layers = {*differentiated(plan), *(layer for layer, gradient in self._varied(plan) if gradient)}
        layers |= {plan.layer} if plan.edit is not None and plan.layer is not None else set()
        missing = [layer for layer in layers - {*self._linear} if self._value(layer).gradient is None]
        if plan.effects and plan.gates:
            missing += [name for name, gate in manifest.gate_values.items() if gate.gradient is None]
        if attends(plan)[1]:
            missing += [name for name, nodes in manifest.attention_values.items() if nodes.gradient is None]
        if missing:
            limits = [
                limit.partition(": ")[2].rstrip(".") for limit in manifest.limits if "that need a gradient" in limit
            ]
            apart = "no module around it returns the tokens of its block, whose score LeGrad takes"
            of_attention = min(missing) in manifest.attention_values
            why = limits[0] if limits else apart if of_attention else "the logits do not follow it"
            raise Unexplainable(f"There is no gradient at {min(missing)!r}: {why}.")

    def _find_pass(self, plan: Plan) -> Pass:
        manifest = self._manifest
        self._require_gradients(plan)
        layers = self._layers(plan)
        nodes = {manifest.logits, *(self._value(layer).node for layer in layers)}
        if plan.gates or any(tap.gate for tap in plan.taps):
            nodes |= self._gate_nodes
        matrices, by_matrices = attends(plan)
        nodes |= {each.node for each in manifest.attention_values.values()} if matrices else set()
        for layer in self._cut_at(plan):
            nodes.update(self._head(layer).inputs)
        wanted_gradients = [self._value(layer).gradient for layer in differentiated(plan) if layer not in self._linear]
        wanted_gradients += (
            [gate.gradient for gate in manifest.gate_values.values()] if plan.effects and plan.gates else []
        )
        wanted_gradients += [each.gradient for each in manifest.attention_values.values()] if by_matrices else []
        gradients = {name for name in wanted_gradients if name is not None}
        nodes |= gradients
        shared = next(((name, outputs) for name, outputs in self._shared if nodes <= {*outputs, PIXELS_INPUT}), None)
        outputs = tuple(sorted(nodes)) if shared is None else shared[1]
        outputs += (PIXELS_INPUT,) if PIXELS_INPUT in nodes and PIXELS_INPUT not in outputs else ()
        aimed = bool(gradients) and needs_logits(plan, self._output)
        # With a contrast, gates also need the gradient of the class alone.
        rows = (
            max(1, len(plan.targets)) + (plan.changes_the_scalar and (plan.gates or plan.effects)) if gradients else 0
        )
        lane = [shared[0] if shared is not None else "+".join(outputs)]
        lane += [f"*{_rounded_up(rows)}"] * (rows > 1) + ["aimed"] * aimed
        lane += self._extra_passes(plan) + ["reproducible"] * plan.reproducible
        return Pass(outputs, layers, rows, aimed, ",".join(filter(None, lane)))

    def _extra_passes(self, plan: Plan) -> list[str]:
        """A name for each kind of head pass. Plans without it stay in other lanes, so they do not wait for it."""
        targets = _rounded_up(len(plan.targets))
        passes = []
        for method, layer in costly(plan):
            several = f"*{targets}*{_rounded_up(plan.samples)}" if METHODS[method].spec.needs == "gradients" else ""
            passes.append(f"{method}@{self._value(layer).node}{several}")
        if plan.random_heads and any(layer not in self._linear for layer in differentiated(plan)):
            passes.append(f"random*{plan.random_heads}")
        if plan.edit is not None and plan.layer is not None:
            passes.append(f"what-if {self._value(plan.layer).node}{' ranked' * plan.edit.ranked}")
        return [*passes, *plan.restore]


@dataclass(frozen=True)
class Behind:
    """See explain.evidence.Behind. A head, and the values that cross its cut for one image, each ``[1, ...]``."""

    head: Head
    value: Value
    crossing: Sequence[Array]
    linear: Floats | None
    broadcasts: bool
    cores: Cores

    def logits(self, maps: Floats) -> Floats:
        return self.head.logits(self._crossing(maps), self.cores)

    def gradients(self, maps: Floats, wanted: Floats) -> Floats:
        crossing, layout = self._crossing(maps), self.value.layout
        if len(maps) == 1 and self.broadcasts:
            return _zero_for_zero(layout.to_map(self.head.gradient(crossing, wanted, self.cores))[:, None], wanted)
        found = [self.head.gradient(crossing, np.repeat(row[None], len(maps), 0), self.cores) for row in wanted]
        return _zero_for_zero(np.stack([layout.to_map(each) for each in found]), wanted)

    def shuffled(self, draw: int) -> Behind:
        return Behind(self.head.shuffled(draw), self.value, self.crossing, self.linear, self.broadcasts, self.cores)

    def _crossing(self, maps: Floats) -> list[Array]:
        first, *others = self.crossing
        copies = [np.tile(each, (len(maps), *[1] * (each.ndim - 1))) for each in others]
        return [self.value.layout.from_map(maps, first), *copies]


def _zero_for_zero(gradients: Array, wanted: Floats) -> Array:
    """``gradients``, set to 0 where the row of ``wanted`` is all zeros, as for a class in contrast to itself.

    The graph computes the top class's gradient for such a row.
    """
    zero = ~wanted.any(1)
    if zero.any():
        gradients = gradients.copy()
        gradients[zero] = 0
    return gradients


def _row(values: Array, image: int, images: int) -> Array:
    """The rows ``[m, ...]`` of one image in a value ``[B * m, ...]``."""
    rows = len(values) // images
    return values[image * rows : (image + 1) * rows]


def _joined(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _rounded_up(count: int) -> int:
    """The next power of two, at least 1."""
    return 1 << (max(1, count) - 1).bit_length()
