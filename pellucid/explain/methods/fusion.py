"""Fuses the heat maps of several layers into one, at the resolution of the finest layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pellucid.explain.evidence import min_max_scaled
from pellucid.resampling import upsample
from pellucid.types import Floats, Fusion


def fused(heat_maps: Sequence[Floats], how: Fusion) -> Floats:
    """Fuse the maps ``[..., h, w]`` of several layers into one map, 0 to 1, as large as the largest of them.

    The positive part of each map is scaled to 0 to 1 and enlarged (bilinear). Then ``how`` combines them:

    - ``mean``: as pytorch-grad-cam combines layers
    - ``max``: as LayerCAM does (Jiang et al. 2021, sec. III)
    - ``product``: keeps what all layers mark: RefineCAM before its last stretch (arXiv 2605.14641)
    """
    height, width = max((heat.shape[-2:] for heat in heat_maps), key=lambda size: size[0] * size[1])
    scaled = [min_max_scaled(np.maximum(heat, 0)) for heat in heat_maps]
    layers = np.stack([upsample(heat, width, height) for heat in scaled])  # layers ... h w
    heat: Floats = layers.mean(0) if how == "mean" else layers.max(0) if how == "max" else layers.prod(0)
    return heat
