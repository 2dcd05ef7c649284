"""The file of a compiled network: writes ``NAME.pellucid``, and reads it as untrusted input.

An uncompressed zip of three members: ``weights.safetensors``, ``graph.json`` (the nodes of ``network.graph``) and
``network.json`` (``Manifest``). It holds numbers and names only, so reading it runs no code from the file.
docs/reference/compiled-networks.md documents the format.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pellucid.network.graph import INPUT, PIXELS_INPUT, WANTED_INPUT, WEIGHT, Graph, GraphError, Scaled
from pellucid.network.layout import Layout
from pellucid.network.spec import ONE_SIZE, PIXELS, GateSpec, ModelSpec, NetworkSpec, Side, Sizes
from pellucid.types import Array

FORMAT: Final = "pellucid network"
VERSION: Final = 1
SUFFIX: Final = ".pellucid"
_WEIGHTS, _GRAPH, _MANIFEST = "weights.safetensors", "graph.json", "network.json"
_SCALED: Final = "any_size.json"
# Begins the limit of a network without a graph for any size. The reason follows.
ONE_SIZE_ONLY: Final = "it runs at one size of pixels: "
_LONGEST_SIDE: Final = 2**13
_LARGEST_JSON: Final = 32 * 2**20  # bytes; a graph of 4000 operations takes a fiftieth of it
_MOST_AXES: Final = 8
# Numbers of one image's output. A row of weights of a gradient has as many.
_MOST_SCALARS: Final = 2**25
_TYPES: Final = {
    "F64": np.float64,
    "F32": np.float32,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_ALIGNMENT: Final = 64  # bytes: the weights are used in place in the mapped file, so they must be aligned
_LOCAL_HEADER: Final = 30  # bytes of a zip's local header, before the name


class NetworkFileError(ValueError):
    """The file is not a compiled network, or is damaged, altered or of another version. The message says which and what
    to do.
    """


@dataclass(frozen=True, slots=True)
class Value:
    """A layer's value: the graph node that holds it, and the node that holds the gradient with respect to it, if any.

    ``linear`` names the weight ``[classes, C]`` if only global average pooling and one linear layer follow.
    """

    node: str
    gradient: str | None
    layout: Layout
    linear: str | None = None


@dataclass(frozen=True, slots=True)
class Nodes:
    """The node of a value and, if there is one, of the gradient at it.

    The weights of a gate are ``[B, C]`` or ``[B, C, 1, 1]``. Those of a gate by position are ``[B, h, w]``, with an
    axis of size 1 among them. An attention's are its matrix ``[B, heads, N, N]``; its gradient is that of the scores
    which the head gives the mean of its block's tokens (LeGrad).
    """

    node: str
    gradient: str | None


Offset = Annotated[int, Field(ge=-(2**10), le=2**10)]


@dataclass(frozen=True, slots=True)
class MapSides:
    """Height and width of a layer's map at the base size. Each, less its offset, is proportional to the pixels'."""

    height: Annotated[int, Field(ge=1, le=2**20)]
    width: Annotated[int, Field(ge=1, le=2**20)]
    height_offset: Offset = 0
    width_offset: Offset = 0


@dataclass(frozen=True, slots=True)
class AnySize:
    """The second graph, for pixels whose sides are multiples of ``multiple``: its nodes, and the layers' maps.

    Its numbers follow the size (``graph.Scaled``). They are written for pixels of the size ``base``.
    """

    base: tuple[Side, Side]
    multiple: Annotated[int, Field(ge=1, le=2**10)]
    logits: str
    pixels: Nodes
    values: dict[str, Nodes]
    gates: dict[str, Nodes]
    spatial_gates: dict[str, Nodes]
    sides: dict[str, MapSides]


class Manifest(BaseModel):
    """``network.json``: the network's description, and the graph nodes that hold its values.

    ``pixels`` is the network's input. ``values``, ``gate_values``, ``spatial_gate_values`` and ``attention_values`` map
    each layer, gate and attention to its nodes.
    ``broadcasts``: whether one image can have several rows of ``wanted``. ``buffers``: arrays that are not parameters.
    ``limits``: sentences that say what the network can't do, and why. ``any_size``: the graph for pixels of other
    sizes, None if there is none. ``sha256``: the other members' digests.
    ``versions``: of the libraries that compiled it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["pellucid network"] = FORMAT
    version: Literal[1] = VERSION
    model: ModelSpec
    network: NetworkSpec
    logits: str
    pixels: Value
    values: dict[str, Value]
    gate_values: dict[str, Nodes]
    spatial_gate_values: dict[str, Nodes] = Field(default_factory=dict)
    attention_values: dict[str, Nodes] = Field(default_factory=dict)
    broadcasts: bool
    buffers: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    any_size: AnySize | None = None
    sha256: dict[str, str] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True, eq=False, repr=False)
