"""Heat maps of several layers -> one, of the finest layer's resolution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pellucid.explain.evidence import stretched
from pellucid.resampling import upsample
from pellucid.types import Floats, Fusion


def fused(heats: Sequence[Floats], how: Fusion) -> Floats:
    """Maps ``[..., h, w]`` of several layers as one, 0 to 1, as large as the largest of them.

    Of each, what speaks for the class is stretched to 0 to 1 and enlarged (bilinear). ``mean`` is pytorch-grad-cam's
    way of taking several layers, ``max`` LayerCAM's (Jiang et al. 2021, sec. III), ``product`` keeps what all of them
    show, as Poly-CAM does between neighbouring layers (Englebert et al., arXiv 2204.13359).
    """
    height, width = max((heat.shape[-2:] for heat in heats), key=lambda size: size[0] * size[1])
    layers = np.stack([upsample(stretched(np.maximum(heat, 0)), width, height) for heat in heats])  # layers ... h w
    heat: Floats = layers.mean(0) if how == "mean" else layers.max(0) if how == "max" else layers.prod(0)
    return heat
