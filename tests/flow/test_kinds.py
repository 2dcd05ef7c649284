"""A trained network of each kind of output behind one service: every route answers of it, and points at what it means.

The networks tell shapes: which there are (``labels``), how many (``count``), where (``segments``), and which pictures
are alike (``pairs``).
"""

from __future__ import annotations

import asyncio
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

import pellucid
from pellucid.client.heat_maps import NPZ, read_npz
from pellucid.network.spec import OutputSpec
from pellucid.parts import predictions, targets
from pellucid.render.encode import encode
from pellucid.schemas import CompareReply, Comparison, GradCam, ModelDetail, Reply, Result
from pellucid.types import Batch, Outcome, Prediction
from service.flow import bodies, provenance
from tests import shapes
from tests.flow import stub
from tests.shapes import CLASSES, SHAPES, SIDE, Pictures
from tests.support import decoded, difference, encoded, envelope, parsed, post, problem, serving

NAMES: Final = ("labels", "count", "segments", "pairs")
MANY: Final = shapes.pictures(24, 100)
ALONE: Final = shapes.pictures(12, 101, alone=True)
FEW: Final = {"trust": True, "trust_steps": 2, "trust_maps": 4}
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Service:
    """A server of the four networks, and their files."""

    url: str
    client: httpx.Client
    files: dict[str, Path]

    def send(self, route: str, *images: bytes, **options: Any) -> httpx.Response:
        """The response to a JSON body. Options that are images are bytes."""
        text = {name: coded(value) if isinstance(value, bytes) else value for name, value in options.items()}
        return self.client.post(route, json={"images": [*map(coded, images)], **text})

    def ask(self, route: str, image: bytes, **options: Any) -> Result:
        (found,) = envelope(self.send(route, image, **options)).results
        assert isinstance(found, Result), found
        return found

    def maps(self, image: bytes, **options: Any) -> list[GradCam]:
        return self.ask("/v1/grad-cam", image, **options).grad_cam or []

    def compare(self, *images: bytes, **options: Any) -> Comparison:
        return parsed(self.send("/v1/compare", *images, **options), CompareReply).compare


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder, nets = tmp_path_factory.mktemp("kinds"), shapes.trained()
    preprocess: Any = {"size": SIDE, "resize": SIDE, "mean": shapes.MEAN, "std": shapes.STD, "progress": False}
    declared: dict[str, tuple[Any, dict[str, Any]]] = {
        "labels": (nets.labels, {"output": "sigmoid", "labels": SHAPES}),
        "count": (nets.count, {"output": "linear", "labels": ["number"], "units": ["shapes"]}),
        "segments": (nets.segmentation, {"labels": CLASSES, "background": "background"}),
        "pairs": (nets.likeness, {"output": "embedding"}),
    }
    files = {name: folder / f"{name}.pellucid" for name in NAMES}
    for name, (net, output) in declared.items():
        pellucid.compile(net, files[name], **output, **preprocess)
    first, *others = map(str, files.values())
    settings = {"PELLUCID_PRECISION": "fp32", "PELLUCID_TIMEOUT_MS": "200000", "PELLUCID_CACHE_DIR": str(folder)}
    with (
        serving(PELLUCID_MODEL=first, PELLUCID_MODELS=",".join(others), **settings) as server,
        httpx.Client(base_url=server.url, timeout=200) as client,
    ):
        yield Service(server.url, client, files)


def coded(data: bytes) -> str:
    return b64encode(data).decode()


def file_of(pictures: Pictures, number: int) -> bytes:
    return encoded(pictures.pixels[number].numpy())


def kind_of(pictures: Pictures, number: int) -> int:
    """The shape of a picture of one."""
    return int(pictures.counts[number].argmax())


def peak(cam: GradCam) -> tuple[int, int]:
    """The brightest position of the mask: row, column."""
    row, column = np.unravel_index(decoded(cam.mask).argmax(), (SIDE, SIDE))
    return int(row), int(column)


def without(name: str, found: Any) -> None:
    """Assert that no key or text of a reply contains ``name``."""
    if isinstance(found, dict):
        for key, value in found.items():
            assert name not in str(key).casefold(), found
            without(name, value)
    elif isinstance(found, list):
        for value in found:
            without(name, value)
    else:
        assert not (isinstance(found, str) and len(found) < 1000) or name not in found.casefold(), found


