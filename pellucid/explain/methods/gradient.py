"""Methods that need at most one gradient: Evidence for K classes -> maps ``[K, h, w]``, signed, before any scaling.

Symbols: A is the activation ``[C, h, w]``, g_k = dy_k/dA its gradient ``[K, C, h, w]``, and p the positions. A gradient
that is the same at every position has the shape ``[K, C, 1, 1]``, and broadcasts.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from pellucid.explain.evidence import Evidence, weighted_sum
from pellucid.explain.methods.registry import method
from pellucid.types import ACTIVATION_UNITS, Floats

# The most squarings. Two eigenvalues that differ by less than 2 ** -24 count as one.
_SQUARINGS: Final = 24


def channel_weights(evidence: Evidence) -> Floats:
    """Grad-CAM's weights alpha[k, c] ``[K, C]``: the mean of g_k[c] over positions."""
    weights: Floats = evidence.gradient.mean((2, 3))
    return weights


@method(
    "grad-cam",
    title="Grad-CAM",
    needs="gradient",
    formula="channels weighted by the mean of their gradient over positions",
    paper="Selvaraju et al. 2017, arXiv 1610.02391",
)
def grad_cam(evidence: Evidence) -> Floats:
    """heat[k] = sum_c alpha[k, c] A[c]. Selvaraju et al., "Grad-CAM", arXiv 1610.02391, eq. 1 and 2 before the ReLU."""
    return weighted_sum(channel_weights(evidence), evidence.activation)


@method(
    "hirescam",
    title="HiResCAM",
    needs="gradient",
    formula="gradient times activation, position by position, summed over channels",
    paper="Draelos and Carin 2020, arXiv 2011.08891",
)
def hirescam(evidence: Evidence) -> Floats:
    """heat[k] = sum_c g_k[c] A[c], position by position. Draelos and Carin, "HiResCAM", arXiv 2011.08891, eq. 2.

    If a linear head follows, the map's sum over positions is the logit minus the bias.
    """
    return _multiplied(evidence.gradient, evidence.activation)


@method(
    "grad-cam-plus-plus",
    title="Grad-CAM++",
    needs="gradient",
    formula="channels weighted by their positive gradients, with more weight on isolated positions",
    paper="Chattopadhay et al. 2018, arXiv 1710.11063",
)
def grad_cam_plus_plus(evidence: Evidence) -> Floats:
    """heat[k] = sum_c w[k, c] A[c]; w = sum_p a relu(g), a = g^2 / (2 g^2 + sum_p(A) g^3) = 1 / (2 + sum_p(A) g).

    Chattopadhay et al., "Grad-CAM++", arXiv 1710.11063, eq. 19, without the factor exp(y), which only scales the map.
    """
    gradient, activation = evidence.gradient, evidence.activation
    denominator = 2 + activation.sum((1, 2))[:, None, None] * gradient
    # After a ReLU, it is at least 2 wherever g > 0. Otherwise it may be close to 0, where the quotient has no meaning.
    denominator[np.abs(denominator) <= 1e-6] = np.inf
    positions = activation.shape[1] * activation.shape[2]
    return weighted_sum((np.maximum(gradient, 0) / denominator).mean((2, 3)) * positions, activation)


@method(
    "xgrad-cam",
    title="XGrad-CAM",
    needs="gradient",
    formula="channels weighted by the mean of their gradient, each position weighted by its activation",
    paper="Fu et al. 2020, arXiv 2008.02312",
)
def xgrad_cam(evidence: Evidence) -> Floats:
    """heat[k] = sum_c w[k, c] A[c] with w = sum_p(g A) / sum_p(A). A channel with sum_p(A) = 0 gets the weight 0.

    Fu et al., "Axiom-based Grad-CAM", arXiv 2008.02312, eq. 8. With these weights, the map has the same sum as gradient
    times activation.
    """
    activation = evidence.activation
    sums = activation.sum((1, 2))  # C
    products = (evidence.gradient * activation).sum((2, 3))  # K C
    return weighted_sum(np.divide(products, sums, out=np.zeros_like(products), where=sums != 0), activation)


@method(
    "layercam",
    title="LayerCAM",
    needs="gradient",
    formula="positive gradient times activation, position by position, summed over channels",
    paper="Jiang et al. 2021, IEEE TIP 30",
    signed=False,
)
def layercam(evidence: Evidence) -> Floats:
    """heat[k] = sum_c relu(g_k[c]) A[c]. Jiang et al., "LayerCAM", IEEE TIP 2021, eq. 6 and 7."""
    return _multiplied(np.maximum(evidence.gradient, 0), evidence.activation)