class CompiledNetwork:
    """A compiled network in memory.

    ``digest`` is the SHA-256 of its manifest, in hexadecimal. It covers the whole file, because the manifest holds the
    digests of the other members. ``scaled`` is the graph for any size (``Manifest.any_size``) as JSON, or empty. It is
    read when another size is first used, because most callers use none.
    """

    manifest: Manifest
    graph: Graph
    weights: Mapping[str, Array]
    digest: str = ""
    scaled: bytes = b""

    def __repr__(self) -> str:
        """One line: name, classes, input, layers and gates."""
        channels, height, width = self.model.preprocess.shape
        of = "" if channels == 3 else f" of {channels} channel{'s' * (channels != 1)}"
        return (
            f"<network {self.model.name}: {self.model.described_output}, {height} x {width} pixels{of}, "
            f"{len(self.spec.layers)} layers, {len(self.spec.gates)} gates>"
        )

    @property
    def model(self) -> ModelSpec:
        """The name, labels and preprocessing."""
        return self.manifest.model

    @property
    def spec(self) -> NetworkSpec:
        """The layers, gates and default layers."""
        return self.manifest.network

    def value(self, layer: str) -> Value:
        """The value of a layer, or of PIXELS. Raises KeyError."""
        return (
            self.manifest.pixels if layer == PIXELS and layer not in self.spec.by_name else self.manifest.values[layer]
        )

    @property
    def sizes(self) -> Sizes:
        """The sizes of pixels on which the network runs."""
        any_size = self.manifest.any_size
        if any_size is not None:
            return Sizes(any_size.multiple)
        found = [limit.removeprefix(ONE_SIZE_ONLY) for limit in self.manifest.limits if limit.startswith(ONE_SIZE_ONLY)]
        return Sizes(None, found[0]) if found else ONE_SIZE

    def at(self, size: tuple[int, int]) -> CompiledNetwork:
        """The network for pixels of another size (height, width), with the same weights.

        Raises ValueError if it has one size only, or if the sides are no multiples of ``sizes.multiple``, and
        NetworkFileError if its graph for any size is not valid.
        """
        other = self.manifest.any_size
        if other is None or any(side % other.multiple or not 0 < side <= _LONGEST_SIDE for side in size):
            raise ValueError(f"{self.model.name} can't run on pixels of {size[0]}x{size[1]}")
        return self._at(size, other, self._graph_of_any_size)

    @cached_property
    def _graph_of_any_size(self) -> Graph:
        """Raises NetworkFileError."""
        other = self.manifest.any_size
        assert other is not None
        try:
            graph = Graph.of_data(json.loads(self.scaled), scaled=True)
            based = self._at(other.base, other, graph)
            _check_graph(based.manifest, based.graph, self.weights)
        except (ValueError, RecursionError) as error:
            raise NetworkFileError(f"the graph for any size of {self.model.name} is not valid: {error}") from error
        return graph

    def _at(self, size: tuple[int, int], other: AnySize, graph: Graph) -> CompiledNetwork:
        manifest = self.manifest
        rows, columns = (Fraction(*sides) for sides in zip(size, other.base, strict=True))

        def sides(layer: str) -> tuple[int, int]:
            of = other.sides[layer]
            height = Scaled(of.height, 1, 0, of.height_offset).at(rows, columns)
            width = Scaled(of.width, 0, 1, of.width_offset).at(rows, columns)
            if min(height, width) < 1:
                raise GraphError(f"pixels of {size[0]}x{size[1]} are too small for the layer {layer[:80]}")
            return int(height), int(width)

        def value(layer: str, nodes: Nodes) -> Value:
            before = manifest.values[layer]
            height, width = sides(layer)
            layout = replace(before.layout, height=height, width=width)
            return replace(before, node=nodes.node, gradient=nodes.gradient, layout=layout)

        def gate(spec: GateSpec) -> GateSpec:
            return replace(spec, shape=(spec.shape[0], *sides(spec.before)))

        network, preprocess = manifest.network, self.model.preprocess
        changes = {
            "model": replace(self.model, preprocess=replace(preprocess, size=size)),
            "network": replace(
                network,
                layers=tuple(replace(each, shape=(each.shape[0], *sides(each.name))) for each in network.layers),
                gates=tuple(map(gate, network.gates)),
                spatial_gates=tuple(map(gate, network.spatial_gates)),
            ),
            "logits": other.logits,
            "pixels": Value(other.pixels.node, other.pixels.gradient, Layout("BCHW", *size)),
            "values": {layer: value(layer, nodes) for layer, nodes in other.values.items()},
            "gate_values": other.gates,
            "spatial_gate_values": other.spatial_gates,
        }
        return replace(self, manifest=manifest.model_copy(update=changes), graph=graph.at(rows, columns), scaled=b"")


