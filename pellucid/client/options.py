"""What may be asked, by route, as keyword arguments; the API docs of a server say what each means.

The names are those of ``pellucid.parts.options``, which a test compares.
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
    provenance: bool


class PredictOptions(Options, total=False):
    """Options of /v1/predict."""

    top_k: int


class _Target(Options, total=False):
    target: Several


class _Gates(_Target, total=False):
    effects: bool
    restore: str


class AttentionOptions(_Gates, total=False):
    """Options of /v1/attention."""

    layer: str


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

    layer: str | Sequence[str]
    method: str | Sequence[str]
    fuse: Literal["mean", "max", "product"]
    against: Several
    against_weight: float
    samples: int
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

    layer: str
    gate: str
    mute: int | Sequence[int]
    keep: int | Sequence[int]
    scale: str | Sequence[str]
    rank: bool
    signed: bool
    max_side: int


class CompareOptions(PredictOptions, _Target, total=False):
    """Options of /v1/compare."""

    against_model: str
    layer: str
    against_layer: str
    method: str
    samples: int
    signed: bool
    colormap: str
    max_side: int


class ExplainOptions(PredictOptions, _Gates, FeatureMapOptions, GradCamOptions, total=False):
    """Options of /v1/explain: those of all its parts."""

    include: Part | Sequence[Part]
