"""Feature maps of a tapped layer or of both sides of a gate: which channels, and what they are like."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from service.types import FeatureMaps, Tap


def of_layer(values: Tensor, tap: Tap) -> FeatureMaps:
    """The channels that a tap asks for of one image's layer ``[C, h, w]``.

    The strongest channels are those with the largest mean absolute activation, strongest first.
    """
    return _shown(values, tap, _chosen(values, tap), None)


def of_gate(before: Tensor, after: Tensor, tap: Tap) -> list[FeatureMaps]:
    """The same channels before a gate, after it, and after less before; by default those that it changed most."""
    difference = after - before
    channels = _chosen(difference, tap)
    return [
        _shown(before, tap, channels, "before"),
        _shown(after, tap, channels, "after"),
        _shown(difference, tap, channels, "difference"),
    ]


def _chosen(values: Tensor, tap: Tap) -> list[int]:
    if tap.channels:
        return list(tap.channels)
    strength = values.abs().mean((1, 2))  # C
    chosen: list[int] = strength.topk(min(tap.count, len(strength))).indices.tolist()
    return chosen


def _shown(
    values: Tensor, tap: Tap, channels: list[int], side: Literal["before", "after", "difference"] | None
) -> FeatureMaps:
    """Chosen where the tensor lies, so that only what is shown leaves the device."""
    shown = values[channels].float()  # n h w
    return FeatureMaps(
        layer=tap.layer,
        shape=(values.shape[0], values.shape[1], values.shape[2]),
        channels=tuple(channels),
        values=shown.cpu().numpy(),
        mean=shown.mean((1, 2)).cpu().numpy(),
        max=shown.amax((1, 2)).cpu().numpy(),
        zeros=(shown == 0).mean((1, 2), dtype=torch.float32).cpu().numpy(),
        side=side,
    )
