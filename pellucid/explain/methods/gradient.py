"""Methods that one gradient is enough for: Evidence for K classes -> heat ``[K, h, w]``, signed, before any scaling.

Symbols: A the activation ``[C, h, w]``, g_k = dy_k/dA its gradient ``[K, C, h, w]``, p the positions. A gradient that
is the same at every position comes as ``[K, C, 1, 1]``, and broadcasts.
"""

from __future__ import annotations

import numpy as np

from pellucid.explain.evidence import Evidence, weighted
from pellucid.explain.methods.registry import method
from pellucid.types import Floats


def channel_weights(evidence: Evidence) -> Floats:
    """Grad-CAM's alpha[k, c], the mean over positions of g_k[c]: ``[K, C]``."""
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
    return weighted(channel_weights(evidence), evidence.activation)


@method(
    "hirescam",
    title="HiResCAM",
    needs="gradient",
    formula="gradient times activation, position by position, summed over channels",
    paper="Draelos and Carin 2020, arXiv 2011.08891",
)
def hirescam(evidence: Evidence) -> Floats:
    """heat[k] = sum_c g_k[c] A[c], position by position. Draelos and Carin, "HiResCAM", arXiv 2011.08891, eq. 2.

    Where a linear head reads every position, its sum over positions is the logit less the bias.
    """
    return _multiplied(evidence.gradient, evidence.activation)


@method(
    "grad-cam-plus-plus",
    title="Grad-CAM++",
    needs="gradient",
    formula="channels weighted by their positive gradients, positions that stand alone weighing more",
    paper="Chattopadhay et al. 2018, arXiv 1710.11063",
)
def grad_cam_plus_plus(evidence: Evidence) -> Floats:
    """heat[k] = sum_c w[k, c] A[c]; w = sum_p a relu(g), a = g^2 / (2 g^2 + sum_p(A) g^3) = 1 / (2 + sum_p(A) g).

    Chattopadhay et al., "Grad-CAM++", arXiv 1710.11063, eq. 19, without the factor exp(y), which scales the whole map.
    """
    gradient, activation = evidence.gradient, evidence.activation
    bottom = 2 + activation.sum((1, 2))[:, None, None] * gradient
    # Behind a ReLU it is 2 at least where g > 0; elsewhere it may come near 0, and the quotient would mean nothing.
    alpha = np.divide(1, bottom, out=np.zeros_like(bottom), where=np.abs(bottom) > 1e-6)
    positions = activation.shape[1] * activation.shape[2]
    return weighted((alpha * np.maximum(gradient, 0)).mean((2, 3)) * positions, activation)


@method(
    "xgrad-cam",
    title="XGrad-CAM",
    needs="gradient",
    formula="channels weighted by the mean of their gradient, positions counting by their activation",
    paper="Fu et al. 2020, arXiv 2008.02312",
)
def xgrad_cam(evidence: Evidence) -> Floats:
    """heat[k] = sum_c w[k, c] A[c] with w = sum_p(g A) / sum_p(A). Fu et al., "Axiom-based Grad-CAM", arXiv 2008.02312,
    eq. 8: of all weights by channel those by which the map's sum is that of gradient times activation.
    """
    activation = evidence.activation
    sums = activation.sum((1, 2))  # C
    products = (evidence.gradient * activation).sum((2, 3))  # K C
    return weighted(np.divide(products, sums, out=np.zeros_like(products), where=sums != 0), activation)


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
    formula="what is positive of gradient times activation, summed over channels",
    paper="Gildenblat, pytorch-grad-cam (no paper)",
    signed=False,
)
def elementwise(evidence: Evidence) -> Floats:
    """heat[k] = sum_c relu(g_k[c] A[c]): what speaks for the class, with nothing against it taken off.

    pytorch-grad-cam's GradCAMElementWise (Gildenblat), with no paper of its own.
    """
    heat: Floats = np.maximum(evidence.gradient * evidence.activation, 0).sum(1)
    return heat


@method(
    "eigen-cam",
    title="Eigen-CAM",
    needs="activation",
    formula="the activation on its first principal component: the same for every class",
    paper="Muhammad and Yeasin 2020, arXiv 2008.00299",
    of_class=False,
)
def eigen_cam(evidence: Evidence) -> Floats:
    """heat = A projected on the first principal component of its positions; the same for every class.

    Muhammad and Yeasin, "Eigen-CAM", arXiv 2008.00299, with the mean taken off first, as in pytorch-grad-cam.
    """
    return np.repeat(_projected(evidence.activation[None]), len(evidence.gradient), axis=0)


@method(
    "eigen-grad-cam",
    title="EigenGrad-CAM",
    needs="gradient",
    formula="gradient times activation on its first principal component",
    paper="Gildenblat, pytorch-grad-cam (no paper)",
)
def eigen_grad_cam(evidence: Evidence) -> Floats:
    """heat[k] = g_k A projected on the first principal component of its positions.

    Eigen-CAM of gradient times activation: pytorch-grad-cam's EigenGradCAM (Gildenblat), with no paper of its own.
    """
    return _projected(evidence.gradient * evidence.activation)


def _multiplied(factor: Floats, activation: Floats) -> Floats:
    """sum_c factor[k, c] A[c], where the factor may differ by position."""
    if factor.shape[2:] == (1, 1):
        return weighted(factor[:, :, 0, 0], activation)
    heat: Floats = (factor * activation).sum(1)
    return heat


def _projected(values: Floats) -> Floats:
    """Each ``[C, h, w]`` of ``values`` ``[K, C, h, w]`` on its first principal component: ``[K, h, w]``.

    A component has no sign of its own: it is turned so that the map goes with the sum over channels.
    """
    rows = values.reshape(*values.shape[:2], -1).mT  # K hw C
    rows = rows - rows.mean(1, keepdims=True)
    few = rows.shape[1] <= rows.shape[2]  # the smaller of the two matrices of products has the same first component
    sizes, vectors = np.linalg.eigh(rows @ rows.mT if few else rows.mT @ rows)
    first = vectors[..., -1:]
    projection = (first * np.sqrt(sizes[:, -1:, None].clip(0)) if few else rows @ first)[..., 0]  # K hw
    along = (projection * rows.sum(2)).sum(1, keepdims=True)
    heat: Floats = np.where(along < 0, -projection, projection).reshape(-1, *values.shape[2:])
    return heat
