"""What each operation of OpenVINO is in torch: a table of functions that make a function or a module."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional


class Op:
    """One operation of the file, as the functions of the table see it. A side that ``mark`` divides is the batch's."""

    def __init__(self, node: Any, constants: dict[str, NDArray[Any]], mark: int) -> None:
        self.kind: str = node.get_type_name()
        self.attributes: dict[str, Any] = node.get_attributes()
        self.inputs = [key_of(value) for value in node.input_values()]
        self.shapes = [list(value.get_shape()) for value in node.input_values()]
        self.types = [value.get_element_type() for value in node.input_values()]
        self.outputs = [list(value.get_shape()) for value in node.outputs()]
        self.type = node.get_output_element_type(0)
        self.mark = mark
        self.read: set[int] = set()  # inputs that the module does not take
        self.takes_pixels = False  # for the batch size
        self._constants = constants

    @property
    def shape(self) -> list[int]:
        return self.outputs[0]

    def is_constant(self, index: int) -> bool:
        return index < len(self.inputs) and self.inputs[index] in self._constants

    def array(self, index: int) -> NDArray[Any]:
        """The constant at that input, which the module then does not take."""
        if not self.is_constant(index):
            raise RuntimeError(f"{self.kind} takes weights, a shape or an index that depends on the picture")
        self.read.add(index)
        return self._constants[self.inputs[index]]

    def number(self, index: int, default: float) -> float:
        return float(self.array(index).reshape(-1)[0]) if index < len(self.inputs) else default

    def ints(self, index: int) -> list[int]:
        return [int(value) for value in self.array(index).reshape(-1)]

    def axes(self, index: int) -> list[int]:
        """The axes that an input names, counted from the front."""
        return sorted(axis % len(self.shapes[0]) for axis in self.ints(index))

    def of_batch(self, side: int) -> bool:
        return side > 0 and side % self.mark == 0

    def sides(self) -> list[int]:
        """The result's shape, with -1 for the one side that depends on the batch."""
        if sum(map(self.of_batch, self.shape)) > 1:
            raise RuntimeError(f"{self.kind} gives two axes the batch")
        return [-1 if self.of_batch(side) else side for side in self.shape]


Made = Callable[..., Any] | nn.Module | None  # None: the value of input 0, unchanged


def key_of(value: Any) -> str:
    return f"{value.get_node().get_name()}:{value.get_index()}"


def filled(module: nn.Module, **tensors: NDArray[Any]) -> nn.Module:
    """A module that was made without memory, with its parameters."""
    for name, array in tensors.items():
        value = torch.from_numpy(np.array(array, np.float32))
        setattr(module, name, nn.Parameter(value) if name in ("weight", "bias") else value)
    return module


def _convolution(op: Op) -> Made:
    weight, transposed, groups = op.array(1), "Backprop" in op.kind, 1
    if op.kind.startswith("Group"):
        groups, weight = weight.shape[0], weight.reshape(-1, *weight.shape[2:])
    rank = weight.ndim - 2
    stride, dilation, begin, end = (op.attributes[name] for name in ("strides", "dilations", "pads_begin", "pads_end"))
    named: dict[str, Any] = {"stride": stride, "dilation": dilation, "groups": groups, "bias": False, "device": "meta"}
    kernel = weight.shape[2:]
    if transposed:
        if len(op.inputs) > 2:
            op.array(2)
        least = [
            (side - 1) * step - 2 * pad + each * (taps - 1) + 1
            for side, step, pad, each, taps in zip(op.shapes[0][2:], stride, begin, dilation, kernel, strict=True)
        ]
        extra = [side - each for side, each in zip(op.shape[2:], least, strict=True)]
        turned: Any = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[rank - 1]
        sizes = weight.shape[0], weight.shape[1] * groups, kernel
        return filled(turned(*sizes, padding=begin, output_padding=extra, **named), weight=weight)
    made = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    sizes = weight.shape[1] * groups, weight.shape[0], kernel
    conv = filled(made(*sizes, padding=begin if begin == end else 0, **named), weight=weight)
    return conv if begin == end else nn.Sequential(_zero_pad(begin, end), conv)


