"""Methods that take a gradient many times, of the pixels or of a layer's activation.

Symbols: x what is varied ``[C, h, w]``, y_k the scalar of class k, n the number of ``samples``.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from pellucid.explain.methods.registry import method
from pellucid.explain.probe import Probe
from pellucid.types import Floats

# The noise's standard deviation as a share of the range of x; the paper finds 0.1 to 0.2 best.
_NOISE = 0.15


@method(
    "smoothgrad",
    title="SmoothGrad",
    needs="gradients",
    formula="the size of the mean gradient of noisy copies: how strongly the logit reacts, either way",
    paper="Smilkov et al. 2017, arXiv 1706.03825",
    at_pixels=True,
    signed=False,
)
def smoothgrad(probe: Probe) -> Floats:
    """heat[k] = sum_c |mean over n of dy_k/dx at x + noise|. Smilkov et al., "SmoothGrad", arXiv 1706.03825, sec. 3.

    It says how strongly the score reacts to a place, in whichever direction. The noise is normal, its standard
    deviation 0.15 of x's range. It is the same for every picture, so a picture has one map.
    """
    x = probe.varied
    spread = _NOISE * (x.max() - x.min())
    generator = chance()
    total = np.zeros((len(probe.wanted), *x.shape), x.dtype)
    for part in probe.parts(probe.samples, gradient=True):
        noise = generator.standard_normal((part.stop - part.start, *x.shape), np.float32)
        total += probe.gradients(x + spread * noise).sum(1)
    heat: Floats = np.abs(total / probe.samples).sum(1)
    return heat


def chance() -> np.random.Generator:
    """The source of SmoothGrad's noise, in its first state."""
    return np.random.Generator(np.random.PCG64(0))


@method(
    "integrated-gradients",
    title="Integrated Gradients",
    needs="gradients",
    formula="the gradient's mean on the way from nothing (the mean colour) to the picture, times the picture",
    paper="Sundararajan et al. 2017, arXiv 1703.01365",
    at_pixels=True,
)
def integrated_gradients(probe: Probe) -> Floats:
    """heat[k] = sum_c x (integral over t from 0 to 1 of dy_k/dx at t x). Sundararajan et al., arXiv 1703.01365, eq. 1.

    From the baseline 0, which for pixels is the mean colour that the network was trained with. The integral is a
    Gauss-Legendre sum of n points. The map's sum is y_k(x) - y_k(0), but for the sum's error (completeness).
    """
    x = probe.varied
    points, shares = (values.astype(x.dtype) for values in _gauss_legendre(probe.samples))
    total = np.zeros((len(probe.wanted), *x.shape), x.dtype)
    for part in probe.parts(probe.samples, gradient=True):
        gradients = probe.gradients(points[part, None, None, None] * x)  # K n C h w
        total += np.tensordot(gradients, shares[part], ((1,), (0,)))
    heat: Floats = (total * x).sum(1)
    return heat


@cache
def _gauss_legendre(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points between 0 and 1, and the share of each."""
    points, shares = np.polynomial.legendre.leggauss(count)
    return (points + 1) / 2, shares / 2
