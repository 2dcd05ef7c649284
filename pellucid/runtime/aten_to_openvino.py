"""Translates a part of a graph to an OpenVINO model, operation by operation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset15 as ops

from pellucid.network.graph import INPUT, WEIGHT, Batch, Node, Part, Ref, walk
from pellucid.runtime.cores import has_vnni

Value = Any  # an output of OpenVINO's graph
_TYPES: Final = {
    "float32": ov.Type.f32,
    "float64": ov.Type.f64,
    "int64": ov.Type.i64,
    "int32": ov.Type.i32,
    "bool": ov.Type.boolean,
}


class UnsupportedError(ValueError):
    """An operation that has no translation to OpenVINO. The message names it."""


def build(
    part: Part, inputs: Mapping[str, Value], weights: Mapping[str, NDArray[Any]], *, bf16: bool = False
) -> list[Value]:
    """Build the part's outputs from its ``inputs``, both as OpenVINO values. Raises UnsupportedError.

    ``bf16``: choose operations that are fast in bfloat16, because the model will run in it.
    """
    found: dict[str, Any] = dict(inputs)
    sizes: dict[str, Value] = {}

    def size(batch: Batch) -> Value:
        if batch.of not in sizes:
            of = inputs[part.batches[batch.of]]
            sizes[batch.of] = ops.gather(ops.shape_of(of), _ints([0]), _int(0)).output(0)
        return ops.multiply(sizes[batch.of], _ints([batch.times])).output(0) if batch.times != 1 else sizes[batch.of]

    def leaf(value: Any) -> Any:
        return found[value.name] if isinstance(value, Ref) else size(value) if isinstance(value, Batch) else value

    for node in part.nodes:
        if node.op == WEIGHT:
            found[node.name] = ops.constant(weights[node.args[0]], shared_memory=True).output(0)
            continue
        if not supports(node):
            raise UnsupportedError(node.op)
        made = _OPERATIONS[node.op]
        args = walk(node.args, leaf)
        if node.op in ("aten.mm.default", "aten.matmul.default"):
            args = (args[0], _unshared(args[1]))
        kwargs = {key: walk(value, leaf) for key, value in node.kwargs.items()}
        if made is _convolution:
            kwargs["bf16"] = bf16
        value = made(*args, **kwargs)
        found[node.name] = value if isinstance(value, (tuple, ov.Output)) else value.output(0)
    return [found[name] for name in part.outputs]


def supports(node: Node) -> bool:
    """Whether the node can be translated to OpenVINO."""
    if node.op == "aten.convolution.default" and not isinstance(node.args[8], int):
        return False  # one kernel per image: the number of groups depends on the batch size
    return node.op in _OPERATIONS or node.op in (INPUT, WEIGHT)


def unsupported(nodes: Iterable[Node]) -> list[str]:
    """The operations of nodes that can't be translated, sorted."""
    return sorted({node.op for node in nodes if not supports(node)})


def _int(value: int) -> Value:
    return ops.constant(value, np.int64)


def _ints(values: Any) -> Value:
    return ops.constant(np.array(values, np.int64))


def _rank(value: Value) -> int:
    return len(value.get_partial_shape())


def _like(value: Any, other: Value) -> Value:
    """A number as a constant of the dtype of ``other``. A value is returned unchanged."""
    return value if isinstance(value, ov.Output) else ops.constant(np.array(value), other.get_element_type()).output(0)


def _pair(x: Any, y: Any) -> tuple[Value, Value]:
    reference = x if isinstance(x, ov.Output) else y
    x, y = _like(x, reference), _like(y, reference)
    if x.get_element_type() != y.get_element_type():
        widest = max(x, y, key=lambda each: _ORDER.index(each.get_element_type().get_type_name())).get_element_type()
        x, y = (each if each.get_element_type() == widest else ops.convert(each, widest).output(0) for each in (x, y))
    return x, y


_ORDER = ["boolean", "i32", "i64", "f32", "f64"]


