"""Methods that one gradient is enough for: Evidence for K classes -> heat ``[K, h, w]``, signed, before any scaling.

Symbols: A the activation ``[C, h, w]``, g_k = dy_k/dA its gradient ``[K, C, h, w]``, p the positions. A gradient that
is the same at every position comes as ``[K, C, 1, 1]``, and broadcasts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.explain.evidence import Evidence, weighted


def channel_weights(evidence: Evidence) -> Tensor:
    """Grad-CAM's alpha[k, c], the mean over positions of g_k[c]: ``[K, C]``."""
    return evidence.gradient.mean((2, 3))


def grad_cam(evidence: Evidence) -> Tensor:
    """heat[k] = sum_c alpha[k, c] A[c]. Selvaraju et al., "Grad-CAM", arXiv 1610.02391, eq. 1 and 2 before the ReLU."""
    return weighted(channel_weights(evidence), evidence.activation)


def hirescam(evidence: Evidence) -> Tensor:
    """heat[k] = sum_c g_k[c] A[c], position by position. Draelos and Carin, "HiResCAM", arXiv 2011.08891, eq. 2.

    Where a linear head reads every position, its sum over positions is the logit less the bias.
    """
    return _multiplied(evidence.gradient, evidence.activation)


def grad_cam_plus_plus(evidence: Evidence) -> Tensor:
    """heat[k] = sum_c w[k, c] A[c]; w = sum_p a relu(g), a = g^2 / (2 g^2 + sum_p(A) g^3) = 1 / (2 + sum_p(A) g).

    Chattopadhay et al., "Grad-CAM++", arXiv 1710.11063, eq. 19, without the factor exp(y), which scales the whole map.
    """
    gradient, activation = evidence.gradient, evidence.activation
    bottom = 2 + activation.sum((1, 2))[:, None, None] * gradient
    # Behind a ReLU it is 2 at least where g > 0; elsewhere it may come near 0, and the quotient would mean nothing.
    alpha = torch.where(bottom.abs() > 1e-6, 1 / bottom, 0)
    positions = activation.shape[1] * activation.shape[2]
    return weighted((alpha * gradient.relu()).mean((2, 3)) * positions, activation)


def xgrad_cam(evidence: Evidence) -> Tensor:
    """heat[k] = sum_c w[k, c] A[c] with w = sum_p(g A) / sum_p(A). Fu et al., "Axiom-based Grad-CAM", arXiv 2008.02312,
    eq. 8: of all weights by channel those by which the map's sum is that of gradient times activation.
    """
    activation = evidence.activation
    sums = activation.sum((1, 2))  # C
    products = (evidence.gradient * activation).sum((2, 3))  # K C
    return weighted(torch.where(sums != 0, products / sums, 0), activation)


def layercam(evidence: Evidence) -> Tensor:
    """heat[k] = sum_c relu(g_k[c]) A[c]. Jiang et al., "LayerCAM", IEEE TIP 2021, eq. 6 and 7."""
    return _multiplied(evidence.gradient.relu(), evidence.activation)


def elementwise(evidence: Evidence) -> Tensor:
    """heat[k] = sum_c relu(g_k[c] A[c]): what speaks for the class, with nothing against it taken off.

    pytorch-grad-cam's GradCAMElementWise (Gildenblat), with no paper of its own.
    """
    return (evidence.gradient * evidence.activation).relu().sum(1)


def eigen_cam(evidence: Evidence) -> Tensor:
    """heat = A projected on the first principal component of its positions; the same for every class.

    Muhammad and Yeasin, "Eigen-CAM", arXiv 2008.00299, with the mean taken off first, as in pytorch-grad-cam.
    """
    return _projected(evidence.activation[None]).expand(len(evidence.gradient), -1, -1)


def eigen_grad_cam(evidence: Evidence) -> Tensor:
    """heat[k] = g_k A projected on the first principal component of its positions.

    Eigen-CAM of gradient times activation: pytorch-grad-cam's EigenGradCAM (Gildenblat), with no paper of its own.
    """
    return _projected(evidence.gradient * evidence.activation)


def _multiplied(factor: Tensor, activation: Tensor) -> Tensor:
    """sum_c factor[k, c] A[c], where the factor may differ by position."""
    if factor.shape[2:] == (1, 1):
        return weighted(factor.flatten(1), activation)
    return (factor * activation).sum(1)


def _projected(values: Tensor) -> Tensor:
    """Each ``[C, h, w]`` of ``values`` ``[K, C, h, w]`` on its first principal component: ``[K, h, w]``.

    A component has no sign of its own: it is turned so that the map goes with the sum over channels.
    """
    rows = values.flatten(2).transpose(1, 2)  # K hw C
    rows = rows - rows.mean(1, keepdim=True)
    few = rows.shape[1] <= rows.shape[2]  # the smaller of the two matrices of products has the same first component
    products = rows @ rows.mT if few else rows.mT @ rows
    values_of, vectors = torch.linalg.eigh(products)
    first = vectors[..., -1:]
    projection = (first * values_of[:, -1:, None].clamp(min=0).sqrt() if few else rows @ first)[..., 0]  # K hw
    along = (projection * rows.sum(2)).sum(1, keepdim=True)
    return torch.where(along < 0, -projection, projection).view(-1, *values.shape[2:])
