"""A picture that the network sees in several tiles: the plan of each tile, and the outcomes merged into one.

- Probabilities, logits, values, weights of gates and channels, and effects are the mean over the tiles.
- An embedding is the mean of the tiles' embeddings, scaled to length 1.
- Heat maps, feature maps and the weights of positions are stitched on the picture's grid. Where tiles overlap, a value
  is the mean of the tiles', each weighted by its distance to the tile's nearest edge, across times down.
- The explained score is a mean over the tiles, so a heat map is then multiplied by a tile's share of the picture: the
  cells of one tile / the cells of the picture. If n tiles do not overlap, the share is 1/n, and the map's sum is the
  mean of the tiles' sums. If they do, it is a mean in which each cell counts once, by the weights above. Maps in units
  of the activation do not grow with the score, and are not multiplied.
- A segmentation has at each position the class of the tile whose edge is farthest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pellucid.errors import InvalidOption
from pellucid.explain.feature_maps import of_gate, of_layer
from pellucid.explain.methods import METHODS
from pellucid.explain.methods.fusion import fused
from pellucid.network.spec import ModelSpec, NetworkSpec, OutputSpec
from pellucid.types import (
    ACTIVATION_UNITS,
    Explanation,
    FeatureMaps,
    Floats,
    GateReading,
    MapSpec,
    Outcome,
    Plan,
    Prediction,
    TargetMap,
    Tiling,
    WhatIf,
)

# More than any network has classes.
_ALL: Final = 2**20
# Of the feature maps of all tiles of a picture.
_MOST_NUMBERS: Final = 2**25


def needs_class(plan: Plan) -> bool:
    """Whether the plan explains the most probable class, which all tiles together decide."""
    return not (plan.targets or plan.regions) and bool(plan.wanted or plan.layer or plan.effects or plan.restore)


def predicting(plan: Plan) -> Plan:
    """The plan of each tile that decides the class of a plan that ``needs_class``."""
    return Plan(top_k=_ALL, reproducible=plan.reproducible, size=plan.size)


def with_class(plan: Plan, outcomes: Sequence[Outcome]) -> Plan:
    """The plan with the class of the largest mean probability. ``outcomes`` are of ``predicting``."""
    excluded = plan.contrast.against if plan.contrast else ()
    found = _predictions([outcome.predictions for outcome in outcomes])
    return replace(plan, targets=(next((each for each in found if each.index not in excluded), found[0]).index,))


def of_tile(plan: Plan, network: NetworkSpec, spec: ModelSpec, tiling: Tiling) -> Plan:
    """The plan of each tile: all classes, all channels of feature maps, the maps of layers before they are fused.

    Raises InvalidOption if these channels have too many numbers.
    """
    heat_maps = (MapSpec(heat.method, (layer,)) for heat in plan.heat_maps for layer in heat.layers)
    shapes = {gate.layer: gate.shape for gate in network.gates}
    taps, numbers = [], 0.0
    area = math.prod(tiling.tile) / math.prod(spec.preprocess.size)
    for tap in plan.taps:
        channels, height, width = shapes[tap.layer] if tap.gate else network.by_name[tap.layer].shape
        taps.append(tap if tap.channels else replace(tap, channels=tuple(range(channels))))
        numbers += len(taps[-1].channels) * height * width * area * (3 if tap.gate else 1)
    if numbers * len(tiling.corners) > _MOST_NUMBERS:
        raise InvalidOption(
            f"layers: The strongest channels are those of all {len(tiling.corners)} tiles, and all channels of these "
            "layers are too large together. Name the `channels`, or ask for fewer or deeper layers."
        )
    return replace(plan, top_k=_ALL, taps=tuple(taps), heat_maps=tuple(heat_maps))


def merged(outcomes: Sequence[Outcome], plan: Plan, tiling: Tiling, output: OutputSpec) -> Outcome:
    """The outcome of ``plan`` for the picture, from those of its tiles by ``of_tile(plan)``."""
    first = outcomes[0]
    segmentation = None
    if first.segmentation is not None:
        segmentation = _segmentation([outcome.segmentation for outcome in outcomes], tiling)
        predictions = _shares(outcomes, segmentation, output)
    else:
        predictions = _predictions([outcome.predictions for outcome in outcomes])
    embedding = None
    if first.embedding is not None:
        mean = _mean([outcome.embedding for outcome in outcomes])
        embedding = mean / max(float(np.linalg.norm(mean)), 1e-12)
    likeness = None if embedding is None or plan.reference is None else float(embedding @ plan.reference.vector)
    merged = Outcome(
        predictions[: plan.top_k],
        tuple(_gate(readings) for readings in zip(*(outcome.gates for outcome in outcomes), strict=True)),
        _explanations(outcomes, plan, tiling, likeness),
        _feature_maps(outcomes, plan, tiling),
        max(outcome.infer_s for outcome in outcomes),
        max(outcome.explain_s for outcome in outcomes),
        scored=tuple(_target(each, likeness) for each in zip(*(outcome.scored for outcome in outcomes), strict=True)),
        embedding=embedding,
        segmentation=segmentation,
        spatial_gates=tuple(
            replace(each[0], weights=stitched([one.weights for one in each], tiling))
            for each in zip(*(outcome.spatial_gates for outcome in outcomes), strict=True)
        ),
    )
    if first.importance is not None:
        found = [outcome.importance for outcome in outcomes if outcome.importance is not None]
        target = _target([each.target for each in found], likeness)
        merged = replace(
            merged, importance=replace(found[0], target=target, weights=_mean([each.weights for each in found]))
        )
    if first.what_if is not None:
        edits = [outcome.what_if for outcome in outcomes if outcome.what_if is not None]
        merged = replace(merged, what_if=_what_if(edits, plan, tiling))
    return merged


def scores(outcomes: Sequence[Outcome], plan: Plan) -> tuple[Prediction, ...]:
    """``Outcome.scored`` of ``plan`` for the picture, from those of its tiles."""
    likeness = None
    if outcomes[0].embedding is not None and plan.reference is not None:
        mean = _mean([outcome.embedding for outcome in outcomes])
        likeness = float(mean @ plan.reference.vector) / max(float(np.linalg.norm(mean)), 1e-12)
    return tuple(_target(each, likeness) for each in zip(*(outcome.scored for outcome in outcomes), strict=True))


def stitched(values: Sequence[Floats], tiling: Tiling) -> Floats:
    """The maps ``[..., h, w]`` of the tiles as one ``[..., H, W]``, its cells of about the same size.

    A tile's values are taken at the middles of the cells, bilinear where these are not the middles of its own.
    """
    height, width = values[0].shape[-2:]
    down, across = _axis(tiling, 0, height), _axis(tiling, 1, width)
    found = np.zeros((*values[0].shape[:-2], down[0], across[0]), np.float32)
    for each, (top, left) in zip(values, tiling.corners, strict=True):
        rows, columns = down[1][top], across[1][left]
        part = columns.taken(rows.taken(each, -2), -1)
        found[..., rows.cells, columns.cells] += part * np.outer(rows.shares, columns.shares).astype(np.float32)
    return found


def _of_mean(heats: Sequence[Floats], tiling: Tiling) -> Floats:
    """The heat maps ``[..., h, w]`` of the tiles' scores as that of their mean: stitched, times a tile's share."""
    found = stitched(heats, tiling)
    share = math.prod(heats[0].shape[-2:]) / math.prod(found.shape[-2:])
    return found * np.float32(share)


@dataclass(frozen=True, slots=True)
class _Along:
    """The ``cells`` of the picture in one tile, along an axis.

    Each takes the tile's values ``below`` and ``above`` it, ``fraction`` of the way between, and counts by its share.
    """

    cells: slice
    below: NDArray[np.intp]
    above: NDArray[np.intp]
    fraction: Floats
    shares: NDArray[Any]

    def taken(self, values: Floats, axis: int) -> Floats:
        """The values at the cells."""
        fraction = self.fraction[:, None] if axis == -2 else self.fraction
        below, above = (values.take(places, axis) for places in (self.below, self.above))
        return np.asarray(below * (1 - fraction) + above * fraction, np.float32)


@lru_cache(256)
def _axis(tiling: Tiling, axis: int, given: int) -> tuple[int, dict[int, _Along]]:
    """The number of cells of the picture, and those of each tile by where it starts."""
    starts, at, distances = _places(tiling, axis, given)
    shares = distances / distances.sum(0)
    found = {}
    for start, places, share in zip(starts, np.clip(np.round(at, 9), 0, given - 1), shares, strict=True):
        inside = np.flatnonzero(share)
        cells = slice(int(inside[0]), int(inside[-1]) + 1)
        below = places[cells].astype(np.intp)
        fraction = (places[cells] - below).astype(np.float32)
        found[start] = _Along(cells, below, np.minimum(below + 1, given - 1), fraction, share[cells])
    return at.shape[1], found


def _places(tiling: Tiling, axis: int, given: int) -> tuple[list[int], NDArray[Any], NDArray[Any]]:
    """Where the cells of the picture are along an axis, in each tile that has ``given`` of them.

    Returns the starts of the tiles, the cells' middles ``[tiles, cells]`` by the tile's own, of which the first is 0,
    and their distances to the tile's nearest edge, 0 outside of it.
    """
    whole, tile = tiling.size[axis], tiling.tile[axis]
    starts = sorted({corner[axis] for corner in tiling.corners})
    cells = max(1, round(given * whole / tile))
    middles = (np.arange(cells) + 0.5) * whole / cells
    at = (middles[None] - np.array(starts)[:, None]) * given / tile - 0.5
    return starts, at, np.maximum(0, np.minimum(at + 0.5, given - 0.5 - at))


def _segmentation(values: Sequence[NDArray[np.uint8] | None], tiling: Tiling) -> NDArray[np.uint8]:
    by_corner = dict(zip(tiling.corners, values, strict=True))
    some = next(each for each in values if each is not None)
    axes = []
    for axis, given in enumerate(some.shape):
        starts, at, distances = _places(tiling, axis, given)
        best = distances.argmax(0)
        nearest = np.clip(np.rint(at[best, np.arange(at.shape[1])]), 0, given - 1).astype(np.intp)
        axes.append([(start, np.flatnonzero(best == number), nearest) for number, start in enumerate(starts)])
    found = np.zeros([len(axis[0][2]) for axis in axes], np.uint8)
    for top, rows, down in axes[0]:
        for left, columns, across in axes[1]:
            part = by_corner[top, left]
            assert part is not None  # all tiles have one
            found[np.ix_(rows, columns)] = part[np.ix_(down[rows], across[columns])]
    return found


def _shares(outcomes: Sequence[Outcome], segmentation: NDArray[np.uint8], output: OutputSpec) -> tuple[Prediction, ...]:
    """The classes by their share of the picture. The logit is the mean of the tiles', weighted by the shares there."""
    classes = output.shape[0]
    counts = np.bincount(segmentation.ravel(), minlength=max(classes, 2))
    shares = (counts if classes > 1 else counts[1:]) / segmentation.size
    found = []
    for index in np.argsort(-shares, kind="stable").tolist():
        there = [each for outcome in outcomes for each in outcome.predictions if each.index == index and each.share]
        if shares[index] > 0 and there:
            logit = np.average([each.logit for each in there], weights=[each.share or 0 for each in there])
            found.append(Prediction(index, None, float(logit), float(shares[index])))
    return tuple(found)


