"""Feature maps of a tapped layer: which channels, and what they are like."""

from __future__ import annotations

import torch
from torch import Tensor

from service.types import FeatureMaps, Tap


def select(values: Tensor, taps: list[Tap | None]) -> list[FeatureMaps | None]:
    """The channels that each of B images asks for of one layer ``[B, C, h, w]``; None for an image that does not ask.

    The strongest channels are those with the largest mean absolute activation, strongest first. They are chosen
    where the tensor lies, so that only what is shown leaves the device.
    """
    _, channels, height, width = values.shape
    flat = values.flatten(2).float()  # B C hw
    strength = flat.abs().mean(2)  # B C
    selected: list[FeatureMaps | None] = []
    for image, tap in enumerate(taps):
        if tap is None:
            selected.append(None)
            continue
        count = min(tap.count, channels)
        chosen = list(tap.channels) or strength[image].topk(count).indices.tolist()
        shown = flat[image, chosen]  # n hw
        selected.append(
            FeatureMaps(
                layer=tap.layer,
                shape=(channels, height, width),
                channels=tuple(chosen),
                values=shown.reshape(-1, height, width).cpu().numpy(),
                mean=shown.mean(1).cpu().numpy(),
                max=shown.amax(1).cpu().numpy(),
                zeros=(shown == 0).mean(1, dtype=torch.float32).cpu().numpy(),
            )
        )
    return selected
