"""``lite0`` as an architecture for a user's checkpoints: the network without gates, for any number of classes."""

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
    """The preprocessing of the published weights."""
    return PREPROCESS