def _predictions(by_tile: Sequence[Sequence[Prediction]]) -> tuple[Prediction, ...]:
    """All classes by their mean probability, largest first; quantities in the network's order."""
    if not by_tile[0]:
        return ()
    probable = by_tile[0][0].probability is not None
    scores = np.zeros((2, len(by_tile), len(by_tile[0])))
    for number, found in enumerate(by_tile):
        places = [each.index for each in found]
        scores[0, number, places] = [each.logit for each in found]
        scores[1, number, places] = [each.probability or 0.0 for each in found]
    logits, probabilities = scores.mean(1)
    order = np.lexsort((-logits, -probabilities)) if probable else np.arange(len(logits))
    columns = order.tolist(), probabilities[order].tolist(), logits[order].tolist()
    return tuple(
        Prediction(index, probability if probable else None, logit)
        for index, probability, logit in zip(*columns, strict=True)
    )


def _target(found: Sequence[Prediction], likeness: float | None) -> Prediction:
    """The mean of one target's scores, or the similarity of the merged embedding."""
    if likeness is not None:
        return Prediction(found[0].index, None, likeness)
    probabilities = [each.probability for each in found if each.probability is not None]
    return Prediction(
        found[0].index,
        float(np.mean(probabilities)) if probabilities else None,
        float(np.mean([each.logit for each in found])),
    )