def as_json(graph: Graph) -> bytes:
    """A graph as a member of the file."""
    return json.dumps(graph.as_data(), separators=(",", ":"), allow_nan=False).encode()


def save(path: Path, manifest: Manifest, graph: Graph, weights: Mapping[str, Array], scaled: bytes = b"") -> str:
    """Write the file atomically. Returns its digest. ``scaled``: see CompiledNetwork.

    Raises NetworkFileError for what ``load`` would refuse, and OSError.
    """
    weight_bytes = _safetensors(weights)
    members = {_WEIGHTS: weight_bytes, _GRAPH: as_json(graph)} | ({_SCALED: scaled} if scaled else {})
    digests = {name: _sha256(data) for name, data in members.items()}
    manifest_bytes = manifest.model_copy(update={"sha256": digests}).model_dump_json(indent=1).encode()
    checked = _manifest(path.name, manifest_bytes)
    _check_any_size(path.name, checked, scaled)
    for name, data in {**members, _MANIFEST: manifest_bytes}.items():
        if name != _WEIGHTS and len(data) > _LARGEST_JSON:
            raise NetworkFileError(f"{path.name}: {name} would have {len(data)} bytes, more than the format allows")
    try:
        _graph(checked, members[_GRAPH], weights)
    except (ValueError, RecursionError) as error:
        raise NetworkFileError(f"{path.name} would not be a valid network: {error}") from error
    with replacing(path) as scratch, zipfile.ZipFile(scratch, "w") as archive:
        for name, data in (*members.items(), (_MANIFEST, manifest_bytes)):
            archive.writestr(zipfile.ZipInfo(name), data)
    return _sha256(manifest_bytes)


