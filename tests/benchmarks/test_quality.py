"""What the quality benchmark says of a map: known places, known scores, and tables that say what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pellucid
from benchmarks.quality import boxes, damage, faithfulness, pointing, report, scores
from benchmarks.quality.makers import OURS, Maker, ours
from benchmarks.quality.measure import BASELINE, Effort, Row, _maps
from benchmarks.quality.scenes import THINGS, Scene, composed, recognised
from pellucid.engine import Engine
from pellucid.network.spec import PIXELS, ModelSpec
from pellucid.runtime.torch_runtime import TorchRuntime
from pellucid.trust.measures import curves
from pellucid.trust.perturbations import Design, Perturbations
from pellucid.types import Box, Floats
from tests.benchmarks import record_faithfulness as recorded
from tests.benchmarks.test_report import rows
from tests.networks import compiled

SPEC = compiled("tiny").model
IMAGENET = ModelSpec("three", "", tuple(thing.label for thing in THINGS), SPEC.preprocess, "")


def scene(*found: Box, side: int = 100) -> Scene:
    return Scene("a picture", np.zeros((side, side, 3), np.uint8), 1, found)


def spot(x: int, y: int, side: int = 100) -> Floats:
    heat = np.zeros((side, side), np.float32)
    heat[y, x] = 1
    return heat


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [(20, 30, True), (39, 49, True), (42, 40, True), (43, 40, False), (42, 52, False), (17, 40, True), (80, 90, True)],
)
def test_the_pointing_game_allows_three_percent_around_any_box(x: int, y: int, said: bool) -> None:
    row = Row(OURS, "grad-cam", "head")
    row.score(spot(x, y), scene((20, 30, 40, 50), (75, 85, 90, 95)))
    assert row.hits == [said]


def test_a_map_points_at_a_box_of_the_picture_whatever_part_it_covers() -> None:
    heat = np.zeros((4, 4), np.float32)
    heat[1, 2] = 1  # of a box of 80 x 40 that begins at (100, 20): about (150, 35)
    over = (100, 20, 180, 60)
    assert scores.hit(heat, over, [(0, 0, 9, 9), (145, 30, 155, 40)], 0)
    assert scores.hit(heat, over, [(160, 30, 170, 40)], 12)
    assert not scores.hit(heat, over, [(175, 30, 180, 40)], 12)
    assert not scores.hit(np.ones((4, 4), np.float32), over, [(0, 0, 400, 300)], 0)


def test_energy_is_the_share_of_the_positive_map_in_the_boxes_counted_once() -> None:
    heat = np.full((100, 100), -5, np.float32)
    heat[:, :40] = 1
    assert scores.energy(heat, scene((0, 0, 10, 100)).within) == pytest.approx([0.25])
    places = [scene(*each).within for each in [((0, 0, 10, 100), (5, 0, 20, 100)), ((40, 0, 100, 100),)]]
    assert scores.energy(heat, *places) == pytest.approx([0.5, 0])
    assert scores.energy(-np.abs(heat), *places) == [0, 0]


def test_two_maps_are_compared_as_masks() -> None:
    heat = np.random.default_rng(0).normal(size=(7, 7)).astype(np.float32)
    assert scores.cosine(heat, 3 * heat, 100, 100) == pytest.approx(1, abs=1e-6)
    assert scores.cosine(spot(1, 1), spot(60, 60), 100, 100) == 0


def test_the_interval_covers_the_mean_and_widens_where_few_pictures_hold_many_scenes() -> None:
    values = [0.0, 1.0] * 20
    low, high = scores.interval(values, [str(n) for n in range(40)])
    assert 0.3 < low < 0.5 < high < 0.7
    wide = scores.interval(values, [str(n % 4) for n in range(40)])
    assert wide[1] - wide[0] > high - low
    assert scores.interval([0.5] * 4, ["a", "b", "c", "d"]) == (0.5, 0.5)


@pytest.fixture(scope="module")
def found() -> list[Scene]:
    return composed(IMAGENET)


def test_the_boxes_of_composed_scenes_hold_the_object_that_was_put_there(found: list[Scene]) -> None:
    """The cup is redder than blue, and every box lies in the picture, off the other object's."""
    pictures: dict[str, dict[int, Scene]] = {}
    for each in found:
        ((x0, y0, x1, y1),) = each.boxes
        height, width = each.pixels.shape[:2]
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        pictures.setdefault(each.picture, {})[each.target] = each
        if THINGS[each.target].file == "coffee.jpg":
            assert (each.pixels[..., 0] > each.pixels[..., 2].astype(int))[each.within].mean() > 0.9
    for one, other in (both.values() for both in pictures.values()):
        assert not (one.within & other.within).any()
    kept = recognised(found, lambda pictures: [(0,) for _ in pictures])
    assert {each.target for each in kept} == {0}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,label\n", "first line must be file,label,x0"),
        ("file,label,x0,y0,x1,y1\nx.png,b,1,2,3\n", "line 2: corners are four whole numbers"),
        ("file,label,x0,y0,x1,y1\nx.png,b,5,2,5,9\n", "line 2: x0 < x1"),
        ("file,label,x0,y0,x1,y1\nx.png,dog,1,2,3,4\n", "line 2: 'dog' names no one class of five"),
        ("file,label,x0,y0,x1,y1\nx.png,a,1,2,3,4\n", "it is the label of 0 and 3; a number does"),
    ],
)
def test_what_is_wrong_in_a_folder_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "boxes.csv").write_text(text, "utf-8")
    with pytest.raises(ValueError, match=said):
        boxes.Folder(tmp_path, ModelSpec("five", "", ("a", "b", "c", "a", "e"), SPEC.preprocess, ""))


