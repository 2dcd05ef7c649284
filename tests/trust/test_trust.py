"""The verdict: a right map is told from a wrong one, a random one has nothing, and all of it can be had again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytorch_grad_cam.metrics.cam_mult_image import DropInConfidence, IncreaseInConfidence
from pytorch_grad_cam.metrics.road import ROADMostRelevantFirstAverage
from scipy.stats import spearmanr, t
from torch import Tensor, nn

from pellucid.parts.trust import sentence
from pellucid.ranks import rank_correlations, spearman
from pellucid.render.compose import positive
from pellucid.trust.measures import Measured, finding, measured, p_value
from pellucid.trust.perturbations import Design, Perturbations, moved
from pellucid.types import Floats, Pixels

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__")  # the oracle hands numpy tensors

SIDE = 56
MEAN = (0.0, 0.0, 0.0)
# What the synthetic class is made of: bright pixels in one corner of the picture.
SPOT = np.zeros((SIDE, SIDE), bool)
SPOT[4:20, 36:52] = True


def noise(seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(100, 156, (SIDE, SIDE, 3), np.uint8)


def score(pixels: Pixels) -> float:
    """The synthetic network's probability: how bright the spot is, and nothing else."""
    return float(pixels[SPOT].mean() / 255)


def examined(
    pixels: Pixels, maps: list[Floats], design: Design | None = None, network: Callable[..., float] = score
) -> tuple[Measured, ...]:
    perturbations = Perturbations(pixels, maps, MEAN, design or Design())
    scores = [network(perturbations.picture(number)) for number in range(len(perturbations))]
    return measured(perturbations, np.repeat(np.array(scores)[:, None], len(maps), 1), "probability")


def picture() -> Pixels:
    pixels = noise(0) // 4
    pixels[SPOT] = 250
    return pixels


PERFECT = SPOT.reshape(14, 4, 14, 4).mean((1, 3)).astype(np.float32)


def test_the_perfect_map_is_followed_and_the_opposite_contradicted() -> None:
    perfect, opposite = examined(picture(), [PERFECT, -PERFECT])
    assert perfect.finding == "follows"
    assert opposite.finding == "contradicts"
    assert perfect.beaten == 8
    assert perfect.advantage > perfect.gaussian
    for curve in perfect.curves:
        areas = [curve.gaussian_auc, *curve.random_auc]
        assert curve.map_auc > max(areas) if curve.test == "insertion" else curve.map_auc < min(areas)
    assert perfect.confidence is not None
    assert perfect.gaussian_confidence is not None
    assert perfect.confidence.drop < 0.2 < perfect.gaussian_confidence.drop  # the map's edges are soft
    assert perfect.positive_share == 1
    assert opposite.positive_share == 0
    assert "'espresso'" in sentence(perfect, "espresso")
    assert "beats 8 of 8" in sentence(perfect, "espresso")


def test_a_map_whose_place_does_not_matter_is_unclear_as_a_rule() -> None:
    """However smooth it is: the network looks at one spot, and the map is anywhere."""
    found = examined(picture(), moved(PERFECT, 24, seed=5), Design(2, 4))
    assert sum(each.finding == "unclear" for each in found) >= 19
    assert abs(np.mean([each.advantage / each.noise for each in found])) < 0.5


def test_random_places_are_other_places_of_the_map() -> None:
    heat = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    places = moved(heat, 20, seed=1)
    assert len({each.tobytes() for each in (heat, *places)}) == 21
    assert all(np.array_equal(np.sort(each, None), np.sort(heat, None)) for each in places)
    assert all(np.corrcoef(PERFECT.ravel(), each.ravel())[0, 1] < 0.5 for each in moved(PERFECT, 8, seed=1))
    for few in (np.ones((1, 1), np.float32), np.zeros((7, 7), np.float32)):
        assert len(moved(few, 8, seed=1)) == 8


def test_a_network_that_never_changes_its_answer_is_unclear() -> None:
    for constant in (0.1, 1 / 3, 0.7):
        (found,) = examined(picture(), [PERFECT], Design(3, 10), lambda _, constant=constant: constant)
        assert (found.finding, found.p_value) == ("unclear", 1)


def test_the_p_value_is_that_of_students_t() -> None:
    for random_maps in (2, 4, 8, 9, 16, 33):
        for advantage in (0.0, -0.3, 1.0, 2.4, 7.0, 1e9):
            found = p_value(advantage, 1.0, random_maps)
            assert found == pytest.approx(2 * t.sf(abs(advantage), random_maps - 1), abs=1e-9)
            assert 0 <= found <= 1
    assert (p_value(0.0, 0.0, 8), p_value(0.1, 0.0, 8)) == (1, 0)


