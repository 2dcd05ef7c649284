"""Pictures in tiles over HTTP: what the library answers, counted as so many images."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import pellucid
from pellucid import Client
from pellucid.network.file import save
from pellucid.schemas import ModelDetail
from tests.networks import compiled
from tests.support import PARTS, ROUTES, difference, encoded, envelope, explained, parsed, post, problem, serving

NOISE = np.random.default_rng(0).integers(0, 256, (150, 480, 3), np.uint8)
# In two, three and four tiles.
WIDE, TALL, LONG = NOISE[:, :240], NOISE[:, :300].swapaxes(0, 1), NOISE
TRUST = {"trust": True, "trust_steps": 2, "trust_maps": 4}


@dataclass(frozen=True)
class Served:
    """A server of two networks of one size, and the same networks in this process."""

    client: httpx.Client
    remote: Client
    tokens: pellucid.Network
    tiny: pellucid.Network


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("tiles")
    files: list[Path] = []
    for name in ("tokens", "tiny"):
        network = compiled(name)
        files.append(folder / f"{name}.pellucid")
        save(files[-1], network.manifest, network.graph, network.weights)
    settings = {
        "PELLUCID_MODEL": str(files[0]),
        "PELLUCID_MODELS": str(files[1]),
        "PELLUCID_PRECISION": "fp32",
        "PELLUCID_TIMEOUT_MS": "200000",
        "PELLUCID_CACHE_DIR": str(folder),
        "PELLUCID_MAX_IMAGES": "6",
    }
    local = [pellucid.open(path, precision="fp32", threads=1) for path in files]
    with (
        serving(**settings) as server,
        httpx.Client(base_url=server.url, timeout=200) as client,
        Client(server.url, timeout_s=200) as remote,
    ):
        yield Served(client, remote, *local)


def told(answer: Any) -> Any:
    if isinstance(answer, list):
        return [told(each) for each in answer]
    found: Any = answer.model_dump(exclude_unset=True)
    for cam in found.get("grad_cam") or [found]:
        (cam.get("trust") or {"cost": {}})["cost"].pop("estimated_ms", None)
    return found


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("predict", {"top_k": 3}),
        ("grad_cam", {"overlay": True, "method": "grad-cam,attention-rollout"}),
        ("grad_cam", {"against": "d", **TRUST}),
        ("explain", {"count": 3}),
        ("what_if", {"mute": [1, 2], "rank": True}),
        ("feature_maps", {"channels": [3, 1]}),
    ],
)
def test_answers_equal_the_librarys(served: Served, method: str, options: dict[str, Any]) -> None:
    for picture in (WIDE, TALL):
        here, there = (getattr(one, method)(picture, view="whole", **options) for one in (served.tokens, served.remote))
        assert difference(told(there), told(here)) is None


def test_gates_and_comparisons_equal_the_librarys(served: Served) -> None:
    network = served.tiny.spec.name
    sides: list[tuple[Any, dict[str, Any]]] = [(served.tiny, {}), (served.remote, {"model": network})]
    here, there = (one.attention(WIDE, view="whole", restore="gate", **more) for one, more in sides)
    assert difference(told(there), told(here)) is None
    chosen: list[dict[str, Any]] = [{}, {"target": "b"}]
    for others in chosen:
        pair: list[Any] = [served.tokens, served.remote]
        here, there = (one.compare(WIDE, WIDE[::-1], view="whole", **others) for one in pair)
        assert difference(told(there), told(here)) is None
        assert here.first.tiles == here.second.tiles == [[0, 0, 148, 150], [92, 0, 240, 150]]
    # A wide and a tall picture have no positions in common.
    for accept in ("application/json", "image/png"):
        refused = post(served.client, "/v1/compare", encoded(WIDE), encoded(TALL), view="whole", accept=accept)
        said = problem(refused, 422, "invalid-option").detail
        assert said.startswith("view: The network sees the first picture at 104 x 64 pixels and the second at 64 x ")
        assert said.endswith("Choose view=squash or view=centre.")
    apart = served.tokens.compare(WIDE, view="whole", against=served.tiny)
    beside = served.remote.compare(WIDE, view="whole", against_model=network)
    assert difference(told(beside), told(apart)) is None


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_reproduces_its_answer_beside_others(served: Served, route: str) -> None:
    options: dict[str, Any] = {"view": "whole", "provenance": True}
    reply = envelope(post(served.client, route, encoded(WIDE), **options))
    (result,) = reply.results
    assert set(result.model_fields_set) == {"image", "frame", "tiles", *PARTS[route]}
    assert reply.provenance is not None
    again = {**reply.provenance.options, "provenance": True}
    both = envelope(post(served.client, route, encoded(TALL), encoded(WIDE), **again))
    then, now = (each.model_dump(exclude={"image"}) for each in (result, both.results[1]))
    assert then == now


def test_each_tile_counts_as_an_image(served: Served) -> None:
    two, three, four = (encoded(picture) for picture in (WIDE, TALL, LONG))
    assert len(envelope(post(served.client, "/v1/predict", four, two, view="whole")).results) == 2
    told = problem(post(served.client, "/v1/predict", four, three, view="whole"), 413, "content-too-large")
    assert told.detail.startswith("The network sees the 2 images in 7 tiles. Each counts as an image, and at most 6")
    assert post(served.client, "/v1/predict", four, three).status_code == 200


def test_a_broken_picture_fails_alone(served: Served) -> None:
    broken, whole = encoded(WIDE)[:2000], encoded(WIDE)
    first, second = post(served.client, "/v1/predict", broken, whole, view="whole").json()["results"]
    assert first["error"]["status"] in (400, 422)
    assert second["predictions"]


def test_protocols_take_pictures_in_tiles(served: Served) -> None:
    data = b64encode(encoded(WIDE)).decode()
    body = {"instances": [{"b64": data}], "parameters": {"view": "whole"}}
    name = served.tokens.spec.name
    expected = explained(served.client, "/v1/predict", encoded(WIDE), view="whole").predictions or []
    (found,) = served.client.post(f"/v1/models/{name}:predict", json=body).json()["predictions"]
    assert [each["index"] for each in found["predictions"]] == [each.index for each in expected]
    scores = served.client.post(f"/predictions/{name}", params={"view": "whole"}, content=encoded(WIDE)).json()
    assert scores == pytest.approx({each.label: each.probability for each in expected})
    image = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [data]}
    refused = served.client.post(f"/v2/models/{name}/infer", json={"inputs": [image], "parameters": {"view": "whole"}})
    assert (refused.status_code, "view: The images of a tensor" in refused.text) == (422, True)


def test_the_catalogue_says_how_pictures_are_cut(served: Served) -> None:
    name = served.tokens.spec.name
    whole = parsed(served.client.get(f"/v1/models/{name}"), ModelDetail).whole
    expected = {"multiple": 8, "detail": 64, "tile": [64, 64]}
    assert whole.model_dump(exclude={"why_tiles"}) == expected
    assert whole.why_tiles
