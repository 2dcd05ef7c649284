"""Reads an ONNX file or OpenVINO's IR as a torch module, through OpenVINO, which reads both.

The module is an ordinary network to the compiler, so it has layers, gates and gradients. OpenVINO infers all shapes for
a batch of a marked size, a prime that divides no other side, and folds what follows from shapes alone. A side that the
mark divides depends on the batch. A file of a fixed batch is first given an open one.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from openvino import opset15 as ops
from openvino.frontend import FrontEndManager
from openvino.passes import ConstantFolding, Manager
from torch import Tensor, nn

from pellucid.compiler.imported.operations import OPERATIONS, Op, filled, key_of
from pellucid.compiler.sources import SourceError
from pellucid.compiler.trace.tracing import Operation
from pellucid.network.file import digest_of
from pellucid.network.spec import MOST_CHANNELS

SUFFIXES: Final = (".onnx", ".xml")
_FORMATS: Final = {".onnx": "onnx", ".xml": "ir"}
_PRIMES: Final = (97, 101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167, 173)
# The largest difference from OpenVINO's own run, relative to the largest logit.
_TOLERANCE: Final = 1e-4
_INSTEAD: Final = "compile the network from torch instead"
_QUANTIZED: Final = {"FakeQuantize", "FakeConvert"}
# The entry "location" of a tensor's external data, as protobuf writes it: the bytes are searched, not parsed. The
# length of the file's name ends it.
_LOCATION: Final = re.compile(rb"(?s)j.{1,2}\n\x08location\x12([\x80-\xff]?[\x00-\x7f])")
# Operations that compute shapes, which are folded.
_OF_SHAPES: Final = {
    *("Constant", "Parameter", "Result", "ShapeOf", "Range", "ReduceProd", "Floor", "Ceiling", "Mod", "FloorMod"),
    *("Equal", "NotEqual", "LogicalNot", "ScatterNDUpdate"),
}


class ImportedNetwork(nn.Module):
    """A network that was read from a file: its operations in order, each a submodule with the name of its value."""

    def __init__(self, channels_last: bool) -> None:
        super().__init__()
        self._channels_last = channels_last
        self._steps: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = []
        self._scopes: list[tuple[str, str]] = []
        self._output = ""

    def forward(self, pixels: Tensor) -> Tensor:
        values = {"pixels": pixels, "input": pixels.permute(0, 2, 3, 1) if self._channels_last else pixels}
        for path, sources, targets in self._steps:
            found = self.get_submodule(path)(*(values[source] for source in sources))
            values.update(zip(targets, [found] if len(targets) == 1 else found, strict=True))
        for path, value in self._scopes:
            self.get_submodule(path)(values[value])
        return values[self._output]


class Scope(nn.Module):
    """A part of the network that its file names. It returns the part's value, so the value has the part's name."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def read(path: str | Path, size: tuple[int, int] | None = None) -> tuple[ImportedNetwork, tuple[int, int]]:
    """The network of an ``.onnx`` file, or of an ``.xml`` file with its ``.bin``, and its input's (height, width).

    ``size`` is needed if the file leaves the sides of its input open. Raises SourceError.
    """
    path = Path(path)
    model = _model(path)
    shape, channels_last = _input(path.name, model)
    at, last = (1, 3) if channels_last else (2, 1)
    channels = shape[last].get_length() if shape[last].is_static else 3
    sides = [side.get_length() if side.is_static else 0 for side in (shape[at], shape[at + 1])]
    size = size or (sides[0], sides[1])
    if not all(size):
        raise SourceError(f"{path.name} leaves the sides of its input open: give the size")
    if any(side not in (0, given) for side, given in zip(sides, size, strict=True)):
        raise SourceError(f"{path.name} takes pixels of {sides[0]}x{sides[1]}, not {size[0]}x{size[1]}")
    fixed = shape[0].get_length() if shape[0].is_static else None
    at_size = [fixed or 2, *((*size, channels) if channels_last else (channels, *size))]
    try:
        model.reshape(at_size)
        mark = _mark_batch(model, at_size, fixed)
        reader = _Reader(model, channels_last, mark)
    except RuntimeError as error:
        _refuse_unknown(path.name, {op.get_type_name() for op in model.get_ops()} - {*OPERATIONS} - _OF_SHAPES)
        raise SourceError(f"{path.name} can't be read for any batch: {_line(error)}; {_INSTEAD}") from error
    _refuse_unknown(path.name, reader.unknown)
    net = reader.net.eval().requires_grad_(False)
    _check(net, path, (at_size[0], channels, *size), channels_last)
    return net, size