@method(
    "elementwise",
    title="Element-wise Grad-CAM",
    needs="gradient",
    formula="the positive part of gradient times activation, summed over channels",
    paper="Gildenblat, pytorch-grad-cam (no paper)",
    signed=False,
)
def elementwise(evidence: Evidence) -> Floats:
    """heat[k] = sum_c relu(g_k[c] A[c]): all evidence for the class, without subtracting the evidence against it.

    pytorch-grad-cam's GradCAMElementWise (Gildenblat). It has no paper.
    """
    heat: Floats = np.maximum(evidence.gradient * evidence.activation, 0).sum(1)
    return heat


@method(
    "eigen-cam",
    title="Eigen-CAM",
    needs="activation",
    formula="the activation projected onto its first principal component: the same for every class",
    paper="Muhammad and Yeasin 2020, arXiv 2008.00299",
    unit=ACTIVATION_UNITS,
    of_class=False,
)
def eigen_cam(evidence: Evidence) -> Floats:
    """heat = A, projected onto the first principal component of its positions. It is the same for every class.

    Muhammad and Yeasin, "Eigen-CAM", arXiv 2008.00299. The mean is subtracted first, as in pytorch-grad-cam.
    """
    return np.repeat(_projected(evidence.activation[None]), len(evidence.gradient), axis=0)


@method(
    "eigen-grad-cam",
    title="EigenGrad-CAM",
    needs="gradient",
    formula="gradient times activation, projected onto its first principal component",
    paper="Gildenblat, pytorch-grad-cam (no paper)",
)
def eigen_grad_cam(evidence: Evidence) -> Floats:
    """heat[k] = g_k A, projected onto the first principal component of its positions.

    pytorch-grad-cam's EigenGradCAM (Gildenblat): Eigen-CAM of gradient times activation. It has no paper.
    """
    return _projected(evidence.gradient * evidence.activation)


def _multiplied(factor: Floats, activation: Floats) -> Floats:
    """sum_c factor[k, c] A[c]. The factor is ``[K, C, h, w]`` or ``[K, C, 1, 1]``."""
    if factor.shape[2:] == (1, 1):
        return weighted_sum(factor[:, :, 0, 0], activation)
    heat: Floats = (factor * activation).sum(1)
    return heat


def _projected(values: Floats) -> Floats:
    """Project each of the K entries of ``values`` ``[K, C, h, w]`` onto its first principal component: ``[K, h, w]``.

    A component's sign is arbitrary. It is chosen so that the map correlates positively with the sum over channels.
    """
    rows = values.reshape(*values.shape[:2], -1)  # K C hw
    rows = rows - rows.mean(2, keepdims=True)
    few = rows.shape[1] > rows.shape[2]  # both product matrices give the same component: take the smaller one
    square = rows.mT @ rows if few else rows @ rows.mT
    first = _first_eigenvector(square)  # K 1 hw, or K 1 C
    projection = first * np.sqrt(first @ square @ first.mT) if few else first @ rows  # K 1 hw
    correlation = projection @ rows.sum(1)[..., None]
    heat: Floats = np.where(correlation < 0, -projection, projection).reshape(-1, *values.shape[2:])
    return heat


def _first_eigenvector(square: Floats) -> Floats:
    """The eigenvector ``[K, 1, n]`` of the largest eigenvalue of each of the symmetric matrices ``[K, n, n]``.

    Each squaring doubles the steps of a power iteration. For small matrices ``numpy.linalg.eigh``, which computes all
    eigenvectors, takes up to twice the time. No eigenvalue may be negative.
    """
    precision = np.finfo(square.dtype)
    for _ in range(_SQUARINGS):
        square = square / np.maximum(np.einsum("kii->k", square), precision.tiny)[:, None, None]
        # The sum of squares is 1 if one eigenvalue alone is left.
        others = 1 - np.einsum("kij,kij->k", square, square).min()
        square = square @ square
        if others < np.sqrt(precision.eps):
            break
    row = square[np.arange(len(square)), np.einsum("kii->ki", square).argmax(1)]
    vector: Floats = row / np.maximum(np.linalg.norm(row, axis=1, keepdims=True), precision.tiny)
    return vector[:, None]