def test_the_same_picture_has_the_same_trials_and_another_others() -> None:
    heat = np.random.default_rng(1).standard_normal((7, 7)).astype(np.float32)
    one, again, other = (Perturbations(noise(seed), [heat], MEAN, Design()) for seed in (0, 0, 1))
    assert len(one) == Design().passes(targets=1) == 193
    for number in range(0, len(one), 7):
        assert np.array_equal(one.picture(number), again.picture(number))
    assert not np.array_equal(one.maps[2], other.maps[2])


def test_a_flat_map_is_tried_in_an_order_by_chance() -> None:
    (found,) = examined(picture(), [np.zeros((14, 14), np.float32)])
    assert found.finding == "unclear"
    assert found.positive_share == 0


def test_every_share_of_the_pixels_is_taken_those_that_the_map_marks_first() -> None:
    heat = np.random.default_rng(1).standard_normal((7, 7)).astype(np.float32)
    pixels = noise(0)
    perturbations = Perturbations(pixels, [heat], MEAN, Design(4, 4))
    before: NDArray[np.bool_] = np.zeros((SIDE, SIDE), bool)
    for number, perturbation in enumerate(perturbations.plan):
        if perturbation.kind == "deletion" and perturbation.map == perturbations.rows(0)[0]:
            taken = (perturbations.picture(number) == 0).all(2)
            assert taken.mean() == pytest.approx(perturbation.fraction, abs=1e-3)
            assert taken[before].all()
            before = taken


class Bright(nn.Module):
    """Three seeded convolutions, so that there is something to agree about."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
        )

    def forward(self, x: Tensor) -> Tensor:
        probabilities: Tensor = (20 * self.net(x)).softmax(1)
        return probabilities


def test_drop_increase_and_road_are_those_of_pytorch_grad_cam() -> None:
    net = Bright().eval()
    pixels = noise(3)
    heat = np.random.default_rng(1).standard_normal((7, 7)).astype(np.float32)

    def tensor(picture: Pixels) -> Tensor:
        return torch.from_numpy(picture.transpose(2, 0, 1)[None].astype(np.float32) / 255)

    def network(picture: Pixels) -> float:
        with torch.no_grad():
            return float(net(tensor(picture))[0, 1])

    (found,) = examined(pixels, [heat], network=network)
    mask = positive(heat, SIDE, SIDE)[None]
    targets = [lambda probabilities: probabilities[1]]
    drop = DropInConfidence()(tensor(pixels), mask, targets, net)[0]
    increase = IncreaseInConfidence()(tensor(pixels), mask, targets, net)[0]
    # The oracle leaves out the division by the whole picture's probability. Ours rounds pixels to levels.
    assert found.confidence is not None
    assert found.confidence.drop * network(pixels) == pytest.approx(drop, abs=0.01)
    assert found.confidence.increase == bool(increase)
    # The oracle orders a mask, in which all that is against the class is alike: it is given the order itself.
    perturbations = Perturbations(pixels, [heat], MEAN, Design())
    order = perturbations._order(perturbations.rows(0)[0])
    oracle = ROADMostRelevantFirstAverage(percentiles=[80, 60, 40, 20])
    torch.manual_seed(0)
    change = oracle(tensor(pixels), (1 - order / order.size)[None].astype(np.float32), targets, net)[0]
    road = next(curve for curve in found.curves if curve.test == "road")
    assert float(np.mean(road.map[1:] - road.map[0])) == pytest.approx(float(change), abs=0.01)


@pytest.mark.parametrize(
    ("advantage", "p", "chosen", "said"),
    [
        (0.2, 0.099, "follows", "the same map at random places (advantage +0.200 of probability, p = 0.099;"),
        (0.2, 0.1, "unclear", "at random places may be chance"),
        (
            -0.3,
            0.0,
            "contradicts",
            "the same map does better at random places (advantage -0.300 of probability, p < 0.001;",
        ),
    ],
)
def test_the_sentence_agrees_with_its_numbers(advantage: float, p: float, chosen: str, said: str) -> None:
    (found,) = examined(picture(), [PERFECT])
    assert finding(advantage, p) == chosen
    words = sentence(replace(found, finding=finding(advantage, p), advantage=advantage, p_value=p), "espresso")
    assert said in words
    assert "it beats 8 of 8" in words


def test_rank_correlation_is_scipys_with_ties_too() -> None:
    generator = np.random.default_rng(0)
    one, other = generator.integers(0, 9, (2, 7, 7))
    assert spearman(one, other) == pytest.approx(float(spearmanr(one.ravel(), other.ravel()).statistic))
    assert spearman(one, 3.0 * one) == pytest.approx(1)
    zeros = np.maximum(generator.standard_normal((2, 500, 40)) - 1.3, 0)  # nine of ten, as behind a ReLU
    columns = [spearmanr(*pair).statistic for pair in zip(*zeros.transpose(0, 2, 1), strict=True)]
    assert rank_correlations(*zeros) == pytest.approx(columns)
    assert spearman(one, np.zeros((7, 7))) is None
    assert spearman(one, np.full((7, 7), np.nan)) is None
