"""Moves, reductions and splits of tensors, and their gradients, rewritten in fewer kinds of operations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

aten = torch.ops.aten


# -- parts


def sliced(x: Tensor, dim: int, start: int, end: int, step: int = 1) -> Tensor:
    found: Tensor = aten.slice.Tensor(x, dim, start, end, step)
    return found


def _selected(x: Tensor, dim: int, index: int) -> Tensor:
    found: Tensor = aten.select.int(x, dim, index)
    return found


def _padded(x: Tensor, dim: int, before: int, after: int) -> Tensor:
    if before == after == 0:
        return x
    found: Tensor = aten.constant_pad_nd.default(x, [0, 0] * (x.ndim - 1 - dim) + [before, after])
    return found


def split(x: Tensor, size: int, dim: int = 0) -> list[Tensor]:
    whole = x.shape[dim]
    return split_with_sizes(x, [min(size, whole - start) for start in range(0, whole, size)], dim)


def split_with_sizes(x: Tensor, sizes: Sequence[int], dim: int = 0) -> list[Tensor]:
    ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    return [sliced(x, dim, end - size, end) for end, size in zip(ends, sizes, strict=True)]


def unbind(x: Tensor, dim: int = 0) -> list[Tensor]:
    return [_selected(x, dim, number) for number in range(x.shape[dim])]


def roll(x: Tensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> Tensor:
    if not dims:
        return roll(x.reshape(-1), shifts, [0]).reshape(x.shape)
    for shift, dim in zip(shifts, dims, strict=True):
        side = x.shape[dim]
        if shift % side:
            cut = side - shift % side
            x = torch.cat([sliced(x, dim, cut, side), sliced(x, dim, 0, cut)], dim)
    return x


def unfold(x: Tensor, dim: int, size: int, step: int) -> Tensor:
    count = (x.shape[dim] - size) // step + 1
    parts = [sliced(x, dim, start, start + (count - 1) * step + 1, step) for start in range(size)]
    return torch.stack(parts, -1)


def unfold_backward(gradient: Tensor, sides: Sequence[int], dim: int, size: int, step: int) -> Tensor:
    dim %= len(sides)
    count = gradient.shape[dim]
    parts = [
        slice_backward(_selected(gradient, -1, start), sides, dim, start, start + (count - 1) * step + 1, step)
        for start in range(size)
    ]
    whole = parts[0]
    for part in parts[1:]:
        whole = whole + part
    return whole


def slice_backward(gradient: Tensor, sides: Sequence[int], dim: int, start: int, end: int, step: int) -> Tensor:
    side, count = sides[dim], gradient.shape[dim]
    dim %= len(sides)
    start = min(max(start + side if start < 0 else start, 0), side)
    if step > 1:  # insert zeros between the entries
        shape = gradient.shape
        spread = _padded(gradient.unsqueeze(dim + 1), dim + 1, 0, step - 1)
        spread = spread.reshape(*shape[:dim], count * step, *shape[dim + 1 :])
        gradient = sliced(spread, dim, 0, (count - 1) * step + 1)
    return _padded(gradient, dim, start, side - start - gradient.shape[dim])


def select_backward(gradient: Tensor, sides: Sequence[int], dim: int, index: int) -> Tensor:
    dim %= len(sides)
    index %= sides[dim]
    return _padded(gradient.unsqueeze(dim), dim, index, sides[dim] - index - 1)


def slice_scatter(
    x: Tensor, part: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    side = x.shape[dim]
    chosen = range(side)[slice(start, end, step)]
    if len(chosen) == side:
        return part.expand(x.shape)
    if step != 1:
        pieces = [
            _selected(part, dim, chosen.index(number)) if number in chosen else _selected(x, dim, number)
            for number in range(side)
        ]
        return torch.stack(pieces, dim)
    pieces = [sliced(x, dim, 0, chosen.start), part, sliced(x, dim, chosen.stop, side)]
    return torch.cat([piece for piece in pieces if piece.shape[dim]], dim)


def select_scatter(x: Tensor, part: Tensor, dim: int, index: int) -> Tensor:
    index %= x.shape[dim]
    return slice_scatter(x, part.unsqueeze(dim), dim, index, index + 1)


def scatter(x: Tensor, dim: int, index: Tensor, part: Tensor) -> Any:
    """Scatter of one number per row, as in the gradient of a row's maximum."""
    if index.shape[dim] != 1:
        return NotImplemented
    places = torch.arange(x.shape[dim], device=x.device).view(-1, *[1] * (x.ndim - 1 - dim % x.ndim))
    return torch.where(index == places, part, x)


def index_add(x: Tensor, dim: int, index: Tensor, part: Tensor, *, alpha: float = 1) -> Tensor:
    """A product with a 0/1 matrix that maps each entry to its row."""
    places = (index.reshape(-1, 1) == torch.arange(x.shape[dim])).to(part.dtype)
    rows = part.transpose(dim, -1)
    added = (rows.reshape(-1, rows.shape[-1]) @ places).reshape(*rows.shape[:-1], x.shape[dim]).transpose(dim, -1)
    return x + (added if alpha == 1 else added * alpha)


def index_put(x: Tensor, indices: Sequence[Tensor | None], part: Tensor, accumulate: bool = False, *_: Any) -> Any:
    """The gradient of indexing rows along one axis."""
    picked = [dim for dim, index in enumerate(indices) if index is not None]
    if not accumulate or len(picked) != 1:
        return NotImplemented
    dim, index = picked[0], indices[picked[0]]
    assert index is not None
    if index.dtype != torch.int64:
        return NotImplemented
    index = torch.where(index < 0, index + x.shape[dim], index)
    part = part.reshape(*part.shape[:dim], index.numel(), *part.shape[dim + index.ndim :])
    return index_add(x, dim, index, part)


