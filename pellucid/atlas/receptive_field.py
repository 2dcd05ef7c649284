"""The receptive field of each position of a layer, from the operations of the graph.

Every node's value is followed as a tensor whose axes may be *placed*: each index of a placed axis sees one box of the
pixels, and an element sees the intersection of the boxes of its axes. Convolutions, pools, padding and slices move
these boxes exactly, borders included. An operation that is not in the table sees the whole picture.

An operand that has one number for all positions of another operand is left out. Such operands are gates, which see the
whole picture through their global pooling, and statistics of norms. With them every field would be the whole picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partialmethod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pellucid.network.file import CompiledNetwork
from pellucid.network.graph import INPUT, PIXELS_INPUT, WEIGHT, Batch, Node, Ref
from pellucid.types import Array, Box

Boxes = NDArray[np.int32]  # [n, 4]: y0, x0, -y1, -x1 of each index, so that a minimum is a hull
_MOST_ELEMENTS: Final = 2**24  # of axes that one view joins


@dataclass(frozen=True, slots=True)
class ReceptiveField:
    """What each position of a layer sees of the network's pixels.

    ``rows`` ``[h, 2]``: the first row of pixels that a row of positions sees, and the row after the last. ``columns``
    ``[w, 2]``: the same for columns.
    """

    rows: NDArray[np.int32]
    columns: NDArray[np.int32]

    def box(self, row: int, column: int) -> Box:
        """The field of one position as x0, y0, x1, y1 in the network's pixels."""
        (y0, y1), (x0, x1) = self.rows[row].tolist(), self.columns[column].tolist()
        return x0, y0, x1, y1


@dataclass(frozen=True, slots=True)
class _Value:
    """A node's shape for one image, and the boxes of each placed axis. An axis that is not placed sees everything.

    ``array`` is set for a weight of the file. ``fixed``: the value does not depend on the pixels.
    """

    shape: tuple[int, ...]
    axes: tuple[Boxes | None, ...]
    array: Array | None = None
    fixed: bool = False

    @property
    def placed(self) -> int:
        return sum(axis is not None for axis in self.axes)


def receptive_fields(network: CompiledNetwork, layers: Sequence[str]) -> dict[str, ReceptiveField]:
    """The receptive fields of layers, at the network's own size."""
    fields = _Fields(network)
    return {layer: fields.of(layer) for layer in layers}


