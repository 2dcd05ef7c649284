"""Methods of forward passes alone: the score with a channel hidden or as a mask, or with one position alone."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pellucid.explain.evidence import min_max_scaled, weighted_sum
from pellucid.explain.methods.registry import method
from pellucid.explain.probe import Probe
from pellucid.resampling import upsample
from pellucid.types import ACTIVATION_UNITS, Floats

# The outer product of these weights with themselves is a window of 3 x 3 positions with the sum 1.
_BINOMIAL: Final = (1 / 4, 1 / 2, 1 / 4)


@method(
    "ablation-cam",
    title="Ablation-CAM",
    needs="forwards",
    formula="channels weighted by the drop of the logit without them",
    paper="Desai and Ramaswamy 2020, WACV",
    unit="logits times the activation",
)
def ablation_cam(probe: Probe) -> Floats:
    """heat[k] = sum_c w[k, c] A[c] with w = y_k(A) - y_k(A without channel c), by passes behind the layer.

    Desai and Ramaswamy, "Ablation-CAM", WACV 2020, eq. 3, without the division by y_k. It only scales the map, and
    would invert it for a negative y_k. A channel is hidden by zeros, as in the paper, even before a ReLU.
    """
    activation = probe.activation
    if probe.linear is not None:  # y is linear in each channel's mean, so w is exactly the channel's term
        return weighted_sum(probe.linear * activation.mean((1, 2)), activation)
    return weighted_sum(-probe.replacement_effect(np.zeros_like(activation)).T, activation)


@method(
    "score-cam-at-layer",
    title="Score-CAM at the layer",
    needs="forwards",
    formula="channels weighted by the softmax of the logit that the activation gives when the channel masks it",
    paper="after Wang et al. 2020, arXiv 1910.01279, which masks the picture",
    unit=ACTIVATION_UNITS,
    signed=False,
)
def score_cam_at_layer(probe: Probe) -> Floats:
    """heat[k] = sum_c w[k, c] A[c] with w = softmax_c y_k(A s(A[c])), where s scales a channel to the range 0 to 1.

    This is Score-CAM with the activation in place of the picture, so that each pass starts behind the layer. It is not
    the paper's method: it hides features, not pixels. After Wang et al., "Score-CAM", arXiv 1910.01279.
    """
    activation = probe.activation
    masks = min_max_scaled(activation)  # C h w
    if probe.linear is not None:  # the bias is the same for all channels, so softmax ignores it
        channels, positions = len(activation), activation[0].size
        # Mean of every channel under every mask: C C.
        means = masks.reshape(channels, -1) @ activation.reshape(channels, -1).T / positions
        return weighted_sum(_softmax(means @ probe.linear.T).T, activation)
    scores = [probe.scores(activation * masks[part, None]) for part in probe.passes(len(activation))]
    return weighted_sum(_softmax(np.concatenate(scores)).T, activation)


@method(
    "recipro-cam",
    title="ReciproCAM",
    needs="position forwards",
    formula="the logit that the activation gives when all but one position is hidden, minus the smallest of these",
    paper="Byun and Lee 2022, arXiv 2209.14074",
    signed=False,
)
def recipro_cam(probe: Probe) -> Floats:
    """heat[k, p] = y_k(A at p alone) - min over p. One forward pass for each position.

    Byun and Lee, "Recipro-CAM", arXiv 2209.14074. As in openvino-xai, the mask is one position, and the logit counts;
    the paper takes the probability. Extra tokens are not hidden.
    """
    return _of_positions(probe, np.ones((1, 1)))


@method(
    "vit-recipro-cam",
    title="ViT-ReciproCAM",
    needs="position forwards",
    formula="the logit that the activation gives through a Gaussian window at one position, minus the smallest of "
    "these",
    paper="Byun and Lee 2023, arXiv 2310.02588",
    signed=False,
)
def vit_recipro_cam(probe: Probe) -> Floats:
    """heat[k, p] = y_k(A m_p) - min over p, with m_p a Gaussian window of 3 x 3 positions around p.

    Byun and Lee, "ViT-ReciproCAM", arXiv 2310.02588. The paper takes the first layer norm of the last block
    (``blocks.11.norm1``), where the residual connection passes by unmasked. Extra tokens, such as the class token, are
    not masked.
    """
    return _of_positions(probe, np.outer(_BINOMIAL, _BINOMIAL))


@method(
    "score-cam",
    title="Score-CAM",
    needs="network forwards",
    formula="channels weighted by the softmax of the logit that the picture gives when the channel masks it",
    paper="Wang et al. 2020, arXiv 1910.01279",
    unit=ACTIVATION_UNITS,
    signed=False,
)
def score_cam(probe: Probe) -> Floats:
    """heat[k] = sum_c w[k, c] A[c] with w = softmax_c y_k(X s(A[c])). Each channel takes a pass of the whole network.

    X is the picture. s scales a channel to the range 0 to 1, then enlarges it to the picture's size. Wang et al.,
    "Score-CAM", arXiv 1910.01279, eq. 4 to 6. The order in s is torch-cam's; the paper enlarges first. The paper
    subtracts the baseline's score, which is the same for all channels, so softmax ignores it.
    """
    picture = probe.varied  # 3 H W
    height, width = picture.shape[1:]
    masks = min_max_scaled(probe.activation)  # C h w
    scores = []
    for part in probe.passes(len(masks)):
        scores.append(probe.scores(picture * upsample(masks[part], width, height)[:, None]))
    return weighted_sum(_softmax(np.concatenate(scores)).T, probe.activation)


def _of_positions(probe: Probe, window: NDArray[np.float64]) -> Floats:
    """The scalars ``[K, h, w]`` with the ``window`` around each position as the mask, less the least of each scalar."""
    activation = probe.activation
    height, width = activation.shape[1:]
    scores = []
    for part in probe.passes(height * width):
        masks = _masks(window, part, height, width).astype(activation.dtype)
        if probe.linear is None:
            scores.append(probe.scores(activation * masks[:, None]))
        else:  # y is linear in each channel's mean; the bias is the same everywhere
            means = activation.reshape(len(activation), -1) @ masks.reshape(len(masks), -1).T / masks[0].size  # C n
            scores.append((probe.linear @ means).T)
    heat = np.ascontiguousarray(np.concatenate(scores).T).reshape(-1, height, width)
    least: Floats = heat - heat.min((1, 2), keepdims=True)
    return least


def _masks(window: NDArray[np.float64], part: slice, height: int, width: int) -> NDArray[np.float64]:
    """The ``window`` around each position of ``part``, cut off at the border: ``[n, h, w]``."""
    side, reach = len(window), len(window) // 2
    masks = np.zeros((part.stop - part.start, height + 2 * reach, width + 2 * reach))
    for mask, position in zip(masks, range(part.start, part.stop), strict=True):
        row, column = divmod(position, width)
        mask[row : row + side, column : column + side] = window
    return masks[:, reach : reach + height, reach : reach + width]


def _softmax(scores: Floats) -> Floats:
    """Softmax over the channels of ``scores`` ``[C, K]``, separately for each class."""
    powers: Floats = np.exp(scores - scores.max(0))
    weights: Floats = powers / powers.sum(0)
    return weights
