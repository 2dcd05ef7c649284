"""`pellucid atlas`: what an atlas says of a network whose channels are known, and what is refused."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.atlas import build as building
from pellucid.atlas.build import BuildError, Settings, build
from pellucid.atlas.content import AtlasError, Distribution
from pellucid.atlas.file import Atlas, read
from pellucid.atlas.receptive_field import receptive_fields
from pellucid.decode.image import decode
from pellucid.engine import Engine
from pellucid.network.file import CompiledNetwork, save
from pellucid.types import Upload
from tests import networks
from tests.atlas.conftest import SIDE, Planted
from tests.commands.invoke import pellucid


def test_the_crops_of_a_planted_channel_show_what_it_answers_to(atlas: Atlas, network: CompiledNetwork) -> None:
    layer, field = atlas.layers["act"], receptive_fields(network, ["act"])["act"]
    for number in range(3):
        by_maximum, by_mean = layer.examples_of(number, "maximum"), layer.examples_of(number, "mean")
        assert len(by_maximum) == len(by_mean) == 9
        for example in (*by_maximum, *by_mean):
            assert example.crop is not None
            assert example.mask is not None
            crop = atlas.crop(example.crop)
            pixels = crop.pixels().astype(np.float32)
            mask = np.asarray(Image.fromarray(example.mask).resize(pixels.shape[1::-1])) > 128
            inside = pixels[mask].mean(0)
            assert inside.argmax() == number
            assert inside[number] > 1.5 * np.delete(inside, number).max()
            assert atlas.picture(example.picture).predicted == number
        assert layer.classes_of(number, "activating")[0].index == number
        example = by_maximum[0]
        x0, y0, x1, y1 = atlas.crop(example.crop or 0).box
        fx0, fy0, fx1, fy1 = field.box(example.row, example.column)
        assert x0 <= fx0 < fx1 <= x1
        assert y0 <= fy0 < fy1 <= y1
        assert x1 - x0 < SIDE / 3


def test_no_picture_is_there_twice(atlas: Atlas) -> None:
    assert (atlas.about.pictures, atlas.about.duplicates, atlas.about.alike, atlas.about.unreadable) == (46, 1, 1, 1)
    near = next(number for number in range(46) if (atlas.picture(number).name or "").startswith("x near"))
    for layer in atlas.layers.values():
        for number in range(layer.channels):
            for examples in (layer.examples_of(number, "maximum"), layer.examples_of(number, "mean")):
                pictures = [each.picture for each in examples]
                assert len({*pictures}) == len(pictures)
                assert near not in pictures
                values = [each.value for each in examples]
                assert values == sorted(values, reverse=True)


def test_the_classes_are_those_of_the_weights_and_of_the_gradients(atlas: Atlas, network: CompiledNetwork) -> None:
    assert {name: layer.facts.evidence for name, layer in atlas.layers.items()} == {
        "act": "gradients",
        "mix": "weights",
    }
    for layer in atlas.layers.values():
        for number in range(3):
            assert layer.classes_of(number, "for")[0].index == number
    mix = atlas.layers["mix"].class_means()
    found = atlas.layers["mix"].classes_of(1, "for")[0]
    assert found.pictures == mix.pictures[1]  # its weight is 1
    assert found.score == pytest.approx(mix.means[1, 1] * found.pictures / (found.pictures + 2), rel=2e-3)
    means = atlas.layers["act"].class_means()
    assert means.classes.tolist() == [0, 1, 2]
    assert means.pictures.sum() == 46
    assert (means.means.argmax(1) == [0, 1, 2]).all()


def test_quantiles_are_those_of_numpy(
    atlas: Atlas, network: CompiledNetwork, files: list[tuple[str, Path]], engine: Engine
) -> None:
    torch.manual_seed(0)
    net = Planted().eval()
    seen: dict[str, np.ndarray[Any, Any]] = {}
    net.act.register_forward_hook(lambda _, __, out: seen.__setitem__("act", out.numpy()))
    net.gate.register_forward_hook(
        lambda gate, given, _: seen.__setitem__(
            "gate", (2 * (gate.mlp(given[0].mean((2, 3))) + gate.mlp(given[0].amax((2, 3)))).sigmoid()).numpy()
        )
    )
    spec = network.model.preprocess
    uploads = [path.read_bytes() for name, path in files if not name.startswith(("y copy", "z broken"))]
    pixels = np.stack([decode(Upload(data), spec, 10**6).pixels for data in uploads]).astype(np.float32)
    with torch.no_grad():
        net(torch.from_numpy(pixels.transpose(0, 3, 1, 2) / 127.5 - 1))
    layer, maps = atlas.layers["act"], seen["act"]
    shares = np.linspace(0, 1, 33)
    for found, values in ((layer.maximum, maps.max((2, 3))), (layer.mean, maps.mean((2, 3)))):
        np.testing.assert_allclose(found.quantiles, np.quantile(values, shares, axis=0).T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer.zeros, (maps == 0).mean((0, 2, 3)), atol=1e-3)
    weights = seen["gate"]
    gate = atlas.gates["gate"]
    np.testing.assert_allclose(gate.weight.quantiles, np.quantile(weights, shares, axis=0).T, rtol=1e-3)
    assert gate.before in atlas.layers
    assert [*gate.damaged] == ["clean", "noise", "blur", "dark", "jpeg"]
    weight, highest, lowest = (
        gate.weight.quantiles[1],
        gate.examples_of(1, "highest")[0],
        gate.examples_of(1, "lowest")[0],
    )
    assert weight[-2] <= np.float32(highest.value) <= weight[-1]  # the largest may be near another's
    assert weight[0] <= np.float32(lowest.value) <= weight[1]
    assert atlas.crop(highest.crop or 0).box == (0, 0, SIDE, SIDE)


def test_places_in_a_distribution() -> None:
    rows = np.stack([np.linspace(0, 32, 33), np.r_[np.zeros(17), np.arange(1, 17)]]).astype(np.float32)
    found = Distribution(rows)
    for values, places in (((8, 0), (0.25, 0.25)), ((8.5, 1.5), (8.5 / 32, 17.5 / 32)), ((-1, 99), (0, 1))):
        np.testing.assert_allclose(found.place(np.array(values, np.float32)), places)
    np.testing.assert_allclose(found.beyond(np.array([48, 8], np.float32)), [0.5, 0])


def test_an_interrupted_build_goes_on_and_ends_the_same(
    network: CompiledNetwork,
    engine: Engine,
    files: list[tuple[str, Path]],
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(building, "_SAVED_EVERY", 0.0)
    out, ran = tmp_path / "again.atlas", []

    def stop(what: str, done: int, total: int) -> None:
        if done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(network, engine, files, out, Settings(("act", "mix"), names=True), progress=stop)
    assert not out.exists()
    build(network, engine, files, out, Settings(("act", "mix"), names=True), progress=lambda *a: ran.append(a))
    assert ran[0][1] > 4
    assert out.read_bytes() == path.read_bytes()
    assert [each.name for each in tmp_path.iterdir()] == [out.name]


def test_without_crops_no_part_of_a_picture_and_no_name_is_stored(
    network: CompiledNetwork, engine: Engine, files: list[tuple[str, Path]], tmp_path: Path
) -> None:
    out = tmp_path / "numbers.atlas"
    build(network, engine, files, out, Settings(("act",), crops=False))
    assert b"WEBP" not in out.read_bytes()
    assert b"near" not in out.read_bytes()
    atlas = read(out, network)
    example = atlas.layers["act"].examples_of(0, "maximum")[0]
    assert example.crop is None
    assert example.mask is None
    assert atlas.picture(example.picture).name is None
    digest = atlas.picture(example.picture).sha256
    assert digest in {hashlib.sha256(path.read_bytes()).hexdigest() for _, path in files}
    atlas.close()


def test_names_lose_what_does_harm(atlas: Atlas) -> None:
    """A name may hold markup, as a file's may: JSON quotes it, and the playground writes it as text."""
    (name,) = [name for number in range(46) if "nnn" in (name := atlas.picture(number).name or "")]
    assert name.isprintable()
    assert len(name) <= 200


