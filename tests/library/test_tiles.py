"""A picture in tiles: each is run by hand, and merged by the formulas of the docs."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import pellucid
from pellucid.decode.image import decode
from pellucid.decode.region import placed
from pellucid.decode.view import View, tile_multiple, tiling
from pellucid.explain.methods.fusion import fused
from pellucid.explain.tiles import merged, of_tile, scores, stitched
from pellucid.network.spec import OutputSpec
from pellucid.types import (
    Batch,
    DecodedImage,
    MapSpec,
    Outcome,
    Plan,
    Prediction,
    Reference,
    Region,
    Tap,
    Tiling,
    Upload,
)
from tests import networks
from tests.networks import PREPROCESS, TinyNet, compiled, in_memory, of_any_size
from tests.support import decoded, encoded

PICTURE = np.random.default_rng(0).integers(0, 256, (150, 240, 3), np.uint8)
SIDE = 64
TILING = Tiling((64, 104), (64, 64), ((0, 0), (0, 40)))
Map = NDArray[np.float64]


@pytest.fixture(scope="module")
def network() -> pellucid.Network:
    return pellucid.open(compiled("tokens"), precision="fp32", threads=1)


@pytest.fixture(scope="module")
def tiles(network: pellucid.Network) -> list[NDArray[np.uint8]]:
    """The tiles as pictures of the network's own size."""
    return [np.asarray(tile) for tile in seen(network).tiles]


def seen(network: pellucid.Network) -> DecodedImage:
    view = View("whole", 0, tile_multiple(SIDE, SIDE), (SIDE, SIDE))
    return decode(Upload(encoded(PICTURE)), network.spec.preprocess, 10**7, view=view)


def by_hand(maps: list[Any]) -> Map:
    """Two maps of TILING on its grid, cell by cell: bilinear, weighted by the distance to the tile's nearest edge."""
    rows, columns = len(maps[0]), round(len(maps[0][0]) * 104 / 64)
    found = np.zeros((rows, columns))
    for column in range(columns):
        middle, total = (column + 0.5) * 104 / columns, 0.0
        for values, left in zip(maps, (0, 40), strict=True):
            at = (middle - left) * len(values[0]) / 64 - 0.5  # in cells of the tile
            weight = min(at + 0.5, len(values[0]) - 0.5 - at)
            if weight <= 0:
                continue
            total += weight
            for row in range(rows):
                found[row, column] += weight * np.interp(at, range(len(values[0])), values[row])
        found[:, column] /= total
    return found


def probabilities(network: pellucid.Network, tile: NDArray[np.uint8]) -> Map:
    by_index = sorted(network.predict(tile, top_k=5), key=lambda each: each.index)
    return np.array([[each.probability, each.logit] for each in by_index])


def test_predictions_are_the_mean_of_the_tiles(network: pellucid.Network, tiles: Any) -> None:
    assert seen(network).tiling == TILING
    mean = np.mean([probabilities(network, tile) for tile in tiles], 0)
    found = network.predict(PICTURE, view="whole", top_k=5)
    assert [each.index for each in found] == np.argsort(-mean[:, 0]).tolist()
    for each in found:
        assert (each.probability, each.logit) == pytest.approx(tuple(mean[each.index]), rel=1e-6)
    assert found[:2] == network.predict(PICTURE, view="whole", top_k=2)


@pytest.mark.parametrize("method", ["grad-cam", "layercam", "attention-rollout", "score-cam", "integrated-gradients"])
def test_maps_are_stitched_for_the_class_of_all_tiles(network: pellucid.Network, tiles: Any, method: str) -> None:
    top = network.predict(PICTURE, view="whole", top_k=1)[0].index
    (cam,) = network.grad_cam(PICTURE, view="whole", method=[method], samples=4)
    assert cam.target.index == top
    maps = [network.grad_cam(tile, target=top, method=[method], samples=4)[0].raw.values for tile in tiles]
    part = 1 if method == "score-cam" else len(maps[0][0]) / len(cam.raw.values[0])  # its unit is the activation's
    np.testing.assert_allclose(cam.raw.values, part * by_hand(maps), rtol=1e-5, atol=1e-6 * np.abs(maps).max())
    assert cam.box == [0, 0, 240, 150]