def _pads(begin: list[int], end: list[int]) -> list[int]:
    """The padding in torch's order: the last axis first."""
    return [pad for pair in zip(reversed(begin), reversed(end), strict=True) for pad in pair]


def _zero_pad(begin: list[int], end: list[int]) -> nn.Module:
    made: Any = (nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d)[len(begin) - 1]
    padded: nn.Module = made(tuple(_pads(begin, end)))
    return padded


def _matmul(op: Op) -> Made:
    turn_left, turn_right = op.attributes["transpose_a"], op.attributes["transpose_b"]
    if op.is_constant(1) and len(op.shapes[1]) == 2 and not turn_left:
        weight = op.array(1) if turn_right else op.array(1).T
        return filled(nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta"), weight=weight)

    def matmul(x: Tensor, y: Tensor) -> Tensor:
        return torch.matmul(x.transpose(-1, -2) if turn_left else x, y.transpose(-1, -2) if turn_right else y)

    return matmul


def _binary(function: Callable[[Any, Any], Any], unit: float | None = None) -> Callable[[Op], Made]:
    """An operation with numpy's broadcasting. A right operand of ``unit`` changes nothing."""

    def made(op: Op) -> Made:
        if unit is not None and op.shapes[0] == op.shape and op.is_constant(1) and (op.array(1) == unit).all():
            return None
        op.read.clear()
        for index in (0, 1):
            if op.is_constant(index) and math.prod(op.shapes[index]) == 1 and op.shapes[1 - index] == op.shape:
                number = op.number(index, 0)
                return partial(function, number) if index == 0 else partial(_swapped, function, number)
        return function

    return made


def _swapped(function: Callable[[Any, Any], Any], y: Any, x: Any) -> Any:
    return function(x, y)


def _bound(name: str, function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Op], Made]:
    def made(op: Op) -> Made:
        for index in (0, 1):
            if op.is_constant(index) and math.prod(op.shapes[index]) == 1:
                return partial(torch.clamp, **{name: op.number(index, 0)})
        return function

    return made


def _reduced(function: Callable[..., Tensor]) -> Callable[[Op], Made]:
    def made(op: Op) -> Made:
        axes, keep = op.axes(1), op.attributes["keep_dims"]
        return lambda x: function(x, axes, keep)

    return made


def _pool_sizes(op: Op) -> tuple[Any, ...]:
    names = ("kernel", "strides", "pads_begin", "pads_end", "rounding_type")
    kernel, stride, begin, end, rounding = (op.attributes[name] for name in names)
    return kernel, stride, begin, end, rounding != "floor"


def _max_pool(op: Op) -> Made:
    kernel, stride, begin, end, ceil = _pool_sizes(op)
    dilation = op.attributes.get("dilations", 1)
    pool = partial(functional.max_pool2d, kernel_size=kernel, stride=stride, dilation=dilation, ceil_mode=ceil)
    if begin == end:
        return partial(pool, padding=begin)
    return lambda x: pool(functional.pad(x, _pads(begin, end), value=-math.inf))


def _avg_pool(op: Op) -> Made:
    kernel, stride, begin, end, ceil = _pool_sizes(op)
    counts = not op.attributes["exclude-pad"]
    pool = partial(functional.avg_pool2d, kernel_size=kernel, stride=stride, ceil_mode=ceil)
    if begin == end:
        return partial(pool, padding=begin, count_include_pad=counts)
    if not counts:
        raise RuntimeError("AvgPool leaves out padding that differs between sides")
    pad = _zero_pad(begin, end)
    return lambda x: pool(pad(x))


def _reshape(op: Op) -> Made:
    for index in range(1, len(op.inputs)):
        op.read.add(index)
    if op.shape == op.shapes[0]:
        return None
    if len(op.shape) == 2 and op.of_batch(op.shape[0]) and op.shape[0] == op.shapes[0][0]:
        return lambda x: x.flatten(1)
    sides = op.sides()
    return lambda x: x.reshape(sides)


