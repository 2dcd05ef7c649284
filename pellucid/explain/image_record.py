"""One image of a batch: its plan, and its part of the ForwardRecord."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from pellucid.explain.evidence import Attended, Behind, Evidence, ForwardRecord, closed_form
from pellucid.explain.probe import Probe
from pellucid.explain.scalars import first_target_row, uncontrasted, wanted
from pellucid.explain.scores import Scores
from pellucid.network.spec import AttentionSpec
from pellucid.types import Floats, Plan, Prediction


@dataclass(frozen=True)
class ImageRecord:
    """One image's view of a ForwardRecord.

    ``number`` is the image's index in the batch. ``plan`` is settled (``scalars.settled``). ``void()`` is true once the
    caller has left. ``attention`` is the network's last attention.
    """

    number: int
    plan: Plan
    record: ForwardRecord
    scores: Scores
    void: Callable[[], bool]
    attention: AttentionSpec | None = None
    _gradients: dict[str, Floats] = field(default_factory=dict)

    @cached_property
    def wanted(self) -> Floats:
        """``scalars.wanted`` for this image: ``[R, classes]``."""
        return wanted(self.plan, self.record.output, self.record.logits.shape[1])

    @property
    def targets(self) -> tuple[int, ...]:
        """The classes that are explained."""
        return self.plan.targets

    def target(self, number: int) -> Prediction:
        """The scores of a target, by its number."""
        return self.scores.of(self.number, self.targets[number], self.plan.region(number), self.plan)

    def scored(self) -> tuple[Prediction, ...]:
        """The scores of the classes in ``Plan.scored``, each over the region of its number."""
        plan = self.plan
        return tuple(self.scores.of(self.number, index, plan.region(i), plan) for i, index in enumerate(plan.scored))

    def map(self, layer: str) -> Floats:
        """A layer's activation ``[C, h, w]``, or the normalised picture for PIXELS."""
        activation: Floats = self.record.maps[layer][self.number]
        return activation

    def behind(self, layer: str) -> Behind:
        """The network behind a layer, or the whole network behind PIXELS."""
        return self.record.behind(layer, self.number)

    def evidence(self, layer: str) -> Evidence:
        """The layer's activation, and its gradient for each target."""
        return Evidence(self.map(layer), self._gradient(layer)[: len(self.targets)])

    def uncontrasted_evidence(self, layer: str) -> Evidence:
        """The layer's activation, and its gradient for the first target without a contrast."""
        return Evidence(self.map(layer), first_target_row(self.plan, self._gradient(layer))[None])

    def probe(self, layer: str, varied: str) -> Probe:
        """A probe of all targets. The method may vary the value at ``varied``: a layer, or PIXELS."""
        rows = self.wanted[: len(self.targets)]
        return Probe(self.map(layer), self.map(varied), rows, self.behind(varied), self.plan.samples, self.void)

    def uncontrasted_probe(self, layer: str) -> Probe:
        """A probe of the first target without a contrast, which varies the layer's activation."""
        row = uncontrasted(self.plan, self.record.output, self.record.logits.shape[1])
        return Probe(self.map(layer), self.map(layer), row, self.behind(layer), self.plan.samples, self.void)

    def attended(self) -> Attended:
        """The attention matrices, and the gradients by them for each target if the plan needs them."""
        last, count = self.attention, len(self.targets)
        assert last is not None  # methods that need it are refused without it
        matrices = [each[self.number] for each in self.record.attentions]
        gradients = [each[self.number][:count] for each in self.record.attention_gradients]
        return Attended(matrices, gradients, last.extra, last.grid, last.read, count)

    def _gradient(self, layer: str) -> Floats:
        """``[R, C, h, w]``, or ``[R, C, 1, 1]`` if it is the same at every position."""
        linear = self.record.linear.get(layer)
        if linear is None:
            return self.record.gradients[layer][self.number]
        if layer not in self._gradients:
            self._gradients[layer] = closed_form(self.wanted, linear, self.record.maps[layer])
        return self._gradients[layer]