class _Fields:
    def __init__(self, network: CompiledNetwork) -> None:
        self._network, self._graph = network, network.graph
        self._height, self._width = network.model.preprocess.size
        self._whole = np.array([0, 0, -self._height, -self._width], np.int32)
        self._nothing = np.array([self._height, self._width, 0, 0], np.int32)
        manifest = network.manifest
        self._gates = {each.node for each in (*manifest.gate_values.values(), *manifest.spatial_gate_values.values())}
        self._values: dict[str, Any] = {}

    def of(self, layer: str) -> ReceptiveField:
        value = self._network.value(layer)
        needed = self._graph.ancestors([value.node], self._values)
        for name, node in self._graph.nodes.items():
            if name in needed and name not in self._values:
                self._values[name] = self._found(node)
        layout, found = value.layout, self._values[value.node]
        boxes = np.broadcast_to(self._whole, (layout.height, layout.width, 4))
        if isinstance(found, _Value):
            boxes = self._on_map(layout.axes, layout.extra, found, boxes)
        rows, columns = boxes.min(1), boxes.min(0)
        return ReceptiveField(_spans(rows[:, 0], -rows[:, 2]), _spans(columns[:, 1], -columns[:, 3]))

    def _on_map(self, axes: str, extra: int, found: _Value, whole: Boxes) -> Boxes:
        """The boxes of a layer's positions ``[h, w, 4]``."""
        if "N" in axes:
            tokens = found.axes[axes.index("N")]
            return whole if tokens is None else tokens[extra:].reshape(whole.shape)
        rows, columns = found.axes[axes.index("H")], found.axes[axes.index("W")]
        boxes = whole if rows is None else np.maximum(whole, rows[:, None])
        return boxes if columns is None else np.maximum(boxes, columns[None])

    def _found(self, node: Node) -> Any:
        """The value of a node: a _Value, a tuple of several, or None if it is not known."""
        if node.op == WEIGHT:
            array = self._network.weights[node.args[0]]
            return _Value(array.shape, (None,) * array.ndim, array, True)
        if node.op == INPUT:
            return self._pixels() if node.name == PIXELS_INPUT else None
        try:
            found = self._computed(node)
            left_out = node.name in self._gates or node.name not in self._graph.of_pixels
            if isinstance(found, _Value) and left_out:
                return _Value(found.shape, (None,) * len(found.shape), found.array, True)
            return found
        except (TypeError, ValueError, IndexError, KeyError, AttributeError):  # arguments of a form not foreseen
            return None

    def _pixels(self) -> _Value:
        rows, columns = np.arange(self._height), np.arange(self._width)
        boxes = [np.tile(self._whole, (side, 1)) for side in (self._height, self._width)]
        boxes[0][:, 0], boxes[0][:, 2] = rows, -rows - 1
        boxes[1][:, 1], boxes[1][:, 3] = columns, -columns - 1
        channels = self._network.model.preprocess.shape[0]
        return _Value((1, channels, self._height, self._width), (None, None, *boxes))

    def _argument(self, given: Any) -> Any:
        if isinstance(given, Ref):
            return self._values[given.name]
        if isinstance(given, Batch):
            return given.times
        return tuple(map(self._argument, given)) if isinstance(given, tuple) else given

    def _computed(self, node: Node) -> Any:
        name = node.op.split(".")[1]
        args = [self._argument(each) for each in node.args]
        if any(isinstance(ref, Ref) and value is None for ref, value in zip(node.args, args, strict=True)):
            return None
        if name in _POINTWISE:
            operands = [each for each in args if isinstance(each, _Value)]
            return self._pointwise(operands)
        function: Callable[..., Any] | None = getattr(self, "_" + name.lstrip("_"), None)
        return None if function is None else function(*args, **node.kwargs)

    # -- operations by the name that ATen gives them

    def _pointwise(self, operands: Sequence[_Value]) -> _Value:
        shape = np.broadcast_shapes(*(each.shape for each in operands))
        axes: list[Boxes | None] = []
        for axis in range(-len(shape), 0):
            found = [
                each.axes[axis]
                for each in operands
                if not each.fixed and -axis <= len(each.shape) and each.shape[axis] == shape[axis]
            ]
            known = [each for each in found if each is not None]
            axes.append(np.minimum.reduce(known) if known and len(known) == len(found) else None)
        return _Value(shape, tuple(axes))

    def _convolution(
        self,
        x: _Value,
        weight: _Value,
        bias: Any,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        transposed: bool,
        output_padding: Sequence[int],
        groups: int,
    ) -> _Value:
        axes: list[Boxes | None] = [None, None]
        shape = [x.shape[0], weight.shape[1] * groups if transposed else weight.shape[0]]
        for axis, boxes in enumerate(x.axes[2:]):
            side, kernel = x.shape[2 + axis], weight.shape[2 + axis]
            steps, pad, apart = (_each(values, axis) for values in (stride, padding, dilation))
            if transposed:
                out = (side - 1) * steps - 2 * pad + apart * (kernel - 1) + 1 + _each(output_padding, axis)
                reads = np.arange(out)[:, None] + pad - apart * np.arange(kernel)
                indices = np.where(reads % steps == 0, reads // steps, -1)
            else:
                out = (side + 2 * pad - apart * (kernel - 1) - 1) // steps + 1
                indices = np.arange(out)[:, None] * steps - pad + apart * np.arange(kernel)
            shape.append(out)
            axes.append(None if boxes is None else self._hulls(boxes, indices))
        return _Value(tuple(shape), tuple(axes))

    def _hulls(self, boxes: Boxes, indices: NDArray[np.int_]) -> Boxes:
        """For each row of ``indices`` ``[n, m]`` the hull of these boxes. Indices outside of the axis see nothing."""
        padded = np.concatenate((boxes, self._nothing[None]))
        inside = (indices >= 0) & (indices < len(boxes))
        found: Boxes = padded[np.where(inside, indices, len(boxes))].min(1)
        return found

    def _pool(
        self, x: _Value, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
    ) -> _Value:
        shape, axes = list(x.shape), list(x.axes)
        for number in (0, 1):
            axis = len(x.shape) - 2 + number
            window = _each(kernel, number)
            steps = _each(stride, number) if stride else window
            pad, apart, side = _each(padding, number), _each(dilation, number), x.shape[axis]
            room = side + 2 * pad - apart * (window - 1) - 1
            out = (-(-room // steps) if ceil_mode else room // steps) + 1
            if ceil_mode and (out - 1) * steps >= side + pad:
                out -= 1
            shape[axis], boxes = out, axes[axis]
            if boxes is not None:
                axes[axis] = self._hulls(boxes, np.arange(out)[:, None] * steps - pad + apart * np.arange(window))
        return _Value(tuple(shape), tuple(axes))

    def _max_pool2d_with_indices(self, x: _Value, *args: Any) -> tuple[_Value, None]:
        return self._pool(x, *args), None

    def _avg_pool2d(
        self, x: _Value, kernel: Any, stride: Any = (), padding: Any = 0, ceil: bool = False, *_: Any
    ) -> Any:
        return self._pool(x, kernel, stride, padding, 1, ceil)

    def _upsample_nearest2d(self, x: _Value, size: Sequence[int], *_: Any) -> _Value:
        shape, axes = list(x.shape), list(x.axes)
        for axis, out in zip((-2, -1), size, strict=True):
            boxes, shape[axis] = axes[axis], out
            axes[axis] = None if boxes is None else boxes[np.arange(out) * len(boxes) // out]
        return _Value(tuple(shape), tuple(axes))

    def _padded(self, x: _Value, pads: Sequence[int], *_: Any, mode: Any = None) -> _Value:
        shape, axes = list(x.shape), list(x.axes)
        for number in range(len(pads) // 2):
            before, after, axis = pads[2 * number], pads[2 * number + 1], len(shape) - 1 - number
            indices = np.arange(-before, shape[axis] + after)
            if mode is not None:
                indices = np.pad(np.arange(shape[axis]), (before, after), mode=mode)
            shape[axis], boxes = len(indices), axes[axis]
            axes[axis] = None if boxes is None else self._hulls(boxes, indices[:, None])
        return _Value(tuple(shape), tuple(axes))

    _constant_pad_nd = _padded
    _reflection_pad2d = partialmethod(_padded, mode="reflect")
    _replication_pad2d = partialmethod(_padded, mode="edge")

    def _view(self, x: _Value, sides: Sequence[int]) -> _Value:
        shape = list(sides)
        if -1 in shape:
            shape[shape.index(-1)] = math.prod(x.shape) // -math.prod(shape)
        axes: list[Boxes | None] = []
        old = new = 0
        while new < len(shape) or old < len(x.shape):  # groups of axes with as many elements
            first, begun = old, new
            of_old, of_new = (x.shape[old] if old < len(x.shape) else 1), (shape[new] if new < len(shape) else 1)
            old, new = old + 1, new + 1
            while of_old != of_new:
                if of_old < of_new:
                    of_old, old = of_old * x.shape[old], old + 1
                else:
                    of_new, new = of_new * shape[new], new + 1
            axes += self._joined(x, range(first, min(old, len(x.shape))), shape[begun:new])
        return _Value(tuple(shape), tuple(axes))

    _reshape = _unsafe_view = _view

    def _joined(self, x: _Value, group: range, sides: list[int]) -> list[Boxes | None]:
        """The boxes of new axes ``sides``, in place of a group of axes."""
        placed = [axis for axis in group if x.axes[axis] is not None and x.shape[axis] > 1]
        if not placed or math.prod(sides) > _MOST_ELEMENTS:
            return [None] * len(sides)
        if [side for side in sides if side > 1] == [x.shape[axis] for axis in group if x.shape[axis] > 1]:
            kept = iter(axis for axis in group if x.shape[axis] > 1)
            return [x.axes[next(kept)] if side > 1 else None for side in sides]
        boxes = self._whole
        for number, axis in enumerate(group):
            if (found := x.axes[axis]) is not None:
                boxes = np.maximum(boxes, found.reshape(-1, *[1] * (len(group) - number - 1), 4))
        full = np.broadcast_to(boxes, (*(x.shape[axis] for axis in group), 4)).reshape(*sides, 4)
        hulls = [full.min(tuple(other for other in range(len(sides)) if other != axis)) for axis in range(len(sides))]
        return [None if (each == self._whole).all() else each for each in hulls]

    def _permute(self, x: _Value, order: Sequence[int]) -> _Value:
        array = None if x.array is None else x.array.transpose(order)
        return _Value(tuple(x.shape[axis] for axis in order), tuple(x.axes[axis] for axis in order), array)

    def _transpose(self, x: _Value, one: int, other: int) -> _Value:
        order = list(range(len(x.shape)))
        order[one], order[other] = order[other], order[one]
        return self._permute(x, order)

    def _t(self, x: _Value) -> _Value:
        return self._permute(x, (1, 0)) if len(x.shape) == 2 else x

    def _unsqueeze(self, x: _Value, dim: int) -> _Value:
        at = dim % (len(x.shape) + 1)
        return _Value((*x.shape[:at], 1, *x.shape[at:]), (*x.axes[:at], None, *x.axes[at:]))

    def _squeeze(self, x: _Value, dims: Any) -> _Value:
        gone = {dim % len(x.shape) for dim in (dims if isinstance(dims, tuple) else (dims,))}
        kept = [axis for axis in range(len(x.shape)) if axis not in gone or x.shape[axis] != 1]
        return _Value(tuple(x.shape[axis] for axis in kept), tuple(x.axes[axis] for axis in kept))

    def _expand(self, x: _Value, sides: Sequence[int], **_: Any) -> _Value:
        extra = len(sides) - len(x.shape)
        own = (*[1] * extra, *x.shape)
        if x.fixed:
            own = tuple(have if side == -1 else side for side, have in zip(sides, own, strict=True))
        return _Value(own, (*[None] * extra, *x.axes))  # sides of 1 are kept: what is stretched is left out

    def _slice(self, x: _Value, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> _Value:
        return self._indexed(x, dim, np.arange(x.shape[dim])[slice(start, end, step)])

    def _flip(self, x: _Value, dims: Sequence[int]) -> _Value:
        for dim in dims:
            x = self._indexed(x, dim, np.arange(x.shape[dim])[::-1])
        return x

    def _indexed(self, x: _Value, dim: int, indices: NDArray[np.int_]) -> _Value:
        shape, axes = list(x.shape), list(x.axes)
        shape[dim], boxes = len(indices), axes[dim]
        axes[dim] = None if boxes is None else boxes[indices]
        return _Value(tuple(shape), tuple(axes))

    def _select(self, x: _Value, dim: int, index: int) -> _Value:
        return self._without(self._indexed(x, dim, np.array([index % x.shape[dim]])), [dim], keep=False)

    def _cat(self, values: Sequence[_Value], dim: int = 0) -> _Value | None:
        if any(each is None for each in values):
            return None
        dim %= len(values[0].shape)
        shape = list(values[0].shape)
        shape[dim] = sum(each.shape[dim] for each in values)
        axes: list[Boxes | None] = []
        for axis in range(len(shape)):
            found = [each.axes[axis] for each in values if not each.fixed or axis == dim]
            known = [each for each in found if each is not None]
            if axis == dim and known:  # a value without places, such as a class token, sees the whole picture
                parts = [
                    np.tile(self._whole, (each.shape[dim], 1)) if boxes is None else boxes
                    for each, boxes in zip(values, found, strict=True)
                ]
                axes.append(np.concatenate(parts))
            else:
                axes.append(np.minimum.reduce(known) if known and len(known) == len(found) else None)
        return _Value(tuple(shape), tuple(axes))

    def _stack(self, values: Sequence[_Value], dim: int = 0) -> _Value | None:
        return (
            None
            if any(each is None for each in values)
            else self._cat([self._unsqueeze(each, dim) for each in values], dim)
        )

    def _getitem(self, values: Any, index: int) -> Any:
        return values[index]

    def _mean(self, x: _Value, dims: Any = None, keepdim: bool = False, **_: Any) -> _Value:
        every = range(len(x.shape)) if not dims else dims if isinstance(dims, tuple) else (dims,)
        return self._without(x, [dim % len(x.shape) for dim in every], keepdim)

    _sum = _amax = _amin = _any = _mean

    def _without(self, x: _Value, dims: Sequence[int], keep: bool) -> _Value:
        """The value after a reduction of these axes."""
        gone = {dim % len(x.shape) for dim in dims}
        kept = [axis for axis in range(len(x.shape)) if keep or axis not in gone]
        return _Value(
            tuple(1 if axis in gone else x.shape[axis] for axis in kept),
            tuple(None if axis in gone else x.axes[axis] for axis in kept),
        )

    def _softmax(self, x: _Value, dim: int, *_: Any) -> _Value:
        axes = list(x.axes)
        axes[dim] = None
        return _Value(x.shape, tuple(axes))

    def _native_layer_norm(self, x: _Value, *_: Any) -> tuple[_Value, None, None]:
        return _Value(x.shape, x.axes), None, None

    _native_group_norm = _native_layer_norm

    def _mm(self, x: _Value, y: _Value) -> _Value | None:
        shape = (*np.broadcast_shapes(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-1])
        if y.array is None or len(y.shape) != 2:
            # A product of two values, as in attention, sees what both see: the whole picture.
            return (
                _Value(shape, (None,) * len(shape))
                if x.axes[-1] is not None or y.placed
                else _Value(shape, (*x.axes[:-1], None))
            )
        last = x.axes[-1]
        if last is not None:
            padded = np.where((y.array != 0).T[:, :, None], last[None], self._nothing)
            last = padded.min(1).astype(np.int32)
        return _Value(shape, (*x.axes[:-1], last))

    _bmm = _matmul = _mm

    def _addmm(self, bias: Any, x: _Value, y: _Value, **_: Any) -> _Value | None:
        return self._mm(x, y)


def _spans(first: Array, after: Array) -> NDArray[np.int32]:
    """``[n, 2]``. A span of padding alone is empty."""
    return np.stack((first, np.maximum(first, after)), 1).astype(np.int32)


def _each(values: Any, axis: int) -> int:
    """The number of an axis among one for all, or one for each."""
    if isinstance(values, int):
        return values
    return int(values[axis if len(values) > 1 else 0])


# Operations that compute each element from the elements in the same place.
_POINTWISE: Final = frozenset(
    (
        *("add", "sub", "rsub", "mul", "div", "pow", "remainder", "maximum", "minimum", "reciprocal", "neg", "abs"),
        *("eq", "ne", "gt", "lt", "ge", "le", "where", "masked_fill", "sign", "sgn", "floor", "ceil", "round"),
        *("bitwise_and", "bitwise_or", "bitwise_not", "logical_and", "logical_or", "logical_not"),
        *("relu", "hardtanh", "clamp", "clamp_min", "clamp_max", "sigmoid", "tanh", "silu", "gelu", "mish", "elu"),
        *("hardswish", "hardsigmoid", "leaky_relu", "_prelu_kernel", "softplus"),
        *("rsqrt", "sqrt", "exp", "log", "erf", "sin", "cos", "_to_copy"),
    )
)
