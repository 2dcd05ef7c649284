"""POST /v1/feature-maps: what channels see, as tiles and as numbers."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

from pellucid.schemas import FeatureMap, ModelDetail
from pellucid.types import Pixels
from tests.support import decoded, decoded_bytes, explained, parsed, post

DARKEST, BRIGHTEST = (68, 1, 84), (253, 231, 37)  # the ends of viridis


def _maps(client: httpx.Client, image: bytes, **options: Any) -> list[FeatureMap]:
    maps = explained(client, "/v1/feature-maps", image, **options).feature_maps
    assert maps is not None
    return maps


def _tiles(shown: FeatureMap) -> list[Pixels]:
    """Each channel's tile, cut out of the grid by the geometry that the reply states."""
    grid, tiles = decoded(shown.grid), shown.tiles
    if not tiles.top:
        assert grid.shape[1] == tiles.columns * (tiles.width + tiles.gap) - tiles.gap
        assert grid.shape[0] == tiles.rows * (tiles.height + tiles.gap) - tiles.gap
    cut = []
    for n in range(len(shown.channels)):
        x = tiles.left + n % tiles.columns * (tiles.width + tiles.gap)
        y = tiles.top + n // tiles.columns * (tiles.height + tiles.gap)
        cut.append(grid[y : y + tiles.height, x : x + tiles.width])
    return cut


def _colours(tile: Pixels) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in tile.reshape(-1, 3).tolist()}


def test_by_default_an_early_a_middle_and_a_late_layer_stand_side_by_side(client: httpx.Client, cat: bytes) -> None:
    maps = _maps(client, cat)
    model = parsed(client.get("/v1/models/lite0"), ModelDetail)
    assert [shown.layer for shown in maps] == model.feature_layers
    sides = [shown.shape[1] for shown in maps]
    channels = [shown.shape[0] for shown in maps]
    assert len(maps) == 3
    assert sides == sorted(sides, reverse=True)
    assert channels == sorted(channels)


@pytest.mark.parametrize("layers", ["head,stem", ["head", "stem"]])
def test_named_layers_come_in_the_order_named(client: httpx.Client, cat: bytes, layers: Any) -> None:
    assert [shown.layer for shown in _maps(client, cat, layers=layers)] == ["head", "stem"]


def test_a_layer_has_the_shape_that_the_catalogue_states(client: httpx.Client, cat: bytes) -> None:
    model = parsed(client.get("/v1/models/lite0"), ModelDetail)
    shapes = {layer.name: layer.shape for layer in model.layers}
    names = [name for name in shapes if name.startswith("blocks.") and name.count(".") == 1]
    assert len(names) == 16
    assert {shown.layer: shown.shape for shown in _maps(client, cat, layers=names, count=1)} == {
        name: shapes[name] for name in names
    }


@pytest.mark.parametrize("channels", ["5,0,31", [5, 0, 31]])
def test_given_channels_come_in_the_order_given(client: httpx.Client, cat: bytes, channels: Any) -> None:
    (shown,) = _maps(client, cat, layers="stem", channels=channels)
    assert shown.channels == [5, 0, 31]


@pytest.mark.parametrize("layer", ["stem", "head"])
def test_the_strongest_channels_come_first(client: httpx.Client, cat: bytes, layer: str) -> None:
    """Nothing is negative behind a ReLU, so the mean absolute activation is the mean."""
    (shown,) = _maps(client, cat, layers=layer, count=256)
    assert len(shown.channels) == len(set(shown.channels)) == min(256, shown.shape[0])
    assert shown.stats.mean == sorted(shown.stats.mean, reverse=True)
    (few,) = _maps(client, cat, layers=layer, count=3)
    assert few.channels == shown.channels[:3]


@pytest.mark.parametrize(("count", "columns", "rows"), [(16, 4, 4), (5, 3, 2), (1, 1, 1), (2, 2, 1)])
def test_a_grid_is_as_square_as_it_gets(client: httpx.Client, cat: bytes, count: int, columns: int, rows: int) -> None:
    (shown,) = _maps(client, cat, layers="head", count=count)
    assert (shown.tiles.columns, shown.tiles.rows) == (columns, rows)
    assert len(_tiles(shown)) == count


def test_a_caller_may_choose_the_columns(client: httpx.Client, cat: bytes) -> None:
    (shown,) = _maps(client, cat, layers="head", count=7, columns=5)
    assert (shown.tiles.columns, shown.tiles.rows) == (5, 2)


@pytest.mark.parametrize(("tile", "side"), [(112, 112), (30, 28), (14, 14), (9, 7), (3, 3)])
def test_tiles_grow_by_whole_factors_and_shrink_to_the_side_asked_for(
    client: httpx.Client, cat: bytes, tile: int, side: int
) -> None:
    (shown,) = _maps(client, cat, layers="head", tile=tile)
    assert (shown.tiles.width, shown.tiles.height) == (side, side)


def test_a_value_is_a_square_of_equal_pixels(client: httpx.Client, cat: bytes) -> None:
    (shown,) = _maps(client, cat, layers="head", tile=112)
    (small,) = _maps(client, cat, layers="head", tile=7)
    for large_tile, small_tile in zip(_tiles(shown), _tiles(small), strict=True):
        assert np.array_equal(large_tile, small_tile.repeat(16, 0).repeat(16, 1))


