"""What tells one network from another."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def parameters_digest(net: nn.Module) -> str:
    """SHA-256 in hexadecimal over the names and values of all parameters and buffers: what the network computes with,
    whatever files it came in."""
    found = hashlib.sha256()
    for name, value in net.state_dict().items():
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
