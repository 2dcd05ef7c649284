"""Backward operations, written in operations that every runtime has.

Each uses torch's own formula (tools/autograd/derivatives.yaml) and returns the gradient of the input only, because no
graph needs the gradient of a parameter. All of them broadcast the activations of one image over the gradients of
several classes. They therefore first compute the terms that depend on activations alone, and multiply by the gradient
last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

aten = torch.ops.aten


# -- activations


def _zero_unless(mask: Tensor, gradient: Tensor) -> Tensor:
    return torch.where(mask, gradient, 0.0)


def hardtanh_backward(gradient: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    # Test the result, which the graph has already. Then a runtime can still fuse the activation into its convolution.
    y = aten.hardtanh.default(x, low, high)
    if math.isinf(low) or math.isinf(high):
        return _zero_unless(y > low if math.isinf(high) else y < high, gradient)
    # The remainder of a ReLU6 is 0 at both ends. This tests both with one chain of operations, which runtimes fuse.
    # A bound that bfloat16 rounds, 0.3 say, would leave a remainder.
    exact = low == 0 and float(torch.tensor(high).bfloat16()) == high
    return _zero_unless(torch.remainder(y, high) > 0 if exact else (y - low) * (high - y) > 0, gradient)


def threshold_backward(gradient: Tensor, x: Tensor, threshold: float) -> Tensor:
    return _zero_unless(x > threshold, gradient)


def leaky_relu_backward(gradient: Tensor, x: Tensor, slope: float, is_result: bool) -> Tensor:
    y = aten.leaky_relu.default(x, slope) if slope > 0 and not is_result else x
    return torch.where(y > 0, gradient, gradient * slope)


def elu_backward(
    gradient: Tensor, alpha: float, scale: float, input_scale: float, is_result: bool, x: Tensor
) -> Tensor:
    y = x if is_result else (alpha * scale) * (torch.exp(x * input_scale) - 1)
    below = input_scale * (y + alpha * scale)
    return gradient * torch.where(x <= 0, below, scale)


def celu(x: Tensor, alpha: float = 1.0) -> Any:
    return aten.elu.default(x, alpha, 1.0, 1 / alpha)


def prelu_backward(gradient: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, None]:
    return gradient * torch.where(x > 0, 1.0, weight), None


def sigmoid_backward(gradient: Tensor, y: Tensor) -> Tensor:
    return gradient * (y * (1 - y))


def hardsigmoid_backward(gradient: Tensor, x: Tensor) -> Tensor:
    return _zero_unless((x > -3) & (x < 3), gradient * (1 / 6))


def hardswish_backward(gradient: Tensor, x: Tensor) -> Tensor:
    return gradient * torch.where(x < -3, 0.0, torch.where(x <= 3, x * (1 / 3) + 0.5, 1.0))


def tanh_backward(gradient: Tensor, y: Tensor) -> Tensor:
    return gradient * (1 - y * y)


def silu_backward(gradient: Tensor, x: Tensor) -> Tensor:
    s = x.sigmoid()
    return gradient * (s * (1 + x * (1 - s)))


def mish_backward(gradient: Tensor, x: Tensor) -> Tensor:
    t = torch.nn.functional.softplus(x).tanh()
    return gradient * (t + x * x.sigmoid() * (1 - t * t))


def softplus_backward(gradient: Tensor, x: Tensor, beta: float, threshold: float) -> Tensor:
    return gradient * torch.where(x * beta > threshold, 1.0, (x * beta).sigmoid())


def gelu_backward(gradient: Tensor, x: Tensor, *, approximate: str = "none") -> Tensor:
    if approximate == "tanh":
        scale, cubic = math.sqrt(2 / math.pi), 0.044715
        square = x * x
        t = (scale * (x * (1 + cubic * square))).tanh()
        return gradient * (0.5 * (1 + t) + (0.5 * scale) * x * (1 - t * t) * (1 + (3 * cubic) * square))
    density = (x * x * -0.5).exp() * (1 / math.sqrt(2 * math.pi))
    return gradient * (0.5 * (1 + (x * math.sqrt(0.5)).erf()) + x * density)


def softmax_backward(gradient: Tensor, y: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    product = gradient * y
    return product - y * product.sum(dim, keepdim=True)


def log_softmax_backward(gradient: Tensor, y: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    return gradient - y.exp() * gradient.sum(dim, keepdim=True)


# -- convolutions


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
) -> Any:
    if mask[1]:  # the kernel depends on the image: record torch's operation
        return NotImplemented
    if transposed:
        flat = [0] * len(stride)
        return aten.convolution(gradient, weight, None, stride, padding, dilation, False, flat, groups), None, None
    return convolved_back(gradient, weight, x.shape[2:], stride, padding, dilation, groups), None, None


def convolved_back(
    gradient: Tensor,
    weight: Tensor,
    sides: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """The gradient with respect to a convolution's input, whose height and width are ``sides``."""
    spatial = range(len(stride))
    flat = [0] * len(stride)
    reach = [dilation[i] * (weight.shape[2 + i] - 1) for i in spatial]
    if all(step == 1 for step in stride) and all(reach[i] >= padding[i] for i in spatial):
        # A convolution with the flipped kernel, which runs faster than a transposed convolution.
        around = [reach[i] - padding[i] for i in spatial]
        flipped = _flipped(weight, groups)
        back: Tensor = aten.convolution(gradient, flipped, None, stride, around, dilation, False, flat, groups)
        return back
    rest = [sides[i] - ((gradient.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + reach[i] + 1) for i in spatial]
    whole: Tensor = aten.convolution(
        gradient, weight, None, stride, padding, dilation, True, [max(each, 0) for each in rest], groups
    )
    for i in spatial:
        if rest[i] < 0:  # the last windows of a pooling can extend beyond the map
            whole = aten.slice.Tensor(whole, 2 + i, 0, sides[i])
    return whole


def _flipped(weight: Tensor, groups: int) -> Tensor:
    """A kernel flipped in space, with input and output channels swapped within each group."""
    kernel = weight.shape[2:]
    flipped = weight if all(side == 1 for side in kernel) else weight.flip(list(range(2, weight.ndim)))
    out, into = weight.shape[0] // groups, weight.shape[1]
    if groups == 1:
        return flipped.transpose(0, 1)
    if out == into == 1:
        return flipped
    flipped = flipped.reshape(groups, out, into, *kernel).transpose(1, 2)
    return flipped.reshape(groups * into, out, *kernel)


# -- norms


def native_batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    training: bool,
    momentum: float,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:
    ones = [1] * (x.ndim - 2)
    if training or mean is None or variance is None:  # an instance norm: images and channels share one axis
        mean, inverse = _moments(x, [0, *range(2, x.ndim)], epsilon)
        y = (x - mean) * inverse
        y = y if weight is None else y * weight.view(-1, *ones)
        return y if bias is None else y + bias.view(-1, *ones), mean.view(-1), inverse.view(-1)
    scale = (variance + epsilon).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    return x * scale.view(-1, *ones) + shift.view(-1, *ones), mean, variance


def native_batch_norm_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    saved_mean: Tensor,
    saved_inverse: Tensor,
    training: bool,
    epsilon: float,
    mask: Any,
) -> tuple[Tensor, None, None]:
    ones = [1] * (x.ndim - 2)
    if training or mean is None or variance is None:
        scaled = gradient if weight is None else gradient * weight.view(-1, *ones)
        dims = [0, *range(2, x.ndim)]
        return _normalised_back(scaled, x, saved_mean.view(-1, *ones), saved_inverse.view(-1, *ones), dims), None, None
    scale = (variance + epsilon).rsqrt()
    scale = scale if weight is None else scale * weight
    return gradient * scale.view(-1, *ones), None, None


