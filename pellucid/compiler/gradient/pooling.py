"""Pooling, resizing and padding of maps, and their gradients, in operations that every runtime has.

A linear operation that is separable in height and width is a product with two constant matrices, one for each axis. Its
gradient is a product with the transposed matrices. torch's own operation, applied to unit vectors, gives each matrix,
so borders match torch exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.compiler.gradient.backward import convolved_back
from pellucid.compiler.gradient.rewrites import sliced

aten = torch.ops.aten

_MOST_COMPARED: Final = 16  # window positions up to which a max pool's gradient compares one by one
Along = Callable[[Tensor], Tensor]  # maps [n, 1, side, 1] -> [n, 1, other side, 1]


# -- linear operations, along height and along width


def _matrix(function: Along, side: int, like: Tensor) -> Tensor:
    """The matrix ``[side, other side]`` of a linear function: its result for each unit vector."""
    units = torch.eye(side, dtype=torch.float64).view(side, 1, side, 1)
    return function(units).reshape(side, -1).to(like.dtype)


def _times(x: Tensor, matrix: Tensor) -> Tensor:
    return (x.reshape(-1, x.shape[3]) @ matrix).reshape(*x.shape[:3], matrix.shape[1])


def _forward(x: Tensor, rows: Along, columns: Along) -> Tensor:
    x = _times(x, _matrix(columns, x.shape[3], x))
    return _times(x.mT, _matrix(rows, x.shape[2], x)).mT


def _backward(gradient: Tensor, sides: Sequence[int], rows: Along, columns: Along) -> Tensor:
    """The gradient with respect to the input of ``_forward``, whose shape ``sides`` is (..., height, width)."""
    gradient = _times(gradient, _matrix(columns, sides[-1], gradient).t())
    return _times(gradient.mT, _matrix(rows, sides[-2], gradient).t()).mT


def adaptive_avg_pool(x: Tensor, sides: Sequence[int]) -> Any:
    given = x.shape[2:]
    if all(side % other == 0 for side, other in zip(given, sides, strict=True)):
        kernel = [side // other for side, other in zip(given, sides, strict=True)]
        return x if kernel == [1, 1] else aten.avg_pool2d.default(x, kernel, kernel)
    return _forward(x, *(_adaptive(side) for side in sides))


def adaptive_avg_pool_backward(gradient: Tensor, x: Tensor) -> Tensor:
    return _backward(gradient, x.shape, *(_adaptive(side) for side in gradient.shape[2:]))


def _adaptive(side: int) -> Along:
    return lambda units: F.adaptive_avg_pool2d(units, (side, 1))


def avg_pool_backward(
    gradient: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    counts_padding: bool,
    divisor: int | None,
) -> Any:
    kernel, padding = _pair(kernel), _pair(padding)
    stride = _pair(stride) if stride else kernel
    if divisor is not None:
        gradient = gradient * (1 / divisor)
    even = all(gradient.shape[2 + i] * kernel[i] == x.shape[2 + i] for i in (0, 1))
    if even and stride == kernel and padding == [0, 0]:
        scaled = gradient if divisor is not None else gradient * (1 / math.prod(kernel))
        return aten.upsample_nearest2d.default(scaled, x.shape[2:])

    def along(i: int) -> Along:
        return lambda units: F.avg_pool2d(
            units,
            (kernel[i], 1),
            (stride[i], 1),
            (padding[i], 0),
            ceil_mode,
            counts_padding,
            None if divisor is None else 1,
        )

    return _backward(gradient, x.shape, along(0), along(1))


def _resized(
    sides: Sequence[int], mode: str, align: bool, rows: float | None, columns: float | None
) -> tuple[Along, Along]:
    """Resizing to ``sides`` along height and along width, by these scales."""

    def along(side: int, scale: float | None) -> Along:
        if mode == "nearest":
            return lambda units: aten.upsample_nearest2d.default(units, [side, 1], scale, None)
        function = aten.upsample_bilinear2d if mode == "bilinear" else aten.upsample_bicubic2d
        return lambda units: function.default(units, [side, 1], align, scale, None)

    return along(sides[0], rows), along(sides[1], columns)


def upsample_nearest(x: Tensor, sides: Sequence[int], rows: float | None = None, columns: float | None = None) -> Any:
    if all(side % given == 0 for side, given in zip(sides, x.shape[2:], strict=True)):
        return NotImplemented  # every runtime has this case
    return _forward(x, *_resized(sides, "nearest", False, rows, columns))


def upsample_nearest_backward(
    gradient: Tensor,
    sides: Sequence[int],
    given: Sequence[int],
    rows: float | None = None,
    columns: float | None = None,
) -> Any:
    times = [side // other for side, other in zip(sides, given[2:], strict=True)]
    if all(side == other * time for side, other, time in zip(sides, given[2:], times, strict=True)):
        return aten.avg_pool2d.default(gradient, times, times) * math.prod(times)
    return _backward(gradient, given, *_resized(sides, "nearest", False, rows, columns))


def _upsample(mode: str) -> Callable[..., Tensor]:
    def made(
        x: Tensor, sides: Sequence[int], align: bool, rows: float | None = None, columns: float | None = None
    ) -> Tensor:
        return _forward(x, *_resized(sides, mode, align, rows, columns))

    return made


def _upsample_backward(mode: str) -> Callable[..., Tensor]:
    def made(
        gradient: Tensor,
        sides: Sequence[int],
        given: Sequence[int],
        align: bool,
        rows: float | None = None,
        columns: float | None = None,
    ) -> Tensor:
        return _backward(gradient, given, *_resized(sides, mode, align, rows, columns))

    return made


def _pad_backward(mode: str) -> Callable[..., Tensor]:
    def made(gradient: Tensor, x: Tensor, pads: Sequence[int]) -> Tensor:
        left, right, top, bottom = pads

        def along(before: int, after: int) -> Along:
            return lambda units: F.pad(units, (0, 0, before, after), mode)

        return _backward(gradient, x.shape, along(top, bottom), along(left, right))

    return made


# -- max pooling


def max_pool_backward(
    gradient: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    """The gradient goes to the first maximum of each window, as in torch. Comparing with the maximum finds it."""
    kernel, padding, dilation = _pair(kernel), _pair(padding), _pair(dilation)
    stride = _pair(stride) if stride else kernel
    y = aten.max_pool2d_with_indices.default(x, kernel, stride, padding, dilation, ceil_mode)[0]
    sides = y.shape[2:]
    if math.prod(kernel) > _MOST_COMPARED and stride == kernel and _divides(kernel, x):
        return _disjoint_max_pool_backward(gradient, x, kernel)
    offsets = [(i * dilation[0], j * dilation[1]) for i in range(kernel[0]) for j in range(kernel[1])]
    reach = [(sides[i] - 1) * stride[i] + (kernel[i] - 1) * dilation[i] + 1 for i in (0, 1)]
    after = [max(0, reach[i] - padding[i] - x.shape[2 + i]) for i in (0, 1)]
    padded = x
    if any(padding) or any(after):
        padded = aten.constant_pad_nd.default(x, [padding[1], after[1], padding[0], after[0]], -math.inf)
    first = y.new_full((1, 1, 1, 1), -1.0)
    for number in reversed(range(len(offsets))):
        seen = padded
        for axis, (start, step, side) in enumerate(zip(offsets[number], stride, sides, strict=True)):
            seen = sliced(seen, 2 + axis, start, start + step * (side - 1) + 1, step)
        first = torch.where(seen == y, float(number), first)
    parts = [torch.where(first == number, gradient, 0.0) for number in range(len(offsets))]
    columns = torch.stack(parts, 2)
    columns = columns.reshape(columns.shape[0], -1, *sides)
    return _folded(columns, x.shape[1:], kernel, stride, padding, dilation)


def _disjoint_max_pool_backward(gradient: Tensor, x: Tensor, kernel: Sequence[int]) -> Tensor:
    """``max_pool_backward`` for large windows that do not overlap."""
    count, channels, height, width = x.shape
    rows, columns = height // kernel[0], width // kernel[1]
    windows = x.reshape(count, channels, rows, kernel[0], columns, kernel[1]).permute(0, 1, 2, 4, 3, 5)
    first = windows.reshape(count, channels, rows, columns, -1).argmax(-1, keepdim=True)
    parts = torch.where(first == torch.arange(math.prod(kernel)), gradient.unsqueeze(-1), 0.0)
    parts = parts.reshape(parts.shape[0], channels, rows, columns, *kernel).permute(0, 1, 2, 4, 3, 5)
    return parts.reshape(parts.shape[0], channels, height, width)


def _divides(kernel: Sequence[int], x: Tensor) -> bool:
    return all(side % other == 0 for side, other in zip(x.shape[2:], kernel, strict=True))


def adaptive_max_pool(x: Tensor, sides: Sequence[int]) -> Any:
    if not _divides(sides, x):
        return NotImplemented
    kernel = [side // other for side, other in zip(x.shape[2:], sides, strict=True)]
    return aten.max_pool2d_with_indices.default(x, kernel, kernel)


def adaptive_max_pool_backward(gradient: Tensor, x: Tensor, indices: Tensor) -> Any:
    if not _divides(gradient.shape[2:], x):
        return NotImplemented
    kernel = [side // other for side, other in zip(x.shape[2:], gradient.shape[2:], strict=True)]
    return max_pool_backward(gradient, x, kernel, kernel, [0, 0], [1, 1], False, indices)


def _folded(
    columns: Tensor,
    shape: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Sum ``columns`` ``[B, C * window, h, w]`` into a map of ``shape`` (C, height, width): im2col transposed."""
    count, window = columns.shape[0], math.prod(kernel)
    channels = columns.reshape(-1, window, *columns.shape[2:])  # channels in the batch axis share one small kernel
    folded = convolved_back(channels, _one_hot_kernels(kernel, columns), shape[1:], stride, padding, dilation, 1)
    return folded.reshape(count, *shape)


