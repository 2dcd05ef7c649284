"""``lite0`` as an architecture for checkpoints of one's own: the network without gates, with any number of classes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from pellucid.network.spec import PreprocessSpec

from ..lite0 import PREPROCESS, EfficientNetLite0


def blank(name: str, classes: int, arguments: dict[str, Any], keys: Collection[str]) -> nn.Module:
    """The network with random weights."""
    return EfficientNetLite0(classes, **arguments)


def preprocess(name: str) -> PreprocessSpec:
    """What the published weights were trained for."""
    return PREPROCESS