def options_of(name: str) -> dict[str, Any]:
    return {"reference": file_of(ALONE, 3)} if name == "pairs" else {}


# -- every route


@pytest.mark.parametrize("name", NAMES)
def test_every_route_answers(service: Service, name: str) -> None:
    client, image, more = service.client, file_of(MANY, 0), options_of(name)
    said: list[Any] = []

    def noted(response: httpx.Response) -> Any:
        assert response.status_code == 200, response.text
        said.append(response.json())
        return said[-1]

    summary = next(each for each in noted(client.get("/v1/models"))["models"] if each["name"] == name)
    detail = ModelDetail.model_validate(noted(client.get(f"/v1/models/{name}")))
    assert summary["output"]["kind"] == detail.output.kind
    said[0] = summary
    for route, options in {
        "/v1/predict": {},
        "/v1/grad-cam": {**more, "overlay": True, "layer": [detail.default_layer.name, detail.feature_layers[0]]},
        "/v1/attention": {**more, "effects": True},
        "/v1/feature-maps": {},
        "/v1/explain": {**more, **FEW},
        "/v1/what-if": {**more, "mute": [0, 3], "rank": True},
    }.items():
        response = service.send(route, image, file_of(MANY, 1), model=name, **options)
        assert all(isinstance(each, Result) for each in envelope(response).results), response.text
        for result in noted(response)["results"]:
            shown = {"segmentation", "embedding"} & {*result}
            of_kind = {"dense": {"segmentation"}, "embedding": {"embedding"}}.get(detail.output.kind, set())
            assert shown == (of_kind if route in ("/v1/predict", "/v1/grad-cam", "/v1/explain") else set())
    noted(service.send("/v1/compare", image, file_of(ALONE, 0), model=name))
    if len(detail.labels) > 1:
        noted(service.send("/v1/compare", image, model=name, target=[1, 2]))
    for method in detail.method_details:
        layer = [detail.feature_layers[0]] if "layers" in method.at else method.at
        found = service.send("/v1/grad-cam", image, model=name, method=method.name, layer=layer, samples=2, **more)
        (result,) = noted(found)["results"]
        (cam, *_) = result["grad_cam"]
        best = "elementwise" if "fused" in cam else detail.methods[0]
        assert cam["method"] == (method.name if method.at else best)
        assert cam["layer"] == (layer[0] if layer else method.default_layer)

    # other protocols
    parameters = {key: coded(value) for key, value in more.items()}
    for verb, key in (("predict", "predictions"), ("explain", "explanations")):
        body = {"instances": [{"b64": coded(image)}], "parameters": parameters if verb == "explain" else {}}
        assert len(noted(client.post(f"/v1/models/{name}:{verb}", json=body))[key]) == 1
    metadata = noted(client.get(f"/v2/models/{name}"))
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [coded(image)]}
    every = [{"name": each["name"]} for each in metadata["outputs"]]
    for outputs in ([], every):
        body = {"inputs": [tensor], **({"outputs": outputs} if outputs else {})}
        found = noted(client.post(f"/v2/models/{name}/infer", json=body))["outputs"]
        shapes = {each["name"]: each["shape"] for each in metadata["outputs"]}
        for each in found:
            assert len(each["shape"]) == len(shapes[each["name"]])
            assert all(
                expected in (-1, side) for side, expected in zip(each["shape"], shapes[each["name"]], strict=True)
            )
    noted(client.post(f"/predictions/{name}", content=image))
    form = {"data": image, **more}
    noted(client.post(f"/explanations/{name}", files={key: (key, value) for key, value in form.items()}))

    # pictures and numbers
    for route in ("/v1/grad-cam", "/v1/attention", "/v1/explain"):
        body = {"images": [coded(image)], "model": name, **parameters}
        assert client.post(route, json=body, headers={"Accept": "image/png"}).content.startswith(b"\x89PNG")
    body = {"images": [coded(image)], "model": name, **parameters}
    numbers = client.post("/v1/grad-cam", json=body, headers={"Accept": NPZ})
    assert read_npz(numbers.content).heat.shape == (1, *detail.default_layer.shape[1:])
    assert (b"probabilities" in numbers.content) == (detail.output.kind in ("sigmoid", "dense"))

    if detail.output.kind in ("linear", "embedding"):
        without("probabilit", [without_methods(each) for each in said])
    else:
        assert any("probability" in str(each) for each in said)


