"""Heat maps of several layers -> one, of the finest layer's resolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pellucid.types import Fusion


def fused(heats: Sequence[Tensor], how: Fusion) -> Tensor:
    """Maps ``[K, h, w]`` of several layers as one, 0 to 1, as large as the largest of them.

    Of each, what speaks for the class is stretched to 0 to 1 and enlarged (bilinear). ``mean`` is pytorch-grad-cam's
    way of taking several layers, ``max`` LayerCAM's (Jiang et al. 2021, sec. III), ``product`` keeps what all of them
    show, as Poly-CAM does between neighbouring layers (Englebert et al., arXiv 2204.13359).
    """
    height, width = max((heat.shape[1:] for heat in heats), key=lambda size: size[0] * size[1])
    scaled = []
    for heat in heats:
        positive = heat.relu()
        low, high = positive.amin((1, 2), keepdim=True), positive.amax((1, 2), keepdim=True)
        unit = (positive - low) / torch.where(high > low, high - low, 1)  # K h w
        scaled.append(interpolate(unit[None], (height, width), mode="bilinear", align_corners=False)[0])
    stacked = torch.stack(scaled)  # layers K h w
    if how == "mean":
        return stacked.mean(0)
    return stacked.amax(0) if how == "max" else stacked.prod(0)