def weights_digest(path: Path) -> str:
    """SHA-256, in hexadecimal, of an ``.xml`` file's ``.bin``, or of an ``.onnx`` file and its external data.

    With external data it is that of the file's bytes, followed by the digest of each external file, in the order of
    their names. Raises SourceError and OSError.
    """
    if path.suffix == ".xml":
        return digest_of(path.with_suffix(".bin"))
    content = path.read_bytes()
    found = hashlib.sha256(content)
    for location in sorted(_locations(content)):
        data = path.parent / location
        if not data.is_file():
            raise SourceError(f"{path.name} has its weights in {location[:80]!r}, which is no file beside it")
        found.update(bytes.fromhex(digest_of(data)))
    return found.hexdigest()


def _locations(model: bytes) -> set[str]:
    """The files of external data that an ONNX model names."""
    found = set()
    for entry in _LOCATION.finditer(model):
        length = sum((byte & 127) << 7 * place for place, byte in enumerate(entry[1]))
        found.add(model[entry.end() : entry.end() + length].decode())
    return found


def _refuse_unknown(name: str, unknown: set[str]) -> None:
    if unknown:
        raise SourceError(f"{name} has operations that can't be imported: {', '.join(sorted(unknown))}; {_INSTEAD}")


def _model(path: Path) -> Any:
    if not path.is_file():
        raise SourceError(f"there is no file {path}")
    if path.suffix == ".xml" and not path.with_suffix(".bin").is_file():
        raise SourceError(f"{path.name} has its weights in {path.stem}.bin, which is not beside it")
    reader = FrontEndManager().load_by_framework(_FORMATS[path.suffix])
    try:
        return reader.convert(reader.load(str(path)))
    except Exception as error:
        text = " ".join(str(error).split())
        if re.search(r"external|mmap|\.data\b", text):
            raise SourceError(f"{path.name} has its weights in a file that is not beside it, or is damaged") from error
        if re.search(r"not supported|Not supported|OpConversion|No (translator|conversion)", text):
            raise SourceError(f"{path.name} has operations that OpenVINO can't read: {_line(error)}") from error
        raise SourceError(f"{path.name} is damaged, or is no {_FORMATS[path.suffix].upper()} model") from error


def _line(error: Exception) -> str:
    """The last line of an error of OpenVINO: the lines before it name places in OpenVINO's code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__


def _input(name: str, model: Any) -> tuple[Any, bool]:
    """The shape of the picture, and whether its channels come last."""
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        what = "inputs" if len(model.inputs) != 1 else "outputs"
        listed = ", ".join(each.any_name if each.names else "?" for each in getattr(model, what))
        raise SourceError(
            f"{name} has {len(getattr(model, what))} {what} ({listed}): a network takes one picture and returns one "
            "tensor; export it so"
        )
    kinds = {op.get_type_name() for op in model.get_ops()}
    if kinds & _QUANTIZED:
        raise SourceError(f"{name} is quantized, which has no useful gradient: give the network before quantization")
    shape = model.inputs[0].get_partial_shape()
    if shape.rank.is_static and len(shape) == 4:
        sides = {axis: shape[axis].get_length() for axis in (1, 3) if shape[axis].is_static}
        few = [axis for axis, side in sides.items() if side <= MOST_CHANNELS]
        for axis in sorted(few, key=lambda axis: sides[axis] != 3):
            return shape, axis == 3
        if not (shape[1].is_static or shape[3].is_static):
            return shape, False
    raise SourceError(f"{name} takes no picture: its input is {shape}, not [batch, channels, height, width]")


def _mark_batch(model: Any, shape: list[int], fixed: int | None) -> int:
    """Infer the model's shapes for a marked batch, and fold constants. Returns the mark."""
    sides = {side for op in model.get_ops() for each in op.outputs() for side in each.get_shape()}
    mark = next(each for each in _PRIMES if all(side % each for side in sides if side))
    if fixed is None:
        model.reshape([mark, *shape[1:]])
        _fold(model)
        return mark
    _fold(model)
    (picture,) = model.get_parameters()
    picture.set_partial_shape(ov.PartialShape([mark, *shape[1:]]))
    for op in model.get_ordered_ops():
        _open_batch(op, mark, fixed)
        op.validate_and_infer_types()
    _fold(model)
    return mark