def test_each_tile_spans_the_colour_map(client: httpx.Client, cat: bytes) -> None:
    for shown in _maps(client, cat, layers="blocks.4,head", tile=28):
        for tile in _tiles(shown):
            assert {DARKEST, BRIGHTEST} <= _colours(tile)


def test_tile_n_shows_channel_n(client: httpx.Client, cat: bytes) -> None:
    chosen = [7, 3, 39, 0, 12]
    (together,) = _maps(client, cat, layers="blocks.4", channels=chosen)
    for channel, tile, mean in zip(chosen, _tiles(together), together.stats.mean, strict=True):
        (alone,) = _maps(client, cat, layers="blocks.4", channels=channel)
        assert np.array_equal(tile, _tiles(alone)[0])
        assert alone.stats.mean == [pytest.approx(mean, rel=1e-3)]


def test_one_scale_for_the_layer_makes_its_tiles_comparable(client: httpx.Client, cat: bytes) -> None:
    (shown,) = _maps(client, cat, layers="blocks.4", scale="layer", tile=28, colormap="gray")
    by_peak = sorted(zip(shown.stats.max, (int(tile.max()) for tile in _tiles(shown)), strict=True))
    levels = [level for _, level in by_peak]
    assert levels == sorted(levels)
    assert levels[0] < 200
    assert levels[-1] == 255


def test_percentiles_stretch_a_tile_further_than_its_extremes(client: httpx.Client, cat: bytes) -> None:
    ranged, stretched = (_maps(client, cat, layers="stem", scale=scale)[0] for scale in ("channel", "percentile"))
    assert ranged.channels == stretched.channels
    for one, other in zip(_tiles(ranged), _tiles(stretched), strict=True):
        assert {DARKEST, BRIGHTEST} <= _colours(other)
        assert (other == BRIGHTEST).all(2).mean() >= (one == BRIGHTEST).all(2).mean()
        assert 0.03 < (other == BRIGHTEST).all(2).mean() < 0.5


@pytest.mark.parametrize("gate", [False, True])
def test_labels_leave_the_tiles_where_the_reply_says(client: httpx.Client, cat: bytes, gate: bool) -> None:
    chosen = {"gates": "blocks.4.gate"} if gate else {"layers": "blocks.4"}
    for plain, labelled in zip(
        _maps(client, cat, tile=84, **chosen), _maps(client, cat, tile=84, labels=True, **chosen), strict=True
    ):
        assert (plain.tiles.left, plain.tiles.top) == (0, 0)
        assert labelled.tiles.left > 0 < labelled.tiles.top
        for one, other in zip(_tiles(plain), _tiles(labelled), strict=True):
            assert one.shape == other.shape
            # Some colours of the palette are those of the texts, so the others are a little coarser.
            assert np.abs(one.astype(int) - other).max() <= 6
        outside = decoded(labelled.grid)[: labelled.tiles.top].reshape(-1, 3)
        assert (outside.max(0) == 255).all()
        assert (outside.min(0) < 64).all()


def test_labels_are_drawn_where_the_picture_is_the_reply(client: httpx.Client, cat: bytes) -> None:
    json = _maps(client, cat, layers="head")[0]
    assert (json.tiles.top, json.tiles.width) == (0, 112)
    for options, expected in (({}, {"labels": True}), ({"labels": False}, {}), ({"tile": 56}, {"labels": True})):
        reply = post(client, "/v1/feature-maps", cat, accept="image/png", layers="head", **options)
        same = _maps(client, cat, layers="head", **expected, **options)[0]
        assert np.array_equal(decoded_bytes(reply.content, "image/png"), decoded(same.grid))


def test_tiny_tiles_have_labels_that_fit(client: httpx.Client, cat: bytes) -> None:
    (shown,) = _maps(client, cat, layers="head", tile=3, labels=True, count=1)
    assert (shown.tiles.width, len(_tiles(shown))) == (3, 1)


@pytest.mark.parametrize("colormap", ["viridis", "magma", "inferno", "cividis", "turbo", "jet", "coolwarm", "gray"])
def test_every_colour_map_on_offer_draws(client: httpx.Client, cat: bytes, colormap: str) -> None:
    (shown,) = _maps(client, cat, layers="head", count=1, colormap=colormap)
    assert len(_colours(_tiles(shown)[0])) > 5


def test_statistics_are_in_the_order_of_the_channels(client: httpx.Client, cat: bytes) -> None:
    chosen = [31, 4, 12, 0]
    (shown,) = _maps(client, cat, layers="stem", channels=chosen)
    (everything,) = _maps(client, cat, layers="stem", channels=list(range(32)))
    for name in ("mean", "max", "zeros"):
        values = getattr(everything.stats, name)
        assert getattr(shown.stats, name) == pytest.approx([values[channel] for channel in chosen], rel=1e-3, abs=1e-3)


def test_statistics_are_those_of_the_map_shown(client: httpx.Client, cat: bytes) -> None:
    """Behind a ReLU a grey tile is the map itself, but for its largest value: compare means and zeros through it."""
    (shown,) = _maps(client, cat, layers="head", tile=7, colormap="gray", count=32)
    for n, tile in enumerate(_tiles(shown)):
        levels = tile[:, :, 0] / 255
        if shown.stats.zeros[n] > 0:
            assert levels.mean() * shown.stats.max[n] == pytest.approx(shown.stats.mean[n], abs=0.02)
            assert (levels == 0).mean() >= shown.stats.zeros[n] - 1e-6