def _one_hot_kernels(kernel: Sequence[int], like: Tensor) -> Tensor:
    """Kernels ``[window, 1, *kernel]``, each with a single 1, at one position of the window."""
    window = math.prod(kernel)
    return torch.eye(window, dtype=like.dtype).view(window, 1, *kernel)


def im2col(
    x: Tensor, kernel: Sequence[int], dilation: Sequence[int], padding: Sequence[int], stride: Sequence[int]
) -> Tensor:
    channels = x.reshape(-1, 1, *x.shape[2:])
    kernels = _one_hot_kernels(kernel, x)
    columns: Tensor = aten.convolution(channels, kernels, None, stride, padding, dilation, False, [0, 0], 1)
    return columns.reshape(x.shape[0], x.shape[1] * math.prod(kernel), -1)


def col2im(
    columns: Tensor,
    sides: Sequence[int],
    kernel: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> Tensor:
    counts = [
        (sides[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in range(len(sides))
    ]
    maps = columns.reshape(columns.shape[0], columns.shape[1], *counts)
    shape = (columns.shape[1] // math.prod(kernel), *sides)
    return _folded(maps, shape, kernel, stride, padding, dilation)


def _pair(values: Sequence[int]) -> list[int]:
    return [*values] if len(values) == 2 else [values[0], values[0]]


TABLE: Final[dict[Any, Callable[..., Any]]] = {
    aten._adaptive_avg_pool2d.default: adaptive_avg_pool,
    aten._adaptive_avg_pool2d_backward.default: adaptive_avg_pool_backward,
    aten.avg_pool2d_backward.default: avg_pool_backward,
    aten.max_pool2d_with_indices_backward.default: max_pool_backward,
    aten.adaptive_max_pool2d.default: adaptive_max_pool,
    aten.adaptive_max_pool2d_backward.default: adaptive_max_pool_backward,
    aten.upsample_nearest2d.default: upsample_nearest,
    aten.upsample_nearest2d_backward.default: upsample_nearest_backward,
    aten.upsample_bilinear2d.default: _upsample("bilinear"),
    aten.upsample_bilinear2d_backward.default: _upsample_backward("bilinear"),
    aten.upsample_bicubic2d.default: _upsample("bicubic"),
    aten.upsample_bicubic2d_backward.default: _upsample_backward("bicubic"),
    aten.reflection_pad2d_backward.default: _pad_backward("reflect"),
    aten.replication_pad2d_backward.default: _pad_backward("replicate"),
    aten.im2col.default: im2col,
    aten.col2im.default: col2im,
}
