"""Methods that average many gradients, by the pixels or by a layer's activation.

Symbols: x is the varied input ``[C, h, w]``, y_k the scalar of class k, and n the number of ``samples``.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from pellucid.explain.methods.registry import method
from pellucid.explain.probe import Probe
from pellucid.types import Floats

# Standard deviation of the noise as a share of the range of x. The paper finds 0.1 to 0.2 best.
_NOISE = 0.15


@method(
    "smoothgrad",
    title="SmoothGrad",
    needs="gradients",
    formula="the magnitude of the mean gradient over noisy copies: how strongly the logit reacts, in either direction",
    paper="Smilkov et al. 2017, arXiv 1706.03825",
    unit="units of the gradient",
    at_pixels=True,
    signed=False,
)
def smoothgrad(probe: Probe) -> Floats:
    """heat[k] = sum_c |mean over n of dy_k/dx at x + noise|. Smilkov et al., "SmoothGrad", arXiv 1706.03825, sec. 3.

    The map shows how strongly the score reacts to a position, in either direction. The noise is normal, with a standard
    deviation of 0.15 times the range of x. Its seed is fixed, so the map of a picture is reproducible.
    """
    x = probe.varied
    spread = _NOISE * (x.max() - x.min())
    generator = noise_generator()
    total = np.zeros((len(probe.wanted), *x.shape), x.dtype)
    for part in probe.passes(probe.samples, gradient=True):
        noise = generator.standard_normal((part.stop - part.start, *x.shape), np.float32)
        total += probe.gradients(x + spread * noise).sum(1)
    heat: Floats = np.abs(total / probe.samples).sum(1)
    return heat


def noise_generator() -> np.random.Generator:
    """A new generator of SmoothGrad's noise. The seed is fixed."""
    return np.random.Generator(np.random.PCG64(0))


@method(
    "integrated-gradients",
    title="Integrated Gradients",
    needs="gradients",
    formula="the mean gradient on the line from the mean colour to the picture, times the picture",
    paper="Sundararajan et al. 2017, arXiv 1703.01365",
    at_pixels=True,
)
def integrated_gradients(probe: Probe) -> Floats:
    """heat[k] = sum_c x (integral over t from 0 to 1 of dy_k/dx at t x). Sundararajan et al., arXiv 1703.01365, eq. 1.

    The baseline is 0. For pixels, that is the mean colour of the network's normalisation. The integral is a
    Gauss-Legendre sum of n points. The map's sum is y_k(x) - y_k(0) (completeness), up to the error of the integration.
    """
    x = probe.varied
    points, weights = (values.astype(x.dtype) for values in _gauss_legendre(probe.samples))
    total = np.zeros((len(probe.wanted), *x.shape), x.dtype)
    for part in probe.passes(probe.samples, gradient=True):
        gradients = probe.gradients(points[part, None, None, None] * x)  # K n C h w
        total += np.tensordot(gradients, weights[part], ((1,), (0,)))
    heat: Floats = (total * x).sum(1)
    return heat


@cache
def _gauss_legendre(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points between 0 and 1, and the weight of each."""
    points, weights = np.polynomial.legendre.leggauss(count)
    return (points + 1) / 2, weights / 2
