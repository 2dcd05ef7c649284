"""What may be asked, by route, as keyword arguments; the API docs of a server say what each means.

The names are those of ``service.api.options``, which a test compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

Part = Literal["predictions", "attention", "feature_maps", "grad_cam"]
Several = str | int | Sequence[str | int]


class Options(TypedDict, total=False):
    """Options of every route."""

    timeout_ms: int
    model: str


class PredictOptions(Options, total=False):
    """Options of /v1/predict."""

    top_k: int


class _Target(Options, total=False):
    target: Several
    layer: str


class AttentionOptions(_Target, total=False):
    """Options of /v1/attention."""

    effects: bool
    restore: str


class FeatureMapOptions(Options, total=False):
    """Options of /v1/feature-maps."""

    layers: str | Sequence[str]
    gates: str | Sequence[str]
    channels: int | Sequence[int]
    count: int
    colormap: str
    scale: Literal["channel", "layer"]
    columns: int
    tile: int


class GradCamOptions(_Target, total=False):
    """Options of /v1/grad-cam."""

    method: str
    signed: bool
    overlay: bool
    colormap: str
    alpha: float
    max_side: int
    trust: bool
    trust_steps: int
    trust_maps: int


class WhatIfOptions(PredictOptions, _Target, total=False):
    """Options of /v1/what-if."""

    gate: str
    mute: int | Sequence[int]
    keep: int | Sequence[int]
    scale: str | Sequence[str]
    rank: bool
    signed: bool
    max_side: int


class ExplainOptions(PredictOptions, AttentionOptions, FeatureMapOptions, GradCamOptions, total=False):
    """Options of /v1/explain: those of all its parts."""

    include: Part | Sequence[Part]
