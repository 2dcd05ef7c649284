"""Recognises a head with a closed-form gradient: global average pooling and one linear classifier."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn


def linear_behind(node: fx.Node, axes: str, logits: fx.Node, within: set[fx.Node], root: nn.Module) -> Tensor | None:
    """The weight ``[classes, C]`` of the linear classifier behind ``node``, or None if the head is not of that form.

    Only global average pooling, reshaping and dropout may lie between ``node`` and the classifier. ``axes`` is the
    layout of the node's value, and ``within`` the nodes on the way to the logits.
    """
    pooled = False
    weight: Tensor | None = None
    while node is not logits:
        users = within & {*node.users}
        if len(users) != 1:
            return None
        (node,) = users
        module = root.get_submodule(str(node.target)) if node.op == "call_module" else None
        if module is not None and module._forward_hooks:  # a hook can change what the module returns
            return None
        if isinstance(module, nn.Linear) and pooled and weight is None:
            weight = module.weight
        elif not pooled and _is_global_average(node, module, axes):
            pooled = True
        elif not _is_identity_on_channels(node, module, pooled):
            return None
    return weight


def _is_global_average(node: fx.Node, module: nn.Module | None, axes: str) -> bool:
    if axes == "BCHW" and isinstance(module, nn.AdaptiveAvgPool2d):
        return module.output_size in (1, (1, 1))
    if axes == "BCHW" and node.op == "call_function" and node.target is nn.functional.adaptive_avg_pool2d:
        return node.args[1:] in ((1,), ((1, 1),)) or node.kwargs.get("output_size") in (1, (1, 1))
    if node.target in ("mean", torch.mean):
        dims: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        dims = (dims,) if isinstance(dims, int) else dims
        positions = [axis for axis, name in enumerate(axes) if name in "HWN"]
        return isinstance(dims, (list, tuple)) and sorted(dim % len(axes) for dim in dims) == positions
    return False


def _is_identity_on_channels(node: fx.Node, module: nn.Module | None, pooled: bool) -> bool:
    """Whether the operation changes no numbers of a vector ``[B, C]`` or ``[B, C, 1, 1]``, only its shape."""
    if node.op == "call_module":
        return isinstance(module, (nn.Dropout, nn.Identity)) or (pooled and isinstance(module, nn.Flatten))
    return node.target is nn.functional.dropout or (pooled and node.target in (torch.flatten, "flatten"))