@pytest.mark.parametrize("between", [64, 40])
def test_integrated_gradients_sum_to_the_mean_score_less_that_of_the_baseline(between: int) -> None:
    network = pellucid.open(compiled("tiny"), precision="fp32", threads=1)
    picture = np.random.default_rng(0).integers(0, 256, (64, 64 + between, 3), np.uint8)
    tiling = Tiling((64, 64 + between), (64, 64), ((0, 0), (0, between)))
    plan = Plan(targets=(2,), heat_maps=(MapSpec("integrated-gradients", ("pixels",)),))
    pixels = np.stack([picture[:, left : left + 64] for _, left in tiling.corners])
    outcomes = network.engine.run(Batch(pixels, (of_tile(plan, network.network, network.spec, tiling),) * 2))
    found = merged(outcomes, plan, tiling, network.spec.output)
    (explanation,) = found.explanations
    with torch.no_grad():
        baseline = float(networks.network("tiny")(torch.zeros(1, 3, 64, 64))[0, 2])
    sums = [float(outcome.explanations[0].heat.sum()) for outcome in outcomes]
    assert np.mean(sums) == pytest.approx(explanation.target.logit - baseline, abs=1e-5)
    if between == 64:  # no overlap
        assert explanation.heat.sum() == pytest.approx(np.mean(sums), abs=1e-5)
    else:  # between the tiles, each position counts once
        heats = [outcome.explanations[0].heat for outcome in outcomes]
        assert explanation.heat.sum() == pytest.approx(64 / 104 * by_hand([*heats]).sum(), abs=1e-5)


def test_layers_are_fused_after_they_are_stitched(network: pellucid.Network, tiles: Any) -> None:
    layers = [layer.name for layer in network.network.layers[-2:]]
    (cam,) = network.grad_cam(PICTURE, view="whole", layer=layers, fuse="mean", target=1)
    apart = network.grad_cam(PICTURE, view="whole", layer=layers, target=1)
    heat = fused([np.array(each.raw.values, np.float32) for each in apart], "mean")
    np.testing.assert_allclose(cam.raw.values, heat, rtol=1e-6)
    assert cam.layer == " + ".join(layers)


def test_gates_and_channels_are_means_and_feature_maps_are_stitched() -> None:
    network = pellucid.open(compiled("tiny"), precision="fp32", threads=1)
    result = network.explain(PICTURE, view="whole", count=3, effects=True, gates="gate", layers="head")
    assert result.tiles == [[0, 0, 148, 150], [92, 0, 240, 150]]
    (cam,) = result.grad_cam or []
    channels = {shown.layer: shown.channels for shown in result.feature_maps or []}
    parts: list[Any] = [
        [network.explain(tile, target=cam.target.index, effects=True, layers="head", channels=channels["head"]), tile]
        for tile in seen(network).tiles
    ]
    assert result.attention is not None
    assert result.attention.importance is not None
    for name in ("weights", "effects"):
        mean = np.mean([getattr(part.attention.gates[0], name) for part, _ in parts], 0)
        np.testing.assert_allclose(getattr(result.attention.gates[0], name), mean, rtol=1e-4, atol=1e-7)
    mean = np.mean([part.attention.importance.weights for part, _ in parts], 0)
    np.testing.assert_allclose(result.attention.importance.weights, mean, rtol=1e-4, atol=1e-7)
    plan = Plan(taps=(Tap("head", tuple(range(12))),))
    pixels = np.stack([tile for _, tile in parts])
    maps = [outcome.maps[0].values for outcome in network.engine.run(Batch(pixels, (plan, plan)))]
    head = np.array([by_hand([values[channel] for values in maps]) for channel in range(12)])
    strongest = np.argsort(-np.abs(head).mean((1, 2)))[:3]
    assert channels["head"] == strongest.tolist()
    (named,) = network.feature_maps(PICTURE, view="whole", layers="head", channels=[7, 2])
    assert (named.shape, named.channels) == ([12, *head.shape[1:]], [7, 2])
    np.testing.assert_allclose(named.stats.mean, head[[7, 2]].mean((1, 2)), rtol=1e-5)
    shown = next(each for each in result.feature_maps or [] if each.layer == "head")
    assert shown.shape == [12, *head.shape[1:]]
    np.testing.assert_allclose(shown.stats.mean, head[strongest].mean((1, 2)), rtol=1e-5)
    assert [each.side for each in result.feature_maps or []] == [None, "before", "after", "difference"]


def test_an_edit_is_made_in_all_tiles(network: pellucid.Network, tiles: Any) -> None:
    found = network.what_if(PICTURE, view="whole", mute=[1, 2], target=1, rank=True)
    parts = [network.what_if(tile, mute=[1, 2], target=1, rank=True) for tile in tiles]
    assert found.targets[0].change == pytest.approx(np.mean([part.targets[0].change for part in parts]), rel=1e-5)
    assert found.ranking is not None
    muted = [part.ranking.muted for part in parts if part.ranking]
    np.testing.assert_allclose(found.ranking.muted, np.mean(muted, 0), rtol=1e-4, atol=1e-7)
    after = 4 / 6 * by_hand([part.targets[0].maps.second.raw.values for part in parts])
    np.testing.assert_allclose(found.targets[0].maps.second.raw.values, after, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"route": "what-if", "mute": 1}, {"route": "compare", "target": [0, 1]}])
