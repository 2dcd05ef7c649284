"""The digest of a network's parameters."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def parameters_digest(net: nn.Module) -> str:
    """SHA-256, in hexadecimal, of the names and values of all parameters and buffers. File formats do not change it."""
    digest = hashlib.sha256()
    for name, value in net.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
