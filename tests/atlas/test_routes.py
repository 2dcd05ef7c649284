"""What the service and the library say of channels with an atlas: of planted ones, whose meaning is known."""

from __future__ import annotations

import gc
import io
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

import pellucid
from pellucid.atlas.content import AtlasError
from pellucid.atlas.file import Atlas, read
from pellucid.network.file import CompiledNetwork, save
from pellucid.parts import channels
from pellucid.schemas import ChannelDetail, ChannelList, ModelDetail, Reply, Result
from pellucid.types import GateReading, Pixels
from service.app import create_app
from service.config import Settings
from service.flow.one_pass import Ask
from service.telemetry.drift import Drift
from tests import networks
from tests.atlas.conftest import COLOURS, SIDE
from tests.atlas.test_atlas import altered, statement

CHANNELS = "/v1/models/Planted/layers/{}/channels"


@pytest.fixture(scope="module")
def file(network: CompiledNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("network") / "planted.pellucid"
    save(found, network.manifest, network.graph, network.weights)
    return found


@pytest.fixture(scope="module")
def client(file: Path, path: Path) -> Iterator[TestClient]:
    settings = Settings(model=str(file), atlases=(str(path),), cache_dir="", threads=1, precision="fp32")
    with TestClient(create_app(settings)) as client:
        yield client


def picture(colour: str, left: int = 8) -> bytes:
    pixels = np.full((SIDE, SIDE, 3), 128, np.uint8)
    pixels[8:24, left : left + 16] = COLOURS[colour]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def whole(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), COLOURS[colour]).save(buffer, "PNG")
    return buffer.getvalue()


def result(client: TestClient, route: str, image: bytes, **query: str | int) -> Result:
    response = client.post(route, params=query, content=image, headers={"Content-Type": "image/png"})
    assert response.status_code == 200, response.text
    (found,) = Reply.model_validate_json(response.content).results
    assert isinstance(found, Result)
    return found