def _transpose(op: Op) -> Made:
    order = op.ints(1) if len(op.inputs) > 1 else []
    order = order or [*reversed(range(len(op.shape)))]
    return lambda x: x.permute(order)


def _split(op: Op) -> Made:
    axis = op.axes(1)[0]
    sizes = [shape[axis] for shape in op.outputs]
    op.read |= {*range(1, len(op.inputs))}
    if any(map(op.of_batch, sizes)):
        raise RuntimeError("Split divides the batch")
    return lambda x: tuple(x.split(sizes, axis))


def _part(op: Op, axis: int, start: int, stop: int, step: int) -> slice:
    side = op.shapes[0][axis]
    if op.of_batch(side):
        if (start, step) != (0, 1) or (stop < side and stop != -1 and stop % op.mark):
            raise RuntimeError(f"{op.kind} takes a part of the batch")
        return slice(None)
    if step < 0 and len(range(*slice(start, stop, step).indices(side))) == 1:
        step = 1
    start, stop, step = slice(start, stop, step).indices(side)
    return slice(None) if (start, stop, step) == (0, side, 1) else slice(start, stop, step)


def _indexed(op: Op, index: list[Any]) -> Made:
    turned = [axis for axis, each in enumerate(index) if isinstance(each, slice) and (each.step or 1) < 0]
    if turned:
        if any(index[axis] != slice(op.shapes[0][axis] - 1, -1, -1) or len(index) != len(op.shape) for axis in turned):
            raise RuntimeError(f"{op.kind} takes a part of an axis backwards")
        index = [slice(None) if axis in turned else each for axis, each in enumerate(index)]
        return lambda x: x.flip(turned)[tuple(index)]
    if all(each == slice(None) for each in index):
        return None
    while index[-1] == slice(None):
        index.pop()
    key = tuple(index)
    return lambda x: x[key]


def _slice(op: Op) -> Made:
    start, stop, step = (op.ints(index) for index in (1, 2, 3))
    axes = [axis % len(op.shapes[0]) for axis in op.ints(4)] if len(op.inputs) > 4 else range(len(start))
    index = [slice(None)] * len(op.shapes[0])
    for axis, *bounds in zip(axes, start, stop, step, strict=True):
        index[axis] = _part(op, axis, *bounds)
    return _indexed(op, index)


def _strided_slice(op: Op) -> Made:
    start, stop = op.ints(1), op.ints(2)
    step = op.ints(3) if len(op.inputs) > 3 else [1] * len(start)
    masks = [
        [*op.attributes[f"{name}_mask"], *[0] * len(start)]
        for name in ("begin", "end", "new_axis", "shrink_axis", "ellipsis")
    ]
    index: list[Any] = []
    axis = 0
    for at, (first, last, by) in enumerate(zip(start, stop, step, strict=True)):
        no_first, no_last, new, shrink, rest = (mask[at] for mask in masks)
        if new:
            index.append(None)
        elif rest:
            passed = len(op.shapes[0]) - axis - sum(not each for each in masks[2][at + 1 : len(start)])
            index += [slice(None)] * passed
            axis += passed
        else:
            side = op.shapes[0][axis]
            first, last = (0 if no_first else first), (side if no_last else last)
            index.append(int(first) % side if shrink else _part(op, axis, first, last, by))
            axis += 1
    return _indexed(op, index)


def _gather(op: Op) -> Made:
    axis, places = op.ints(2)[0] % len(op.shapes[0]), op.array(1)
    side = op.shapes[0][axis]
    if len(op.shapes[0]) == 1 and np.array_equal(places.reshape(-1), range(side)):
        return _reshape(op)
    if op.of_batch(side):
        raise RuntimeError("Gather takes a part of the batch")
    before: list[Any] = [slice(None)] * axis
    found = [int(place) % side for place in places.reshape(-1)]
    if places.ndim == 0:
        return _indexed(op, [*before, found[0]])
    if places.ndim == 1 and found == [*range(found[0], found[0] + len(found))]:
        return _indexed(op, [*before, _part(op, axis, found[0], found[-1] + 1, 1)])
    if places.ndim == 1 and found == [*reversed(range(side))]:
        return lambda x: x.flip([axis])
    op.read.discard(1)
    sides = op.sides()
    return lambda x, index: x.index_select(axis, index.flatten()).reshape(sides)