def _binary(function: Callable[..., Any]) -> Callable[..., Value]:
    def made(x: Any, y: Any, *, alpha: float = 1) -> Value:
        # A number is applied before the broadcast, to fewer values.
        if isinstance(y, (int, float)) and (wide := _broadcast(x)) is not None:
            return ops.broadcast(made(wide[0], y, alpha=alpha), wide[1], broadcast_spec="BIDIRECTIONAL")
        x, y = _pair(x, y)
        if alpha != 1:
            y = ops.multiply(y, _like(alpha, y)).output(0)
        narrow = _narrow(x, y)
        return function(narrow, y if narrow is not x else _narrow(y, x))  # one of the two keeps the broadcast shape

    return made


def _broadcast(x: Value) -> tuple[Value, Value] | None:
    """The source and the target shape of a broadcast value, or None if the value is not a broadcast."""
    node = x.get_node()
    return (node.input_value(0), node.input_value(1)) if node.get_type_name() == "Broadcast" else None


def _narrow(x: Value, other: Value) -> Value:
    """The source of a broadcast ``x``, if the operand ``other`` already has the broadcast shape.

    OpenVINO's elementwise operations broadcast implicitly. An explicit Broadcast is slow and changes the memory order.
    """
    wide = _broadcast(x)
    if wide is None or wide[1].get_node().get_type_name() != "Constant":
        return x
    sides, there = wide[1].get_node().data, other.get_partial_shape()
    fits = len(sides) == len(there) and all(
        side == 1 or (have.is_static and have.get_length() == side) for side, have in zip(sides, there, strict=True)
    )
    return wide[0] if fits else x


def _dims(dims: Any, rank: int) -> list[int]:
    if dims is None or dims == ():
        return list(range(rank))
    return [dim % rank for dim in ((dims,) if isinstance(dims, int) else dims)]