def without_methods(said: Any) -> Any:
    """The catalogue without the descriptions of methods, which are those of all networks."""
    return {key: value for key, value in said.items() if key != "method_details"} if isinstance(said, dict) else said


def test_the_document_and_the_metrics_promise_no_probability(service: Service) -> None:
    schemas = service.client.get("/openapi.json").json()["components"]["schemas"]
    for name in ("Target", "Prediction"):
        assert set(schemas[name]["required"]) == {"index", "label"}
    assert "probabilit" not in service.client.get("/metrics").text


# -- predictions


def test_labels_apply_independently(service: Service) -> None:
    right = []
    for number in range(len(MANY.pixels)):
        found = service.ask("/v1/predict", file_of(MANY, number), model="labels").predictions or []
        assert [each.probability for each in found] == sorted((each.probability or 0 for each in found), reverse=True)
        assert {each.applies == ((each.probability or 0) >= 0.5) for each in found} == {True}
        right += [each.applies == bool(MANY.present[number, each.index]) for each in found]
    assert np.mean(right) > 0.9


def test_a_count_has_its_unit(service: Service) -> None:
    off = []
    for number in range(len(MANY.pixels)):
        (found,) = service.ask("/v1/predict", file_of(MANY, number), model="count").predictions or []
        assert (found.label, found.unit, found.probability, found.logit) == ("number", "shapes", None, None)
        off.append(abs((found.value or 0) - float(MANY.counts[number].sum())))
    assert np.mean(off) < 0.4


def test_a_segmentation_has_the_class_of_each_position(service: Service) -> None:
    right = []
    for number in range(len(MANY.pixels)):
        result = service.ask("/v1/predict", file_of(MANY, number), model="segments")
        assert result.segmentation is not None
        mask = decoded(result.segmentation.mask)
        assert mask.shape == (SIDE, SIDE)
        levels = {each.level: each.label for each in result.segmentation.classes}
        assert {*np.unique(mask).tolist()} == {*levels}
        assert all(CLASSES[level] == label for level, label in levels.items())
        for each in result.predictions or []:
            assert each.share == pytest.approx(np.mean(mask == each.index), abs=1e-6)
        right.append(np.mean(mask == MANY.classes[number].numpy()))
    assert np.mean(right) > 0.95


def test_pictures_of_the_same_shape_are_alike(service: Service) -> None:
    vectors = np.array(
        [service.ask("/v1/predict", file_of(ALONE, each), model="pairs").embedding for each in range(len(ALONE.pixels))]
    )
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    cosines, kinds = vectors @ vectors.T, ALONE.counts.argmax(1).numpy()
    alike = kinds[:, None] == kinds
    assert cosines[alike].min() > cosines[~alike].max() + 0.3
    for number in range(1, 4):
        (cam,) = service.maps(file_of(ALONE, 0), model="pairs", reference=file_of(ALONE, number))
        assert (cam.target.label, cam.target.probability) == ("reference", None)
        assert cam.target.similarity == pytest.approx(cosines[0, number], abs=1e-4)


# -- the pointing game: is the brightest position of a map in a shape of the right class?


def test_maps_point_at_the_right_shape(service: Service) -> None:
    hits: dict[str, list[bool]] = {name: [] for name in NAMES}
    chance: dict[str, list[float]] = {name: [] for name in NAMES}

    def play(name: str, cam: GradCam, mask: Mask) -> None:
        hits[name].append(bool(mask[peak(cam)]))
        chance[name].append(float(mask.mean()))

    for number in range(len(MANY.pixels)):
        file, classes = file_of(MANY, number), MANY.classes[number].numpy()
        present = [index for index in range(3) if MANY.present[number, index]]
        for cam in service.maps(file, model="labels", target=present):
            play("labels", cam, classes == cam.target.index + 1)
        for cam in service.maps(file, model="segments", target=[index + 1 for index in present]):
            play("segments", cam, classes == cam.target.index)
        (cam,) = service.maps(file, model="count")
        play("count", cam, classes > 0)
        if len(present) > 1:
            for index in present:
                (cam,) = service.maps(file, model="pairs", reference=file_of(ALONE, index))
                play("pairs", cam, classes == index + 1)
    shares = {name: (float(np.mean(hits[name])), float(np.mean(chance[name]))) for name in NAMES}
    assert all(share > 0.9 and chance < 0.2 for share, chance in shares.values()), shares


