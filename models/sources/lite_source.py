"""``lite0`` and ``lite2`` as architectures for a user's checkpoints: without gates, for any number of classes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from pellucid.network.spec import PreprocessSpec

from ..lite0 import VARIANTS, EfficientNetLite


def blank(name: str, classes: int, arguments: dict[str, Any], keys: Collection[str]) -> nn.Module:
    """The network with random weights."""
    return EfficientNetLite(classes, VARIANTS[name], **arguments)


def preprocess(name: str) -> PreprocessSpec:
    """The preprocessing of the published weights."""
    return VARIANTS[name].preprocess