def test_a_pair_is_difficult_if_it_is_small_beside_another_category(tmp_path: Path) -> None:
    """COCO's categories stand for classes of ImageNet; masks are of the picture's pixels, by the numbers of a file."""
    for part in ("images", "labels", "masks"):
        (tmp_path / part).mkdir()
    for name in ("one", "two"):
        Image.new("RGB", (100, 50)).save(tmp_path / "images" / f"{name}.jpg")
    (tmp_path / "labels" / "one.txt").write_text("1 0.5 0.5 0.2 0.4\n0 0.1 0.1 0.1 0.1\n1 0.95 0.5 0.2 1\n", "utf-8")
    (tmp_path / "labels" / "two.txt").write_text("1 0.5 0.5 0.2 0.4\n2 0.5 0.5 1 0.6\n", "utf-8")
    (tmp_path / "names.txt").write_text("person\ncat\ncar\n", "utf-8")
    (tmp_path / "masks.yaml").write_text("classes:\n  1: person\n  17: cat\n", "utf-8")
    mask = np.zeros((50, 100), np.uint8)
    mask[20, 45:55] = 17
    Image.fromarray(mask).save(tmp_path / "masks" / "one.png")
    folder = boxes.Folder(tmp_path, IMAGENET)
    (cat,) = folder.pairs("images/one.jpg")
    assert (cat.classes, cat.boxes) == ((281, 282, 283, 284, 285), [(40, 15, 60, 35), (85, 0, 100, 50)])
    assert cat.within.sum() == 20 * 20 + 15 * 50
    assert cat.difficult
    assert cat.mask is not None
    assert cat.mask.sum() == 10
    car, other = folder.pairs("images/two.jpg")
    assert (car.category, car.difficult, other.difficult, other.mask) == ("car", False, True, None)
    with boxes.CATEGORIES.open(encoding="utf-8") as file:
        named = [boxes._numbers(line.rstrip().rpartition(",")[2]) for line in list(file)[1:]]
    assert {number for each in named for number in each} <= set(range(1000))


def test_every_pair_of_a_photograph_is_scored_in_every_view(tmp_path: Path) -> None:
    """A box outside of the centre is a miss there. All tables and intervals are of what the file has."""
    wide = np.zeros((64, 192, 3), np.uint8)
    wide[16:48, 8:40] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    (tmp_path / "boxes.csv").write_text(
        "file,label,x0,y0,x1,y1\nwide.png,1,8,16,40,48\nwide.png,2,64,0,128,64\n", "utf-8"
    )
    network = pellucid.open(compiled("tiny"), engine="torch", precision="fp32")
    folder = boxes.Folder(tmp_path, network.spec)
    layer = network.network.default_layer
    records = [
        json.loads(json.dumps(figures))
        for view in ("centre", "whole")
        for figures in pointing.figures_of(network, view, pointing.cheap(network, [layer]), folder, folder.files)
    ]
    outside, middle = records[0]["pairs"]
    assert [outside["seen"], middle["seen"], outside["difficult"]] == [False, True, True]
    assert {tuple(found) for found in outside["maps"].values()} == {(0, 0, None)}
    assert middle["maps"]["grad-cam " + layer][1] in (0, 1)
    assert records[1]["pairs"][0]["seen"]
    assert records[1]["pixels"] > records[0]["pixels"]
    found = rows(pointing.views_table(records))
    assert [line[1:4] for line in found] == [["centre", "100%", "50%"], ["whole", "100%", "100%"]]
    assert rows(pointing.methods_table(records))[-1][:3] == [pointing.BASELINE, "", "0.50 (0.50–0.50)"]