def twins() -> tuple[bytes, list[Mask]]:
    """A picture with two squares, and where each of them is."""
    for number in range(len(MANY.pixels)):
        if MANY.counts[number, 1] == 2:
            classes = MANY.classes[number].numpy() == 2
            # A shape lies in one cell of the grid.
            cells = np.indices(classes.shape) // (SIDE // 3)
            found = [
                classes & (cells[0] == row) & (cells[1] == column)
                for row in range(3)
                for column in range(3)
                if (classes & (cells[0] == row) & (cells[1] == column)).any()
            ]
            return file_of(MANY, number), found
    raise AssertionError("no picture has two squares")


@pytest.mark.parametrize("kind", ["point", "box", "mask"])
def test_a_region_chooses_one_of_two_squares(service: Service, kind: str) -> None:
    """By HiResCAM. Grad-CAM weighs each channel equally at all positions, so it marks both."""
    file, squares = twins()
    for square, other in (squares, squares[::-1]):
        rows, columns = np.nonzero(square)
        options: dict[str, dict[str, Any]] = {
            "point": {"region": [columns.mean(), rows.mean()]},
            "box": {"region": f"{columns.min()},{rows.min()},{columns.max() + 1},{rows.max() + 1}"},
            "mask": {"region_mask": encoded((255 * square).astype(np.uint8))},
        }
        (cam,) = service.maps(file, model="segments", target="square", method="hirescam", **options[kind])
        assert cam.region is not None
        assert cam.region.kind == kind
        area = square[1::2, 1::2].sum()
        assert cam.region.positions == (1 if kind == "point" else pytest.approx(area, rel=0.3))
        assert square[peak(cam)]
        heat = decoded(cam.mask).astype(float)
        assert heat[square].mean() > 5 * heat[other].mean()
        assert (cam.target.probability or 0) > 0.6
    (whole,) = service.maps(file, model="segments", target="square", region="picture")
    assert whole.region is not None
    assert (whole.region.kind, whole.region.positions) == ("picture", 24 * 24)
    (wins,) = service.maps(file, model="segments", target="square")
    assert wins.region is not None
    assert wins.region.kind == "class"
    assert wins.target.share == pytest.approx(wins.region.positions / 24**2)


def test_a_region_is_in_pixels_of_the_source(service: Service) -> None:
    """Of a wide picture the network sees the middle, here at half its size."""
    file, squares = twins()
    wide = np.zeros((2 * SIDE, 4 * SIDE, 3), np.uint8)
    wide[:, SIDE : 3 * SIDE] = decoded_rgb(file).repeat(2, 0).repeat(2, 1)
    image = encoded(wide)
    rows, columns = np.nonzero(squares[1])
    box = [2 * columns.min() + SIDE, 2 * rows.min(), 2 * columns.max() + SIDE + 2, 2 * rows.max() + 2]
    (cam,) = service.maps(image, model="segments", target="square", region=[*map(float, box)])
    (expected,) = service.maps(
        file,
        model="segments",
        target="square",
        region=f"{columns.min()},{rows.min()},{columns.max() + 1},{rows.max() + 1}",
    )
    assert cam.box == [SIDE, 0, 3 * SIDE, 2 * SIDE]
    assert cam.region == expected.region
    drawn = np.zeros(wide.shape[:2], np.uint8)
    drawn[box[1] : box[3], box[0] : box[2]] = 255
    (by_mask,) = service.maps(image, model="segments", target="square", region_mask=encoded(drawn[::2, ::2]))
    assert by_mask.region is not None
    assert by_mask.region.positions == cam.region.positions if cam.region else False
    result = service.ask("/v1/predict", image, model="segments")
    assert result.segmentation is not None
    assert result.segmentation.box == cam.box
    for region in ("3,3", f"0,0,{SIDE - 2},{2 * SIDE}"):
        response = service.send("/v1/grad-cam", image, model="segments", target="square", region=region)
        (failed,) = response.json().get("results", [None])
        told = problem(response, 422, "invalid-option")
        assert failed is None
        assert f"outside of what the network sees: x from {SIDE} to {3 * SIDE}" in told.detail


def decoded_rgb(file: bytes) -> NDArray[np.uint8]:
    from tests.support import decoded_bytes

    return decoded_bytes(file, "image/png")


# -- options