def is_writable(folder: Path) -> bool:
    """Whether the folder is writable. Creates it if it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A scratch file beside ``path``, which it replaces, with the usual permissions, unless the block raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:80]}.")
    os.close(descriptor)
    scratch = Path(name)
    try:
        yield scratch
        umask = os.umask(0o077)  # it can only be read by setting it
        os.umask(umask)
        scratch.chmod(0o666 & ~umask)
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def load(path: Path) -> CompiledNetwork:
    """Read and check an untrusted file. The weights are mapped into memory, not copied. Raises NetworkFileError."""
    name = path.name
    try:
        mapped = np.memmap(path, np.uint8, "c")  # copy on write: OpenVINO shares only writable arrays
        with zipfile.ZipFile(path) as archive:
            members = _members(name, archive.infolist(), len(mapped))
            manifest_bytes, graph_bytes = archive.read(_MANIFEST), archive.read(_GRAPH)
            scaled_bytes = archive.read(_SCALED) if _SCALED in members else b""
    except FileNotFoundError as error:
        raise NetworkFileError(f"there is no file {path}") from error
    except OSError as error:
        raise NetworkFileError(f"{name} can't be read: {error.strerror or error}") from error
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, NetworkFileError):
            raise
        raise NetworkFileError(f"{name} is not a compiled network, or is cut off: {error}") from error
    manifest = _manifest(name, manifest_bytes)
    weight_bytes = _member(name, mapped, members[_WEIGHTS])
    _check_any_size(name, manifest, scaled_bytes)
    others = {_SCALED: scaled_bytes} if scaled_bytes else {}
    for member, data in {_WEIGHTS: weight_bytes, _GRAPH: graph_bytes, **others}.items():
        if manifest.sha256.get(member) != _sha256(data):
            raise NetworkFileError(
                f"{name}: {member} does not match its digest in {_MANIFEST}; compile the network again"
            )
    try:
        weights = _arrays(weight_bytes)
        graph = _graph(manifest, graph_bytes, weights)
    except (ValueError, RecursionError) as error:  # GraphError and NetworkFileError among them
        raise NetworkFileError(f"{name} is not a valid network: {error}") from error
    return CompiledNetwork(manifest, graph, weights, _sha256(manifest_bytes), scaled_bytes)


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256(data: Any) -> str:
    return hashlib.sha256(data).hexdigest()


def _members(name: str, found: Sequence[zipfile.ZipInfo], size: int) -> dict[str, zipfile.ZipInfo]:
    names = [member.filename for member in found]
    if sorted({*names} - {_SCALED}) != sorted((_WEIGHTS, _GRAPH, _MANIFEST)) or len(names) > len({*names}):
        contents = ", ".join(repr(member[:40]) for member in names[:5]) or "nothing"
        checkpoint = any(member.endswith("data.pkl") for member in names)
        advice = "; it is a torch checkpoint: compile its network first (pellucid compile)" if checkpoint else ""
        raise NetworkFileError(f"{name} is not a compiled network: it holds {contents}{advice}")
    for member in found:
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise NetworkFileError(f"{name}: {member.filename} is compressed, which the format does not allow")
        if member.file_size > size or (member.filename != _WEIGHTS and member.file_size > _LARGEST_JSON):
            raise NetworkFileError(f"{name}: {member.filename} claims an impossible size of {member.file_size} bytes")
    return dict(zip(names, found, strict=True))


def _manifest(name: str, data: bytes) -> Manifest:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise NetworkFileError(f"{name}: {_MANIFEST} is not valid JSON") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise NetworkFileError(f"{name} is not a compiled network")
    if content.get("version") != VERSION:
        version = content.get("version")
        raise NetworkFileError(
            f"{name} has {f'version {version}' if version in range(1000) else 'an unknown version'} of the format, and "
            f"this Pellucid reads version {VERSION}: compile the network again"
        )
    try:
        return Manifest.model_validate_json(data, strict=False)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))[:80]
        raise NetworkFileError(f"{name}: {_MANIFEST} is invalid at {place}: {first['msg']}") from error


def _member(name: str, mapped: Array, member: zipfile.ZipInfo) -> Array:
    """The bytes of an uncompressed member, as a view of the mapped file."""
    header = mapped[member.header_offset : member.header_offset + _LOCAL_HEADER].tobytes()
    if len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
        raise NetworkFileError(f"{name} is cut off")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    start = member.header_offset + _LOCAL_HEADER + name_length + extra_length
    data: Array = mapped[start : start + member.file_size]
    if len(data) != member.file_size:
        raise NetworkFileError(f"{name} is cut off")
    return data


def _safetensors(weights: Mapping[str, Array]) -> bytes:
    """The arrays in the safetensors format. Larger dtypes come first, so that every array is aligned."""
    kinds = {np.dtype(kind): code for code, kind in _TYPES.items()}
    ordered = sorted(weights.items(), key=lambda item: (-item[1].itemsize, item[0]))
    header: dict[str, Any] = {}
    offset = 0
    for name, array in ordered:
        if array.dtype not in kinds:
            raise NetworkFileError(f"the weight {name} has the dtype {array.dtype}, which the format does not have")
        if array.ndim > _MOST_AXES:
            raise NetworkFileError(f"the weight {name} has {array.ndim} axes, and the format allows {_MOST_AXES}")
        header[name] = {
            "dtype": kinds[array.dtype],
            "shape": array.shape,
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    before = _LOCAL_HEADER + len(_WEIGHTS) + 8
    text += b" " * (-(before + len(text)) % _ALIGNMENT)
    return b"".join(
        [struct.pack("<Q", len(text)), text, *(np.ascontiguousarray(array).tobytes() for _, array in ordered)]
    )


def _arrays(data: Array) -> dict[str, Array]:
    """The arrays of a safetensors file, as views of its bytes. Raises NetworkFileError and ValueError."""
    length = int(np.frombuffer(data[:8].tobytes(), "<u8")[0]) if len(data) >= 8 else 0
    if not 0 < length <= min(len(data) - 8, _LARGEST_JSON):
        raise NetworkFileError("the weights have no header")
    header = json.loads(data[8 : 8 + length].tobytes())
    body = data[8 + length :]
    arrays: dict[str, Array] = {}
    for name, entry in header.items() if isinstance(header, dict) else [("", header)]:
        match entry:
            case {"dtype": str(code), "shape": list(shape), "data_offsets": [int(begin), int(end)]} if code in _TYPES:
                kind = np.dtype(_TYPES[code])
            case _:
                raise NetworkFileError(f"the weight {name[:80]!r} lacks a dtype, a shape or offsets")
        if len(shape) > _MOST_AXES or not all(type(each) is int and 0 <= each <= len(body) for each in shape):
            raise NetworkFileError(f"the weight {name[:80]!r} has an impossible shape")
        if not 0 <= begin <= end <= len(body) or end - begin != math.prod(shape) * kind.itemsize:
            raise NetworkFileError(f"the weight {name[:80]!r} has offsets that don't fit its shape")
        # Runtimes need aligned arrays. Copies those that another writer did not align.
        arrays[name] = np.require(body[begin:end].view(kind).reshape(shape), requirements="A")
    return arrays


def _check_any_size(name: str, manifest: Manifest, scaled: bytes) -> None:
    if bool(scaled) != (manifest.any_size is not None):
        raise NetworkFileError(f"{name}: {_SCALED} and {_MANIFEST} contradict each other")


def _graph(manifest: Manifest, data: bytes, weights: Mapping[str, Array]) -> Graph:
    """The graph of a member. Raises ValueError and RecursionError, also if the members contradict each other."""
    graph = Graph.of_data(json.loads(data))
    _check_graph(manifest, graph, weights)
    return graph


def _check_output(model: ModelSpec) -> None:
    """Raise NetworkFileError if the output and the labels contradict each other."""
    output, count = model.output, len(model.labels)
    shape = output.shape or (count,)
    if len(shape) != (3 if output.kind == "dense" else 1) or model.scalars > _MOST_SCALARS:
        raise NetworkFileError(f"its output has an impossible shape {list(shape)[:_MOST_AXES]}")
    least = {"softmax": 2, "embedding": 0}.get(output.kind, 1)
    if count < least or count != (0 if output.kind == "embedding" else shape[0]):
        raise NetworkFileError(f"its output of shape {list(shape)} does not have {count} labels")
    if output.units and len(output.units) != count:
        raise NetworkFileError("its units are not one for each quantity")
    if output.background is not None and not 0 <= output.background < count:
        raise NetworkFileError("its background is not a class")


def _check_graph(manifest: Manifest, graph: Graph, weights: Mapping[str, Array]) -> None:
    """Raise NetworkFileError if the members contradict each other."""
    for node in graph.nodes.values():
        if node.op == WEIGHT and (len(node.args) != 1 or node.args[0] not in weights):
            raise NetworkFileError(f"the operation {node.name[:80]} reads a weight that does not exist")
        if node.op == INPUT and node.name not in (PIXELS_INPUT, WANTED_INPUT):
            raise NetworkFileError(f"the graph has an unknown input {node.name[:80]}")
    values: list[Value | Nodes] = [manifest.pixels, *manifest.values.values(), *manifest.gate_values.values()]
    values += [*manifest.spatial_gate_values.values(), *manifest.attention_values.values()]
    forward = {manifest.logits, *(each.node for each in values)}
    gradients = {each.gradient for each in values if each.gradient is not None}
    if missing := (forward | gradients) - graph.nodes.keys():
        raise NetworkFileError(f"there is no operation {min(missing)[:80]}")
    if manifest.pixels.node != PIXELS_INPUT or manifest.logits not in graph.of_pixels:
        raise NetworkFileError("its logits are not computed from its pixels")
    if wrong := (forward & graph.of_wanted) | (gradients - graph.of_wanted):
        raise NetworkFileError(f"{min(wrong)[:80]} can't be both a value and a gradient")
    _check_output(manifest.model)
    if (other := manifest.any_size) is not None:
        keys = [{*each} for each in (other.values, other.sides, other.gates, other.spatial_gates)]
        own = (manifest.values, manifest.values, manifest.gate_values, manifest.spatial_gate_values)
        if keys != [{*each} for each in own]:
            raise NetworkFileError("its graph for any size has other layers or gates")
        if manifest.attention_values:
            raise NetworkFileError("it has attention, and a graph for any size")
    network = manifest.network
    layers = {layer.name for layer in network.layers}
    gates = (*network.gates, *network.spatial_gates)
    named = {*network.feature_layers, *(side for gate in gates for side in (gate.before, gate.after))}
    named |= {network.default_layer} - {""}
    if (
        not named <= layers
        or layers != set(manifest.values)
        or {gate.layer for gate in network.gates} != set(manifest.gate_values)
        or {gate.layer for gate in network.spatial_gates} != set(manifest.spatial_gate_values)
        or {attention.name for attention in network.attentions} != set(manifest.attention_values)
    ):
        raise NetworkFileError("its layers, gates and attentions do not match its values")
    for attention in network.attentions:
        first, end = attention.read
        if min(attention.grid) < 1 or not 0 <= first < end <= attention.extra + math.prod(attention.grid):
            raise NetworkFileError(f"the attention {attention.name[:80]} has impossible tokens")
    if len({(attention.extra, attention.grid) for attention in network.attentions}) > 1:
        raise NetworkFileError("its attentions have different tokens")
    for layer in network.layers:
        layout = manifest.values[layer.name].layout
        if layer.shape[1:] != (layout.height, layout.width) or min(layer.shape) < 1:
            raise NetworkFileError(f"the layer {layer.name[:80]} has an impossible shape")
        linear, classifies = manifest.values[layer.name].linear, (len(manifest.model.labels), layer.shape[0])
        if linear is not None and (linear not in weights or weights[linear].shape != classifies):
            raise NetworkFileError(
                f"the linear classifier {linear[:80]} does not exist, or is not of {classifies[0]} labels and "
                f"{classifies[1]} channels"
            )