def _explanations(
    outcomes: Sequence[Outcome], plan: Plan, tiling: Tiling, likeness: float | None
) -> tuple[Explanation, ...]:
    by_layer = []
    for each in zip(*(outcome.explanations for outcome in outcomes), strict=True):
        stitch = stitched if METHODS[each[0].method].spec.unit == ACTIVATION_UNITS else _of_mean
        random = [one.randomised for one in each if one.randomised is not None]
        by_layer.append(
            replace(
                each[0],
                target=_target([one.target for one in each], likeness),
                heat=stitch([one.heat for one in each], tiling),
                randomised=stitch(random, tiling) if random else None,
            )
        )
    found: list[Explanation] = []
    targets = len(plan.targets)
    for heat in plan.wanted:
        count = targets * len(heat.layers)
        layers, by_layer = by_layer[:count], by_layer[count:]
        found += [_fused(layers[target::targets], heat) for target in range(targets)]
    return tuple(found)


def _fused(layers: Sequence[Explanation], heat: MapSpec) -> Explanation:
    first, *others = layers
    if not others:
        return first
    random = [each.randomised for each in layers if each.randomised is not None]
    return replace(
        first,
        layers=heat.layers,
        heat=fused([each.heat for each in layers], heat.fuse),
        fuse=heat.fuse,
        randomised=fused(random, heat.fuse) if random else None,
    )


