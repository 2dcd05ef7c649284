"""Class activation maps: Evidence for K classes -> heat ``[K, h, w]``, signed, before any ReLU or scaling.

Symbols: A the activation ``[C, h, w]``, y_k the logit of class k (no softmax), dy_k/dA its gradient ``[K, C, h, w]``.
A new method is a function here and a line in METHODS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from torch import Tensor

from service.explain.evidence import Evidence


def channel_weights(evidence: Evidence) -> Tensor:
    """Grad-CAM's alpha[k, c], the mean over positions of dy_k/dA[c]: ``[K, C]``."""
    return evidence.gradient.mean((2, 3))


def grad_cam(evidence: Evidence) -> Tensor:
    """heat[k] = sum_c alpha[k, c] A[c]. Selvaraju et al., "Grad-CAM", arXiv 1610.02391, eq. 1 and 2 before the ReLU."""
    activation = evidence.activation
    heat = channel_weights(evidence) @ activation.flatten(1)  # K C @ C hw
    return heat.view(-1, *activation.shape[1:])


METHODS: Final[dict[str, Callable[[Evidence], Tensor]]] = {"grad-cam": grad_cam}
