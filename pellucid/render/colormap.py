"""Colour maps as look-up tables ``[levels, 3]`` uint8. The colours come from the cmap package."""

from __future__ import annotations

from functools import cache
from typing import Final

import cmap
import numpy as np

from pellucid.types import Pixels

_SOURCES: Final = {
    "viridis": "matplotlib:viridis",
    "magma": "matplotlib:magma",
    "inferno": "matplotlib:inferno",
    "cividis": "cividis:cividis",
    "turbo": "google:turbo",
    "jet": "matlab:jet",
    "coolwarm": "matplotlib:coolwarm",
    "gray": "matlab:gray",
}
NAMES: Final = tuple(_SOURCES)


@cache
def table(name: str, levels: int = 256) -> Pixels:
    """The colour map ``name`` (see NAMES), sampled at ``levels`` equal steps: ``[levels, 3]``. Raises KeyError."""
    colours = cmap.Colormap(_SOURCES[name])(np.linspace(0, 1, levels))
    return np.round(colours[:, :3] * 255).astype(np.uint8)
