"""Methods that take a gradient many times, of the pixels or of a layer's activation.

Symbols: x what is varied ``[C, h, w]``, y_k the scalar of class k, n the number of ``samples``.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from pellucid.explain.methods.probe import Probe

# The noise's standard deviation as a share of the range of x; the paper finds 0.1 to 0.2 best.
_NOISE = 0.15


def smoothgrad(probe: Probe) -> Tensor:
    """heat[k] = sum_c |mean over n of dy_k/dx at x + noise|. Smilkov et al., "SmoothGrad", arXiv 1706.03825, sec. 3.

    It says how strongly the score reacts to a place, in whichever direction. The noise is normal, its standard
    deviation 0.15 of x's range, and the same for every picture, so that the same map comes twice.
    """
    x = probe.crossing[0]  # 1 C h w
    spread = _NOISE * (x.amax() - x.amin())
    chance = torch.Generator().manual_seed(0)
    total = x.new_zeros(len(probe.targets), *x.shape[1:])
    for part in probe.parts(probe.samples, gradient=True):
        noise = torch.randn(part.stop - part.start, *x.shape[1:], generator=chance).to(x.device)
        total += probe.gradients(x + spread * noise).sum(1)
    return (total / probe.samples).abs().sum(1)


def integrated_gradients(probe: Probe) -> Tensor:
    """heat[k] = sum_c x (integral over t from 0 to 1 of dy_k/dx at t x). Sundararajan et al., arXiv 1703.01365, eq. 1.

    From the baseline 0, which for pixels is the mean colour that the network was trained with. The integral is a
    Gauss-Legendre sum of n points. The map's sum is y_k(x) - y_k(0), but for the sum's error (completeness).
    """
    x = probe.crossing[0]  # 1 C h w
    points, shares = (values.to(x) for values in _gauss_legendre(probe.samples))
    total = x.new_zeros(len(probe.targets), *x.shape[1:])
    for part in probe.parts(probe.samples, gradient=True):
        gradients = probe.gradients(points[part, None, None, None] * x)  # K n C h w
        total += torch.einsum("knchw,n->kchw", gradients, shares[part])
    return (total * x).sum(1)


@cache
def _gauss_legendre(count: int) -> tuple[Tensor, Tensor]:
    """Points between 0 and 1, and the share of each."""
    points, shares = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy((points + 1) / 2), torch.from_numpy(shares / 2)
