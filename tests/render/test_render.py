"""Masks, overlays, grids and encoded pictures show the numbers that they were made from."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch.nn import functional as F

from pellucid.render import colormap, compose
from pellucid.render.encode import MEDIA_TYPES, encode
from pellucid.resampling import upsample
from pellucid.types import FeatureMaps, Floats, Pixels

HEAT = np.array([[-1.0, 0.0, 0.5], [0.25, 1.0, -0.5]], np.float32)


def feature_maps(values: Floats) -> FeatureMaps:
    n, h, w = values.shape
    zeros = np.zeros(n, np.float32)
    return FeatureMaps("layer", (n, h, w), tuple(range(n)), values, zeros, zeros, zeros)


def grid_of(
    values: Floats, colours: str, tile: int, *, columns: int | None = None, stretch: compose.Stretch = "channel"
) -> compose.Grid:
    return compose.grid(feature_maps(values), compose.value_range([values], stretch), colours, tile, columns)


def rgb(grid: compose.Grid) -> Pixels:
    return grid.palette[grid.levels]


def test_upsampling_equals_torchs_bilinear_without_aligned_corners() -> None:
    values = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)
    expected = F.interpolate(torch.from_numpy(values)[None, None], (93, 61), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(upsample(values, 61, 93), expected[0, 0].numpy(), atol=1e-5)


def test_a_mask_drops_evidence_against_and_stretches_evidence_for() -> None:
    mask = compose.mask(HEAT, (3, 2), keep_sign=False)
    assert mask.tolist() == [[0, 0, 128], [64, 255, 0]]


def test_a_mask_without_evidence_is_black_and_not_stretched_noise() -> None:
    assert not compose.mask(-np.abs(HEAT) - 1, (6, 4), keep_sign=False).any()
    assert not compose.mask(np.full((2, 2), 3.0, np.float32), (4, 4), keep_sign=False).any()


def test_a_signed_mask_has_its_zero_at_128() -> None:
    mask = compose.mask(HEAT, (3, 2), keep_sign=True)
    assert mask[0, 1] == 128
    assert (mask[0, 0], mask[1, 1]) == (1, 255)
    assert (compose.mask(np.zeros((2, 2), np.float32), (2, 2), keep_sign=True) == 128).all()


def overlay(
    picture: Pixels, heat: Floats, alpha: float, *, sign: bool = False, size: compose.Size = (20, 10)
) -> Pixels:
    """An overlay over the middle half of a picture of 40 x 20, of which ``picture`` is a copy."""
    return compose.overlay(picture, (40, 20), (10, 0, 30, 20), heat, "viridis", alpha, sign, size)


def test_an_overlay_colours_the_evidence_in_the_box_and_dims_the_rest() -> None:
    picture = np.full((10, 20, 3), 200, np.uint8)
    heat = np.repeat(np.array([[0, 0, 0, 1, 1, 1]], np.float32), 6, 0)
    full = overlay(picture, heat, 1.0)
    assert full.shape == picture.shape
    assert (full[:, 13:15] == colormap.table("viridis")[255]).all()
    assert (full[:, 5:7] == 200).all(), "nothing is drawn where there is nothing"
    assert (full[:, :5] == 90).all()
    assert (full[:, 15:] == 90).all()
    assert (overlay(picture, heat, 0.0)[:, 5:15] == 200).all()
    assert overlay(picture, heat, 1.0, size=(60, 30)).shape == (30, 60, 3)


def test_an_overlay_with_a_sign_leaves_the_picture_where_there_is_no_evidence() -> None:
    heat = np.array([[-1, -1, -1, 0, 0, 0, 0.75, 0.75, 0.75]], np.float32)
    picture = np.full((1, 9, 3), 200, np.uint8)
    drawn = compose.overlay(picture, (9, 1), (0, 0, 9, 1), heat, "coolwarm", 1.0, True, (9, 1))[0].astype(int)
    against, none, favour = drawn[1], drawn[4], drawn[7]
    assert none.tolist() == [200, 200, 200]
    assert against.tolist() == colormap.table("coolwarm")[0].tolist()
    assert favour[0] > favour[2] + 50


def test_nothing_is_drawn_of_a_map_without_evidence() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (10, 20, 3), np.uint8)
    for sign, heat in ((False, np.full((2, 2), -3, np.float32)), (True, np.zeros((2, 2), np.float32))):
        assert np.array_equal(overlay(picture, heat, 1.0, sign=sign)[:, 5:15], picture[:, 5:15])


@pytest.mark.parametrize("sign", [False, True])
def test_an_overlay_has_no_creases(sign: bool) -> None:
    """Bilinear interpolation bends at the centre of each cell. The largest bend of a smooth overlay is much smaller."""
    heat = np.random.default_rng(1).standard_normal((7, 7)).astype(np.float32)
    smooth = np.asarray(compose._smooth_levels(heat, (448, 448), sign)).astype(float)
    creased = compose.mask(heat, (448, 448), sign).astype(float)
    inner = (slice(32, -32), slice(32, -32))
    bends = [np.abs(levels[inner][8:-8] * 2 - levels[inner][16:] - levels[inner][:-16]) for levels in (smooth, creased)]
    assert np.percentile(bends[0], 99.5) < 0.7 * np.percentile(bends[1], 99.5)
    # At the centres of the cells both have the same values.
    centres = (slice(32, None, 64), slice(32, None, 64))
    assert np.abs(smooth[centres] - creased[centres]).max() <= 8


@pytest.mark.parametrize("sign", [1, -1])
def test_a_line_surrounds_the_strongest_evidence(sign: int) -> None:
    heat = np.zeros((7, 7), np.float32)
    heat[2:5, 2:5] = sign
    picture = np.full((448, 448, 3), 90, np.uint8)
    drawn = compose.overlay(picture, (448, 448), (0, 0, 448, 448), heat, "coolwarm", 1.0, True, (448, 448))
    white = np.all(drawn > 120, axis=2)
    assert white[224].sum() in range(2, 7), "left and right of the middle"
    assert white[:, 224].sum() in range(2, 7)
    assert not white[200:248, 200:248].any()
    assert np.array_equal(drawn[:90], picture[:90])


def necked(random: np.random.Generator) -> Floats:
    """A map of discs between bars, some of them narrower than a thirtieth of the picture."""
    pen = ImageDraw.Draw(drawn := Image.new("F", (480, 480)))
    corners = [(int(x), int(y)) for x, y in random.integers(0, 480, (4, 2))]
    pen.line(corners, 1, int(random.integers(6, 32)))
    for (x, y), radius in zip(corners, random.integers(1, 48, 4).tolist(), strict=True):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), 1)
    return np.asarray(drawn)


@pytest.mark.parametrize("heat", [necked, lambda random: random.random((14, 14), np.float32)], ids=["necked", "noise"])
def test_every_line_is_closed(heat: Callable[[np.random.Generator], Floats]) -> None:
    """No way leads from the outside to a pixel of the strongest evidence beside a line, except through a line."""
    for seed in range(8):
        levels = compose._smooth_levels(heat(np.random.default_rng(seed)), (480, 480), keep_sign=False)
        canvas = Image.new("RGB", levels.size, (128, 128, 128))
        compose._outline(canvas, (0, 0), levels, keep_sign=False, opacity=1)
        line = (np.asarray(canvas) != 128).any(2)
        strong = np.asarray(levels) >= compose.LINE * 255
        outside, reached = ~strong & ~line, 0
        while reached != (reached := int(np.count_nonzero(outside))):
            outside |= compose._grown(outside, 1) & ~line
        assert line.any()
        assert not (outside & strong & compose._grown(line, 1)).any()


def test_opacity_grows_with_the_evidence() -> None:
    for keep_sign, zero in ((False, 0), (True, 128)):
        opacity = compose.tints("turbo", keep_sign)[:, 3].astype(int)
        assert opacity[zero] == 0
        assert (np.diff(opacity[zero:]) >= 0).all()
        assert (np.diff(opacity[: zero + 1]) <= 0).all()
        assert opacity[-1] == 255
        assert opacity[(255 + zero) // 2] < 130, "half of the largest leaves half of the picture visible"
    assert opacity[0] == 255


@pytest.mark.parametrize(
    ("width", "height", "max_side", "min_side", "size"),
    [
        (40, 20, 1024, 0, (40, 20)),
        (40, 20, 20, 0, (20, 10)),
        (40, 20, 1024, 100, (100, 50)),
        (40, 20, 60, 100, (60, 30)),
        (400, 20, 1024, 100, (1000, 50)),
        (1, 900, 1024, 1000, (1, 1024)),
    ],
)
def test_sizes_lie_between_both_limits(width: int, height: int, max_side: int, min_side: int, size: Any) -> None:
    assert compose.scaled_size(width, height, max_side, min_side) == size


def test_a_box_keeps_its_place_in_a_smaller_and_a_larger_copy() -> None:
    assert compose.scaled_box((10, 0, 30, 20), (40, 20), (20, 10)) == (5, 0, 15, 10)
    assert compose.scaled_box((10, 0, 30, 20), (40, 20), (80, 40)) == (20, 0, 60, 40)
    assert compose.scaled_box((900, 0, 901, 1), (901, 1), (9, 1)) == (8, 0, 9, 1)


def test_grid_tiles_are_in_the_order_of_the_channels() -> None:
    values = np.zeros((3, 2, 2), np.float32)
    for n in range(3):
        values[n].flat[n] = 1  # channel n peaks at its own position
    grid = grid_of(values, "viridis", 8, columns=2)
    assert (grid.columns, grid.rows, grid.tile) == (2, 2, (8, 8))
    image, low, high = rgb(grid), *colormap.table("viridis", 255)[[0, 254]]
    assert len(grid.palette) == 256
    for n in range(3):
        x, y = n % 2 * (8 + grid.gap), n // 2 * (8 + grid.gap)
        tile = image[y : y + 8, x : x + 8]
        for position in range(4):
            cell = tile[position // 2 * 4 :, position % 2 * 4 :][:4, :4]
            assert (cell == (high if position == n else low)).all()


def test_tiles_are_comparable_on_the_layers_scale_only() -> None:
    values = np.stack([np.array([[0, 1]]), np.array([[0, 10]])]).astype(np.float32)
    by_channel, by_layer = (grid_of(values, "gray", 2, columns=2, stretch=each) for each in ("channel", "layer"))
    assert by_channel.levels[0, 1] == by_channel.levels[0, -1] == 254
    assert by_layer.levels[0, 1] == 25
    assert by_layer.levels[0, -1] == 254


def test_a_common_range_shows_what_a_gate_did_to_a_channel() -> None:
    before = np.array([[[0, 2]]], np.float32)
    after = before * np.float32(0.5)
    shown = compose.value_range([before, after], "channel")
    levels = [compose.grid(feature_maps(v), shown, "gray", 2, None).levels[0, -1] for v in (before, after)]
    assert levels == [254, 127]


def test_percentiles_show_what_an_outlier_would_hide() -> None:
    values = np.linspace(0, 1, 400, dtype=np.float32).reshape(1, 20, 20)
    values[0, 0, 0] = 100
    ranged, stretched = (grid_of(values, "gray", 20, stretch=each).levels for each in ("channel", "percentile"))
    assert np.median(ranged) < 3
    assert abs(np.median(stretched) - 127) <= 2
    assert stretched.max() == stretched[0, 0] == 254


def test_a_channel_that_is_nearly_always_zero_keeps_its_own_range() -> None:
    values = np.zeros((1, 10, 10), np.float32)
    values[0, 3, 4] = 2
    assert grid_of(values, "gray", 10, stretch="percentile").levels[3, 4] == 254


def test_a_constant_channel_is_drawn_as_the_lowest_level() -> None:
    grid = grid_of(np.full((1, 2, 2), 7, np.float32), "viridis", 4)
    assert not grid.levels.any()


def test_large_maps_are_averaged_down_to_the_tile() -> None:
    values = np.indices((1, 64, 64)).sum(0).astype(np.float32) % 2  # a chequerboard
    grid = grid_of(values, "gray", 16)
    assert grid.tile == (16, 16)
    assert np.abs(grid.levels.astype(int) - 127).max() <= 1


@pytest.mark.parametrize("media_type", MEDIA_TYPES)
@pytest.mark.parametrize("palette", [None, colormap.table("viridis")])
def test_pictures_survive_encoding_unchanged(media_type: str, palette: Pixels | None) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = encode(levels, media_type, palette)
    decoded = Image.open(io.BytesIO(picture.data))
    assert (decoded.get_format_mimetype(), decoded.size) == (media_type, (picture.width, picture.height))
    expected = colormap.table("gray")[levels] if palette is None else palette[levels]
    assert (np.asarray(decoded.convert("RGB")) == expected).all()


def test_viridis_has_viridis_colours() -> None:
    assert colormap.table("viridis")[[0, 128, 255]].tolist() == [[68, 1, 84], [33, 145, 140], [253, 231, 37]]


@pytest.mark.parametrize("name", colormap.NAMES)
def test_every_named_colour_map_exists(name: str) -> None:
    assert len(np.unique(colormap.table(name), axis=0)) > 200