def altered(path: Path, change: Callable[[sqlite3.Connection], object]) -> bytes:
    """The atlas after a change, with a footer that fits."""
    data = path.read_bytes()[:-48]
    scratch = path.with_name("scratch")
    scratch.write_bytes(data)
    with sqlite3.connect(scratch) as database:
        change(database)
    database.close()
    data = scratch.read_bytes()
    scratch.unlink()
    return signed(data)


def signed(data: bytes) -> bytes:
    return data + b"pellucid atlas 1" + hashlib.sha256(data).digest()


def header(at: int, value: bytes) -> Callable[[Path], bytes]:
    return lambda path: signed((data := path.read_bytes()[:-48])[:at] + value + data[at + len(value) :])


def statement(sql: str, *values: object) -> Callable[[sqlite3.Connection], object]:
    return lambda database: database.execute(sql, values)


def entries(at: int, value: str) -> Callable[[Path], bytes]:
    sql = f"CAST(substr(entries, 1, {at}) || x'{value}' || substr(entries, {at + 1 + len(value) // 2}) AS BLOB)"
    return changed(f"UPDATE examples SET entries = {sql}")


def array(name: str, number: str) -> Callable[[Path], bytes]:
    return changed(f"UPDATE arrays SET data = x'{3 * number}' WHERE name = '{name}'")


