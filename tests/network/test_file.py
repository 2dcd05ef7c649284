"""The file of a compiled network: a round trip, and untrusted files, which are loaded correctly or refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pellucid.network.file import CompiledNetwork, NetworkFileError, digest_of, load, save
from pellucid.network.graph import Graph
from pellucid.network.spec import SOFTMAX
from tests.networks import compiled, of_any_size

MEMBERS = ("weights.safetensors", "graph.json", "network.json")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a network with a gate, a residual connection and a linear classifier."""
    path = tmp_path_factory.mktemp("networks") / "tiny.pellucid"
    net = compiled("tiny-relu")
    save(path, net.manifest, net.graph, net.weights)
    return path


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in MEMBERS}


def packed(path: Path, *contents: tuple[str, bytes], **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in contents:
            archive.writestr(name, data)
    return path


def assert_same(one: CompiledNetwork, other: CompiledNetwork) -> None:
    assert one.manifest == other.manifest
    assert one.graph.nodes == other.graph.nodes
    assert one.weights.keys() == other.weights.keys()
    for name, weight in one.weights.items():
        np.testing.assert_array_equal(weight, other.weights[name], strict=True)


def test_a_saved_network_is_loaded_unchanged(path: Path) -> None:
    net, found = compiled("tiny-relu"), load(path)
    kept = found.manifest.model_copy(update={"sha256": {}})
    assert_same(net, CompiledNetwork(kept, found.graph, found.weights))
    assert found.digest == hashlib.sha256(members(path)["network.json"]).hexdigest()
    assert all(weight.flags.aligned for weight in found.weights.values())
    assert sum(weight.base is not None for weight in found.weights.values()) == len(found.weights)  # mapped, not copied


def test_a_file_from_before_attention_and_spatial_gates_is_loaded(path: Path, tmp_path: Path) -> None:
    def before(manifest: Any) -> Any:
        for name in ("attention_values", "spatial_gate_values"):
            del manifest[name]
        for name in ("attentions", "spatial_gates"):
            del manifest["network"][name]
        return manifest

    found = load(forged(path, tmp_path, manifest=before))
    assert (found.spec, found.manifest.attention_values) == (compiled("tiny-relu").spec, {})


@pytest.mark.parametrize("kind", ["float64", "float32", "int64", "int32", "int16", "int8", "uint8", "bool"])
def test_every_dtype_is_loaded_bit_for_bit(tmp_path: Path, kind: str) -> None:
    net, path = compiled("tiny-relu"), tmp_path / "net.pellucid"
    odd = {"a": np.arange(7).astype(kind), "b": np.zeros((0, 3), kind), "c": np.array(1, kind)}
    save(path, net.manifest, net.graph, {**net.weights, **odd})
    found = load(path).weights
    for name, weight in odd.items():
        np.testing.assert_array_equal(found[name], weight, strict=True)


def test_an_unsupported_dtype_is_refused_by_name_and_leaves_no_file(tmp_path: Path) -> None:
    net = compiled("tiny-relu")
    with pytest.raises(NetworkFileError, match="the weight spectrum has the dtype complex64"):
        save(tmp_path / "net.pellucid", net.manifest, net.graph, {"spectrum": np.zeros(3, np.complex64)})
    (tmp_path / "folder.pellucid" / "in").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        save(tmp_path / "folder.pellucid", net.manifest, net.graph, net.weights)
    assert [each.name for each in tmp_path.iterdir()] == ["folder.pellucid"]


def test_what_load_would_refuse_is_not_written(tmp_path: Path) -> None:
    net, path = compiled("tiny-relu"), tmp_path / "net.pellucid"
    few = Graph([*net.graph.nodes.values()][:2])
    with pytest.raises(NetworkFileError, match=r"^net\.pellucid would not be a valid network: "):
        save(path, net.manifest, few, net.weights)
    with pytest.raises(NetworkFileError, match="reads a weight that does not exist"):
        save(path, net.manifest, net.graph, {})
    with pytest.raises(NetworkFileError, match=r"any_size\.json and network\.json contradict each other"):
        save(path, net.manifest, net.graph, net.weights, b"[]")
    with pytest.raises(NetworkFileError, match="the weight deep has 9 axes, and the format allows 8"):
        save(path, net.manifest, net.graph, {**net.weights, "deep": np.zeros([1] * 9, np.float32)})
    assert not [*tmp_path.iterdir()]


def test_the_same_network_has_the_same_digest(path: Path, tmp_path: Path) -> None:
    net, again = load(path), tmp_path / "again.pellucid"
    assert save(again, net.manifest, net.graph, net.weights) == net.digest
    assert digest_of(again) == digest_of(path)


# -- untrusted files


def refused(path: Path, message: str) -> None:
    with pytest.raises(NetworkFileError, match=message) as error:
        load(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_refused_or_loaded_unchanged(path: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(path.read_bytes())
    # Weights make up most of the file, so half of the damage is aimed at the rest.
    sizes = {name: len(member) for name, member in members(path).items()}
    structure = [*range(sizes[MEMBERS[0]] // 8, len(content))]
    places = st.one_of(st.integers(0, len(content) - 1), st.sampled_from(structure), st.integers(0, 1000))
    if data.draw(st.booleans(), "cut off"):
        del content[data.draw(places, "at") :]
    else:
        for _ in range(data.draw(st.integers(1, 4), "flips")):
            content[data.draw(places, "at")] ^= data.draw(st.integers(1, 255), "by")
    damaged = tmp_path / "damaged.pellucid"
    damaged.write_bytes(content)
    with contextlib.suppress(NetworkFileError):
        assert_same(load(damaged), load(path))


def test_a_file_that_is_not_a_compiled_network_is_refused(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pellucid"
    refused(other, "there is no file")
    refused(tmp_path, "can't be read: Is a directory")
    for content in (b"", b"PK", b"\x89PNG\r\n\x1a\n" * 9):
        other.write_bytes(content)
        refused(other, "other.pellucid is not a compiled network, or is cut off")
    refused(
        packed(other, ("data.pkl", b"x"), ("version", b"3")), "not a compiled network: it holds 'data.pkl', 'version'"
    )
    refused(packed(other), "holds nothing")
    contents = members(path)
    for missing in MEMBERS:
        refused(
            packed(other, *((name, contents[name]) for name in MEMBERS if name != missing)), "not a compiled network"
        )


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize("twice", MEMBERS)
def test_a_duplicate_member_is_refused(path: Path, tmp_path: Path, twice: str) -> None:
    contents = members(path)
    refused(
        packed(tmp_path / "two.pellucid", *contents.items(), (twice, contents[twice])),
        "is not a compiled network: it holds",
    )


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_member_is_refused_before_it_is_unpacked(path: Path, tmp_path: Path, method: int) -> None:
    contents = {**members(path), "graph.json": b"[" + b" " * 10**8 + b"]"}
    bomb = packed(tmp_path / "bomb.pellucid", *contents.items(), compression=method)
    assert bomb.stat().st_size < 10**6
    refused(bomb, "is compressed, which the format does not allow")


@pytest.mark.parametrize("size", [2**31, 2**32 - 2])
def test_a_member_that_claims_a_huge_size_is_refused(path: Path, tmp_path: Path, size: int) -> None:
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(b"network.json"))
    content[entry + 20 : entry + 28] = struct.pack("<II", size, size)  # the compressed and the uncompressed size
    (tmp_path / "huge.pellucid").write_bytes(content)
    refused(tmp_path / "huge.pellucid", f"claims an impossible size of {size} bytes")


@pytest.mark.parametrize("member", MEMBERS[:2])
def test_a_member_of_another_network_is_refused(path: Path, tmp_path: Path, member: str) -> None:
    net, other = compiled("tiny-relu"), tmp_path / "other.pellucid"
    nodes = [*net.graph.nodes.values()]
    graph = Graph([*nodes, replace(nodes[-1], name="another")])
    save(other, net.manifest, graph, {**net.weights, "another": np.zeros(3, np.float32)})
    swapped = packed(tmp_path / "swapped.pellucid", *{**members(path), member: members(other)[member]}.items())
    refused(swapped, f"{member} does not match its digest in network.json; compile the network again")


def forged(path: Path, to: Path, **changes: Callable[[Any], Any]) -> Path:
    """The file with ``manifest``, ``graph``, or the ``header`` of the weights changed, and correct digests."""
    contents = members(path)
    weights = contents["weights.safetensors"]
    length = struct.unpack("<Q", weights[:8])[0]

    def changed(name: str, data: bytes) -> bytes:
        made = changes.get(name, lambda value: value)(json.loads(data))
        return made if isinstance(made, bytes) else json.dumps(made).encode()

    header = changed("header", weights[8 : 8 + length])
    weights = struct.pack("<Q", len(header)) + header + weights[8 + length :]
    graph, manifest = changed("graph", contents["graph.json"]), json.loads(contents["network.json"])
    manifest["sha256"] = {
        "weights.safetensors": hashlib.sha256(weights).hexdigest(),
        "graph.json": hashlib.sha256(graph).hexdigest(),
    }
    data = changed("manifest", json.dumps(manifest).encode())
    return packed(to / "forged.pellucid", (MEMBERS[0], weights), (MEMBERS[1], graph), (MEMBERS[2], data))


def put(value: Any, *keys: Any) -> Callable[[Any], Any]:
    """A change that puts ``value`` at this place."""

    def change(data: Any) -> Any:
        at = data
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = value
        return data

    return change


def node(name: str, op: str, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
    """A change that adds an operation at the graph's end."""
    return lambda graph: [*graph, [name, op, [*args], kwargs]]


def test_a_file_with_unaligned_weights_is_loaded(path: Path, tmp_path: Path) -> None:
    for spaces in range(1, 4):

        def padded(header: Any, spaces: int = spaces) -> bytes:
            return json.dumps(header).encode() + b" " * spaces

        found = load(forged(path, tmp_path, header=padded))
        assert_same(
            CompiledNetwork(found.manifest.model_copy(update={"sha256": {}}), found.graph, found.weights),
            compiled("tiny-relu"),
        )
        assert all(weight.flags.aligned for weight in found.weights.values())


def test_a_file_of_an_older_version_has_classes_of_which_one_applies(path: Path, tmp_path: Path) -> None:
    """Its manifest has no output."""
    found = load(forged(path, tmp_path, manifest=lambda data: data["model"].pop("output") and data))
    assert found.model.output == SOFTMAX
    assert found.model.described_output == "5 classes"
    assert (found.model.scalars, found.model.labels) == (5, compiled("tiny-relu").model.labels)


DEEP = b"[" * 100_000 + b"]" * 100_000
SHAPE, PLACE = [8, 3, 3, 3], [0, 864]
MANIFESTS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "another version": (put(2, "version"), "has version 2 of the format, and this Pellucid reads version 1: compile"),
    "an invalid version": (put([[1]], "version"), "has an unknown version of the format"),
    "another format": (put("onnx", "format"), "is not a compiled network"),
    "a list": (lambda _: [], "is not a compiled network"),
    "no JSON": (lambda _: b"{", "network.json is not valid JSON"),
    "deep nesting": (lambda _: DEEP, "network.json is not valid JSON"),
    "half a surrogate pair": (put("\ud800", "model", "title"), "network.json is invalid at"),
    "a number of 5000 digits": (lambda _: b'{"version": 1' + b"0" * 5000 + b"}", "network.json is not valid JSON"),
    "an extra field": (put(1, "extra"), "network.json is invalid at extra: Extra inputs are not permitted"),
    "no labels": (put([], "model", "labels"), r"its output of shape \[5\] does not have 0 labels"),
    "fewer labels": (put(["a", "b"], "model", "labels"), r"its output of shape \[5\] does not have 2 labels"),
    "a smaller output": (
        lambda data: put([2], "model", "output", "shape")(put(["a", "b"], "model", "labels")(data)),
        "linear classifier .* not of 2 labels and 12 channels",
    ),
    "an unknown output": (put("audio", "model", "output", "kind"), r"invalid at model\.output\.kind"),
    "a segmentation without a place": (put("dense", "model", "output", "kind"), r"an impossible shape \[5\]"),
    "an embedding with labels": (put("embedding", "model", "output", "kind"), "does not have 5 labels"),
    "a huge output": (
        put({"kind": "dense", "shape": [5, 2**12, 2**12]}, "model", "output"),
        r"an impossible shape \[5, 4096, 4096\]",
    ),
    "a unit of five": (put(["m"], "model", "output", "units"), "its units are not one for each quantity"),
    "an unknown background": (put(5, "model", "output", "background"), "its background is not a class"),
    "no size": (put([0, 64], "model", "preprocess", "size"), r"invalid at model\.preprocess\.size"),
    "a huge size": (put([10**6, 10**6], "model", "preprocess", "size"), r"invalid at model\.preprocess\.size"),
    "a huge resize": (put(10**9, "model", "preprocess", "resize"), r"invalid at model\.preprocess\.resize"),
    "no deviation": (put([0, 1, 1], "model", "preprocess", "std"), r"invalid at model\.preprocess\.std"),
    "no mean": (put([1e999, 1, 1], "model", "preprocess", "mean"), r"invalid at model\.preprocess\.mean"),
    "another filter": (put("magic", "model", "preprocess", "interpolation"), r"invalid at model\.preprocess\.interp"),
    "unknown logits": (put("nowhere", "logits"), "there is no operation nowhere"),
    "logits that are a weight": (put("weight:stem.0.weight", "logits"), "not computed from its pixels"),
    "logits that are an input": (put("wanted", "logits"), "not computed from its pixels"),
    "other pixels": (put("wanted", "pixels", "node"), "not computed from its pixels"),
    "a gradient that is a value": (
        lambda data: put(data["values"]["stem"]["node"], "values", "stem", "gradient")(data),
        "can't be both a value and a gradient",
    ),
    "a value that is a gradient": (
        lambda data: put(data["values"]["stem"]["gradient"], "values", "stem", "node")(data),
        "can't be both a value and a gradient",
    ),
    "a gradient without a name": (put("", "gate_values", "gate", "gradient"), "there is no operation"),
    "a layer without a value": (lambda data: data["values"].pop("stem") and data, "do not match its values"),
    "another default layer": (put("attic", "network", "default_layer"), "do not match its values"),
    "a gate between unknown layers": (put("attic", "network", "gates", 0, "before"), "do not match its values"),
    "an attention without a value": (
        put([{"name": "x", "heads": 1, "extra": 0, "grid": [2, 2], "read": [0, 4]}], "network", "attentions"),
        "do not match its values",
    ),
    "a spatial gate without a value": (
        lambda data: put(data["network"]["gates"], "network", "spatial_gates")(data),
        "do not match its values",
    ),
    "an attention without an operation": (
        put({"x": {"node": "nowhere", "gradient": None}}, "attention_values"),
        "there is no operation nowhere",
    ),
    "an attention that reads no tokens": (
        lambda data: put({"x": data["gate_values"]["gate"]}, "attention_values")(
            put([{"name": "x", "heads": 1, "extra": 0, "grid": [2, 2], "read": [0, 5]}], "network", "attentions")(data)
        ),
        "the attention x has impossible tokens",
    ),
    "a negative channel": (put([-8, 64, 64], "network", "layers", 0, "shape"), "has an impossible shape"),
    "another extent": (put([8, 64, 64], "network", "layers", 0, "shape"), "has an impossible shape"),
    "a layout without a side": (put(0, "values", "stem", "layout", "height"), "network.json is invalid at values"),
    "another layout": (put("CHWB", "values", "stem", "layout", "axes"), "network.json is invalid at values"),
    "an unknown classifier": (put("attic", "values", "head", "linear"), "classifier attic does not exist"),
    "another classifier": (put("stem.0.weight", "values", "head", "linear"), "not of 5 labels and 12 channels"),
}
GRAPHS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no list": (lambda _: {}, "a graph must be a list of at most 200000 operations"),
    "too many": (lambda graph: graph * 2000, "a graph must be a list of at most 200000 operations"),
    "no JSON": (lambda _: b"[nul]", "is not a valid network"),
    "deep nesting": (lambda _: DEEP, "is not a valid network"),
    "a deep argument": (node("x", "aten.relu.default", [[[[[[1]]]]]]), "an argument is invalid"),
    "a huge number": (node("x", "aten.relu.default", 2**63), "an argument is invalid"),
    "a huge negative number": (node("x", "aten.relu.default", -(10**400)), "an argument is invalid"),
    "a number of 5000 digits": (lambda _: b"[1" + b"0" * 5000 + b"]", "is not a valid network"),
    "an unknown batch": (node("x", "aten.relu.default", {"batch": "nobody", "times": 1}), "an argument is invalid"),
    "zero times a batch": (node("x", "aten.relu.default", {"batch": "pixels", "times": 0}), "an argument is invalid"),
    "an unknown type": (node("x", "aten.relu.default", {"dtype": "object"}), "an argument is invalid"),
    "an unknown number": (node("x", "aten.relu.default", {"float": "1e5"}), "an argument is invalid"),
    "a cycle": (node("x", "aten.relu.default", {"ref": "x"}), "the operation x reads x, which does not precede it"),
    "a forward reference": (lambda graph: graph[::-1], "which does not precede it"),
    "a name that is taken": (node("pixels", "aten.relu.default"), "two operations are named pixels"),
    "another input": (node("mask", "input"), "the graph has an unknown input mask"),
    "an unknown weight": (node("x", "weight", "attic"), "the operation x reads a weight that does not exist"),
    "a weight without a name": (node("x", "weight"), "the operation x reads a weight that does not exist"),
    "an operation of Python": (node("x", "builtins.eval"), "an operation must be"),
    "a path": (node("x", "aten.relu.__class__.mro"), "an operation must be"),
    "no operation": (lambda graph: [*graph, None], "an operation must be"),
    "nothing": (lambda _: [], "there is no operation"),
    "a long name": (node("x" * 10**6, "weight", "attic"), "reads a weight that does not exist"),
}
HEADERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a list": (lambda _: [], "the weight '' lacks a dtype, a shape or offsets"),
    "no JSON": (lambda _: b"{", "is not a valid network"),
    "deep nesting": (lambda _: DEEP, "is not a valid network"),
    "a weight without fields": (put({}, "stem.0.weight"), "'stem.0.weight' lacks a dtype, a shape or offsets"),
    "an unknown type": (put("F4", "stem.0.weight", "dtype"), "lacks a dtype, a shape or offsets"),
    "a list for a type": (put([], "stem.0.weight", "dtype"), "lacks a dtype, a shape or offsets"),
    "a negative side": (put([-8, -3, 3, 3], "stem.0.weight", "shape"), "has an impossible shape"),
    "a side that is not a number": (put([8, 3, 3, "3"], "stem.0.weight", "shape"), "has an impossible shape"),
    "a huge side": (put([2**62, 4, 4], "stem.0.weight", "shape"), "has an impossible shape"),
    "too many sides": (put([1] * 10**6, "stem.0.weight", "shape"), "has an impossible shape"),
    "a larger shape": (put([8, 3, 3, 4], "stem.0.weight", "shape"), "has offsets that don't fit its shape"),
    "the end before the beginning": (
        put([864, 0], "stem.0.weight", "data_offsets"),
        "has offsets that don't fit its shape",
    ),
    "a negative offset": (put([-864, 0], "stem.0.weight", "data_offsets"), "has offsets that don't fit its shape"),
    "an offset beyond the file": (
        put([2**40, 2**40 + 864], "stem.0.weight", "data_offsets"),
        "has offsets that don't fit its shape",
    ),
    "three offsets": (put([0, 4, 8], "stem.0.weight", "data_offsets"), "lacks a dtype, a shape or offsets"),
}


FORGERIES = [
    pytest.param({member: change}, message, id=f"{member}: {case}")
    for member, changes in {"manifest": MANIFESTS, "graph": GRAPHS, "header": HEADERS}.items()
    for case, (change, message) in changes.items()
]


@pytest.mark.parametrize(("changes", "message"), FORGERIES)
def test_a_forged_file_is_refused_in_a_sentence(
    path: Path, tmp_path: Path, changes: dict[str, Callable[[Any], Any]], message: str
) -> None:
    refused(forged(path, tmp_path, **changes), message)


def test_weights_shorter_than_their_header_are_refused(path: Path, tmp_path: Path) -> None:
    for weights in (b"", b"\0" * 7, struct.pack("<Q", 0), struct.pack("<Q", 2**63) + b"{}"):
        contents = members(path)
        manifest = put(hashlib.sha256(weights).hexdigest(), "sha256", MEMBERS[0])(json.loads(contents["network.json"]))
        data = json.dumps(manifest).encode()
        new = (MEMBERS[0], weights), (MEMBERS[1], contents["graph.json"]), (MEMBERS[2], data)
        refused(packed(tmp_path / "short.pellucid", *new), "the weights have no header")


SCALED = "any_size.json"


def sized(to: Path, manifest: Callable[[Any], Any] = lambda data: data, **changes: Callable[[Any], Any]) -> Path:
    """The file of a network of any size, with its manifest or its ``graph`` for any size changed."""
    net, path = of_any_size("tiny"), to / "sized.pellucid"
    save(path, net.manifest, net.graph, net.weights, net.scaled)
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    if "graph" in changes:
        made = changes["graph"](json.loads(contents[SCALED]))
        contents[SCALED] = made if isinstance(made, bytes) else json.dumps(made).encode()
    data = json.loads(contents["network.json"])
    data["sha256"][SCALED] = hashlib.sha256(contents[SCALED]).hexdigest()
    contents["network.json"] = json.dumps(manifest(data)).encode()
    return packed(to / "forged.pellucid", *contents.items())


def test_a_network_of_any_size_is_loaded_unchanged(tmp_path: Path) -> None:
    found, net = load(sized(tmp_path)), of_any_size("tiny")
    assert found.at((96, 160)).graph.nodes == net.at((96, 160)).graph.nodes
    assert found.sizes.multiple == 32
    assert compiled("tiny").sizes.why == "it was compiled for one size"


MANIFESTS_OF_SIZES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no graph": (put(None, "any_size"), "any_size.json and network.json contradict each other"),
    "another digest": (put("0", "sha256", SCALED), "any_size.json does not match its digest"),
    "a layer less": (lambda data: data["any_size"]["values"].pop("stem") and data, "has other layers or gates"),
    "an extent less": (lambda data: data["any_size"]["sides"].pop("stem") and data, "has other layers or gates"),
    "a gate more": (
        lambda data: put(data["any_size"]["pixels"], "any_size", "gates", "attic")(data),
        "has other layers or gates",
    ),
    "a huge base": (put([2**20, 64], "any_size", "base"), r"invalid at any_size\.base"),
    "no multiple": (put(0, "any_size", "multiple"), r"invalid at any_size\.multiple"),
    "a huge extent": (put(2**30, "any_size", "sides", "stem", "height"), r"invalid at any_size\.sides"),
    "no extent": (put(0, "any_size", "sides", "stem", "width"), r"invalid at any_size\.sides"),
    "a huge offset": (put(2**30, "any_size", "sides", "stem", "height_offset"), r"invalid at any_size\.sides"),
    "an extra field": (put(1, "any_size", "extra"), r"invalid at any_size\.extra"),
}


@pytest.mark.parametrize("case", MANIFESTS_OF_SIZES)
def test_sizes_that_contradict_the_rest_are_refused(tmp_path: Path, case: str) -> None:
    change, message = MANIFESTS_OF_SIZES[case]
    refused(sized(tmp_path, change), message)


def scaled(**changes: Any) -> Callable[[Any], Any]:
    argument = {"scaled": 32, "height": 1, "width": 0, "offset": 0} | changes
    return node("x", "aten.relu.default", argument)


USED_SIZES: dict[str, tuple[dict[str, Callable[[Any], Any]], str]] = {
    "no JSON": ({"graph": lambda _: b"{"}, "is not valid"),
    "deep nesting": ({"graph": lambda _: DEEP}, "is not valid"),
    "no list": ({"graph": lambda _: {}}, "a graph must be a list"),
    "a high power": ({"graph": scaled(height=2)}, "an argument is invalid"),
    "half a power": ({"graph": scaled(height=0.5)}, "an argument is invalid"),
    "no number": ({"graph": lambda graph: scaled(scaled=float("nan"))(graph)}, "an argument is invalid"),
    "a huge number": ({"graph": scaled(scaled=2**31)}, "an argument is invalid"),
    "a huge offset": ({"graph": scaled(offset=-(2**31))}, "an argument is invalid"),
    "an unknown weight": ({"graph": node("x", "weight", "attic")}, "reads a weight that does not exist"),
    "unknown logits": ({"manifest": put("attic", "any_size", "logits")}, "there is no operation attic"),
    "other pixels": ({"manifest": put("wanted", "any_size", "pixels", "node")}, "not computed from its pixels"),
    "a gradient that is a value": (
        {"manifest": lambda data: put("pixels", "any_size", "values", "stem", "gradient")(data)},
        "can't be both a value and a gradient",
    ),
    "a fraction of a side": ({"manifest": put(31, "any_size", "sides", "head", "height")}, "no whole number"),
    "no positions": (
        {"manifest": lambda data: put(900, "any_size", "sides", "stem", "height_offset")(data)},
        "too small for the layer stem",
    ),
}


@pytest.mark.parametrize("case", USED_SIZES)
def test_a_forged_graph_for_any_size_is_refused_when_it_is_used(tmp_path: Path, case: str) -> None:
    changes, message = USED_SIZES[case]
    network = load(sized(tmp_path, **changes))
    with pytest.raises(ValueError, match=message):
        network.at((128, 128))


def test_a_number_that_follows_the_size_is_refused_in_the_graph_for_one_size(path: Path, tmp_path: Path) -> None:
    refused(forged(path, tmp_path, graph=scaled()), "an argument is invalid")