def _fold(model: Any) -> None:
    folding = Manager()
    folding.register_pass(ConstantFolding())
    folding.run_passes(model)


def _open_batch(op: Any, mark: int, fixed: int) -> None:
    """Replace what an exporter wrote for a ``fixed`` batch: the shape of a Reshape, and what joins a Concat."""
    if op.get_type_name() == "Reshape" and _constant(op.input_value(1)) is not None:
        target = _opened(list(op.input_value(0).get_shape()), list(op.get_output_shape(0)), mark, fixed)
        op.input(1).replace_source_output(ops.constant(np.array(target, np.int64)).output(0))
    elif op.get_type_name() == "Gather" and len(op.get_input_shape(0)) == 1:  # as_strided, which keeps the order
        (side,), places = op.get_input_shape(0), _constant(op.input_value(1))
        if side % mark == 0 and places is not None and np.array_equal(places.reshape(-1), range(side // mark * fixed)):
            opened = _opened([side], list(places.shape), mark, fixed)
            op.input(1).replace_source_output(ops.constant(np.arange(side).reshape(opened)).output(0))
    elif op.get_type_name() == "Concat" and op.get_attributes()["axis"] != 0:
        shapes = [value.get_shape() for value in op.input_values()]
        for each, shape in zip(op.inputs(), shapes, strict=True):
            if any(other[0] == mark for other in shapes) and shape[0] == fixed:
                first = ops.slice(each.get_source_output(), [0], [1], [1], [0])
                each.replace_source_output(ops.broadcast(first, np.array([mark, *shape[1:]])).output(0))


def _opened(sides: list[int], target: list[int], mark: int, fixed: int) -> list[int]:
    """The shape ``target``, of a value ``sides`` with a ``fixed`` batch, for a marked batch.

    Row-major order stays, so as many numbers come before the batch as before. A side that is the batch alone comes
    first. Without one the batch joins the side behind it, as attention heads do, or the side before it if only
    features follow.
    """
    batch = next((axis for axis, side in enumerate(sides) if side and side % mark == 0), None)
    if batch is None:
        return target
    before = math.prod(sides[:batch])
    inside = before * sides[batch] // mark  # of a side that the batch has joined
    fitting = [axis for axis in range(len(target)) if math.prod(target[:axis]) in (before, inside)]
    axis = next((axis for axis in fitting if target[axis] == fixed), None)
    if axis is None:
        axis = fitting[0] if fitting else 0
        axis -= 0 < axis == len(target) - 1
    return [side // fixed * mark if at == axis and side % fixed == 0 else side for at, side in enumerate(target)]


def _constant(value: Any) -> NDArray[Any] | None:
    """The array of a constant, also of a compressed one. None for any other value."""
    node = value.get_node()
    if node.get_type_name() == "Convert" and node.get_output_element_type(0).is_real():
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant":
        return None
    return np.array(node.get_data(dtype=np.float32) if value.get_element_type().is_real() else node.get_data())


def _check(net: ImportedNetwork, path: Path, shape: tuple[int, ...], channels_last: bool) -> None:
    """Compare the module with OpenVINO's own run of the file. Raises SourceError."""
    model = _model(path)  # not reshaped: OpenVINO 2026.4 crashes on some transformers of a fixed batch
    kind = model.inputs[0].get_element_type()
    images = torch.randn(*shape, generator=torch.Generator().manual_seed(3))
    images = images if kind.is_real() else (images * 50 + 128).clamp(0, 255).round()
    given = images.numpy().transpose(0, 2, 3, 1) if channels_last else images.numpy()
    run = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    expected = torch.from_numpy(np.array(run([given.astype(kind.to_dtype())])[0], np.float32))
    try:
        with torch.no_grad():
            found = net(images)
    except Exception as error:
        raise SourceError(f"{path.name} can't be read for any batch: {_line(error)}; {_INSTEAD}") from error
    same = found.shape == expected.shape
    off = float((found - expected).abs().max() / (expected.abs().max() + 1e-12)) if same else math.inf
    if not off <= _TOLERANCE:
        raise SourceError(f"{path.name} computes other logits once it is imported (by {off:.1e}): {_INSTEAD}")


@dataclass
class _Step:
    """One operation: its module, the values that it takes and returns, and its name in the file."""

    node: Any
    module: nn.Module
    sources: list[str]
    targets: list[str]
    scope: str = ""
    name: str = ""


class _Reader:
    """Makes the network's steps from the model's operations, and names them."""

    def __init__(self, model: Any, channels_last: bool, mark: int) -> None:
        self.net = ImportedNetwork(channels_last)
        self._mark = mark
        self._constants: dict[str, NDArray[Any]] = {}
        self._same: dict[str, str] = {}  # a value -> the value of a step that it equals
        self._steps: list[_Step] = []
        self.unknown: set[str] = set()
        for node in model.get_ordered_ops():
            self._add(node)
        (result,) = model.get_results()
        output = self._same.get(key_of(result.input_value(0)), key_of(result.input_value(0)))
        for step in self._steps:
            if step.node is not None:
                step.scope, step.name = _file_name(step.node)
        self._name(output)

    def _add(self, node: Any) -> None:
        kind, key = node.get_type_name(), key_of(node.output(0))
        if kind == "Parameter":
            self._same[key] = "input"
        elif kind == "Constant":
            self._constants[key] = _folded(node)
        elif kind != "Result" and key not in self._same:
            op = Op(node, self._constants, self._mark)
            if all(map(op.is_constant, range(len(op.inputs)))):
                self._constants[key] = _folded(node)
            elif kind not in OPERATIONS:
                self.unknown.add(kind)
            elif (made := OPERATIONS[kind](op)) is None:
                self._same[key] = self._source(op.inputs[0])
            else:
                self._step(node, op, made)

    def _step(self, node: Any, op: Op, made: Any) -> None:
        taken = [each for index, each in enumerate(op.inputs) if index not in op.read]
        own = {at: each for at, each in enumerate(taken) if each in self._constants and not self._is_repeated(each)}
        if not isinstance(made, nn.Module):
            made = Operation(made, {at: torch.from_numpy(self._constants[each]) for at, each in own.items()})
        sources = [self._source(each) for at, each in enumerate(taken) if at not in own] + ["pixels"] * op.takes_pixels
        targets = [key_of(value) for value in node.outputs()][: None if "Split" in op.kind else 1]
        self._steps.append(_Step(node, made, sources, targets))
        layer = made[-1] if isinstance(made, nn.Sequential) else made
        if isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)):
            self._add_bias(node.output(0), layer, 0 if isinstance(layer, nn.Linear) else layer.weight.ndim - 2)

    def _add_bias(self, value: Any, layer: nn.Module, behind: int) -> None:
        """Take the addition of a constant for each channel into the layer. ``behind``: the axes behind the channels."""
        passed, first = [], key_of(value)
        while len(value.get_target_inputs()) == 1:
            (user,) = value.get_target_inputs()
            node = user.get_node()
            other = _constant(node.input_value(1 - user.get_index())) if node.get_input_size() == 2 else None
            if other is None or list(node.get_output_shape(0)) != list(value.get_shape()):
                return
            value = node.output(0)
            passed.append(key_of(value))
            channels = value.get_shape()[-1 - behind]
            shape = [1] * (value.get_partial_shape().rank.get_length() - other.ndim) + [*other.shape]
            if node.get_type_name() == "Add" and other.size == channels == shape[-1 - behind]:
                filled(layer, bias=other.reshape(-1))
                self._same |= dict.fromkeys(passed, first)
                return
            if node.get_type_name() != "Multiply" or not (other == 1).all():
                return

    def _is_repeated(self, key: str) -> bool:
        return any(side and side % self._mark == 0 for side in self._constants[key].shape)

    def _source(self, key: str) -> str:
        """The step's value of that key. A constant that was repeated for each picture becomes a step."""
        if key not in self._constants:
            return self._same.get(key, key)
        array = self._constants[key]
        times = [side // self._mark if side % self._mark == 0 else 0 for side in array.shape]
        one = array[tuple(slice(0, each or None) for each in times)]
        if sum(map(bool, times)) != 1 or max(times) != 1 or (array != one).any():
            raise RuntimeError("a constant differs between the pictures of a batch")
        axis = times.index(1)

        def expand(pixels: Tensor, constant: Tensor) -> Tensor:
            return constant.expand([pixels.shape[0] if each == axis else -1 for each in range(array.ndim)])

        made = Operation(expand, {1: torch.from_numpy(one.copy())})
        self._steps.append(_Step(None, made, ["pixels"], [key], name="expand"))
        del self._constants[key]
        return key

    # -- names

    def _name(self, output: str) -> None:
        scopes: dict[str, list[_Step]] = defaultdict(list)
        for step in self._steps:
            parts = step.scope.split(".") if step.scope else []
            for end in range(len(parts)):
                scopes[".".join(parts[: end + 1])].append(step)
        taken: set[str] = set()
        for step in self._steps:
            alone = step.scope and len(scopes[step.scope]) == 1
            path = _unique(
                step.scope if alone else f"{step.scope}.{step.name}".strip("."),
                taken | {*scopes} - {step.scope if alone else ""},
            )
            _place(self.net, path, step.module)
            taken.add(path)
            self.net._steps.append((path, tuple(step.sources), tuple(step.targets)))
        for scope, steps in scopes.items():
            if scope not in taken and (value := self._value_of(steps, output)):
                _place(self.net, scope, Scope())
                self.net._scopes.append((scope, value))
        self.net._output = output

    def _value_of(self, steps: list[_Step], output: str) -> str | None:
        """The only value of these steps that others read."""
        inside = {id(step) for step in steps}
        made = {target for step in steps for target in step.targets}
        read = {source for step in self._steps if id(step) not in inside for source in step.sources} | {output}
        return (made & read).pop() if len(made & read) == 1 else None


def _folded(node: Any) -> NDArray[Any]:
    """The value of an operation of constants."""
    found = _constant(node.output(0))
    if found is None:
        run = ov.Core().compile_model(ov.Model([node.output(0)], []), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found = np.array(run([])[0])
    return found.astype(np.float32) if found.dtype.kind == "f" else found


def _file_name(node: Any) -> tuple[str, str]:
    """The path of the operation's module as its file names it, "" if it does not, and the operation's own name.

    torch's exporter writes ``node_relu_3``, beside ``layer1.0.conv1.weight``; its older one
    ``/layer1/layer1.0/conv1/Conv``; OpenVINO ``__module.layer1.0/aten::add_/Add``; and others ``block1/conv/Add``.
    """
    weight = node.input_value(1).get_node() if node.get_input_size() > 1 else None
    if weight is not None and weight.get_type_name() in ("Convert", "Constant"):
        found = re.fullmatch(r"(?:self\.)?([A-Za-z_][\w.]*)\.weight(_compressed)?", weight.get_friendly_name())
        if found and "." not in found[1].rpartition(".")[2]:
            return found[1], node.get_type_name().lower()
    name = node.get_friendly_name().removesuffix("/WithoutBiases")
    kind = node.get_type_name().lower()
    if name == node.get_name() or re.fullmatch(r"[A-Z][A-Za-z]*_\d+", name):
        return "", kind
    if found := re.fullmatch(r"(?:__module\.)?([\w.]*?)/?aten::(\w+?)_?/.*", name):
        return found[1], found[2]
    if found := re.fullmatch(r"node_([A-Za-z]\w*?)(?:_\d+)?", name):
        return "", found[1].lower()
    path: list[str] = []
    *parts, last = [part for part in name.split("/") if part]
    for part in parts:
        if path and part.startswith(f"{path[-1]}."):
            path.pop()
        path.append(part)
    return _safe(".".join(path)), _safe(re.sub(r"_\d+$", "", last) if parts else last).replace(".", "_").lower()


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip("._")


def _unique(path: str, taken: set[str]) -> str:
    number, found = 0, path
    while found in taken:
        number += 1
        found = f"{path}_{number}"
    return found


def _place(root: nn.Module, path: str, module: nn.Module) -> None:
    """Make ``module`` the submodule of that path. What lies at the path already moves inside."""
    *parents, name = path.split(".")
    for parent in parents:
        if not hasattr(root, parent):
            root.add_module(parent, Scope())
        root = root.get_submodule(parent)
    before = root._modules.get(name)
    root.add_module(name, module)
    for child, inside in before.named_children() if before is not None else ():
        module.add_module(child, inside)
