"""Reads the file of a network that ``torch.export.save`` wrote (``.pt2``), without running code of the file.

``torch.export.load`` unpickles objects and evaluates expressions that the file holds. This reader takes the graph,
which is JSON, and the bytes of the tensors. It calls operations of torch's namespace ``aten`` and nothing else.

The modules of the network that was exported are built anew, each with the operations that it ran, so that the layers
keep their names.
"""

from __future__ import annotations

import json
import math
import operator
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.compiler.weights import WeightsError, program, read_state

# The major version of the file's schema. Another one may mean something else by the same names.
_SCHEMA: Final = 8
# The file's numbers for types and memory formats.
_DTYPES: Final = {
    **{1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16},
    **{7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16},
}
_LARGEST_JSON: Final = 128 * 2**20  # bytes; the graph of a network of 4000 operations takes a tenth of it
_MEMORY_FORMATS: Final = {1: torch.contiguous_format, 2: torch.channels_last, 4: torch.preserve_format}
_NUMBERS: Final = {"add", "sub", "mul", "floordiv", "mod", "neg", "pow", "truediv"}  # of Python, on sizes
# Operations that check or mark their input, and return it or nothing.
_PASS_ON: Final = {"alias", "detach", "detach_", "lift_fresh_copy"}
_CHECKS: Final = {"_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range_for_size"}
_REFUSED: Final = {"from_file"}  # reads and writes files
# The private operations that exported networks have. Others trust their input, and crash the process if it is wrong.
_PRIVATE: Final = {
    *("_adaptive_avg_pool2d", "_log_softmax", "_native_batch_norm_legit_no_training", "_safe_softmax", "_softmax"),
    *("_scaled_dot_product_flash_attention_for_cpu", "_to_copy", "_unsafe_index", "_unsafe_view"),
}
_INTERNAL: Final = {"native_batch_norm", "segment_reduce"}  # as private as those, but by their names
_RANDOM: Final = {"dropout", "dropout_", "feature_dropout", "alpha_dropout"}  # the identity, unless in training
# Activations whose functions overwrite their input by an option, not by a name of their own.
_ACTIVATIONS: Final = {"hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "mish", "relu6", "silu"}
_ANEW: Final = "torch.export.export(net.eval(), (pixels,), dynamic_shapes=({0: torch.export.Dim.AUTO},))"


@dataclass(frozen=True, slots=True)
class Exported:
    """A network and the (height, width) of its pixels, None if they may vary."""

    net: nn.Module
    size: tuple[int, int] | None


@dataclass(slots=True)
class _Name:
    """A value that an earlier step computed."""

    name: str


@dataclass(slots=True)
class _Held:
    """A parameter, buffer or constant, by its module and the attribute there."""

    module: nn.Module
    attribute: str


@dataclass(slots=True)
class _Step:
    """One operation. A single output is the value itself; several are a sequence of values."""

    function: Callable[..., Any]
    arguments: list[Any]
    options: dict[str, Any]
    outputs: list[str | None]
    single: bool


@dataclass(slots=True)
class _Run:
    """One run of a module."""

    module: nn.Module
    steps: list[_Step | _Run] = field(default_factory=list)


# The runs of modules in which a step lies, outermost first, and the step, None for a check.
_Entry = tuple[list[tuple[str, str]], _Step | None]


class _Part(nn.Module):
    """A module of the exported network."""

    def forward(self, run: _Run, values: dict[str, Any]) -> Any:
        """Run the steps, which read and write ``values`` by name. Returns the last step's value."""
        value = None
        for step in run.steps:
            if isinstance(step, _Run) and isinstance(step.module, nn.Linear):
                (only,) = step.steps
                assert isinstance(only, _Step)
                value = step.module(_given(only.arguments[0], values))
                _keep(only, value, values)
            elif isinstance(step, _Run):
                value = step.module(step, values)
            else:
                options = {name: _given(each, values) for name, each in step.options.items()}
                value = step.function(*_given(step.arguments, values), **options)
                _keep(step, value, values)
        return value


class _Network(_Part):
    """The exported network: maps ``[B, 3, H, W]`` to its output."""

    # The run, and the names of its input and output. One attribute, because any other name may be a module's.
    _plan: tuple[_Run, str, str]

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        run, pixels, output = self._plan
        values = {pixels: x}
        super().forward(run, values)
        return values[output]


def _given(template: Any, values: dict[str, Any]) -> Any:
    if isinstance(template, _Name):
        return values[template.name]
    if isinstance(template, _Held):
        return getattr(template.module, template.attribute)
    return [_given(each, values) for each in template] if isinstance(template, list) else template


def _keep(step: _Step, value: Any, values: dict[str, Any]) -> None:
    for name, each in zip(step.outputs, [value] if step.single else value, strict=True):
        if name is not None:
            values[name] = each


def load(path: Path) -> Exported:
    """The network of a ``.pt2`` file, in eval mode. Raises WeightsError, also for weights and other programs."""
    if program(path) != "torch.export":
        read_state(path)
        raise WeightsError(
            f"{path.name} holds weights and no network: name its class, pellucid compile package.module:Class "
            f"--weights {path.name}, or write a description beside it and name it file:{path} "
            "(docs/how-to/your-own-model.md)"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            return _Reader(path, archive).read()
    except WeightsError:
        raise
    except OSError as error:
        raise WeightsError(f"{path} can't be read: {error.strerror or error}") from error
    except Exception as error:  # whatever a damaged or foreign file leads to
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise WeightsError(
            f"{path.name} can't be read as a file of torch.export.save ({reason}): export the network again with torch "
            f"{torch.__version__.partition('+')[0]}"
        ) from error


class _Reader:
    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path, self._archive = path, archive
        models = [name for name in archive.namelist() if name.partition("/")[2] == "models/model.json"]
        if len(models) != 1:
            raise self._refusal("has no graph under the name model: save it by torch.export.save of torch 2.8 or later")
        self._folder = models[0].partition("/")[0]
        self._program = self._json("models/model.json")
        if self._program["schema_version"]["major"] != _SCHEMA:
            raise self._refusal(f"was saved by torch {self._program.get('torch_version', 'of another version')}")
        self._graph = self._program["graph_module"]["graph"]
        self._held: dict[str, _Held] = {}
        self._classes: dict[str, str] = {"": "Network"}

    def _refusal(self, reason: str) -> WeightsError:
        return WeightsError(f"{self._path.name} {reason}")

    def _json(self, name: str) -> Any:
        return json.loads(self._read(name, _LARGEST_JSON))

    def _read(self, name: str, largest: int | None = None) -> bytes:
        """The bytes of a member, no more than the file has. torch.export.save does not compress."""
        member = self._archive.getinfo(f"{self._folder}/{name}")
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise self._refusal(f"has {name} compressed, which torch.export.save does not do: save the network again")
        if largest is not None and member.file_size > largest:
            raise self._refusal(f"has {name} of {member.file_size} bytes, more than the {largest} that are read")
        return self._archive.read(member)

    def read(self) -> Exported:
        nodes = self._graph["nodes"]
        stacks = [_stack(node) for node in nodes]
        for stack in stacks:
            for run, kind in stack:
                self._classes.setdefault(_module(run), kind)
        self._classes[""] = next((stack[0][1] for stack in stacks if stack and stack[0][0] == ""), "Network")
        root = _named_class(self._classes[""], _Network)()
        pixels = self._inputs(root)
        steps = [self._step(node) for node in nodes]
        whole = _Run(root, self._grouped(root, [*zip(stacks, steps, strict=True)], 0))
        root._plan = whole, pixels, self._output()
        root.eval().requires_grad_(False)
        return Exported(root, self._checked(root, pixels))

    # -- inputs and output

    def _inputs(self, root: nn.Module) -> str:
        """Put the tensors into modules. Returns the name of the one input that is left."""
        tensors = {**self._tensors("weights"), **self._tensors("constants")}
        pixels = []
        for spec in self._program["graph_module"]["signature"]["input_specs"]:
            ((kind, given),) = spec.items()
            if kind == "user_input" and "as_tensor" in given["arg"]:
                pixels.append(given["arg"]["as_tensor"]["name"])
            elif kind in ("parameter", "buffer", "tensor_constant"):
                path = given[f"{kind}_name"]
                owner, _, attribute = path.rpartition(".")
                module = self._at(root, owner)
                if kind == "parameter":
                    module.register_parameter(attribute, nn.Parameter(tensors[path], requires_grad=False))
                else:
                    module.register_buffer(attribute, tensors[path], given.get("persistent", False))
                self._held[given["arg"]["name"]] = _Held(module, attribute)
            else:
                raise self._refusal(f"takes an input of another kind ({kind}): export it with the pixels alone")
        if len(pixels) != 1:
            raise self._refusal(f"takes {len(pixels)} tensors: export a module that takes the pixels alone")
        return str(pixels[0])

    def _at(self, root: nn.Module, path: str) -> nn.Module:
        """The module at a path; it and those above it are made when they are first named."""
        module = root
        for depth, name in enumerate(path.split(".") if path else [], 1):
            if name not in module._modules:
                kind = self._classes.get(".".join(path.split(".")[:depth]), "Module")
                module.add_module(name, _named_class(kind, _Part)())
            module = module.get_submodule(name)
        return module

    def _tensors(self, folder: str) -> dict[str, Tensor]:
        config = self._json(f"data/{folder}/model_{folder}_config.json")["config"]
        found: dict[str, Tensor] = {}
        contents: dict[str, bytearray] = {}
        for name, entry in config.items():
            if entry["path_name"].startswith(("custom_obj", "opaque_obj")):
                raise self._refusal("holds an object that is no tensor and would run code when it is loaded")
            if entry["use_pickle"]:
                raise self._refusal(f"holds {name} as an object that would run code when it is loaded")
            if entry["path_name"] not in contents:  # shared by tied weights
                contents[entry["path_name"]] = bytearray(self._read(f"data/{folder}/{entry['path_name']}"))
            content = contents[entry["path_name"]]
            meta = entry["tensor_meta"]
            sizes, strides = ([each["as_int"] for each in meta[key]] for key in ("sizes", "strides"))
            dtype = _DTYPES[meta["dtype"]]
            if any(each < 0 for each in (*sizes, *strides)) or math.prod(sizes) * dtype.itemsize > len(content):
                raise self._refusal(
                    f"holds {len(content)} bytes for {name}, not enough for its sizes {sizes}: export an expanded "
                    "buffer as a copy (.contiguous())"
                )
            flat = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
            found[name] = flat.as_strided(sizes, strides, meta["storage_offset"]["as_int"])
        return found

    def _output(self) -> str:
        specs = self._program["graph_module"]["signature"]["output_specs"]
        if any("mutation" in kind for spec in specs for kind in spec):
            raise self._refusal(f"changes its buffers when it runs, as in training: {_ANEW}")
        if len(specs) != 1 or "as_tensor" not in specs[0].get("user_output", {}).get("arg", {}):
            raise self._refusal(f"returns {len(specs)} values: export a module that returns one tensor")
        return str(specs[0]["user_output"]["arg"]["as_tensor"]["name"])

    def _checked(self, net: nn.Module, pixels: str) -> tuple[int, int] | None:
        """The size of the pixels. Raises WeightsError if the network runs for one size of batches alone."""
        batch, channels, *sides = (each.get("as_int") for each in self._graph["tensor_values"][pixels]["sizes"])
        if channels is None or len(sides) != 2:
            raise self._refusal("takes no pixels [batch, channels, height, width]")
        size = (int(sides[0]), int(sides[1])) if None not in sides else None
        if batch is None or size is None:
            return size
        try:
            with torch.no_grad():
                fits = all(len(net(torch.zeros(count, channels, *size))) == count for count in (2, 3))
        except Exception:  # a size of the graph does not fit
            fits = False
        if not fits:
            raise self._refusal(
                f"was exported for batches of exactly {batch}: export it for any, with two pictures or more in pixels: "
                f"{_ANEW}"
            )
        return size

    # -- steps

    def _grouped(self, root: nn.Module, entries: Sequence[_Entry], depth: int) -> list[_Step | _Run]:
        """The steps of one run of a module. Consecutive steps of a submodule become a run of that."""

        def submodule(entry: _Entry) -> str:
            inner = [run for run, _ in entry[0] if run]
            return inner[depth] if len(inner) > depth else ""

        found: list[_Step | _Run] = []
        for run, group in groupby(entries, submodule):
            if not run:
                found += [step for _, step in group if step is not None]
                continue
            steps = self._grouped(root, [*group], depth + 1)
            found.append(_Run(self._module_of(root, _module(run), steps), steps))
        return found

    def _module_of(self, root: nn.Module, path: str, steps: list[_Step | _Run]) -> nn.Module:
        """The module at a path. A linear layer is one of torch, whose kind says more than its operation."""
        module = self._at(root, path)
        if isinstance(module, nn.Linear) or self._classes[path] != "torch.nn.modules.linear.Linear":
            return module
        weight, bias = (module._parameters.get(name) for name in ("weight", "bias"))
        if weight is None or len(steps) != 1 or not isinstance(steps[0], _Step) or steps[0].function is not F.linear:
            return module
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, dtype=weight.dtype)
        linear.weight, linear.bias = weight, bias  # type: ignore[assignment]  # None without a bias
        root.set_submodule(path, linear)
        for held in self._held.values():
            if held.module is module:
                held.module = linear
        return linear

    def _step(self, node: dict[str, Any]) -> _Step | None:
        """The operation of a node, None for a check."""
        target = str(node["target"])
        namespace, _, operation = target.removeprefix("torch.ops.").partition(".")
        name, _, overload = operation.partition(".")
        if namespace == "_operator" and name in _NUMBERS:
            function: Callable[..., Any] = getattr(operator, name)
        elif namespace != "aten" or name in _REFUSED or not name.isidentifier() or not overload.isidentifier():
            raise self._refusal(f"has the operation {target}, which is not one of torch's own (torch.ops.aten)")
        elif name in _CHECKS:
            return None
        elif name not in _PRIVATE and (name.startswith("_") or name.endswith("_backward") or name in _INTERNAL):
            raise self._refusal(f"has the operation {target}, which is private to torch: {_ANEW}")
        else:
            function = self._function(target, name, overload)
        arguments, options = [], {}
        for given in node["inputs"]:
            value = self._template(given["arg"])
            if given["name"] in ("train", "training") and value is True:
                raise self._refusal(f"was exported in training mode: {_ANEW}")
            if given["kind"] == 1:
                arguments.append(value)
            else:
                options[given["name"]] = value
        if name in _RANDOM or name in _PASS_ON:
            function, arguments, options = _same, arguments[:1], {}
        if name.endswith("_") and name[:-1] in _ACTIVATIONS:
            options["inplace"] = True
        outputs = [*_outputs(node["outputs"])]
        single = len(node["outputs"]) == 1 and "as_tensors" not in node["outputs"][0]
        return _Step(function, arguments, options, outputs, single)

    def _function(self, target: str, name: str, overload: str) -> Callable[..., Any]:
        """torch's function for an operation, by which gates and heads are recognised, or the operation itself."""
        packet: Any = getattr(torch.ops.aten, name, None)
        known = packet.overloads() if isinstance(packet, torch._ops.OpOverloadPacket) else []  # type: ignore[no-untyped-call]
        if overload not in known:
            raise self._refusal(f"has the operation {target}, which torch {torch.__version__} does not have")
        if name in _FUNCTIONS:
            return _FUNCTIONS[name]
        if (activation := name.removesuffix("_")) in _ACTIVATIONS:
            return getattr(F, activation)  # type: ignore[no-any-return]
        for functions, native in ((torch, torch._C._VariableFunctions), (F, torch._C._nn)):
            function: Callable[..., Any] | None = getattr(functions, name, None)
            if function is not None and function is getattr(native, name, None):
                return function  # type: ignore[return-value]  # "is" drops what is known of it
        if hasattr(Tensor, name):
            return _Method(name)
        if name.endswith("_"):
            raise self._refusal(f"has the operation {target}, which overwrites its input")
        operation: Callable[..., Any] = getattr(packet, overload)
        return operation

    def _template(self, argument: dict[str, Any]) -> Any:
        ((kind, value),) = ((key, each) for key, each in argument.items() if each is not None)
        match kind:
            case "as_none":
                return None
            case "as_tensor":
                return self._held.get(value["name"]) or _Name(value["name"])
            case "as_tensors" | "as_optional_tensors":
                return [
                    self._template(each if kind == "as_optional_tensors" else {"as_tensor": each}) for each in value
                ]
            case "as_sym_int" | "as_sym_float":
                return _Name(value["as_name"]) if "as_name" in value else next(iter(value.values()))
            case "as_sym_ints":
                return [self._template({"as_sym_int": each}) for each in value]
            case "as_scalar_type":
                return _DTYPES[value]
            case "as_memory_format":
                return _MEMORY_FORMATS[value]
            case "as_layout":
                return torch.strided
            case "as_device":
                return torch.device("cpu")
            case "as_int" | "as_bool" | "as_string":
                return value
            case "as_float":
                return float(value)  # "Infinity" is a text
            case "as_ints" | "as_floats" | "as_bools":
                return tuple(value)
            case _:
                raise self._refusal(f"has an argument of the kind {kind}, such as of a loop or a branch")


@dataclass(frozen=True, slots=True)
class _Method:
    """A method of a tensor, as a function."""

    name: str

    def __call__(self, value: Any, *arguments: Any, **options: Any) -> Any:
        return getattr(value, self.name)(*arguments, **options)


def _same(value: Any) -> Any:
    return value


def _select(value: Any, dim: int, index: int) -> Any:
    return value[(slice(None),) * (dim % len(value.shape)) + (index,)]


def _slice(value: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Any:
    return value[(slice(None),) * (dim % len(value.shape)) + (slice(start, end, step),)]


def _index(value: Any, indices: list[Any]) -> Any:
    return value[tuple(slice(None) if index is None else index for index in indices)]


def _size(value: Any, dim: int) -> Any:
    return value.size(dim)


def _softmax(x: Any, dim: int, half_to_float: bool) -> Any:
    return torch.softmax(x, dim, torch.float32 if half_to_float else None)


def _einsum(equation: str, operands: list[Any], path: Any = None) -> Any:
    return torch.einsum(equation, *operands)


def _batch_norm(x: Any, weight: Any, bias: Any, mean: Any, var: Any, momentum: float, eps: float) -> tuple[Any, ...]:
    """The private operation reads beyond parameters of too few channels; this one refuses them."""
    return F.batch_norm(x, mean, var, weight, bias, False, momentum, eps), None, None


def _attention(
    query: Any, key: Any, value: Any, dropout_p: float = 0.0, is_causal: bool = False, **options: Any
) -> tuple[Any, ...]:
    """The private operation trusts that the shapes match."""
    return F.scaled_dot_product_attention(query, key, value, is_causal=is_causal, **options), None


_FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "_native_batch_norm_legit_no_training": _batch_norm,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_softmax": _softmax,
    "_unsafe_view": _Method("view"),
    "adaptive_avg_pool2d": F.adaptive_avg_pool2d,
    "einsum": _einsum,
    "index": _index,
    "pad": F.pad,
    "select": _select,
    "slice": _slice,
    "sym_size": _size,
}


def _outputs(outputs: list[dict[str, Any]]) -> Iterator[str | None]:
    for output in outputs:
        if "as_tensors" in output:
            yield from (each["name"] for each in output["as_tensors"])
        elif "as_tensor" in output:
            yield output["as_tensor"]["name"]
        else:
            yield output["as_sym_int"]["as_name"] if "as_sym_int" in output else None


def _stack(node: dict[str, Any]) -> list[tuple[str, str]]:
    """The runs of modules in which a node lies, outermost first: paths, with ``@1`` for a second run, and classes."""
    entries = [entry.split(",") for entry in (node["metadata"].get("nn_module_stack") or "").split(";")]
    return [(entry[1], entry[2]) for entry in entries if len(entry) == 3 and not entry[0].startswith("_empty")]


def _module(run: str) -> str:
    return run.partition("@")[0]


def _named_class(kind: str, base: type[Any]) -> Any:
    return type(kind.rpartition(".")[2], (base,), {"__module__": __name__})