def _broadcast(op: Op) -> Made:
    op.read |= {*range(1, len(op.inputs))}
    given = [1] * (len(op.shape) - len(op.shapes[0])) + op.shapes[0]
    if op.attributes["mode"] == "explicit":
        raise RuntimeError("Broadcast maps axes")
    if given == op.shape:
        return None
    mark = op.mark
    op.takes_pixels = any(side != old and op.of_batch(side) for side, old in zip(op.shape, given, strict=True))
    sides = [-1 if side == old else side for side, old in zip(op.shape, given, strict=True)]

    def expand(x: Tensor, pixels: Tensor | None = None) -> Tensor:
        return x.expand(
            [
                pixels.shape[0] * (side // mark) if pixels is not None and side > 0 and side % mark == 0 else side
                for side in sides
            ]
        )

    return expand


def _tile(op: Op) -> Made:
    op.read.add(1)
    given = [1] * (len(op.shape) - len(op.shapes[0])) + op.shapes[0]
    times = [side // old for side, old in zip(op.shape, given, strict=True)]
    if any(map(op.of_batch, times)):
        raise RuntimeError("Tile repeats a value for each picture")
    return lambda x: x.repeat(times)


def _pad(op: Op) -> Made:
    begin, end = op.ints(1), op.ints(2)
    value, mode = op.number(3, 0), op.attributes["pad_mode"]
    pads = _pads(begin, end)
    while pads and not any(pads[-2:]):
        del pads[-2:]
    if not pads:
        return None
    if mode == "constant":
        return lambda x: functional.pad(x, pads, value=value)
    if mode not in ("reflect", "edge"):
        raise RuntimeError(f"Pad has the mode {mode}")
    pads += [0] * (4 - len(pads))
    return lambda x: functional.pad(x, pads, mode="reflect" if mode == "reflect" else "replicate")


def _convert(op: Op) -> Made:
    op.read |= {*range(1, len(op.inputs))}
    if op.types[0] == ov.Type.boolean and op.type.is_real():
        return lambda x: x.to(torch.float32)
    if not op.type.is_real():
        raise RuntimeError("Convert makes integers of values that depend on the picture")
    return None


def _interpolate(op: Op) -> Made:
    op.read |= {*range(1, len(op.inputs))}
    if op.shape == op.shapes[0]:
        return None
    last = len(op.shape) == 4 and op.shape[3] == op.shapes[0][3] and op.shape[1] != op.shapes[0][1]
    size, given = (op.shape[1:3], op.shapes[0][1:3]) if last else (op.shape[2:], op.shapes[0][2:])
    mode, corners = op.attributes["mode"], op.attributes["coordinate_transformation_mode"]
    named: dict[str, Any]
    if mode == "nearest":
        whole = all(new % old == 0 for new, old in zip(size, given, strict=True))
        named = {"mode": "nearest" if whole or corners == "asymmetric" else "nearest-exact"}
    elif mode in ("linear", "linear_onnx", "cubic") and corners != "asymmetric" and len(op.shape) == 4:
        named = {"mode": "bicubic" if mode == "cubic" else "bilinear", "align_corners": corners == "align_corners"}
    else:
        raise RuntimeError(f"Interpolate has the mode {mode}, {corners}")
    if last:
        return lambda x: functional.interpolate(x.permute(0, 3, 1, 2), size, **named).permute(0, 2, 3, 1)
    return lambda x: functional.interpolate(x, size, **named)


def _batch_norm(op: Op) -> Made:
    order = (0, 1, 3, 4) if op.is_constant(0) else (1, 2, 3, 4)  # the first version of the operation has the data third
    weight, bias, mean, variance = (op.array(index) for index in order)
    made = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(op.shape)]
    norm = made(len(weight), eps=op.attributes["epsilon"], device="meta")
    norm.num_batches_tracked = torch.tensor(0)
    return filled(norm, weight=weight, bias=bias, running_mean=mean, running_var=variance)


def _mvn(op: Op) -> Made:
    axes, eps = op.axes(1), float(op.attributes["eps"])
    inside = op.attributes["eps_mode"].lower() == "inside_sqrt"
    if not op.attributes["normalize_variance"]:
        return lambda x: x - x.mean(axes, True)
    if inside and axes == [*range(len(op.shape) - len(axes), len(op.shape))]:
        sides = [op.shape[axis] for axis in axes]
        return lambda x: functional.layer_norm(x, sides, None, None, eps)

    def mvn(x: Tensor) -> Tensor:
        x = x - x.mean(axes, True)
        variance = (x * x).mean(axes, True)
        return x / ((variance + eps).sqrt() if inside else variance.sqrt() + eps)

    return mvn


def _normalize(op: Op) -> Made:
    axes, eps, adds = op.axes(1), float(op.attributes["eps"]), op.attributes["eps_mode"].lower() == "add"

    def normalize(x: Tensor) -> Tensor:
        squares = (x * x).sum(axes, True)
        return x / ((squares + eps) if adds else squares.clamp(min=eps)).sqrt()

    return normalize


def _attention(op: Op) -> Made:
    scale = op.number(4, 0) or None
    return partial(functional.scaled_dot_product_attention, is_causal=op.attributes["causal"], scale=scale)


def _group_norm(op: Op) -> Made:
    groups, eps = op.attributes["num_groups"], op.attributes["epsilon"]
    return lambda x, weight, bias: functional.group_norm(x, groups, weight, bias, eps)


def _local_response_norm(op: Op) -> Made:
    if op.axes(1) != [1]:
        raise RuntimeError("LRN normalises other axes than the channels")
    size, alpha, beta, k = (op.attributes[name] for name in ("size", "alpha", "beta", "bias"))
    return partial(functional.local_response_norm, size=size, alpha=alpha, beta=beta, k=k)


def _prelu(op: Op) -> Made:
    slope = op.array(1).reshape(-1)
    if len(slope) == 1:
        return partial(functional.leaky_relu, negative_slope=float(slope[0]))
    return filled(nn.PReLU(len(slope), device="meta"), weight=slope)


def _clamp(op: Op) -> Made:
    low, high = op.attributes["min"], op.attributes["max"]
    return functional.relu6 if (low, high) == (0, 6) else partial(torch.clamp, min=low, max=high)


def _hard_sigmoid(op: Op) -> Made:
    slope, shift = op.number(1, 0), op.number(2, 0)
    if abs(slope - 1 / 6) < 1e-4 and shift == 0.5:
        return functional.hardsigmoid
    return lambda x: torch.clamp(x * slope + shift, 0, 1)


def _swish(op: Op) -> Made:
    slope = op.number(1, 1)
    return functional.silu if slope == 1 else (lambda x: x * torch.sigmoid(x * slope))


def _gelu(op: Op) -> Made:
    exact = op.attributes.get("approximation_mode", "ERF").upper() == "ERF"
    return partial(functional.gelu, approximate="none" if exact else "tanh")


def _depth_to_space(op: Op) -> Made:
    block = op.attributes["block_size"]
    if op.attributes["mode"] == "depth_first":
        return lambda x: functional.pixel_shuffle(x, block)
    channels, height, width = op.shape[1:]
    apart = [-1, block, block, channels, height // block, width // block]
    return lambda x: x.reshape(apart).permute(0, 3, 4, 1, 5, 2).reshape([-1, channels, height, width])


def _plain(function: Callable[..., Any]) -> Callable[[Op], Made]:
    return lambda op: function


def _adaptive(function: Callable[..., Any]) -> Callable[[Op], Made]:
    return lambda op: partial(function, output_size=op.ints(1))


def _concat(op: Op) -> Made:
    axis = op.attributes["axis"]
    return lambda *parts: torch.cat(parts, axis)


_NAMED_ALIKE: Final = ("Sqrt", "Exp", "Log", "Erf", "Abs", "Sin", "Cos", "Sigmoid", "Tanh")
OPERATIONS: Final[dict[str, Callable[[Op], Made]]] = {
    **dict.fromkeys(
        ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData"), _convolution
    ),
    "MatMul": _matmul,
    "Einsum": lambda op: partial(torch.einsum, op.attributes["equation"]),
    "Add": _binary(operator.add, 0),
    "Subtract": _binary(operator.sub, 0),
    "Multiply": _binary(operator.mul, 1),
    "Divide": _binary(operator.truediv, 1),
    "Power": _binary(operator.pow, 1),
    "Maximum": _bound("min", torch.maximum),
    "Minimum": _bound("max", torch.minimum),
    "SquaredDifference": _plain(lambda x, y: (x - y) * (x - y)),
    "Greater": _binary(operator.gt),
    "GreaterEqual": _binary(operator.ge),
    "Less": _binary(operator.lt),
    "LessEqual": _binary(operator.le),
    "Select": _plain(torch.where),
    **{name: _plain(getattr(torch, name.lower())) for name in _NAMED_ALIKE},
    "Negative": _plain(torch.neg),
    "Relu": _plain(functional.relu),
    "HSwish": _plain(functional.hardswish),
    "HSigmoid": _plain(functional.hardsigmoid),
    "HardSigmoid": _hard_sigmoid,
    "Swish": _swish,
    "Mish": _plain(functional.mish),
    "SoftPlus": _plain(functional.softplus),
    "Gelu": _gelu,
    "Elu": lambda op: partial(functional.elu, alpha=op.attributes["alpha"]),
    "PRelu": _prelu,
    "Clamp": _clamp,
    "Softmax": lambda op: partial(functional.softmax, dim=op.attributes["axis"]),
    "LogSoftmax": lambda op: partial(functional.log_softmax, dim=op.attributes["axis"]),
    "MaxPool": _max_pool,
    "AvgPool": _avg_pool,
    "AdaptiveAvgPool": _adaptive(functional.adaptive_avg_pool2d),
    "AdaptiveMaxPool": _adaptive(functional.adaptive_max_pool2d),
    "ReduceMean": _reduced(lambda x, axes, keep: x.mean(axes, keep)),
    "ReduceSum": _reduced(lambda x, axes, keep: x.sum(axes, keep)),
    "ReduceMax": _reduced(lambda x, axes, keep: x.amax(axes, keep)),
    "ReduceMin": _reduced(lambda x, axes, keep: x.amin(axes, keep)),
    "ReduceL1": _reduced(lambda x, axes, keep: x.abs().sum(axes, keep)),
    "ReduceL2": _reduced(lambda x, axes, keep: (x * x).sum(axes, keep).sqrt()),
    **dict.fromkeys(("Reshape", "Squeeze", "Unsqueeze"), _reshape),
    "Transpose": _transpose,
    "Concat": _concat,
    "Roll": lambda op: partial(torch.roll, shifts=op.ints(1), dims=[axis % len(op.shape) for axis in op.ints(2)]),
    **dict.fromkeys(("Split", "VariadicSplit"), _split),
    "Slice": _slice,
    "StridedSlice": _strided_slice,
    "Gather": _gather,
    "Broadcast": _broadcast,
    "Tile": _tile,
    "Pad": _pad,
    **dict.fromkeys(("Convert", "ConvertLike"), _convert),
    "Interpolate": _interpolate,
    "DepthToSpace": _depth_to_space,
    "BatchNormInference": _batch_norm,
    "MVN": _mvn,
    "NormalizeL2": _normalize,
    "GroupNormalization": _group_norm,
    "LRN": _local_response_norm,
    "ScaledDotProductAttention": _attention,
}