def test_a_tensor_of_maps_takes_a_region(service: Service) -> None:
    file, (square, _) = twins()
    rows, columns = np.nonzero(square)
    options = {"target": "square", "method": "hirescam", "region": f"{columns.mean()},{rows.mean()}"}
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [coded(file)]}
    outputs = [{"name": name} for name in ("heat_map", "segmentation", "shares", "labels")]
    body = {"inputs": [tensor], "outputs": outputs, "parameters": options}
    response = service.client.post("/v2/models/segments/infer", json=body)
    assert response.status_code == 200, response.text
    found = {each["name"]: each for each in response.json()["outputs"]}
    (cam,) = service.maps(file, model="segments", **options)
    heat = np.array(found["heat_map"]["data"]).reshape(found["heat_map"]["shape"])
    np.testing.assert_allclose(heat[0, 0], cam.raw.values, atol=1e-4 * np.abs(cam.raw.values).max())
    segmentation = np.array(found["segmentation"]["data"]).reshape(found["segmentation"]["shape"])[0]
    assert segmentation.shape == (24, 24)
    shares = [float(np.mean(segmentation == index)) for index in range(len(CLASSES))]
    np.testing.assert_allclose(found["shares"]["data"], shares, atol=1e-6)
    assert found["labels"]["data"][0] == "background"


@pytest.mark.parametrize("name", NAMES)
def test_pictures_of_one_request_have_the_maps_that_each_has_alone(service: Service, name: str) -> None:
    files = [file_of(MANY, number) for number in range(5)]
    more: dict[str, Any] = {**options_of(name), "model": name}
    if name == "segments":
        more["region"] = "10,10"
    together = envelope(service.send("/v1/grad-cam", *files, **more)).results
    for file, found in zip(files, together, strict=True):
        assert isinstance(found, Result)
        (cam,), (alone,) = found.grad_cam or [], service.maps(file, **more)
        assert cam.region == alone.region
        np.testing.assert_allclose(cam.raw.values, alone.raw.values, atol=1e-3 * np.abs(alone.raw.values).max())


def test_down_is_the_negated_map(service: Service) -> None:
    for name in NAMES:
        file = file_of(MANY, 2)
        (up,), (down,) = (
            service.maps(file, model=name, direction=direction, **options_of(name)) for direction in ("up", "down")
        )
        assert (up.direction, down.direction) == (None, "down")
        assert down.target == up.target
        scale = np.abs(up.raw.values).max()
        np.testing.assert_allclose(down.raw.values, -np.array(up.raw.values), atol=1e-4 * scale)


def test_two_pictures_are_compared_by_what_makes_them_alike(service: Service) -> None:
    """Each side is explained with the other as its reference."""
    one, other = file_of(MANY, 4), file_of(ALONE, 1)
    found = service.compare(one, other, model="pairs")
    (first,), (second,) = (
        service.maps(image, model="pairs", reference=reference) for image, reference in ((one, other), (other, one))
    )
    for side, shown, cam in ((found.first, found.maps.first, first), (found.second, found.maps.second, second)):
        assert side.target.similarity == pytest.approx(cam.target.similarity, abs=1e-5)
        np.testing.assert_allclose(np.array(shown.raw.values), cam.raw.values, atol=1e-4 * found.maps.reach)
    assert first.target.similarity == pytest.approx(second.target.similarity, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "measure"),
    [("labels", "probability"), ("count", "value"), ("segments", "probability"), ("pairs", "similarity")],
)
def test_trust_names_its_measure(service: Service, name: str, measure: str) -> None:
    few = {"trust": True, "trust_steps": 4, "trust_maps": 8}
    image, more = file_of(ALONE, 4), options_of(name)
    if name == "segments":
        more["target"] = [0, 1, 2]
    if name == "pairs":
        image, more["reference"] = file_of(MANY, 0), file_of(ALONE, 1)
    cams = service.maps(image, model=name, **few, **more)
    for cam in cams:
        assert cam.trust is not None
        assert cam.trust.measure == measure
        assert f"the {measure} more" in cam.trust.sentence or "unclear" in cam.trust.sentence
        assert (cam.trust.confidence is None) == (measure != "probability")
        score = next(
            each for each in (cam.target.similarity, cam.target.value, cam.target.probability) if each is not None
        )
        assert cam.trust.curves[0].map[0] == pytest.approx(score, abs=1e-4)
    told = {cam.target.label: cam.trust for cam in cams if cam.trust}
    found = told["square" if name in ("labels", "segments") else cams[0].target.label]
    assert found.finding == "follows" if name != "pairs" else found.advantage > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_reply_can_be_asked_for_again_with_its_provenance(service: Service, name: str) -> None:
    image = file_of(MANY, 3)
    for route in ("/v1/grad-cam", "/v1/what-if", "/v1/explain"):
        options = {**options_of(name), "model": name, **({"mute": [1]} if route == "/v1/what-if" else {})}
        first = envelope(service.send(route, image, provenance=True, **options))
        assert first.provenance is not None
        # Provenance has the digest of a reference, not the picture.
        pictures = {name: value for name, value in options.items() if name == "reference"}
        again = envelope(service.send(route, image, **{**first.provenance.options, **pictures, "provenance": True}))
        assert again.results == first.results


