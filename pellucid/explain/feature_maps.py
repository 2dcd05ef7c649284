"""Feature maps of a tapped layer or of both sides of a gate: which channels, and what they are like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from pellucid.explain.evidence import ForwardRecord
from pellucid.explain.scores import strongest
from pellucid.network.spec import GateSpec
from pellucid.types import FeatureMaps, Floats, Integers, Plan, Tap

Side = Literal["before", "after", "difference"]


def tapped(record: ForwardRecord, plans: Sequence[Plan], gates: Sequence[GateSpec]) -> list[tuple[FeatureMaps, ...]]:
    """Each image's feature maps, in the order in which its plan names layers and gates.

    Images that ask for the same are computed together.
    """
    by_name = {gate.layer: gate for gate in gates}
    found: list[dict[Tap, list[FeatureMaps]]] = [{} for _ in plans]
    for tap in dict.fromkeys(tap for plan in plans for tap in plan.taps):
        asking = [i for i, plan in enumerate(plans) if tap in plan.taps]
        if tap.gate:
            gate = by_name[tap.layer]
            of_images = of_gate(_rows(record, gate.before, asking), _rows(record, gate.after, asking), tap)
        else:
            of_images = of_layer(_rows(record, tap.layer, asking), tap)
        for i, of_image in zip(asking, of_images, strict=True):
            found[i][tap] = of_image
    return [tuple(each for tap in plan.taps for each in of_tap[tap]) for plan, of_tap in zip(plans, found, strict=True)]


def of_layer(values: Floats, tap: Tap) -> list[list[FeatureMaps]]:
    """The channels that a tap asks for of a layer ``[B, C, h, w]``, for each image.

    The strongest channels are those with the largest mean absolute activation, strongest first.
    """
    return [[maps] for maps in _shown(values, tap, _chosen(values, tap), None)]


def of_gate(before: Floats, after: Floats, tap: Tap) -> list[list[FeatureMaps]]:
    """The same channels before a gate, after it, and after less before; by default those that it changed most."""
    difference = after - before
    channels = _chosen(difference, tap)
    sides: tuple[tuple[Floats, Side], ...] = ((before, "before"), (after, "after"), (difference, "difference"))
    found = [_shown(values, tap, channels, side) for values, side in sides]
    return [list(of_image) for of_image in zip(*found, strict=True)]


def _rows(record: ForwardRecord, name: str, images: list[int]) -> Floats:
    values = record.maps[name]
    return values if len(images) == len(values) else values[images]


def _chosen(values: Floats, tap: Tap) -> Integers:
    """Channels ``[B, n]``."""
    if tap.channels:
        return np.tile(tap.channels, (len(values), 1))
    return strongest(_sums(np.abs(values)), tap.count)


def _sums(values: Floats) -> Floats:
    """Over the positions of each channel ``[B, C, h, w]``: ``[B, C]``. einsum takes a third of the time of ``sum``."""
    sums: Floats = np.einsum("bcp->bc", values.reshape(*values.shape[:2], -1))
    return sums


def _shown(values: Floats, tap: Tap, channels: Integers, side: Side | None) -> list[FeatureMaps]:
    """All images at once."""
    shown = values[np.arange(len(values))[:, None], channels]  # B n h w, a copy
    positions = values.shape[2] * values.shape[3]
    means, peaks = _sums(shown) / positions, shown.max((2, 3))
    zeros = _sums((shown == 0).astype(shown.dtype)) / positions
    return [
        FeatureMaps(
            layer=tap.layer,
            shape=(values.shape[1], values.shape[2], values.shape[3]),
            channels=tuple(chosen),
            values=shown[image],
            mean=means[image],
            max=peaks[image],
            zeros=zeros[image],
            side=side,
        )
        for image, chosen in enumerate(channels.tolist())
    ]