def _feature_maps(outcomes: Sequence[Outcome], plan: Plan, tiling: Tiling) -> tuple[FeatureMaps, ...]:
    of_tiles = [*zip(*(outcome.maps for outcome in outcomes), strict=True)]
    found: list[FeatureMaps] = []
    for tap in plan.taps:
        sides, of_tiles = of_tiles[: 3 if tap.gate else 1], of_tiles[3 if tap.gate else 1 :]
        values = [stitched([one.values for one in each], tiling)[None] for each in sides]
        there = replace(tap, channels=tuple(range(len(tap.channels))))  # the tiles have no other channels
        maps = of_gate(values[0], values[1], there)[0] if tap.gate else of_layer(values[0], there)[0]
        count = sides[0][0].shape[0]
        found += [
            replace(each, shape=(count, *each.shape[1:]), channels=tap.channels or each.channels) for each in maps
        ]
    return tuple(found)


def _gate(readings: Sequence[GateReading]) -> GateReading:
    weights = _mean([each.weights for each in readings])
    effects, restored = ([getattr(each, name) for each in readings] for name in ("effects", "restored"))
    return replace(
        readings[0],
        weights=weights,
        ascending=np.argsort(weights, kind="stable"),
        effects=None if effects[0] is None else _mean(effects),
        restored=None if restored[0] is None else _mean(restored),
    )


def _what_if(edits: Sequence[WhatIf], plan: Plan, tiling: Tiling) -> WhatIf:
    def side(maps: Sequence[TargetMap]) -> TargetMap:
        # Of an embedding the mean of the tiles' similarities: the edited embeddings are not known.
        return TargetMap(_target([each.target for each in maps], None), _of_mean([each.heat for each in maps], tiling))

    ranking = edits[0].ranking
    if ranking is not None:
        names = ("muted", "gradient_weights", "gradient_activation", "gate_weights")
        ranking = replace(
            ranking,
            **{
                name: _mean([getattr(each.ranking, name) for each in edits])
                for name in names
                if getattr(ranking, name) is not None
            },
        )
    return replace(
        edits[0],
        before=_predictions([each.before for each in edits])[: plan.top_k],
        after=_predictions([each.after for each in edits])[: plan.top_k],
        targets=tuple(
            (side([one[0] for one in each]), side([one[1] for one in each]))
            for each in zip(*(edit.targets for edit in edits), strict=True)
        ),
        ranking=ranking,
    )


def _mean(values: Sequence[Any]) -> Floats:
    return np.asarray(np.mean(values, 0, np.float64), np.float32)
