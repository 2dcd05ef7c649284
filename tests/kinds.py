"""A small network with seeded weights of each kind of output other than classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

import pellucid
from pellucid.network.spec import OutputKind

LABELS: Final = ["sky", "leaf", "stone", "fur"]
# What pellucid.compile is told of each.
KINDS: Final[dict[OutputKind, dict[str, Any]]] = {
    "sigmoid": {"labels": LABELS, "threshold": 0.45},
    "linear": {"labels": ["age", "height"], "units": ["years", "cm"]},
    "dense": {"labels": LABELS, "background": "sky"},
    "embedding": {},
}


def net(kind: OutputKind) -> nn.Module:
    torch.manual_seed(3)
    trunk = [nn.Conv2d(3, 8, 3, 2, 1), nn.SiLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.SiLU()]
    outputs = len(KINDS[kind].get("labels", range(6)))
    if kind == "dense":
        last = nn.Conv2d(12, outputs, 1)
        with torch.no_grad():
            last.weight.mul_(6)
        return nn.Sequential(*trunk, last)
    return nn.Sequential(*trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, outputs))


def compiled(kind: OutputKind, folder: Path) -> Path:
    """The file of the network, named by its kind."""
    path = folder / f"{kind}.pellucid"
    pellucid.compile(net(kind), path, size=64, output=kind, progress=False, **KINDS[kind])
    return path