@pytest.mark.parametrize("name", NAMES)
def test_the_library_and_the_client_answer_alike(service: Service, name: str) -> None:
    """Options that are images are given as any image."""
    more: dict[str, Any] = {}
    if name == "pairs":
        more = {"reference": ALONE.pixels[3].numpy()}
    if name == "segments":
        more = {"region_mask": (255 * twins()[1][0]).astype(np.uint8), "target": "square"}
    network = pellucid.open(service.files[name], precision="fp32", threads=1)
    image = MANY.pixels[5].numpy()
    with pellucid.Client(service.url, timeout_s=200) as client:
        for one, other in (
            (network.explain(image, **more), client.explain(image, model=name, **more)),
            (network.compare(image, file_of(ALONE, 1)), client.compare(image, file_of(ALONE, 1), model=name)),
        ):
            left, right = (each.model_dump(exclude={"image"}, exclude_unset=True) for each in (one, other))
            assert difference(left, right) is None


def test_a_segmentation_is_drawn_once_and_not_by_the_engines_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []

    def encoding(levels: NDArray[Any], media_type: str) -> Any:
        threads.append(threading.current_thread().name)
        return encode(levels, media_type)

    def run(engine: stub.HeldEngine, batch: Batch) -> list[Outcome]:
        best = Prediction(0, 1.0, 2.0)
        return [Outcome((best,), (), (), (), 0.0, 0.0, segmentation=np.eye(2, dtype=np.uint8)) for _ in batch.plans]

    async def play() -> None:
        async with stub.running() as app:
            for route, options in (("predict", {}), ("explain", {"include": "predictions,grad_cam"})):
                files = {"images": ("image.png", stub.BLACK)}
                response = await app.client.post(f"/v1/{route}", files=files, params=options)
                (found,) = response.json()["results"]
                assert found["segmentation"]["box"] == [0, 0, 8, 8]

    dense = replace(stub._SPEC, output=OutputSpec("dense", (2, 2, 2)))
    monkeypatch.setattr(stub, "_SPEC", dense)
    monkeypatch.setattr(stub.HeldEngine, "run", run)
    monkeypatch.setattr(predictions, "encode", encoding)
    asyncio.run(play())
    assert [name.split("-")[0] for name in threads] == ["ThreadPoolExecutor"] * 2


