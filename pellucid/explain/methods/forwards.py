"""Methods that weigh channels by what the scores do when a channel is hidden, or alone is shown: a pass for each."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pellucid.explain.evidence import weighted
from pellucid.explain.methods.probe import Probe


def ablation_cam(probe: Probe) -> Tensor:
    """heat[k] = sum_c w[k, c] A[c] with w = y_k(A) - y_k(A without channel c), in passes behind the layer.

    Desai and Ramaswamy, "Ablation-CAM", WACV 2020, eq. 3, without the division by y_k, which scales the whole map and
    would turn it about where y_k is negative. A channel is hidden by zeros, as in the paper, also before a ReLU.
    """
    activation = probe.activation
    if probe.linear is not None:  # y is linear in the mean over positions: what is hidden is what is missing
        return weighted(probe.linear * activation.mean((1, 2)), activation)
    whole = probe.scores(activation[None])  # 1 K
    found = []
    for part in probe.parts(len(activation)):
        chosen = torch.arange(part.start, part.stop, device=activation.device)
        copies = activation.repeat(len(chosen), 1, 1, 1)  # n C h w
        copies[torch.arange(len(chosen), device=activation.device), chosen] = 0
        found.append(whole - probe.scores(copies))
    return weighted(torch.cat(found).T, activation)


def score_cam(probe: Probe) -> Tensor:
    """heat[k] = sum_c w[k, c] A[c] with w = softmax_c y_k(X s(A[c])), X the picture: a pass of the whole network each.

    s stretches a channel to 0 to 1 and enlarges it to the picture. Wang et al., "Score-CAM", arXiv 1910.01279, eq. 4 to
    6, in torch-cam's order: the paper enlarges first. Of the baseline's score, the same for all channels, softmax takes
    no notice.
    """
    picture = probe.crossing[0]  # 1 3 H W
    found = []
    for part in probe.parts(len(probe.activation)):
        masks = _stretched(probe.activation[part, None])  # n 1 h w
        enlarged = interpolate(masks, picture.shape[2:], mode="bilinear", align_corners=False)
        found.append(probe.scores(picture * enlarged))
    return weighted(torch.cat(found).softmax(0).T, probe.activation)


def score_cam_at_layer(probe: Probe) -> Tensor:
    """heat[k] = sum_c w[k, c] A[c] with w = softmax_c y_k(A s(A[c])): Score-CAM with the activation in place of the
    picture, so that each pass begins behind the layer. Not the paper's method: it hides features, not pixels.

    s stretches a channel to 0 to 1. After Wang et al., "Score-CAM", arXiv 1910.01279.
    """
    activation = probe.activation
    masks = _stretched(activation[:, None])  # C 1 h w
    if probe.linear is not None:  # the bias is the same for all channels
        positions = activation.shape[1] * activation.shape[2]
        means = masks.flatten(1) @ activation.flatten(1).T / positions  # of each channel under each mask: C C
        return weighted((means @ probe.linear.T).softmax(0).T, activation)
    found = [probe.scores(activation * masks[part]) for part in probe.parts(len(activation))]
    return weighted(torch.cat(found).softmax(0).T, activation)


def _stretched(maps: Tensor) -> Tensor:
    """Each map of ``[n, 1, h, w]`` from its smallest value to its largest, 0 to 1; one that is flat is 0."""
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / torch.where(high > low, high - low, 1)
