"""Methods that weigh channels by what the scores do when a channel is hidden, or alone is shown: a pass for each."""

from __future__ import annotations

import numpy as np

from pellucid.explain.evidence import stretched, weighted
from pellucid.explain.methods.registry import method
from pellucid.explain.probe import Probe
from pellucid.resampling import upsample
from pellucid.types import Floats


@method(
    "ablation-cam",
    title="Ablation-CAM",
    needs="forwards",
    formula="channels weighted by what the logit loses without them",
    paper="Desai and Ramaswamy 2020, WACV",
)
def ablation_cam(probe: Probe) -> Floats:
    """heat[k] = sum_c w[k, c] A[c] with w = y_k(A) - y_k(A without channel c), in passes behind the layer.

    Desai and Ramaswamy, "Ablation-CAM", WACV 2020, eq. 3, without the division by y_k, which scales the whole map and
    would turn it about where y_k is negative. A channel is hidden by zeros, as in the paper, also before a ReLU.
    """
    activation = probe.activation
    if probe.linear is not None:  # y is linear in the mean over positions: what is hidden is what is missing
        return weighted(probe.linear * activation.mean((1, 2)), activation)
    return weighted(-probe.replaced(np.zeros_like(activation)).T, activation)


@method(
    "score-cam-at-layer",
    title="Score-CAM at the layer",
    needs="forwards",
    formula="channels weighted by the softmax of the logits that the activation gives where they mask it",
    paper="after Wang et al. 2020, arXiv 1910.01279, which masks the picture",
    signed=False,
)
def score_cam_at_layer(probe: Probe) -> Floats:
    """heat[k] = sum_c w[k, c] A[c] with w = softmax_c y_k(A s(A[c])): Score-CAM with the activation in place of the
    picture, so that each pass begins behind the layer. Not the paper's method: it hides features, not pixels.

    s stretches a channel to 0 to 1. After Wang et al., "Score-CAM", arXiv 1910.01279.
    """
    activation = probe.activation
    masks = stretched(activation)  # C h w
    if probe.linear is not None:  # the bias is the same for all channels
        channels, positions = len(activation), activation[0].size
        means = masks.reshape(channels, -1) @ activation.reshape(channels, -1).T / positions  # each under each: C C
        return weighted(_softmax(means @ probe.linear.T).T, activation)
    found = [probe.scores(activation * masks[part, None]) for part in probe.parts(len(activation))]
    return weighted(_softmax(np.concatenate(found)).T, activation)


@method(
    "score-cam",
    title="Score-CAM",
    needs="network forwards",
    formula="channels weighted by the softmax of the logits that the picture gives where they mask it",
    paper="Wang et al. 2020, arXiv 1910.01279",
    signed=False,
)
def score_cam(probe: Probe) -> Floats:
    """heat[k] = sum_c w[k, c] A[c] with w = softmax_c y_k(X s(A[c])), X the picture: a pass of the whole network each.

    s stretches a channel to 0 to 1 and enlarges it to the picture. Wang et al., "Score-CAM", arXiv 1910.01279, eq. 4 to
    6, in torch-cam's order: the paper enlarges first. Of the baseline's score, the same for all channels, softmax takes
    no notice.
    """
    picture = probe.varied  # 3 H W
    height, width = picture.shape[1:]
    masks = stretched(probe.activation)  # C h w
    found = []
    for part in probe.parts(len(masks)):
        found.append(probe.scores(picture * upsample(masks[part], width, height)[:, None]))
    return weighted(_softmax(np.concatenate(found)).T, probe.activation)


def _softmax(scores: Floats) -> Floats:
    """Of each class over the channels: ``[C, K]``."""
    powers: Floats = np.exp(scores - scores.max(0))
    weights: Floats = powers / powers.sum(0)
    return weights