def test_a_figure_says_that_the_network_saw_tiles(network: pellucid.Network, options: Any) -> None:
    strip = np.random.default_rng(0).integers(0, 256, (60, 480, 3), np.uint8)
    whole, centre = (
        bytes(network.figure(strip, view=view, media_type="image/svg+xml", **options)).decode()
        for view in ("whole", "centre")
    )
    assert "the network saw all of it in 9 tiles of 64 \N{MULTIPLICATION SIGN} 64" in whole
    assert "are means over the tiles" in whole
    assert "tiles" not in centre


def test_nothing_is_left_blank_below_a_strip(network: pellucid.Network) -> None:
    for sides, panels, rows in (((240, 280), 550, 1), ((90, 150), 1128, 2)):
        figures = (network.figure(np.zeros((side, 900, 3), np.uint8), media_type="image/svg+xml") for side in sides)
        heights = [int(ElementTree.fromstring(bytes(each)).get("height", "")) for each in figures]
        per_side = [round(side * panels / 900) for side in sides]
        assert heights[1] - heights[0] == rows * (per_side[1] - per_side[0])


def test_trials_score_all_tiles(network: pellucid.Network) -> None:
    (cam,) = network.grad_cam(PICTURE, view="whole", trust=True, trust_steps=2, trust_maps=4)
    assert cam.trust is not None
    assert cam.trust.curves[0].map[0] == pytest.approx(cam.target.probability, rel=1e-5)
    assert cam.trust.cost.passes == 2 * 45


def test_values_of_one_tile_are_kept_on_a_common_grid() -> None:
    maps = np.random.default_rng(0).normal(size=(2, 3, 7, 7)).astype(np.float32)
    found = stitched([*maps], Tiling((224, 352), (224, 224), ((0, 0), (0, 128))))
    assert found.shape == (3, 7, 11)
    np.testing.assert_array_equal(found[..., :4], maps[0, ..., :4])
    np.testing.assert_array_equal(found[..., 7:], maps[1, ..., 3:])
    # 2.5 and 0.5 cells from the edges of the tiles.
    np.testing.assert_allclose(found[..., 4], (2.5 * maps[0, ..., 4] + 0.5 * maps[1, ..., 0]) / 3, rtol=1e-6)


def test_a_panorama_is_seen_in_tiles_by_a_network_of_any_size() -> None:
    network = pellucid.open(of_any_size("tiny"), precision="fp32", threads=1)
    long = np.random.default_rng(0).integers(0, 256, (60, 300, 3), np.uint8)
    result = network.explain(long, view="whole", include=["predictions", "grad_cam"])
    assert result.tiles == [[0, 0, 180, 60], [120, 0, 300, 60]]
    parts = [network.predict(tile, view="whole", top_k=5) for tile in (long[:, :180], long[:, 120:])]
    for each in result.predictions or []:
        mean = np.mean([one.probability for part in parts for one in part if one.index == each.index])
        assert each.probability == pytest.approx(mean, rel=0.02)  # the tiles are cut from the resized picture
    with pytest.raises(pellucid.PellucidError, match="too long for 16 tiles of 192 x 64"):
        network.predict(np.zeros((10, 1000, 3), np.uint8), view="whole")


@pytest.mark.parametrize(
    ("size", "detail", "expected"),
    [
        ((640, 480), 224, ((224, 288), 2)),
        ((480, 640), 224, ((288, 224), 2)),
        ((1920, 1080), 224, ((224, 384), 2)),
        ((1000, 500), 224, ((224, 448), 3)),
        ((510, 500), 224, ((224, 224), 1)),
        ((640, 480), 448, ((448, 608), 9)),
        ((640, 480), 1024, ((608, 800), 12)),
    ],
)
def test_tiles_cover_the_picture_and_overlap(size: tuple[int, int], detail: int, expected: Any) -> None:
    found = tiling(*size, View("whole", detail, tile_multiple(224, 224), (224, 224)))
    assert (found.size, len(found.corners)) == expected
    for axis in (0, 1):
        starts = sorted({corner[axis] for corner in found.corners})
        assert (starts[0], starts[-1]) == (0, found.size[axis] - 224)
        assert all(224 - (after - before) >= 28 for before, after in pairwise(starts))


