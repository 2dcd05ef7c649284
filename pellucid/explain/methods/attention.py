"""Methods that read the attention between tokens: Attended for K classes -> maps ``[K, h, w]`` of the positions.

Symbols: A_l is the attention matrix of block l after the softmax ``[heads, N, N]``, with one row for each query token.
"""

from __future__ import annotations

import numpy as np

from pellucid.explain.evidence import Attended
from pellucid.explain.methods.registry import method
from pellucid.types import Floats


@method(
    "attention-rollout",
    title="Attention rollout",
    needs="attention",
    formula="the product of all attention matrices, each mixed with the identity: the same for every class",
    paper="Abnar and Zuidema 2020, arXiv 2005.00928",
    unit="shares of the attention",
    at_layers=False,
    at_pixels=True,
    signed=False,
    of_class=False,
)
def attention_rollout(attended: Attended) -> Floats:
    """heat = the mean of the rows of R that the logits read; R = B_L ... B_1, B_l = (mean_heads A_l + I) / 2.

    Abnar and Zuidema, "Quantifying Attention Flow in Transformers", arXiv 2005.00928, eq. 1. The row is that of the
    class token, or the mean of the positions' rows in a network that averages its tokens. Every row of B_l sums to 1.
    """
    flow = None
    for matrix in attended.matrices:
        mixed = (matrix.mean(0) + np.eye(matrix.shape[-1], dtype=matrix.dtype)) / 2
        flow = mixed if flow is None else mixed @ flow
    assert flow is not None  # it is offered for networks that have attention
    first, end = attended.read
    heat = _of_positions(flow[first:end].mean(0), attended)
    return np.repeat(heat[None], attended.targets, axis=0)


@method(
    "legrad",
    title="LeGrad",
    needs="attention gradient",
    formula="the positive gradient of each block's own score by its attention, averaged over heads, queries and blocks",
    paper="Bousselham et al. 2024, arXiv 2404.03214",
    unit="units of the gradient",
    at_layers=False,
    at_pixels=True,
    signed=False,
)
def legrad(attended: Attended) -> Floats:
    """heat[k] = mean over l, heads and queries of relu(dy_k^l / dA_l), for the keys that are positions.

    y^l is the score of block l: what the head of the network gives for the mean of the block's tokens. Bousselham et
    al., "LeGrad", arXiv 2404.03214, eq. 5 to 8, as in torch-cam, with all blocks.
    """
    of_blocks = [np.maximum(gradient, 0).mean((1, 2)) for gradient in attended.gradients]  # each: K N
    return _of_positions(np.mean(of_blocks, axis=0), attended)


def _of_positions(tokens: Floats, attended: Attended) -> Floats:
    """``[..., N]`` -> ``[..., h, w]``, without the extra tokens."""
    positions: Floats = tokens[..., attended.extra :].reshape(*tokens.shape[:-1], *attended.grid)
    return positions
