"""Pellucid's channel-attention gate."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ChannelAttention(nn.Module):
    """Scales each channel by a weight in (0, 2) that depends on the whole image. An untrained gate scales by exactly 1.

    ``gate = 2 sigmoid(MLP(mean_hw(x)) + MLP(max_hw(x)))``, with one MLP of max(8, C/4) hidden units for both
    poolings (Woo et al., "CBAM", arXiv 1807.06521, eq. 2). The factor 2 and the zero last layer make an untrained gate
    the identity, so inserting it does not change a trained network. ``[B, C, H, W] -> [B, C, H, W]``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(8, channels // 4)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)
        nn.init.zeros_(self.excite.weight)
        nn.init.zeros_(self.excite.bias)

    def mlp(self, pooled: Tensor) -> Tensor:
        """Map pooled channels ``[B, C]`` to the pre-activation of the gate ``[B, C]``."""
        logits: Tensor = self.excite(F.relu(self.squeeze(pooled)))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        gate = 2 * torch.sigmoid(self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3))))  # B C
        return x * gate[:, :, None, None]
