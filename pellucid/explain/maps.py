"""Feature maps of a tapped layer or of both sides of a gate: which channels, and what they are like."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pellucid.types import FeatureMaps, Tap

Side = Literal["before", "after", "difference"]


def of_layer(values: Tensor, tap: Tap) -> list[list[FeatureMaps]]:
    """The channels that a tap asks for of a layer ``[B, C, h, w]``, for each image.

    The strongest channels are those with the largest mean absolute activation, strongest first.
    """
    return [[maps] for maps in _shown(values, tap, _chosen(values, tap), None)]


def of_gate(before: Tensor, after: Tensor, tap: Tap) -> list[list[FeatureMaps]]:
    """The same channels before a gate, after it, and after less before; by default those that it changed most."""
    difference = after - before
    channels = _chosen(difference, tap)
    sides: tuple[tuple[Tensor, Side], ...] = ((before, "before"), (after, "after"), (difference, "difference"))
    found = [_shown(values, tap, channels, side) for values, side in sides]
    return [list(of_image) for of_image in zip(*found, strict=True)]


def _chosen(values: Tensor, tap: Tap) -> Tensor:
    """Channels ``[B, n]``."""
    if tap.channels:
        return torch.tensor(tap.channels, device=values.device).expand(len(values), -1)
    strength: Tensor = torch.linalg.vector_norm(values, 1, (2, 3))  # a sum: in one pass, with no copy of the map
    return strength.topk(min(tap.count, values.shape[1])).indices


def _shown(values: Tensor, tap: Tap, channels: Tensor, side: Side | None) -> list[FeatureMaps]:
    """Chosen where the tensor lies, so that only what is shown leaves the device. All images at once."""
    images = torch.arange(len(values), device=values.device)[:, None]
    shown = values[images, channels].float()  # B n h w
    means, peaks = shown.mean((2, 3)).cpu().numpy(), shown.amax((2, 3)).cpu().numpy()
    zeros = (shown == 0).mean((2, 3), dtype=torch.float32).cpu().numpy()
    maps = shown.cpu().numpy()
    return [
        FeatureMaps(
            layer=tap.layer,
            shape=(values.shape[1], values.shape[2], values.shape[3]),
            channels=tuple(chosen),
            values=maps[image],
            mean=means[image],
            max=peaks[image],
            zeros=zeros[image],
            side=side,
        )
        for image, chosen in enumerate(channels.tolist())
    ]
