"""Heat maps, and the importance of channels, of all images of a batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pellucid.explain import randomised
from pellucid.explain.evidence import Evidence, ForwardRecord, View, gather
from pellucid.explain.methods import METHODS, ProbingMethod, differentiated
from pellucid.explain.methods.fusion import fused
from pellucid.explain.methods.gradient import channel_weights
from pellucid.explain.methods.probe import GivenUpError, Probe
from pellucid.network.spec import PIXELS
from pellucid.types import Batch, Explanation, Floats, Heat, Importance, Plan, Prediction


@dataclass
class Heats:
    """For each of B images its explanations and the importance of channels, and which images were given up."""

    explanations: list[tuple[Explanation, ...]]
    importances: list[Importance | None]
    given_up: set[int] = field(default_factory=set)


def heats(
    record: ForwardRecord,
    batch: Batch,
    targets: list[list[int]],
    view: View,
    score: Callable[[int, int], Prediction],
) -> Heats:
    """What the plans of a batch ask for; ``score`` tells an image's class with its probability.

    One gradient at a layer serves all methods, and all images that ask for one there.
    """
    plans = batch.plans
    found = Heats([() for _ in plans], [None for _ in plans])
    void = batch.void or (lambda: False,) * len(plans)
    evidences = _evidences(record, plans, targets, view, void, found.given_up)
    for i, plan in enumerate(plans):
        if i in found.given_up:
            continue
        if plan.gates and plan.layer is not None and plan.edit is None:
            evidence = evidences[i][plan.layer]
            if plan.contrast is not None:  # the importance is the class's own
                head = view.heads[plan.layer]
                (evidence,) = gather(record.rows(head.inputs, [i]), [targets[i][:1]], head)
            weights = channel_weights(evidence)[0].float().cpu().numpy()
            found.importances[i] = Importance(score(i, targets[i][0]), plan.layer, weights)
        image = _Image(i, plan, targets[i], record, view, evidences[i], void[i])
        try:
            found.explanations[i] = image.explanations(score)
        except GivenUpError:
            found.given_up.add(i)
    return found


def _evidences(
    record: ForwardRecord,
    plans: Sequence[Plan],
    targets: list[list[int]],
    view: View,
    void: Sequence[Callable[[], bool]],
    given_up: set[int],
) -> list[dict[str, Evidence]]:
    """For each image its evidence by layer; each head is run once, on the images that ask for a gradient there.

    From the second head on those that became void meanwhile are left out, and put among those ``given_up``.
    """
    asking: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))  # value -> image -> its names
    for i, plan in enumerate(plans):
        for layer in differentiated(plan):
            asking[view.layers[layer]][i].append(layer)
    found: list[dict[str, Evidence]] = [{} for _ in plans]
    for number, images in enumerate(asking.values()):
        if number:
            given_up |= {i for i in images if void[i]()}
        images = {i: names for i, names in images.items() if i not in given_up}
        if not images:
            continue
        head = view.heads[next(iter(images.values()))[0]]
        crossing = record.rows(head.inputs, list(images))
        contrasts = [plans[i].contrast for i in images]
        evidences = gather(crossing, [targets[i] for i in images], head, contrasts)
        for (i, names), evidence in zip(images.items(), evidences, strict=True):
            found[i].update(dict.fromkeys(names, evidence))
    return found


@dataclass(frozen=True)
class _Image:
    """One image of a batch, and its evidence by layer."""

    number: int
    plan: Plan
    targets: list[int]
    record: ForwardRecord
    view: View
    evidence: dict[str, Evidence]
    void: Callable[[], bool]

    def explanations(self, score: Callable[[int, int], Prediction]) -> tuple[Explanation, ...]:
        """Map by map, and of each map target by target."""
        found = []
        for heat in self.plan.wanted:
            maps = [self._map(heat.method, layer) for layer in heat.layers]
            fuse = heat.fuse if len(maps) > 1 else None
            values = (fused(maps, fuse) if fuse else maps[0]).float().cpu().numpy()  # K h w
            random = self._random(heat)  # n K h w
            found += [
                Explanation(
                    score(self.number, index),
                    heat.layers,
                    heat.method,
                    values[k],
                    fuse,
                    self.plan.contrast,
                    None if random is None else random[:, k],
                )
                for k, index in enumerate(self.targets)
            ]
        return tuple(found)

    def _random(self, heat: Heat) -> Floats | None:
        """The maps ``[n, K, h, w]`` that random heads would have, of a method that takes Evidence."""
        method = METHODS[heat.method]
        if not self.plan.random_heads or isinstance(method, ProbingMethod):
            return None
        of_layers = []
        for layer in heat.layers:
            head = self.view.heads[layer]
            crossing = self.record.rows(head.inputs, [self.number])
            draws, contrast = self.plan.random_heads, self.plan.contrast
            found = randomised.maps(crossing, self.targets, contrast, head, method.heat, draws, self.void)
            if found is None:
                raise GivenUpError
            of_layers.append(found)
        drawn = [fused(maps, heat.fuse) if len(maps) > 1 else maps[0] for maps in zip(*of_layers, strict=True)]
        random: Floats = torch.stack(drawn).float().cpu().numpy()
        return random

    def _map(self, name: str, layer: str) -> Tensor:
        method = METHODS[name]
        if isinstance(method, ProbingMethod):
            return method.heat(self._probe(layer, PIXELS if method.spec.needs == "network forwards" else layer))
        if method.spec.needs == "gradient":
            return method.heat(self.evidence[layer])
        (activation,) = self.record.rows((self.view.layers[layer],), [self.number])
        return method.heat(Evidence(activation[0], activation.new_zeros(len(self.targets), 1, 1, 1)))

    def _probe(self, layer: str, varied: str) -> Probe:
        head = self.view.heads[varied]
        (activation,) = self.record.rows((self.view.layers[layer],), [self.number])
        crossing = self.record.rows(head.inputs, [self.number])
        return Probe(activation[0], crossing, self.targets, self.plan.contrast, head, self.plan.samples, self.void)
