"""Seeded networks cut at a layer: the evidence and the probes that methods take, in float64 (see tests.networks)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pellucid.explain.evidence import Evidence, Head, gather
from pellucid.explain.methods.probe import Probe
from tests.networks import images, network, traced


def pictures(count: int) -> Tensor:
    """As tests.networks.images, in float64."""
    return images(count, dtype=torch.float64)


def exact(name: str) -> nn.Module:
    """The network in float64."""
    return network(name, torch.float64)


def evidence(name: str, layer: str, pixels: Tensor, targets: list[list[int]]) -> list[Evidence]:
    """Of each image for its own classes."""
    net = traced(name, pixels.dtype)
    cut = net.cut(layer)
    with torch.no_grad():
        crossing = net.trunk(cut.inputs)(pixels)
        return gather(crossing, targets, Head(cut.inputs, cut.head, cut.linear))


def probe(
    name: str, layer: str, *, varied: str | None = None, linear: bool = True, dtype: torch.dtype = torch.float64
) -> Probe:
    """Of one image, for the classes 3 and 1; ``linear`` False runs a head of which the gradient would be known."""
    net = traced(name, dtype)
    cut = net.cut(varied or layer)
    with torch.no_grad():
        activation, *crossing = net.trunk((net.value(layer), *cut.inputs))(images(1, dtype=dtype))
    head = Head(cut.inputs, cut.head, cut.linear if linear else None)
    return Probe(activation[0], tuple(crossing), [3, 1], None, head, 8, lambda: False)