def changed(sql: str) -> Callable[[Path], bytes]:
    return lambda path: altered(path, statement(sql))


HOSTILE: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "cut off": (lambda path: path.read_bytes()[:-5000], "cut off"),
    "empty": (lambda path: b"", "not an atlas"),
    "a picture": (lambda path: b"\xff\xd8\xff" * 100, "not an atlas"),
    "one bit": (lambda path: bytes([*(data := path.read_bytes())[:9000], data[9000] ^ 1]) + data[9001:], "altered"),
    "another database": (lambda path: altered(path, statement("PRAGMA application_id = 7")), "not an atlas"),
    "another version": (lambda path: altered(path, statement("PRAGMA user_version = 9")), "version 9"),
    "a trigger": (
        lambda path: altered(path, statement("CREATE TRIGGER t AFTER INSERT ON crops BEGIN SELECT 1; END")),
        "other tables",
    ),
    "a view": (lambda path: altered(path, statement("CREATE VIEW v AS SELECT 1")), "other tables"),
    "no facts": (lambda path: altered(path, statement("DELETE FROM about")), "nothing about itself"),
    "broken facts": (lambda path: altered(path, statement("UPDATE about SET facts = '{}'")), "not a valid atlas"),
    "an unknown layer": (lambda path: altered(path, statement("UPDATE layers SET name = '../x'")), "does not have"),
    "missing pictures": (lambda path: altered(path, statement("DELETE FROM pictures WHERE id = 3")), "do not match"),
    "sparse pictures": (changed("UPDATE pictures SET id = id + 1000 WHERE id > 2"), "pictures are not numbered"),
    "a huge layer id": (changed("UPDATE layers SET id = 1 << 62 WHERE name = 'act'"), "too many layers"),
    "a gate of another layer": (
        changed('UPDATE layers SET facts = replace(facts, \'"before":"act"\', \'"before":"mux"\')'),
        "no layer before it",
    ),
    "no crops": (changed("DELETE FROM crops"), "a crop that is missing"),
    "a missing crop": (changed("DELETE FROM crops WHERE id = 1"), "of no picture, or has no box"),
    "a crop of text": (changed("UPDATE crops SET picture = 'x' WHERE id = 1"), "of no picture, or has no box"),
    "a crop of no picture": (changed("UPDATE crops SET picture = 99 WHERE id = 1"), "of no picture, or has no box"),
    "a crop of another": (changed("UPDATE crops SET picture = (picture + 1) % 40"), "a crop of another picture"),
    "a box of text": (changed("UPDATE crops SET x0 = 'x' WHERE id = 1"), "of no picture, or has no box"),
    "an empty box": (changed("UPDATE crops SET x0 = x1 WHERE id = 1"), "of no picture, or has no box"),
    "a box outside": (changed("UPDATE crops SET y1 = 65 WHERE id = 1"), "of no picture, or has no box"),
    "a broken example": (changed("UPDATE examples SET entries = x'0102'"), "an example is broken"),
    "too many examples": (changed("UPDATE examples SET entries = zeroblob(1600)"), "an example is broken"),
    "an example of no channel": (changed("UPDATE examples SET key = key + (1 << 40)"), "of no channel"),
    "a mask of another size": (changed("UPDATE examples SET masks = x'00'"), "a mask of another size"),
    # Row and column 0x0080, as little-endian -32768.
    "a position outside": (entries(8, "00800080"), "of no picture, no position, or no number"),
    "a value that is too large": (entries(12, "FFFF7F7F"), "of no picture, no position, or no number"),
    "a short array": (changed("UPDATE arrays SET data = x'00' WHERE name = 'maximum'"), "broken .maximum"),
    "a long array": (changed("UPDATE arrays SET data = zeroblob(length(data) + 4)"), "broken"),
    "a missing array": (changed("DELETE FROM arrays WHERE name = 'damaged blur'"), "broken .damaged blur"),
    "a huge spread": (array("spread", "FFFF7F7F"), "broken .spread"),
    "a negative spread": (array("spread", "000080BF"), "broken .spread"),
    "a share of 2": (array("zeros", "00000040"), "broken .zeros"),
    "no class": (changed("UPDATE arrays SET data = x'FFFFFF7F' WHERE name LIKE '%classes'"), "broken .+ classes"),
    "a class of nothing": (
        changed("UPDATE arrays SET data = zeroblob(length(data)) WHERE name = 'class means pictures'"),
        "broken .class means pictures",
    ),
    "a class that is unknown": (changed("UPDATE pictures SET class = 7"), "no digest, class or name"),
    "a class of text": (changed("UPDATE pictures SET class = 'x'"), "no digest, class or name"),
    "a long name": (changed("UPDATE pictures SET name = printf('%.*c', 5000, 'x')"), "no digest, class or name"),
    "a name for terminals": (changed("UPDATE pictures SET name = char(27) || '[2J'"), "characters that can't be shown"),
    "a crop that is no WebP": (changed("UPDATE crops SET webp = '<svg/>'"), "not a small WebP"),
    "a large crop": (changed("UPDATE crops SET webp = webp || zeroblob(300000)"), "not a small WebP"),
    "an unknown damage": (
        changed('UPDATE about SET facts = replace(facts, \'"damages":{\', \'"damages":{"zzz":5,\')'),
        "'dark' or 'jpeg'",
    ),
    "more damaged than there are": (
        changed("UPDATE about SET facts = replace(facts, '\"clean\":', '\"clean\":9')"),
        "more damaged copies than pictures",
    ),
    "long facts": (changed("UPDATE layers SET facts = facts || printf('%.*c', 70000, ' ')"), "too long a name"),
    "a write-ahead log": (header(18, b"\2\2"), "header"),
    "a cache of its own": (header(48, b"\x7f"), "header"),
    "UTF-16": (header(59, b"\2"), "header"),
    "fewer pages": (header(31, b"\1"), "header"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_no_atlas_of_this_network_is_refused_in_a_sentence(
    case: str, path: Path, network: CompiledNetwork, tmp_path: Path
) -> None:
    make, says = HOSTILE[case]
    bad = tmp_path / "bad.atlas"
    bad.write_bytes(make(path))
    with pytest.raises(AtlasError, match=says) as refused:
        read(bad, network)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


def test_another_networks_atlas_is_refused(path: Path, network: CompiledNetwork) -> None:
    with pytest.raises(AtlasError, match="another network"):
        read(path, networks.compiled("tiny"))
    model = replace(network.model, preprocess=replace(network.model.preprocess, resize=70))
    with pytest.raises(AtlasError, match="preprocessing"):
        read(path, replace(network, manifest=network.manifest.model_copy(update={"model": model})))


def test_a_crop_that_cannot_be_decoded_is_refused_when_it_is_read(
    path: Path, network: CompiledNetwork, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.atlas"
    bad.write_bytes(altered(path, statement("UPDATE crops SET webp = CAST('RIFF0000WEBP' AS BLOB)")))
    atlas = read(bad, network)
    with pytest.raises(AtlasError, match="crop 0 of the atlas is not a small WebP picture"):
        atlas.crop(0).pixels()
    atlas.close()


def test_the_command(network: CompiledNetwork, files: list[tuple[str, Path]], tmp_path: Path) -> None:
    compiled, out = tmp_path / "planted.pellucid", tmp_path / "planted.atlas"
    save(compiled, network.manifest, network.graph, network.weights)
    folder = files[0][1].parent
    done = pellucid("atlas", str(compiled), str(folder), "--out", str(out), "--layer", "act", "--no-crops")
    assert done.exit_code == 0
    assert "46 pictures, 1 unreadable, 1 duplicate" in done.stdout
    done = pellucid("atlas", str(compiled), str(folder), "--out", str(out), "--layer", "nothing")
    assert done.exit_code == 2
    assert "no layer 'nothing'" in done.stderr
    done = pellucid("atlas", str(compiled), str(tmp_path / "planted.pellucid"), "--out", str(out))
    assert done.exit_code == 2


def test_a_folder_without_pictures_is_refused(network: CompiledNetwork, engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(BuildError, match="none of 1 files"):
        build(network, engine, [("a.png", tmp_path / "a.png")], tmp_path / "out.atlas", Settings(("act",)))
    assert [each.name for each in tmp_path.iterdir()] == ["a.png"]
