"""The operations of gradients, written in operations that every runtime has.

Each is torch's own formula (tools/autograd/derivatives.yaml), for one input's gradient alone: no parameter's is ever
asked for. They broadcast: the activations of one image serve the gradients of several classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

aten = torch.ops.aten


def _zero_unless(mask: Tensor, gradient: Tensor) -> Tensor:
    return torch.where(mask, gradient, 0.0)


def hardtanh_backward(gradient: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    # By the result, which is there already: so the convolution before it keeps its activation fused.
    y = aten.hardtanh.default(x, low, high)
    return _zero_unless((y - low) * (high - y) > 0, gradient)


def threshold_backward(gradient: Tensor, x: Tensor, threshold: float) -> Tensor:
    return _zero_unless(x > threshold, gradient)


def sigmoid_backward(gradient: Tensor, y: Tensor) -> Tensor:
    return gradient * (y * (1 - y))


def tanh_backward(gradient: Tensor, y: Tensor) -> Tensor:
    return gradient * (1 - y * y)


def silu_backward(gradient: Tensor, x: Tensor) -> Tensor:
    s = x.sigmoid()
    return gradient * (s * (1 + x * (1 - s)))


def softmax_backward(gradient: Tensor, y: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    product = gradient * y
    return product - y * product.sum(dim, keepdim=True)


def convolution_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    mask: Any,
) -> tuple[Tensor | None, None, None]:
    if not mask[0]:
        return None, None, None
    spatial = range(len(stride))
    if transposed:
        return (
            aten.convolution(gradient, weight, None, stride, padding, dilation, False, [0] * len(stride), groups),
            None,
            None,
        )
    reach = [dilation[i] * (weight.shape[2 + i] - 1) for i in spatial]
    if all(step == 1 for step in stride) and all(reach[i] >= padding[i] for i in spatial):
        # A convolution with the kernel turned round, which runtimes do faster than a transposed one.
        turned = weight if all(side == 1 for side in weight.shape[2:]) else weight.flip([2 + i for i in spatial])
        if groups == 1:
            turned = turned.transpose(0, 1)
        elif groups != weight.shape[0] or weight.shape[1] != 1:
            out, into = weight.shape[0] // groups, weight.shape[1]
            turned = turned.reshape(groups, out, into, *weight.shape[2:]).transpose(1, 2)
            turned = turned.reshape(groups * into, out, *weight.shape[2:])
        around = [reach[i] - padding[i] for i in spatial]
        return (
            aten.convolution(gradient, turned, None, stride, around, dilation, False, [0] * len(stride), groups),
            None,
            None,
        )
    rest = [x.shape[2 + i] - ((gradient.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + reach[i] + 1) for i in spatial]
    return aten.convolution(gradient, weight, None, stride, padding, dilation, True, rest, groups), None, None


def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    training: bool,
    momentum: float,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:
    scale = (variance + epsilon).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    ones = [1] * (x.ndim - 2)
    y = x * scale.view(-1, *ones) + shift.view(-1, *ones)
    return y, mean, variance


def batch_norm_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    saved_mean: Any,
    saved_variance: Any,
    training: bool,
    epsilon: float,
    mask: Any,
) -> tuple[Tensor, None, None]:
    scale = (variance + epsilon).rsqrt()
    scale = scale if weight is None else scale * weight
    return gradient * scale.view(-1, *[1] * (x.ndim - 2)), None, None


def layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    dims = list(range(-len(shape), 0))
    mean = x.mean(dims, keepdim=True)
    centred = x - mean
    inverse = ((centred * centred).mean(dims, keepdim=True) + epsilon).rsqrt()
    y = centred * inverse
    y = y if weight is None else y * weight
    y = y if bias is None else y + bias
    return y, mean, inverse


def layer_norm_backward(
    gradient: Tensor,
    x: Tensor,
    shape: Sequence[int],
    mean: Tensor,
    inverse: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mask: Any,
) -> tuple[Tensor, None, None]:
    dims = list(range(-len(shape), 0))
    unit = (x - mean) * inverse
    of_unit = gradient if weight is None else gradient * weight
    along = unit * (of_unit * unit).mean(dims, keepdim=True)
    return inverse * (of_unit - of_unit.mean(dims, keepdim=True) - along), None, None


DECOMPOSITIONS: Final[dict[Any, Callable[..., Any]]] = {
    aten.hardtanh_backward.default: hardtanh_backward,
    aten.threshold_backward.default: threshold_backward,
    aten.sigmoid_backward.default: sigmoid_backward,
    aten.tanh_backward.default: tanh_backward,
    aten.silu_backward.default: silu_backward,
    aten._softmax_backward_data.default: softmax_backward,
    aten.convolution_backward.default: convolution_backward,
    aten.native_batch_norm.default: batch_norm,
    aten.native_batch_norm_backward.default: batch_norm_backward,
    aten.native_layer_norm.default: layer_norm,
    aten.native_layer_norm_backward.default: layer_norm_backward,
}