def test_pictures_among_the_options_are_not_decoded_on_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The base64 of 30 MiB takes 45 ms."""
    threads: list[threading.Thread] = []

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*arguments: Any) -> Any:
            threads.append(threading.current_thread())
            return function(*arguments)

        return noting

    async def play() -> None:
        async with stub.running() as app:
            app.engine.gate.set()
            files = {"images": ("image.png", stub.BLACK), "region_mask": ("mask.png", stub.POISON)}
            response = await app.client.post("/v1/grad-cam", files=files, params={"provenance": True})
            assert response.status_code == 200, response.text

    monkeypatch.setattr(stub, "_SPEC", replace(stub._SPEC, output=OutputSpec("dense", (2, 2, 2))))
    for where, name in ((bodies, "b64encode"), (targets, "drawn"), (provenance, "json_image")):
        monkeypatch.setattr(where, name, noted(getattr(where, name)))
    asyncio.run(play())
    assert len(threads) == 3
    assert threading.main_thread() not in threads


# -- errors


@pytest.mark.parametrize(
    ("name", "route", "options", "said"),
    [
        ("pairs", "/v1/grad-cam", {"target": "disc", "reference": b"x"}, "is an embedding: send `reference` instead"),
        ("pairs", "/v1/grad-cam", {}, "Send that picture"),
        ("pairs", "/v1/explain", {}, "Send that picture"),
        ("pairs", "/v1/what-if", {"mute": [0]}, "Send that picture"),
        ("pairs", "/v1/grad-cam", {"reference": b"x", "against": "disc"}, "has no classes"),
        ("pairs", "/v1/grad-cam", {"reference": b"x", "region": "picture"}, "whose output is a segmentation"),
        ("pairs", "/v1/compare", {}, "two pictures"),
        ("labels", "/v1/grad-cam", {"reference": b"x"}, "whose output is an embedding"),
        ("labels", "/v1/grad-cam", {"region": "picture"}, "whose output is a segmentation"),
        ("count", "/v1/attention", {"region": "3,4"}, "whose output is a segmentation"),
        ("count", "/v1/what-if", {"mute": [0], "region_mask": b"x"}, "whose output is a segmentation"),
        ("count", "/v1/grad-cam", {"target": "disc"}, "Unknown class 'disc'"),
        ("count", "/v1/grad-cam", {"against": 0}, "is the target itself"),
        ("segments", "/v1/grad-cam", {"region": "3"}, "is not a region. Allowed are"),
        ("segments", "/v1/grad-cam", {"region": "9,9,3,3"}, "is not a region. Allowed are"),
        ("segments", "/v1/grad-cam", {"region": "nan,nan"}, "is not a region. Allowed are"),
        ("segments", "/v1/grad-cam", {"region": "inf,inf,inf,inf"}, "is not a region. Allowed are"),
        ("segments", "/v1/grad-cam", {"region": "4,4", "region_mask": b"x"}, "not both"),
        ("segments", "/v1/grad-cam", {"region_mask": b"x"}, "not an image in base64"),
        ("segments", "/v1/grad-cam", {"region": "500,500"}, "outside of what the network sees"),
        ("segments", "/v1/grad-cam", {"reference": b"x"}, "whose output is an embedding"),
        ("segments", "/v1/grad-cam", {"direction": "sideways"}, "'up' or 'down'"),
        ("segments", "/v1/compare", {"against_model": "labels", "target": "background"}, "Unknown class"),
        ("labels", "/v1/compare", {"against_model": "pairs"}, "is an embedding"),
        ("labels", "/v1/predict", {"threshold": 0.3}, "Unknown option 'threshold'"),
    ],
)
def test_a_wrong_call_is_answered_by_a_sentence(
    service: Service, name: str, route: str, options: dict[str, Any], said: str
) -> None:
    told = problem(
        service.send(route, file_of(MANY, 0), model=name, **options),
        422,
        "invalid-option" if "Unknown class" not in said else "unknown-name",
    )
    assert said in told.detail, told.detail


def test_an_unreadable_reference_is_named(service: Service) -> None:
    response = service.send("/v1/grad-cam", file_of(MANY, 0), model="pairs", reference=b"no picture")
    assert 400 <= response.status_code < 500
    assert response.json()["detail"].startswith("The reference: ")
    response = service.client.post(
        "/v1/grad-cam", json={"images": [coded(file_of(MANY, 0))], "model": "pairs", "reference": "https://host/a.png"}
    )
    assert "reference.data is not base64" in problem(response, 400, "malformed-request").detail


def test_a_form_carries_the_reference_as_a_file(service: Service) -> None:
    image, reference = file_of(MANY, 0), file_of(ALONE, 3)
    files = [("images", ("a.png", image)), ("reference", ("b.png", reference))]
    response = service.client.post("/v1/grad-cam", params={"model": "pairs"}, files=files)
    (found,) = parsed(response, Reply).results
    assert isinstance(found, Result)
    (expected,) = service.maps(image, model="pairs", reference=reference)
    assert (found.grad_cam or [])[0].target == expected.target
    assert post(service.client, "/v1/grad-cam", image, model="pairs").status_code == 422


def test_what_no_part_of_a_reply_needs_is_not_read(service: Service) -> None:
    """As with any option of a part that `include` leaves out."""
    image = file_of(MANY, 0)
    for name, options in (("labels", {"reference": b"no picture"}), ("pairs", {}), ("segments", {"region": "900,900"})):
        found = service.ask("/v1/explain", image, model=name, include="predictions", **options)
        assert found.grad_cam is None
    found = service.ask("/v1/attention", image, model="pairs")
    assert found.attention is not None
    assert found.attention.importance is None
