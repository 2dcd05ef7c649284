"""Clusters of maps: a planted tag is a cluster of its own, and stands out; maps without groups have none."""

from __future__ import annotations

import numpy as np
import pytest

from pellucid.report.answers import Floats, Seen
from pellucid.report.clusters import MOST, reasons
from pellucid.report.measures import GRID, gate_distances, of_classes, on_grid, outside_middle
from pellucid.report.outliers import FAR, findings
from pellucid.schemas import GradCam, Result, Target

BLANK = {"media_type": "image/png", "width": 1, "height": 1, "data": ""}
ROWS, COLUMNS = np.mgrid[:7, :7]


def spot(row: float, column: float, width: float) -> Floats:
    return np.asarray(np.exp(-((ROWS - row) ** 2 + (COLUMNS - column) ** 2) / (2 * width**2)))


def seen(name: str, heat: Floats) -> Seen:
    """A horse with this map."""
    target = {"index": 3, "label": "horse", "probability": 0.9}
    raw = {"shape": heat.shape, "values": heat.tolist(), "min": heat.min(), "max": heat.max(), "all_negative": False}
    cam = {"target": target, "layer": "head", "method": "grad-cam", "box": [0, 0, 1, 1], "raw": raw}
    image = {"filename": name, "format": "PNG", "width": 1, "height": 1, "sha256": "0" * 64}
    found = GradCam.model_validate({**cam, "mask": BLANK, "overlay": None})
    return Seen(name, Result.model_validate({"image": image, "grad_cam": [found]}), b"")


def horses(tagged: int, plain: int) -> list[Seen]:
    """Horses anywhere in the middle, and some whose map is on a tag near the lower right corner."""
    chance = np.random.default_rng(0)
    noise = 0.1 * chance.random((tagged + plain, 7, 7))
    tags = [spot(row, column, 0.8) for row, column in chance.uniform(4.8, 6, (tagged, 2))]
    bodies = [spot(row, column, chance.uniform(1, 1.8)) for row, column in chance.uniform(1.5, 4.5, (plain, 2))]
    return [seen(f"{n}.jpg", each + noise[n]) for n, each in enumerate([*tags, *bodies])]


@pytest.mark.parametrize(("tagged", "plain"), [(8, 40), (20, 30), (12, 100)])
def test_a_planted_tag_is_a_suspicious_cluster_of_its_own(tagged: int, plain: int) -> None:
    pictures = horses(tagged, plain)
    (horse,) = of_classes(pictures)
    found = reasons(horse)
    (cluster,) = [each for each in found.clusters if each.suspicious]
    assert {each.name for each in cluster.pictures} == {f"{n}.jpg" for n in range(tagged)}
    assert cluster.mean_map.argmax() // GRID >= 10
    flagged = [each.seen.name for each in findings(pictures, [found], []) if each.kind == "cluster"]
    assert len(flagged) == tagged


def test_maps_without_groups_have_no_suspicious_cluster() -> None:
    (horse,) = of_classes(horses(0, 60))
    assert not [each for each in reasons(horse).clusters if each.suspicious]
    (few,) = of_classes(horses(4, 4))
    assert reasons(few).clusters == ()


def test_honest_maps_all_over_the_frame_are_rarely_suspicious_and_many_take_seconds() -> None:
    alarms = 0
    for seed in range(8):
        chance = np.random.default_rng(seed)
        maps = [spot(row, column, 1) for row, column in chance.uniform(0, 6, (300 if seed else 3000, 2))]
        (horse,) = of_classes([seen("", heat + 0.1 * chance.random((7, 7))) for heat in maps])
        found = reasons(horse)
        assert (found.maps, sum(len(each.pictures) for each in found.clusters)) in ((300, 300), (3000, MOST))
        alarms += any(each.suspicious for each in found.clusters)
    assert alarms == 0


def test_the_score_of_a_class_of_a_segmentation_is_its_share() -> None:
    picture = seen("road.jpg", np.ones((7, 7)))
    picture.__dict__["cam"] = picture.cam.model_copy(update={"target": Target(index=0, label="road", share=0.28)})
    (road,) = of_classes([picture])
    assert road.score == pytest.approx(0.28)


def test_copies_of_a_picture_do_not_make_the_others_stand_out() -> None:
    weights = np.random.default_rng(0).random((40, 32))
    weights[30] += 1
    weights = np.concatenate([weights, np.repeat(weights[:1], 60, 0)])
    pictures = [seen(f"{n}.jpg", np.ones((7, 7))) for n in range(len(weights))]
    for picture, each in zip(pictures, weights, strict=True):
        picture.__dict__["gates"] = {"head": each}
    distances = [distance for _, distance in gate_distances(pictures)]
    assert [place for place, distance in enumerate(distances) if distance > FAR] == [30]
    assert distances[30] < 100
    assert gate_distances(pictures[39:]) == []


def test_an_even_map_of_any_shape_has_half_of_its_evidence_outside_of_the_middle() -> None:
    for shape in ((7, 7), (5, 9), (1, 1), (224, 224)):
        assert outside_middle(np.ones(shape)) == pytest.approx(0.5)
        assert on_grid(np.ones(shape)) == pytest.approx(np.full((GRID, GRID), 1 / GRID**2))
    assert outside_middle(-np.ones((7, 7))) is None