def _reduced(function: Callable[..., Any]) -> Callable[..., Value]:
    def made(x: Value, dims: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Value:
        if x.get_element_type() == ov.Type.boolean:  # booleans are counted
            x = ops.convert(x, "f32").output(0)
        return function(x, _ints(_dims(dims, _rank(x))), keepdim)

    return made


def _shape(sides: Any) -> Value:
    """A shape. Each side is a number or a value ``[1]``."""
    if all(isinstance(side, int) for side in sides):
        return _ints(sides)
    return ops.concat([side if isinstance(side, ov.Output) else _ints([side]).output(0) for side in sides], 0)


def _expand(x: Value, sides: Any) -> Value:
    # A bidirectional broadcast to 1 keeps the side, even if it is dynamic.
    return ops.broadcast(
        x,
        _shape([1 if isinstance(side, int) and side == -1 else side for side in sides]),
        broadcast_spec="BIDIRECTIONAL",
    )


def _convolution(
    x: Value,
    weight: Value,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    rest: Any,
    groups: int,
    bf16: bool,
) -> Value:
    shape = weight.get_shape()
    stride, padding, dilation = list(stride), list(padding), list(dilation)
    if len(stride) != len(shape) - 2:
        stride, padding, dilation = ([each[0]] * (len(shape) - 2) for each in (stride, padding, dilation))
    if groups > 1:
        weight = ops.reshape(weight, _ints([groups, shape[0] // groups, *shape[1:]]), False).output(0)
    if bf16 and transposed and groups > 1 and groups == shape[0] and shape[1] == 1:
        spread = _spread(x, weight, stride, padding, dilation, rest)
        if spread is not None:
            return spread
    if transposed:
        function = ops.convolution_backprop_data if groups == 1 else ops.group_convolution_backprop_data
        y = function(
            x,
            weight,
            strides=stride,
            pads_begin=padding,
            pads_end=padding,
            dilations=dilation,
            output_padding=list(rest),
        )
    else:
        function = ops.convolution if groups == 1 else ops.group_convolution
        y = function(x, weight, stride, padding, padding, dilation)
    if bias is None:
        return y
    return ops.add(y, ops.reshape(bias, _ints([1, -1, *[1] * (len(shape) - 2)]), False))


def _spread(x: Value, weight: Value, stride: Any, padding: Any, dilation: Any, rest: Any) -> Value | None:
    """A transposed depthwise convolution as a depthwise one over the input with zeros inserted between positions.

    OpenVINO has no transposed depthwise kernel for bfloat16, so this is up to ten times faster.
    """
    shape, kernel = x.get_partial_shape(), list(weight.get_shape())[3:]
    sides = [shape[2 + i].get_length() for i in range(len(stride))]
    reach = [each * (side - 1) for each, side in zip(dilation, kernel, strict=True)]
    begin = [far - pad for far, pad in zip(reach, padding, strict=True)]
    end = [each + extra + 1 - step for each, extra, step in zip(begin, rest, stride, strict=True)]
    if min(begin + end) < 0:
        return None
    wide = [side * step for side, step in zip(sides, stride, strict=True)]
    repeated = _nearest(x, wide)
    mask = np.zeros((1, 1, *wide), np.float32)
    mask[(slice(None), slice(None), *(slice(None, None, step) for step in stride))] = 1
    turned = _flip(weight, [3 + i for i in range(len(stride))])
    return ops.group_convolution(
        ops.multiply(repeated, _like(mask, x)), turned, [1] * len(stride), begin, end, dilation
    )


def _slice(x: Value, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Value:
    end = 2**31 - 1 if end is None or end > 2**31 - 1 else end
    return ops.slice(x, _ints([start or 0]), _ints([end]), _ints([step]), _ints([dim]))


def _permute(x: Value, order: Any) -> Value:
    rank = len(order)
    return ops.transpose(x, _ints([each % rank for each in order]))


def _transpose(x: Value, one: int, other: int) -> Value:
    order = list(range(_rank(x)))
    order[one], order[other] = order[other], order[one]
    return ops.transpose(x, _ints(order))


def _pad(x: Value, pads: Any, value: float = 0.0) -> Value:
    rank = _rank(x)
    begin, end = [0] * rank, [0] * rank
    for number in range(len(pads) // 2):
        begin[rank - 1 - number], end[rank - 1 - number] = pads[2 * number], pads[2 * number + 1]
    return ops.pad(x, _ints(begin), _ints(end), "constant", _like(value, x))


def _flip(x: Value, dims: Any) -> Value:
    for dim in dims:
        x = ops.slice(x, _ints([-1]), _ints([-(2**31 - 1)]), _ints([-1]), _ints([dim])).output(0)
    return x


def _clamp(x: Value, low: Any = None, high: Any = None) -> Value:
    if low is not None and high is not None:
        return ops.clamp(x, low, high)
    return ops.maximum(x, _like(low, x)) if low is not None else ops.minimum(x, _like(high, x))


def _where(mask: Value, x: Any, y: Any) -> Value:
    x, y = _pair(x, y)
    return ops.select(mask, _narrow(x, mask), _narrow(y, mask))


def _argmax(x: Value, dim: int, keepdim: bool = False) -> Value:
    index = ops.topk(x, _int(1), dim, "max", "value", index_element_type="i64", stable=True).output(1)
    return index if keepdim else ops.squeeze(index, _ints([dim]))


def _fake_quantize(x: Value, scale: float, zero: int, lowest: int, highest: int) -> Value:
    low, high = (ops.constant(np.float32((end - zero) * scale)) for end in (lowest, highest))
    return ops.fake_quantize(x, low, high, low, high, highest - lowest + 1)


def _fake_quantize_channels(x: Value, scale: Value, zero: Value, axis: int, lowest: int, highest: int) -> Value:
    """A weight rounded to multiples of a scale for each index of ``axis``. ``zero`` is 0 and not read.

    Without VNNI, sums of two 8-bit products saturate at 16 bits. Weights of 7 bits, from -64 to 63, prevent it.
    """
    step = ops.reshape(scale, _ints([-1 if each == axis else 1 for each in range(_rank(x))]), False)
    reach = 1 if has_vnni() else 2
    low, high = (ops.multiply(step, _like(float(reach * end), scale)) for end in (lowest, highest))
    return ops.fake_quantize(x, low, high, low, high, highest - lowest + 1)


def _max_pool(
    x: Value, kernel: Any, stride: Any = (), padding: Any = (0,), dilation: Any = (1,), ceil_mode: bool = False
) -> tuple[Value, None]:
    """The maximum of each window. There are no indices, because no gradient reads them."""
    stride = stride or kernel
    kernel, stride, padding, dilation = map(_both, (kernel, stride, padding, dilation))
    rounding = "ceil_torch" if ceil_mode else "floor"
    y = ops.max_pool(x, stride, dilation, padding, padding, kernel, rounding, "explicit", "i64", 0)
    return y.output(0), None


def _avg_pool(
    x: Value,
    kernel: Any,
    stride: Any = (),
    padding: Any = (0,),
    ceil_mode: bool = False,
    counts_padding: bool = True,
    divisor: int | None = None,
) -> Value:
    stride = stride or kernel
    kernel, stride, padding = map(_both, (kernel, stride, padding))
    rounding = "ceil_torch" if ceil_mode else "floor"
    if divisor is not None:  # the divisor is fixed, so the padding counts too
        x = ops.pad(x, _ints([0, 0, *padding]), _ints([0, 0, *padding]), "constant", _like(0.0, x)).output(0)
        y = ops.avg_pool(x, stride, [0, 0], [0, 0], kernel, False, rounding)
        return ops.multiply(y, _like(kernel[0] * kernel[1] / divisor, y.output(0)))
    return ops.avg_pool(x, stride, padding, padding, kernel, not counts_padding, rounding)


def _unshared(factor: Value) -> Value:
    """A copy of a square constant, so that no two products share one.

    OpenVINO 2026.4 packs a constant once and caches it by address and shape. If one product reads a square constant and
    another reads its transpose, the second would be wrong.
    """
    node, shape = factor.get_node(), factor.get_partial_shape()
    if node.get_type_name() != "Constant" or len(shape) != 2 or shape[0] != shape[1]:
        return factor
    return ops.constant(node.data.copy()).output(0)


def _both(values: Any) -> list[int]:
    return [*values] if len(values) == 2 else [values[0], values[0]]


def _nearest(x: Value, sides: Any, rows: Any = None, columns: Any = None) -> Value:
    """Nearest-neighbour resizing to multiples of the sides."""
    return ops.interpolate(
        x,
        _ints(sides),
        "nearest",
        "sizes",
        axes=_ints(range(2, 2 + len(sides))),
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def _pad_by(mode: str) -> Callable[..., Value]:
    def made(x: Value, pads: Any) -> Value:
        left, right, top, bottom = pads
        return ops.pad(x, _ints([0, 0, top, left]), _ints([0, 0, bottom, right]), mode)

    return made


def _layer_norm(x: Value, shape: Any, weight: Any, bias: Any, epsilon: float) -> tuple[Value, ...]:
    """The normalised value, the mean and 1 / deviation. OpenVINO removes the unused ones."""
    rank = _rank(x)
    axes = _ints(range(rank - len(shape), rank))
    y = ops.mvn(x, axes, True, epsilon, "INSIDE_SQRT").output(0)
    return (_affine(y, weight, bias), *_statistics(x, axes, epsilon))


def _group_norm(
    x: Value, weight: Any, bias: Any, count: Any, channels: int, positions: int, groups: int, epsilon: float
) -> tuple[Value, ...]:
    grouped = ops.reshape(x, _ints([0, groups, -1]), True).output(0)
    y = ops.reshape(ops.mvn(grouped, _ints([2]), True, epsilon, "INSIDE_SQRT"), ops.shape_of(x), False).output(0)
    ones = [1] * (_rank(x) - 2)
    weight, bias = (
        None if each is None else ops.reshape(each, _ints([-1, *ones]), False).output(0) for each in (weight, bias)
    )
    mean, inverse = _statistics(grouped, _ints([2]), epsilon)
    flat = [ops.squeeze(each, _ints([2])).output(0) for each in (mean, inverse)]
    return (_affine(y, weight, bias), *flat)


def _affine(y: Value, weight: Any, bias: Any) -> Value:
    y = y if weight is None else ops.multiply(y, weight).output(0)
    return y if bias is None else ops.add(y, bias).output(0)


def _statistics(x: Value, axes: Value, epsilon: float) -> tuple[Value, Value]:
    mean = ops.reduce_mean(x, axes, True).output(0)
    centred = ops.subtract(x, mean)
    variance = ops.reduce_mean(ops.multiply(centred, centred), axes, True).output(0)
    return mean, ops.power(ops.add(variance, _like(epsilon, x)), _like(-0.5, x)).output(0)


def _index(x: Value, indices: Any) -> Value:
    """Index one axis, or the first axes together by indices that broadcast to one shape."""
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    if len(axes) == 1:
        return ops.gather(x, indices[axes[0]], _int(axes[0]))
    if axes != list(range(len(axes))):
        raise UnsupportedError("aten.index.Tensor of axes that are not the first")
    rank = max(_rank(index) for index in indices if index is not None)
    shape: Any = ops.constant(np.ones(rank, np.int64)).output(0)
    for axis in axes:
        shape = ops.shape_of(ops.broadcast(indices[axis], shape, broadcast_spec="BIDIRECTIONAL")).output(0)
    places = [
        ops.unsqueeze(ops.broadcast(indices[axis], shape, broadcast_spec="BIDIRECTIONAL"), _int(-1)) for axis in axes
    ]
    return ops.gather_nd(x, ops.concat([each.output(0) for each in places], -1), 0)


def _scaled_elu(x: Value, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Value:
    below = ops.multiply(
        ops.subtract(ops.exp(ops.multiply(x, _like(input_scale, x))), _like(1.0, x)), _like(alpha * scale, x)
    )
    above = ops.multiply(x, _like(scale, x))
    return ops.select(ops.greater(x, _like(0.0, x)), above, below)


def _softplus(x: Value, beta: float = 1.0, threshold: float = 20.0) -> Value:
    if beta == 1:
        return ops.softplus(x)
    return ops.divide(ops.softplus(ops.multiply(x, _like(beta, x))), _like(beta, x))


def _max_of(x: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
    index = _argmax(x, dim, keepdim)
    found = ops.reduce_max(x, _ints([dim]), keepdim).output(0)
    return found, index if isinstance(index, ov.Output) else index.output(0)


def _stack(values: Any, dim: int = 0) -> Value:
    rank = _rank(values[0]) + 1
    return ops.concat([ops.unsqueeze(each, _ints([dim % rank])).output(0) for each in values], dim % rank)


_NAMED_ALIKE: Final = (
    *("relu", "sigmoid", "mish", "abs", "exp", "log", "sqrt", "erf", "sin", "cos", "tanh", "sign", "floor"),
    *("logical_and", "logical_or", "logical_not"),
)
_BINARY: Final = {
    **{"add": ops.add, "sub": ops.subtract, "mul": ops.multiply, "div": ops.divide, "eq": ops.equal},
    **{"ne": ops.not_equal, "gt": ops.greater, "lt": ops.less, "ge": ops.greater_equal, "le": ops.less_equal},
}
_OPERATIONS: Final[dict[str, Callable[..., Any]]] = {
    **{f"aten.{name}.default": getattr(ops, name) for name in _NAMED_ALIKE},
    **{f"aten.{name}.{of}": _binary(function) for name, function in _BINARY.items() for of in ("Tensor", "Scalar")},
    "aten.rsub.Scalar": lambda x, y, alpha=1: _binary(ops.subtract)(y, x),
    "aten.bitwise_and.Tensor": ops.logical_and,
    "aten.hardtanh.default": lambda x, low=-1.0, high=1.0: ops.clamp(x, low, high),
    "aten.clamp.default": _clamp,
    "aten.rsqrt.default": lambda x: ops.power(x, _like(-0.5, x)),
    "aten.neg.default": ops.negative,
    "aten.sgn.default": ops.sign,
    "aten.ceil.default": ops.ceiling,
    "aten.round.default": lambda x: ops.round(x, "half_to_even"),
    "aten.reciprocal.default": lambda x: ops.power(x, _like(-1.0, x)),
    "aten.silu.default": ops.swish,
    "aten.gelu.default": lambda x, approximate="none": ops.gelu(x, "tanh" if approximate == "tanh" else "erf"),
    "aten.hardswish.default": ops.hswish,
    "aten.hardsigmoid.default": lambda x: ops.hard_sigmoid(x, _like(1 / 6, x), _like(0.5, x)),
    "aten.leaky_relu.default": lambda x, slope=0.01: ops.prelu(x, _like([slope], x)),
    "aten._prelu_kernel.default": lambda x, slope: ops.select(ops.greater(x, _like(0.0, x)), x, ops.multiply(x, slope)),
    "aten.elu.default": _scaled_elu,
    "aten.softplus.default": _softplus,
    "aten._softmax.default": lambda x, dim, half: ops.softmax(x, dim),
    # torch returns zeros for a fully masked row. Networks have no such rows.
    "aten._safe_softmax.default": lambda x, dim, dtype=None: ops.softmax(x, dim),
    "aten._log_softmax.default": lambda x, dim, half: ops.log_softmax(x, dim),
    "aten.native_layer_norm.default": _layer_norm,
    "aten.native_group_norm.default": _group_norm,
    "aten.max_pool2d_with_indices.default": _max_pool,
    "aten.avg_pool2d.default": _avg_pool,
    "aten.upsample_nearest2d.default": _nearest,
    "aten.reflection_pad2d.default": _pad_by("reflect"),
    "aten.replication_pad2d.default": _pad_by("edge"),
    "aten.index.Tensor": _index,
    "aten.index_select.default": lambda x, dim, index: ops.gather(x, index, _int(dim)),
    "aten.stack.default": _stack,
    **dict.fromkeys(("aten.matmul.default", "aten.mm.default"), lambda x, y: ops.matmul(x, y, False, False)),
    **dict.fromkeys(
        ("aten.masked_fill.Scalar", "aten.masked_fill.Tensor"),
        lambda x, mask, number: ops.select(mask, _like(number, x), x),
    ),
    "aten.fake_quantize_per_tensor_affine.default": _fake_quantize,
    "aten.fake_quantize_per_channel_affine.default": _fake_quantize_channels,
    "aten.clamp_min.default": lambda x, low: ops.maximum(x, _like(low, x)),
    "aten.clamp_max.default": lambda x, high: ops.minimum(x, _like(high, x)),
    "aten.maximum.default": _binary(ops.maximum),
    "aten.minimum.default": _binary(ops.minimum),
    "aten.remainder.Scalar": lambda x, y: ops.floor_mod(*_pair(x, y)),
    "aten.bitwise_not.default": ops.logical_not,
    "aten.bitwise_or.Tensor": ops.logical_or,
    **dict.fromkeys(
        [f"aten.pow.{of}" for of in ("Tensor_Scalar", "Tensor_Tensor", "Scalar")], lambda x, y: ops.power(*_pair(x, y))
    ),
    "aten.mean.dim": _reduced(ops.reduce_mean),
    "aten.sum.dim_IntList": _reduced(ops.reduce_sum),
    "aten.mean.default": _reduced(ops.reduce_mean),
    "aten.sum.default": _reduced(ops.reduce_sum),
    "aten.amax.default": _reduced(ops.reduce_max),
    "aten.amin.default": _reduced(ops.reduce_min),
    "aten.max.dim": _max_of,
    "aten.any.dim": lambda x, dim, keepdim=False: ops.reduce_logical_or(x, _ints([dim]), keepdim),
    "aten.argmax.default": _argmax,
    "aten.convolution.default": _convolution,
    "aten.addmm.default": lambda bias, x, y: ops.add(ops.matmul(x, y, False, False), bias),
    "aten.t.default": lambda x: _transpose(x, 0, 1),
    "aten.transpose.int": _transpose,
    "aten.permute.default": _permute,
    "aten.view.default": lambda x, sides: ops.reshape(x, _shape(sides), False),
    "aten.expand.default": _expand,
    "aten.unsqueeze.default": lambda x, dim: ops.unsqueeze(x, _ints([dim])),
    **dict.fromkeys(
        ("aten.squeeze.dim", "aten.squeeze.dims"), lambda x, dims: ops.squeeze(x, _ints(_dims(dims, _rank(x))))
    ),
    "aten.slice.Tensor": _slice,
    "aten.select.int": lambda x, dim, index: ops.gather(x, _int(index), _int(dim)),
    "aten.constant_pad_nd.default": _pad,
    "aten.flip.default": _flip,
    "aten.cat.default": lambda values, dim=0: ops.concat(list(values), dim),
    "aten.where.self": _where,
    "aten.where.ScalarOther": _where,
    "aten.where.ScalarSelf": _where,
    "aten._to_copy.default": lambda x, dtype=None: x if dtype is None else ops.convert(x, _TYPES[dtype.name]),
    "aten.getitem.default": lambda values, index: values[index],
}