def test_every_method_is_measured_at_its_places_and_long_ones_on_fewer_scenes() -> None:
    engine = Engine(compiled("tiny"), TorchRuntime(compiled("tiny"), torch.device("cpu")))
    makers = {(maker.method, maker.layer): maker for maker in ours(engine, ["stem", "head"])}
    assert {layer for _, layer in makers} == {"stem", "head", PIXELS}
    size = SPEC.preprocess.size[0]
    scenes = [scene((0, 0, size // 2, size), side=size)] * 3
    heat_maps: list[dict[tuple[str, str, str], Floats]] = [{} for _ in scenes]
    effort = Effort(scenes=3, passes=6, least=1)
    row = _maps(makers["grad-cam", "stem"], makers["grad-cam", "stem"].make, scenes, effort, heat_maps)
    assert [len(row.hits), len(row.energy), len(row.seconds)] == [2, 2, 2]
    assert heat_maps[0][OURS, "grad-cam", "stem"].shape == (size // 2, size // 2)
    # 8 channels, 8 passes
    assert len(_maps(makers["score-cam", "stem"], makers["grad-cam", "stem"].make, scenes, effort, heat_maps).hits) == 1
    theirs = Maker("another", "grad-cam", "stem", 1, makers["grad-cam", "stem"].make)
    assert _maps(theirs, makers["grad-cam", "stem"].make, scenes, effort, heat_maps).cosine == pytest.approx(
        [1, 1], abs=1e-5
    )


def test_the_tables_say_what_was_measured() -> None:
    def row(
        by: str,
        method: str,
        layer: str,
        hits: list[float],
        seconds: float,
        deletion: list[float | None] | None = None,
        cosine: list[float] | None = None,
    ) -> Row:
        return Row(
            by,
            method,
            layer,
            [seconds] * len(hits),
            [0.01] * len(hits),
            hits,
            hits,
            deletion=deletion or [0.25],
            cosine=cosine or [],
        )

    own = row(OURS, "grad-cam", "head", [1.0, 1.0, 0.0, 1.0], 0.02)
    at_pixels = row(OURS, "smoothgrad", PIXELS, [0.0, 1.0], 0.5)
    theirs = row("captum", "grad-cam", "head", [1.0, 0.0], 0.05, [0.75, None], cosine=[0.5, 1.0])
    baseline = Row(BASELINE, "random", "", hits=[0.0] * 4, energy=[0.0] * 4)
    figures = {
        "network": "lite0",
        "engine": "torch",
        "scorer": "OpenVINO",
        "default_layer": "head",
        "share": 0.3,
        "scenes": [{"picture": str(n // 2), "target": "cat"} for n in range(4)],
        "rows": [vars(each) for each in (own, at_pixels, theirs, baseline)],
    }
    overview = rows(report.overview(figures, {"grad-cam": {"captum": 1e-6}}))
    assert overview[0] == ["`grad-cam`", "`head`", "captum 1e-06", "2.0", "0.25", "-", "0.75", "0.75", "4"]
    assert overview[1][:4] == ["`smoothgrad`", "`pixels`", "in the tests", "50"]
    assert overview[2][0] == "random"
    (line,) = rows(report.libraries(figures))
    # On the two scenes that both have, ours hits both.
    assert line[:6] == ["captum", "`grad-cam`", "`head`", "2", "0.750 (0.500)", "0.50 / 1.00"]
    assert line[7:] == ["0.75 / 0.25", "the same", "50 / 20", "2.5"]
    assert "4 scenes in 2 pictures (cat: 4); the boxes cover 30%" in report.scenes(figures)


def test_faithfulness_equals_what_quantus_and_pytorch_shapley_cam_gave() -> None:
    whole, mean, (heat, again) = recorded.PICTURE.transpose(1, 2, 0), [recorded.MEAN] * 3, recorded.HEATS
    trials = Perturbations(whole, [heat], mean, Design(recorded.STEPS, 0), (0, 0, 0), (255, 255, 255))
    pictures = np.stack([trials.picture(number).transpose(2, 0, 1) for number in range(len(trials))])
    y = recorded.probabilities(pictures)[:, recorded.CLASS]
    found = {curve.test: curve.map for curve in curves(trials, y, 0)}
    masked = next(n for n, trial in enumerate(trials.plan) if trial.kind == "masked" and trial.map == 1)
    with np.load(recorded.ANSWERS) as file:
        answers = {name: file[name] for name in file.files}
    assert found["deletion"][1:] == pytest.approx(answers.pop("deletion"), abs=1e-5)
    assert found["road"][1:] == pytest.approx(answers.pop("road"), abs=0.02)  # ours has the noise
    side = recorded.SIDE
    assert faithfulness.adcc(heat, again, side, side, y[0], y[masked]) == pytest.approx(
        {name: float(value) for name, value in answers.items()}, abs=1e-5
    )


def test_maps_that_are_the_same_share_their_scores() -> None:
    engine = Engine(compiled("tiny"), TorchRuntime(compiled("tiny"), torch.device("cpu")))
    wanted = [faithfulness.Key(method, "head") for method in ("grad-cam", "layercam", "hirescam")]
    pixels = np.random.default_rng(0).integers(0, 256, (*engine.size, 3), np.uint8)
    found = faithfulness._scores(engine, pixels, 0, wanted, [128] * 3)
    assert [key.method for key in found] == ["grad-cam", "layercam", "hirescam", "centred Gaussian", "random"]
    grad_cam, layercam, hirescam, gaussian, _ = found.values()
    assert grad_cam["road"] == hirescam["road"] != layercam["road"]
    assert gaussian["coherency"] == pytest.approx(1)


def test_the_faithfulness_table_marks_what_differs_from_the_default_in_the_same_pictures() -> None:
    def record(number: int) -> dict[str, Any]:
        usual = [number / 100] * len(faithfulness.MEASURES)
        better = [usual[0] + 0.01, *usual[1:]]
        return {"picture": str(number), "maps": {"grad-cam head": usual, "layercam head": better}}

    usual, better = rows(faithfulness.page([*map(record, range(50))])["faithfulness"])
    assert usual[:2] == ["`grad-cam`", "`head`"]
    assert better[2].endswith(" ▲")
    assert not any(cell.endswith(("▲", "▼")) for cell in [*usual, *better[3:]])


def test_damage_is_told_apart_by_whether_the_first_class_stays_in_each_network() -> None:
    """A picture's two networks are compared with each other, and every damage keeps the size of the picture."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
    made = damage.damaged(pixels)
    assert {each.shape for each in made.values()} == {pixels.shape}
    shifts = [pixels[20 + y : 28 + y, 20 + x : 28 + x] for x in (-16, 16) for y in (-16, 16)]
    assert any((made[damage.SHIFTED][20:28, 20:28] == each).all() for each in shifts)

    def row(stays: bool, rank: float) -> dict[str, list[Any]]:
        return {damage.STAYS: [stays], "grad-cam head": [rank if stays else 0.3] * 2}

    def record(number: int) -> dict[str, Any]:
        moved = {name: row(number % 4 in (0, 2), 0.9) for name in made}
        less = {name: row(number % 4 in (0, 3), 0.8) for name in made}
        other = {damage.ANOTHER: {"grad-cam head": [0.1, 0.1]}}
        return {"picture": str(number), damage.GATES[0]: moved | other, damage.GATES[1]: less | other}

    by_damage, by_map, _ = damage.page([*map(record, range(20))])["damage"].split("\n\n")
    lines = {line[0]: line[1:] for line in rows(by_damage)}
    assert list(lines) == [*made, damage.ANOTHER]
    assert [cell[:5] for cell in lines["noise, 3"]] == ["0.500", "0.500", "+0.00", "0.600", "0.550", "+0.05"]
    assert lines[damage.ANOTHER][:3] == ["-"] * 3
    stays, changes, gates, plain, *_ = (line[3:7] for line in rows(by_map))
    assert stays == ["45", "0.900 (0.900–0.900)", "0.800 (0.800–0.800)", "+0.100 (+0.100 to +0.100) ▲"]
    assert changes == ["45", "0.300 (0.300–0.300)", "0.300 (0.300–0.300)", "+0.000 (+0.000 to +0.000)"]
    assert [cell[:6] for cell in gates] == ["45", "0.900 ", "0.300 ", "+0.600"]
    assert [cell[:6] for cell in plain] == ["45", "0.300 ", "0.800 ", "-0.500"]