def _moments(x: Tensor, dims: list[int], epsilon: float) -> tuple[Tensor, Tensor]:
    mean = x.mean(dims, keepdim=True)
    centred = x - mean
    return mean, ((centred * centred).mean(dims, keepdim=True) + epsilon).rsqrt()


def _normalised_back(gradient: Tensor, x: Tensor, mean: Tensor, inverse: Tensor, dims: list[int]) -> Tensor:
    """The gradient of ``(x - mean) * inverse`` with respect to x. ``inverse`` is 1 / deviation of x along ``dims``."""
    unit = (x - mean) * inverse
    along = unit * (gradient * unit).mean(dims, keepdim=True)
    return inverse * (gradient - gradient.mean(dims, keepdim=True) - along)


def native_layer_norm_backward(
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
    return _normalised_back(gradient if weight is None else gradient * weight, x, mean, inverse, dims), None, None


def native_group_norm_backward(
    gradient: Tensor,
    x: Tensor,
    mean: Tensor,
    inverse: Tensor,
    weight: Tensor | None,
    count: int,
    channels: int,
    positions: int,
    groups: int,
    mask: Any,
) -> tuple[Tensor, None, None]:
    sides = x.shape[1:]
    if weight is not None:
        gradient = gradient * weight.view(-1, *[1] * (x.ndim - 2))
    grouped = gradient.reshape(gradient.shape[0], groups, -1)
    mean, inverse = (each.reshape(each.shape[0], groups, 1) for each in (mean, inverse))
    back = _normalised_back(grouped, x.reshape(x.shape[0], groups, -1), mean, inverse, [2])
    return back.reshape(back.shape[0], *sides), None, None


_NAMED_ALIKE: Final = (
    *(hardtanh_backward, threshold_backward, leaky_relu_backward, elu_backward, celu, sigmoid_backward),
    *(hardsigmoid_backward, hardswish_backward, tanh_backward, silu_backward, mish_backward, softplus_backward),
    *(gelu_backward, convolution_backward, native_batch_norm, native_batch_norm_backward),
    *(native_layer_norm_backward, native_group_norm_backward),
)
TABLE: Final[dict[Any, Callable[..., Any]]] = {
    **{getattr(aten, function.__name__).default: function for function in _NAMED_ALIKE},
    aten._prelu_kernel_backward.default: prelu_backward,
    aten._softmax_backward_data.default: softmax_backward,
    aten._log_softmax_backward_data.default: log_softmax_backward,
}