def pixels(data: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_the_catalogue_says_what_the_atlas_was_made_of(client: TestClient, atlas: Atlas) -> None:
    detail = ModelDetail.model_validate_json(client.get("/v1/models/Planted").content)
    assert detail.atlas is not None
    assert (detail.atlas.sha256, detail.atlas.pictures) == (atlas.digest, atlas.about.pictures)
    assert "act" in detail.atlas.layers
    assert detail.atlas.gates == ["gate"]


def test_a_channel_has_its_crops_classes_and_distribution(client: TestClient) -> None:
    response = client.get(CHANNELS.format("act") + "/0")
    found = ChannelDetail.model_validate_json(response.content)
    assert found.activating[0].label == "a"  # red
    assert found.maximum == sorted(found.maximum or [])
    for example in found.examples["maximum"]:
        assert example.crop is not None
        red, green, blue = pixels(bytes(example.crop)).reshape(-1, 3).max(0).astype(int)
        assert red > 1.5 * max(green, blue)
    again = client.get(CHANNELS.format("act") + "/0", headers={"If-None-Match": f'W/{response.headers["etag"]}, "x"'})
    assert (again.status_code, again.content) == (304, b"")
    for layer, query in (
        ("nope/channels/0", ""),
        ("act/channels/3", ""),
        ("act/channels/0", "?x=1"),
        ("nope/channels", ""),
    ):
        wrong = client.get(f"/v1/models/Planted/layers/{layer}{query}", headers={"If-None-Match": "*"})
        assert wrong.status_code == 422
    every = client.get(CHANNELS.format("act") + "/0", headers={"If-None-Match": "*"})
    assert every.status_code == 304
    documented = client.get("/openapi.json").json()["paths"]
    for path in ("channels", "channels/{channel}"):
        assert "304" in documented[f"/v1/models/{{name}}/layers/{{layer}}/{path}"]["get"]["responses"]
    gate = ChannelDetail.model_validate_json(client.get(CHANNELS.format("gate") + "/2").content)
    assert gate.before == "act"
    assert {"clean", "noise"} <= set(gate.damaged or {})


@pytest.mark.parametrize("of", ["act", "gate"])
def test_a_channel_can_be_had_as_a_figure(client: TestClient, of: str) -> None:
    route = CHANNELS.format(of) + "/0"
    response = client.get(route, headers={"Accept": "image/png"})
    assert response.headers["content-type"] == "image/png"
    shown = pixels(response.content).astype(int)
    assert shown.shape[1] == 1200
    assert (shown[..., 0] - shown[..., 1:].max(2) > 100).sum() > 1000  # red crops
    again = client.get(route, headers={"Accept": "image/png", "If-None-Match": response.headers["etag"]})
    assert again.status_code == 304
    other = client.get(route, headers={"If-None-Match": response.headers["etag"]})
    assert other.headers["content-type"] == "application/json"
    assert client.get(route, headers={"Accept": "text/html"}).status_code == 406


@pytest.mark.parametrize("layer", ["act", "mix"])
def test_the_channels_that_tell_two_classes_apart_come_first(client: TestClient, layer: str) -> None:
    """``mix`` is followed by pooling and a linear layer, ``act`` is not."""
    response = client.get(CHANNELS.format(layer), params={"target": "c", "against": "a"})
    entries = ChannelList.model_validate_json(response.content).entries
    assert [each.channel for each in entries] == [2, 1, 0]
    assert (entries[0].score or 0) > 0 > (entries[-1].score or 0)
    part = client.get(CHANNELS.format(layer), params={"target": "c", "against": "a", "offset": 1, "limit": 1})
    assert ChannelList.model_validate_json(part.content).entries == entries[1:2]


@pytest.mark.parametrize(
    ("layer", "query", "status", "said"),
    [
        ("act", {"order": "target"}, 422, "target needs `target`"),
        ("act", {"target": "d"}, 422, "Unknown class 'd'"),
        ("act", {"limit": 0}, 422, "greater than or equal to 1"),
        ("gate", {"order": "zeros"}, 422, "A gate can be ordered by number, mean or target"),
        ("atc", {}, 422, "Did you mean 'act'?"),
        ("act", {"against": "a"}, 422, "against needs `target`"),
        (
            "act",
            {"tarqet": "a"},
            422,
            "Unknown option 'tarqet'. Did you mean 'target'? This route takes order, target,",
        ),
        ("act", {"target": ["a", "b"]}, 422, "target is given 2 times"),
        ("act", {"order": "best"}, 422, "'number', 'mean', 'maximum', 'zeros' or 'target'"),
    ],
)
def test_what_is_wrong_in_a_query_is_named(
    client: TestClient, layer: str, query: dict[str, str | int | list[str]], status: int, said: str
) -> None:
    response = client.get(CHANNELS.format(layer), params=query)
    assert response.status_code == status
    assert said in response.json()["detail"]


def test_the_first_channels_of_a_layer_are_explained_until_the_caller_leaves(
    monkeypatch: pytest.MonkeyPatch, client: TestClient
) -> None:
    monkeypatch.setattr(channels, "MEANINGS", 2)
    asked: dict[str, str | int] = {"layers": "act", "count": 3, "atlas": "true"}
    (maps,) = result(client, "/v1/feature-maps", picture("blue"), **asked).feature_maps or []
    assert maps.atlas is not None
    assert (len(maps.atlas.meanings), len(maps.atlas.mean or [])) == (2, 3)

    monkeypatch.setattr(Ask, "left", property(lambda _: lambda: True, lambda _, __: None))
    (maps,) = result(client, "/v1/feature-maps", picture("blue"), **asked).feature_maps or []
    assert maps.atlas is not None
    assert not maps.atlas.meanings


def test_drawn_crops_do_not_keep_their_atlas(path: Path, network: CompiledNetwork) -> None:
    atlas = read(path, network)
    assert channels.crop(atlas, atlas.layers["act"].examples_of(0, "maximum")[0]) is not None
    kept = weakref.ref(atlas)
    del atlas
    gc.collect()
    assert kept() is None


def test_the_channels_of_a_picture_come_with_what_they_answer_to(client: TestClient) -> None:
    blue = picture("blue")
    (maps,) = result(client, "/v1/feature-maps", blue, layers="act", count=1, atlas="true").feature_maps or []
    assert maps.channels == [2]
    assert maps.atlas is not None
    assert maps.atlas.meanings[0].activating[0].label == "c"
    assert len(maps.atlas.meanings[0].crops) == 3
    attention = result(client, "/v1/attention", blue, atlas="true").attention
    assert attention is not None
    assert attention.importance is not None
    assert attention.importance.strongest is not None
    assert all(each.meaning is not None for each in attention.importance.strongest)
    (gate,) = attention.gates
    assert all(each.meaning is not None and each.meaning.layer == "act" for each in gate.strongest)
    edited = result(client, "/v1/what-if", blue, layer="act", mute=2, rank="true", atlas="true").what_if
    assert edited is not None
    assert edited.ranking is not None
    assert {each.meaning.activating[0].label for each in edited.ranking.most if each.meaning} == {"a", "b", "c"}
    plain = client.post("/v1/attention", content=blue, headers={"Content-Type": "image/png"})
    assert "meaning" not in plain.text
    assert "atlas" not in plain.text


def test_a_picture_unlike_those_of_the_atlas_is_unusual(client: TestClient) -> None:
    """All of it is coloured, where the atlas' pictures have a small square."""
    seen = [result(client, "/v1/attention", image, atlas="true").attention for image in (picture("red"), whole("blue"))]
    usual, unusual = ((each.gates[0].atlas if each else None) for each in seen)
    assert usual is not None
    assert unusual is not None
    assert (usual.unusual, unusual.unusual) == (False, True)
    assert unusual.outside > usual.outside


@pytest.mark.parametrize("view", ["squash", "whole"])
def test_values_have_a_place_in_the_atlas_with_its_own_view_alone(client: TestClient, view: str) -> None:
    """The atlas has seen the centre of its pictures."""
    query = {"include": "attention,feature_maps", "layers": "act", "atlas": "true"}
    seen, other = (result(client, "/v1/explain", whole("blue"), view=each, **query) for each in ("centre", view))
    assert seen.attention is not None
    assert seen.attention.gates[0].atlas is not None
    assert other.attention is not None
    assert other.attention.gates[0].atlas is None
    assert other.attention.gates[0].strongest[0].meaning is not None
    for found, placed in ((seen, True), (other, False)):
        (maps,) = found.feature_maps or []
        assert maps.atlas is not None
        assert len(maps.atlas.meanings) == len(maps.channels)
        assert [places is not None for places in (maps.atlas.mean, maps.atlas.maximum)] == [placed] * 2


def test_a_box_finds_the_channels_that_answer_to_what_is_in_it(client: TestClient) -> None:
    both = np.maximum(pixels(picture("red", 2)), pixels(picture("green", 44)))
    buffer = io.BytesIO()
    Image.fromarray(both).save(buffer, "PNG")
    for box, channel in (("2,8,18,24", 0), ("44,8,60,24", 1)):
        found = result(client, "/v1/channels", buffer.getvalue(), layer="act", box=box, atlas="true").channels
        assert found is not None
        assert found.entries[0].channel == channel
        assert found.entries[0].inside > found.entries[0].outside
        assert found.scale == "atlas"


def test_a_box_has_four_numbers(client: TestClient) -> None:
    reply = client.post("/v1/channels?box=1,2,3", content=picture("red"), headers={"Content-Type": "image/png"})
    assert reply.status_code == 422
    assert "four numbers, x0, y0, x1 and y1, got [1.0, 2.0, 3.0]" in reply.json()["detail"]


def test_metrics_tell_when_pictures_drift_from_the_atlas(file: Path, path: Path, files: list[tuple[str, Path]]) -> None:
    settings = Settings(model=str(file), atlases=(str(path),), cache_dir="", threads=1, precision="fp32")
    usual = [each.read_bytes() for _, each in files[:45]]

    def drift(client: TestClient, images: list[bytes]) -> float:
        sent = [("images", ("a.png", image, "image/png")) for image in images]
        assert client.post("/v1/attention", files=sent).status_code == 200
        (line,) = (line for line in client.get("/metrics").text.splitlines() if line.startswith("pellucid_gate_drift{"))
        return float(line.rpartition(" ")[2])

    with TestClient(create_app(settings)) as client:
        few = [drift(client, usual[:30]), drift(client, usual[30:]), drift(client, usual[:30])]
        assert np.isnan(few).all()
        assert drift(client, [*usual[30:], *usual[:15]]) < 0.05
        predicted = client.post("/v1/predict", content=picture("blue"), headers={"Content-Type": "image/png"})
        assert predicted.status_code == 200
        for _ in range(6):
            shifted = drift(client, [whole("blue")] * 30)
        assert shifted > 0.5


def test_chance_alone_is_no_drift() -> None:
    chance = np.random.default_rng(0)
    medians = np.median(chance.normal(size=(400, 300)), 0)
    drift = Drift({"gate": medians.astype(np.float32)}, 400)
    found = []
    for _ in range(600):
        weights = chance.normal(size=300).astype(np.float32)
        drift.observe([GateReading("gate", "", weights, np.argsort(weights))])
        found.append(drift.of("gate"))
    assert np.isnan(found[:99]).all()
    assert max(found[99:]) < 0.03


def test_what_has_no_atlas_says_how_to_get_one(file: Path) -> None:
    with TestClient(create_app(Settings(model=str(file), cache_dir="", threads=1))) as client:
        missing = client.get(CHANNELS.format("act"))
        asked = client.post("/v1/attention?atlas=true", content=picture("red"), headers={"Content-Type": "image/png"})
    assert (missing.status_code, missing.json()["type"]) == (404, "urn:pellucid:problem:no-atlas")
    assert asked.status_code == 422
    assert "PELLUCID_ATLASES" in asked.json()["detail"]


def test_a_broken_row_answers_with_a_problem(file: Path, path: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.atlas"
    bad.write_bytes(altered(path, statement("UPDATE crops SET webp = CAST('RIFF0000WEBP' AS BLOB)")))
    with TestClient(create_app(Settings(model=str(file), atlases=(str(bad),), cache_dir="", threads=1))) as client:
        replies = [
            client.get(CHANNELS.format("act") + "/0"),
            client.post("/v1/attention?atlas=true", content=picture("red"), headers={"Content-Type": "image/png"}),
        ]
    for reply in replies:
        assert (reply.status_code, reply.json()["type"]) == (500, "urn:pellucid:problem:broken-atlas")
        assert "is not a small WebP picture" in reply.json()["detail"]
    with pytest.raises(pellucid.PellucidError, match="is not a small WebP picture"):
        pellucid.open(file, atlas=bad, threads=1).attention(picture("red"), atlas=True)


def test_other_labels_have_another_etag(
    network: CompiledNetwork, file: Path, path: Path, tmp_path: Path, client: TestClient
) -> None:
    named, model = tmp_path / file.name, replace(network.model, labels=("x", "y", "z"))
    save(named, network.manifest.model_copy(update={"model": model}), network.graph, network.weights)
    settings = Settings(model=str(named), atlases=(str(path),), cache_dir="", threads=1, precision="fp32")
    with TestClient(create_app(settings)) as other:
        tags = [each.get(CHANNELS.format("act")).headers["etag"] for each in (other, client)]
    assert tags[0] != tags[1]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("planted.atlas", "other.pellucid"), r"other\.pellucid is not an atlas"),
        (("planted.atlas", "twin.atlas"), r"twin\.atlas: Planted already has an atlas"),
        (("planted.atlas", "missing.atlas"), r"missing\.atlas can't be read"),
    ],
)
def test_each_atlas_is_the_only_one_of_a_served_network(
    file: Path, path: Path, tmp_path: Path, given: tuple[str, ...], says: str
) -> None:
    tiny = networks.compiled("tiny")
    save(tmp_path / "other.pellucid", tiny.manifest, tiny.graph, tiny.weights)
    for name in ("planted.atlas", "twin.atlas"):
        (tmp_path / name).write_bytes(path.read_bytes())
    settings = {"atlases": tuple(str(tmp_path / name) for name in given), "cache_dir": "", "threads": 1}
    with pytest.raises(AtlasError, match=says):
        create_app(Settings.model_validate({"model": str(file)} | settings))
    with pytest.raises(AtlasError, match=r"planted\.atlas is the atlas of another network than"):
        create_app(Settings.model_validate({"model": str(tmp_path / "other.pellucid")} | settings))


def test_the_library_opens_an_atlas_beside_its_network(file: Path, path: Path, client: TestClient) -> None:
    network = pellucid.open(file, atlas=path, threads=1, precision="fp32")
    found = network.channels(picture("green"), layer="act", atlas=True)
    assert found == result(client, "/v1/channels", picture("green"), layer="act", atlas="true").channels