def test_a_detail_below_the_network_is_refused(network: pellucid.Network) -> None:
    large = pellucid.open(in_memory(TinyNet(), replace(PREPROCESS, size=(96, 96))), precision="fp32", threads=1)
    with pytest.raises(
        pellucid.PellucidError, match=r"in tiles of 96 x 96 pixels, because .* So the least `detail` is 96"
    ):
        large.predict(PICTURE, view="whole", detail=64)


def outcome(**parts: Any) -> Outcome:
    return Outcome(
        **{"predictions": (), "gates": (), "explanations": (), "maps": (), "infer_s": 0, "explain_s": 0, **parts}
    )


def test_each_kind_of_output_has_its_merge() -> None:
    sigmoid = [
        outcome(predictions=(Prediction(1, p, 2.0), Prediction(0, q, 1.0))) for p, q in ((0.9, 0.25), (0.1, 1.0))
    ]
    labels = merged(sigmoid, Plan(top_k=5), TILING, OutputSpec("sigmoid")).predictions
    assert labels == (Prediction(0, 0.625, 1.0), Prediction(1, 0.5, 2.0))
    linear = [outcome(predictions=(Prediction(0, None, v), Prediction(1, None, 9.0))) for v in (1.0, 2.0)]
    values = merged(linear, Plan(top_k=5), TILING, OutputSpec("linear")).predictions
    assert values == (Prediction(0, None, 1.5), Prediction(1, None, 9.0))
    vectors = np.array([[0.6, 0.8], [1, 0]], np.float32)
    plan = Plan(reference=Reference(np.array([0, 1], np.float32)), scored=(0,), targets=(0,))
    alike = [outcome(embedding=each, scored=(Prediction(0, None, each[1]),)) for each in vectors]
    found = merged(alike, plan, TILING, OutputSpec("embedding", (2,)))
    mean = vectors.mean(0) / np.linalg.norm(vectors.mean(0))
    assert found.embedding is not None
    np.testing.assert_allclose(found.embedding, mean, rtol=1e-6)
    assert found.scored[0].logit == pytest.approx(mean[1], rel=1e-6)
    assert scores(alike, plan)[0].logit == pytest.approx(mean[1], rel=1e-6)


def test_a_segmentation_is_that_of_the_tile_whose_edge_is_farthest() -> None:
    dense = [
        outcome(segmentation=np.full((8, 8), level, np.uint8), predictions=(Prediction(level, None, logit, 1.0),))
        for level, logit in ((2, 5.0), (1, 3.0))
    ]
    found = merged(dense, Plan(top_k=5), TILING, OutputSpec("dense", (3, 8, 8)))
    assert found.segmentation is not None
    np.testing.assert_array_equal(found.segmentation, np.tile([2] * 7 + [1] * 6, (8, 1)))  # the middle one is a tie
    assert [(each.index, each.logit) for each in found.predictions] == [(2, 5.0), (1, 3.0)]
    assert [each.share for each in found.predictions] == pytest.approx([7 / 13, 6 / 13])


def test_a_segmentation_in_tiles_is_not_explained(network: pellucid.Network) -> None:
    with pytest.raises(pellucid.PellucidError, match=r"in 2 tiles, .* Choose view=squash or view=centre"):
        placed(Plan(regions=(Region(),)), seen(network), network.spec)


def test_the_strongest_channels_of_too_many_numbers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    network = pellucid.open(compiled("tiny"), precision="fp32", threads=1)
    monkeypatch.setattr("pellucid.explain.tiles._MOST_NUMBERS", 1000)
    with pytest.raises(pellucid.PellucidError, match="layers: The strongest channels are those of all 2 tiles"):
        network.feature_maps(PICTURE, view="whole", layers="head")
    assert network.feature_maps(PICTURE, view="whole", layers="head", channels=[1])


@pytest.mark.parametrize("fit", ["box", "source"])
def test_edits_and_comparisons_cover_the_photograph_and_are_enlarged(network: pellucid.Network, fit: Any) -> None:
    (change,) = network.what_if(PICTURE, mute=1, fit=fit, min_side=480).targets
    compared = network.compare(PICTURE, target=[0, 1], fit=fit, min_side=480, signed=True).maps
    for maps, blank in ((change.maps, 0), (compared, 128)):
        mask = decoded(maps.first.mask)
        assert mask.shape == ((480, 480) if fit == "box" else (300, 480))
        if fit == "source":  # the centre of 240 x 150 pixels
            assert (mask[:, :90] == blank).all()
            assert (decoded(maps.difference.mask)[:, -90:] == 128).all()
            assert len(np.unique(mask[:, 90:390])) > 10
    with pytest.raises(pellucid.PellucidError, match="fit: The maps of two photographs"):
        network.compare(PICTURE, PICTURE[::-1], fit="source")
