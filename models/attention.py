"""Channel attention: the gate that Pellucid defines."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ChannelAttention(nn.Module):
    """Scale each channel by a weight in (0, 2) that depends on the whole picture; by exactly 1 until it is trained.

    ``gate = 2 sigmoid(MLP(mean_hw(x)) + MLP(max_hw(x)))``, one MLP with max(8, C/4) hidden units for both poolings
    (Woo et al., "CBAM", arXiv 1807.06521, eq. 2). The factor 2 and the zero last layer let a gate be put into a trained
    network without changing it. ``[B, C, H, W] -> [B, C, H, W]``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(8, channels // 4)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)
        nn.init.zeros_(self.excite.weight)
        nn.init.zeros_(self.excite.bias)

    def mlp(self, pooled: Tensor) -> Tensor:
        """Pooled channels ``[B, C]`` -> pre-activation of the gate ``[B, C]``."""
        logits: Tensor = self.excite(F.relu(self.squeeze(pooled)))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        gate = 2 * torch.sigmoid(self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3))))  # B C
        return x * gate[:, :, None, None]