def repeat(x: Tensor, times: Sequence[int]) -> Tensor:
    x = x.reshape(*[1] * (len(times) - x.ndim), *x.shape)
    for dim, (time, side) in enumerate(zip(times, x.shape, strict=True)):
        if time != 1:
            shape = x.shape
            wide = x.unsqueeze(dim).expand(*shape[:dim], time, *shape[dim:])
            x = wide.reshape(*shape[:dim], time * side, *shape[dim + 1 :])
    return x


def pixel_shuffle(x: Tensor, factor: int) -> Tensor:
    count, channels, height, width = x.shape
    parts = x.reshape(count, channels // factor**2, factor, factor, height, width).permute(0, 1, 4, 2, 5, 3)
    return parts.reshape(count, channels // factor**2, height * factor, width * factor)


def pixel_unshuffle(x: Tensor, factor: int) -> Tensor:
    count, channels, height, width = x.shape
    parts = x.reshape(count, channels, height // factor, factor, width // factor, factor).permute(0, 1, 3, 5, 2, 4)
    return parts.reshape(count, channels * factor**2, height // factor, width // factor)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    shape = x.shape
    return x.reshape(shape[0], groups, -1, *shape[2:]).transpose(1, 2).reshape(shape)


# -- sums


def linalg_vector_norm(
    x: Tensor, order: float = 2, dims: Sequence[int] | None = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    if dtype not in (None, x.dtype) or order in (0, math.inf, -math.inf):
        return NotImplemented
    axes = [*range(x.ndim)] if dims is None else [*dims]
    if order == 2:
        return (x * x).sum(axes, keepdim=keepdim).sqrt()
    if order == 1:
        return x.abs().sum(axes, keepdim=keepdim)
    return x.abs().pow(order).sum(axes, keepdim=keepdim).pow(1 / order)


def norm(x: Tensor, order: float | None, dims: Sequence[int], keepdim: bool = False) -> Any:
    return linalg_vector_norm(x, 2 if order is None else order, dims, keepdim)


def variance(
    x: Tensor, dims: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    axes = [*range(x.ndim)] if dims is None else [*dims]
    centred = x - x.mean(axes, keepdim=True)
    count = math.prod(x.shape[axis] for axis in axes)
    return (centred * centred).sum(axes, keepdim=keepdim) * (1 / (count - (1 if correction is None else correction)))


def deviation(x: Tensor, *args: Any, **named: Any) -> Tensor:
    return variance(x, *args, **named).sqrt()


def variance_and_mean(x: Tensor, dims: Any = None, *, correction: Any = None, keepdim: bool = False) -> Any:
    axes = [*range(x.ndim)] if dims is None else [*dims]
    return variance(x, dims, correction=correction, keepdim=keepdim), x.mean(axes, keepdim=keepdim)


def logsumexp(x: Tensor, dims: list[int], keepdim: bool = False) -> Tensor:
    largest = x.amax(dims, keepdim=True)
    found = (x - largest).exp().sum(dims, keepdim=True).log() + largest
    return found if keepdim else found.squeeze(tuple(dims))


# -- sums of products


def addcmul(x: Tensor, one: Tensor, other: Tensor, *, value: float = 1) -> Tensor:
    return x + one * other * value if value != 1 else x + one * other


def addcdiv(x: Tensor, one: Tensor, other: Tensor, *, value: float = 1) -> Tensor:
    return x + one / other * value if value != 1 else x + one / other


def baddbmm(x: Tensor, one: Tensor, other: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    product = torch.bmm(one, other)
    return (x if beta == 1 else x * beta) + (product if alpha == 1 else product * alpha)


def addmm(x: Tensor, one: Tensor, other: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    if beta == alpha == 1:
        return NotImplemented
    product = torch.mm(one, other)
    return (x if beta == 1 else x * beta) + (product if alpha == 1 else product * alpha)


def glu(x: Tensor, dim: int = -1) -> Tensor:
    value, gate = split(x, x.shape[dim] // 2, dim)
    return value * gate.sigmoid()


def glu_backward(gradient: Tensor, x: Tensor, dim: int) -> Tensor:
    value, gate = split(x, x.shape[dim] // 2, dim)
    s = gate.sigmoid()
    return torch.cat([gradient * s, gradient * (value * (s * (1 - s)))], dim)


_NAMED_ALIKE: Final = (
    *(split_with_sizes, roll, unfold, unfold_backward, slice_backward, select_backward, slice_scatter, select_scatter),
    *(index_add, index_put, repeat, pixel_shuffle, pixel_unshuffle, channel_shuffle, addcmul, addcdiv, baddbmm, addmm),
    *(logsumexp, linalg_vector_norm, glu, glu_backward),
)
TABLE: Final[dict[Any, Callable[..., Any]]] = {
    **{getattr(aten, function.__name__).default: function for function in _NAMED_ALIKE},
    aten.split.Tensor: split,
    aten.unbind.int: unbind,
    aten.scatter.src: scatter,
    aten._index_put_impl.default: index_put,
    aten._unsafe_index_put.default: index_put,
    aten.norm.ScalarOpt_dim: norm,
    aten.var.correction: variance,
    aten.std.correction: deviation,
    aten.var_mean.correction: variance_and_mean,
}
