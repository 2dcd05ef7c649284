"""The file of a compiled network: what is saved is loaded, and what a stranger made is loaded whole or refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pellucid.network.file import CompiledNetwork, NetworkFileError, digest_of, load, save
from pellucid.network.graph import Graph
from tests.networks import compiled

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


def test_what_is_saved_is_loaded(path: Path) -> None:
    net, found = compiled("tiny-relu"), load(path)
    kept = found.manifest.model_copy(update={"sha256": {}})
    assert_same(net, CompiledNetwork(kept, found.graph, found.weights))
    assert found.digest == hashlib.sha256(members(path)["network.json"]).hexdigest()
    assert all(weight.flags.aligned for weight in found.weights.values())
    assert sum(weight.base is not None for weight in found.weights.values()) == len(found.weights)  # in the file


@pytest.mark.parametrize("kind", ["float64", "float32", "int64", "int32", "int16", "int8", "uint8", "bool"])
def test_every_type_of_numbers_comes_back_to_the_bit(tmp_path: Path, kind: str) -> None:
    net, path = compiled("tiny-relu"), tmp_path / "net.pellucid"
    odd = {"a": np.arange(7).astype(kind), "b": np.zeros((0, 3), kind), "c": np.array(1, kind)}
    save(path, net.manifest, net.graph, {**net.weights, **odd})
    found = load(path).weights
    for name, weight in odd.items():
        np.testing.assert_array_equal(found[name], weight, strict=True)


def test_what_a_file_cant_hold_is_named_and_leaves_no_file(tmp_path: Path) -> None:
    net = compiled("tiny-relu")
    with pytest.raises(NetworkFileError, match="the weight spectrum has numbers of the type complex64"):
        save(tmp_path / "net.pellucid", net.manifest, net.graph, {"spectrum": np.zeros(3, np.complex64)})
    (tmp_path / "folder.pellucid" / "in").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        save(tmp_path / "folder.pellucid", net.manifest, net.graph, net.weights)
    assert [each.name for each in tmp_path.iterdir()] == ["folder.pellucid"]


def test_the_same_network_has_the_same_digest(path: Path, tmp_path: Path) -> None:
    net, again = load(path), tmp_path / "again.pellucid"
    assert save(again, net.manifest, net.graph, net.weights) == net.digest
    assert digest_of(again) == digest_of(path)


# -- a stranger's file


def refused(path: Path, told: str) -> None:
    with pytest.raises(NetworkFileError, match=told) as error:
        load(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_refused_or_whole(path: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(path.read_bytes())
    # Most of it is weights, so half of the damage goes where the structure is.
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


def test_a_file_that_is_none_is_refused(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pellucid"
    refused(other, "there is no file")
    refused(tmp_path, "can't be read: Is a directory")
    for content in (b"", b"PK", b"\x89PNG\r\n\x1a\n" * 9):
        other.write_bytes(content)
        refused(other, "other.pellucid is no compiled network, or is cut off")
    refused(packed(other, ("data.pkl", b"x"), ("version", b"3")), "no compiled network: it holds 'data.pkl', 'version'")
    refused(packed(other), "holds nothing")
    held = members(path)
    for missing in MEMBERS:
        refused(packed(other, *((name, held[name]) for name in MEMBERS if name != missing)), "no compiled network")


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize("twice", MEMBERS)
def test_a_member_that_is_there_twice_is_refused(path: Path, tmp_path: Path, twice: str) -> None:
    held = members(path)
    refused(packed(tmp_path / "two.pellucid", *held.items(), (twice, held[twice])), "is no compiled network: it holds")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_member_is_refused_before_it_is_unpacked(path: Path, tmp_path: Path, method: int) -> None:
    contents = {**members(path), "graph.json": b"[" + b" " * 10**8 + b"]"}
    bomb = packed(tmp_path / "bomb.pellucid", *contents.items(), compression=method)
    assert bomb.stat().st_size < 10**6
    refused(bomb, "is compressed, which a compiled network's members are not")


@pytest.mark.parametrize("size", [2**31, 2**32 - 2])
def test_a_member_that_says_it_is_huge_is_refused(path: Path, tmp_path: Path, size: int) -> None:
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(b"network.json"))
    content[entry + 20 : entry + 28] = struct.pack("<II", size, size)  # compressed and not
    (tmp_path / "huge.pellucid").write_bytes(content)
    refused(tmp_path / "huge.pellucid", f"says that it has {size} bytes")


@pytest.mark.parametrize("member", MEMBERS[:2])
def test_a_member_of_another_network_is_refused(path: Path, tmp_path: Path, member: str) -> None:
    net, other = compiled("tiny-relu"), tmp_path / "other.pellucid"
    save(other, net.manifest, Graph([*net.graph.nodes.values()][:2]), {"w": np.zeros(3, np.float32)})
    swapped = packed(tmp_path / "swapped.pellucid", *{**members(path), member: members(other)[member]}.items())
    refused(swapped, f"{member} is not the one that the network was compiled with; compile it again")


def forged(path: Path, to: Path, **changes: Callable[[Any], Any]) -> Path:
    """The file with ``manifest``, ``graph``, or the ``header`` of the weights changed, by one who knows of digests."""
    held = members(path)
    weights = held["weights.safetensors"]
    length = struct.unpack("<Q", weights[:8])[0]

    def changed(name: str, data: bytes) -> bytes:
        made = changes.get(name, lambda value: value)(json.loads(data))
        return made if isinstance(made, bytes) else json.dumps(made).encode()

    header = changed("header", weights[8 : 8 + length])
    weights = struct.pack("<Q", len(header)) + header + weights[8 + length :]
    graph, manifest = changed("graph", held["graph.json"]), json.loads(held["network.json"])
    manifest["sha256"] = {
        "weights.safetensors": hashlib.sha256(weights).hexdigest(),
        "graph.json": hashlib.sha256(graph).hexdigest(),
    }
    told = changed("manifest", json.dumps(manifest).encode())
    return packed(to / "forged.pellucid", (MEMBERS[0], weights), (MEMBERS[1], graph), (MEMBERS[2], told))


def put(value: Any, *keys: Any) -> Callable[[Any], Any]:
    """A change: ``value`` at this place."""

    def change(data: Any) -> Any:
        at = data
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = value
        return data

    return change


def node(name: str, op: str, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
    """A change: one operation more at the graph's end."""
    return lambda graph: [*graph, [name, op, [*args], kwargs]]


def test_a_forgery_that_changes_nothing_is_loaded_though_its_weights_are_not_aligned(
    path: Path, tmp_path: Path
) -> None:
    for spaces in range(1, 4):

        def padded(header: Any, spaces: int = spaces) -> bytes:
            return json.dumps(header).encode() + b" " * spaces

        found = load(forged(path, tmp_path, header=padded))
        assert_same(
            CompiledNetwork(found.manifest.model_copy(update={"sha256": {}}), found.graph, found.weights),
            compiled("tiny-relu"),
        )
        assert all(weight.flags.aligned for weight in found.weights.values())


DEEP = b"[" * 100_000 + b"]" * 100_000
SHAPE, PLACE = [8, 3, 3, 3], [0, 864]
MANIFESTS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "another version": (put(2, "version"), "has version 2 of the format, and this Pellucid reads version 1: compile"),
    "a version that is none": (put([[1]], "version"), "has an unknown version of the format"),
    "another format": (put("onnx", "format"), "is no compiled network"),
    "a list": (lambda _: [], "is no compiled network"),
    "no JSON": (lambda _: b"{", "network.json is no JSON"),
    "deep nesting": (lambda _: DEEP, "network.json is no JSON"),
    "half a character": (put("\ud800", "model", "title"), "network.json is wrong at"),
    "a number of 5000 digits": (lambda _: b'{"version": 1' + b"0" * 5000 + b"}", "network.json is no JSON"),
    "a field more": (put(1, "extra"), "network.json is wrong at extra: Extra inputs are not permitted"),
    "no labels": (put([], "model", "labels"), r"wrong at model\.labels"),
    "fewer labels": (put(["a", "b"], "model", "labels"), "linear classifier .* not of 2 labels and 12 channels"),
    "no size": (put([0, 64], "model", "preprocess", "size"), r"wrong at model\.preprocess\.size"),
    "a huge size": (put([10**6, 10**6], "model", "preprocess", "size"), r"wrong at model\.preprocess\.size"),
    "a huge resize": (put(10**9, "model", "preprocess", "resize"), r"wrong at model\.preprocess\.resize"),
    "no deviation": (put([0, 1, 1], "model", "preprocess", "std"), r"wrong at model\.preprocess\.std"),
    "no mean": (put([1e999, 1, 1], "model", "preprocess", "mean"), r"wrong at model\.preprocess\.mean"),
    "another filter": (put("magic", "model", "preprocess", "interpolation"), r"wrong at model\.preprocess\.interp"),
    "logits that are not there": (put("nowhere", "logits"), "there is no operation nowhere"),
    "logits that see no picture": (put("weight:stem.0.weight", "logits"), "not computed from its pixels"),
    "logits that are wanted": (put("wanted", "logits"), "not computed from its pixels"),
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
    "a layer without a value": (lambda data: data["values"].pop("stem") and data, "do not fit together"),
    "another default layer": (put("attic", "network", "default_layer"), "do not fit together"),
    "a gate between no layers": (put("attic", "network", "gates", 0, "before"), "do not fit together"),
    "a negative channel": (put([-8, 64, 64], "network", "layers", 0, "shape"), "can't have its shape"),
    "another extent": (put([8, 64, 64], "network", "layers", 0, "shape"), "can't have its shape"),
    "a layout without a side": (put(0, "values", "stem", "layout", "height"), "network.json is wrong at values"),
    "another layout": (put("CHWB", "values", "stem", "layout", "axes"), "network.json is wrong at values"),
    "a classifier that is not there": (put("attic", "values", "head", "linear"), "classifier attic is not there"),
    "another classifier": (put("stem.0.weight", "values", "head", "linear"), "not of 5 labels and 12 channels"),
}
GRAPHS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no list": (lambda _: {}, "a graph is a list of at most 200000 operations"),
    "too many": (lambda graph: graph * 2000, "a graph is a list of at most 200000 operations"),
    "no JSON": (lambda _: b"[nul]", "holds no network"),
    "deep nesting": (lambda _: DEEP, "holds no network"),
    "a deep argument": (node("x", "aten.relu.default", [[[[[[1]]]]]]), "an argument can't be read"),
    "a huge number": (node("x", "aten.relu.default", 2**63), "an argument can't be read"),
    "a huge negative number": (node("x", "aten.relu.default", -(10**400)), "an argument can't be read"),
    "a number of 5000 digits": (lambda _: b"[1" + b"0" * 5000 + b"]", "holds no network"),
    "a batch that is none": (node("x", "aten.relu.default", {"batch": "nobody", "times": 1}), "can't be read"),
    "no times a batch": (node("x", "aten.relu.default", {"batch": "pixels", "times": 0}), "can't be read"),
    "an unknown type": (node("x", "aten.relu.default", {"dtype": "object"}), "can't be read"),
    "an unknown number": (node("x", "aten.relu.default", {"float": "1e5"}), "can't be read"),
    "a cycle": (node("x", "aten.relu.default", {"ref": "x"}), "the operation x reads x before it is there"),
    "a forward reference": (lambda graph: graph[::-1], "before it is there"),
    "a name that is taken": (node("pixels", "aten.relu.default"), "two operations are named pixels"),
    "another input": (node("mask", "input"), "the graph has an input mask"),
    "a weight that is not there": (node("x", "weight", "attic"), "the operation x reads a weight that is not there"),
    "a weight without a name": (node("x", "weight"), "the operation x reads a weight that is not there"),
    "another language": (node("x", "builtins.eval"), "an operation is written as"),
    "a path": (node("x", "aten.relu.__class__.mro"), "an operation is written as"),
    "no operation": (lambda graph: [*graph, None], "an operation is written as"),
    "nothing": (lambda _: [], "there is no operation"),
    "a long name": (node("x" * 10**6, "weight", "attic"), "reads a weight that is not there"),
}
HEADERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a list": (lambda _: [], "the weight '' has no type, shape and place"),
    "no JSON": (lambda _: b"{", "holds no network"),
    "deep nesting": (lambda _: DEEP, "holds no network"),
    "nothing of a weight": (put({}, "stem.0.weight"), "'stem.0.weight' has no type, shape and place"),
    "an unknown type": (put("F4", "stem.0.weight", "dtype"), "has no type, shape and place"),
    "a list for a type": (put([], "stem.0.weight", "dtype"), "has no type, shape and place"),
    "a negative side": (put([-8, -3, 3, 3], "stem.0.weight", "shape"), "can't have its shape"),
    "a side that is no number": (put([8, 3, 3, "3"], "stem.0.weight", "shape"), "can't have its shape"),
    "a huge side": (put([2**62, 4, 4], "stem.0.weight", "shape"), "can't have its shape"),
    "many sides": (put([1] * 10**6, "stem.0.weight", "shape"), "can't have its shape"),
    "a larger shape": (put([8, 3, 3, 4], "stem.0.weight", "shape"), "does not lie where it says"),
    "the end before the beginning": (put([864, 0], "stem.0.weight", "data_offsets"), "does not lie where it says"),
    "a negative place": (put([-864, 0], "stem.0.weight", "data_offsets"), "does not lie where it says"),
    "a place beyond the file": (put([2**40, 2**40 + 864], "stem.0.weight", "data_offsets"), "does not lie where"),
    "three places": (put([0, 4, 8], "stem.0.weight", "data_offsets"), "has no type, shape and place"),
}


FORGERIES = [
    pytest.param({member: change}, told, id=f"{member}: {what}")
    for member, changes in {"manifest": MANIFESTS, "graph": GRAPHS, "header": HEADERS}.items()
    for what, (change, told) in changes.items()
]


@pytest.mark.parametrize(("changes", "told"), FORGERIES)
def test_a_forged_file_is_refused_in_a_sentence(
    path: Path, tmp_path: Path, changes: dict[str, Callable[[Any], Any]], told: str
) -> None:
    refused(forged(path, tmp_path, **changes), told)


def test_weights_whose_header_is_longer_than_they_are_are_refused(path: Path, tmp_path: Path) -> None:
    for weights in (b"", b"\0" * 7, struct.pack("<Q", 0), struct.pack("<Q", 2**63) + b"{}"):
        held = members(path)
        manifest = put(hashlib.sha256(weights).hexdigest(), "sha256", MEMBERS[0])(json.loads(held["network.json"]))
        told = json.dumps(manifest).encode()
        contents = (MEMBERS[0], weights), (MEMBERS[1], held["graph.json"]), (MEMBERS[2], told)
        refused(packed(tmp_path / "short.pellucid", *contents), "the weights have no header")
