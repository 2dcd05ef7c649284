"""Input tensors are converted to exactly the pixels that the client meant, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pellucid.decode.tensor import as_decoded, from_normalised, from_values
from pellucid.errors import InvalidOption
from pellucid.network.spec import PreprocessSpec

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SPEC = PreprocessSpec((6, 4), 8, "bilinear", MEAN, STD)
PIXELS = np.arange(2 * 6 * 4 * 3).reshape(2, 6, 4, 3).astype(np.uint8)
EVERY_LEVEL = PreprocessSpec((16, 16), 16, "bilinear", MEAN, STD)


def test_levels_are_kept() -> None:
    for picture, expected in zip(from_values(PIXELS, SPEC), PIXELS, strict=True):
        assert np.array_equal(picture.pixels, expected)
    for picture, expected in zip(from_values(PIXELS.astype(np.int64), SPEC), PIXELS, strict=True):
        assert picture.pixels.dtype == np.uint8
        assert np.array_equal(picture.pixels, expected)


def test_every_level_of_every_channel_survives_the_normalisation() -> None:
    levels = np.repeat(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1), 3, 3)
    values = (levels / np.float32(255) - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    (picture,) = from_normalised(values.transpose(0, 3, 1, 2), EVERY_LEVEL)
    assert np.array_equal(picture.pixels, levels[0])


@pytest.mark.parametrize("wrong", [np.full((1, 6, 4, 3), 256), np.full((1, 6, 4, 3), -1), np.full((1, 6, 4, 3), 0.5)])
def test_values_that_are_not_levels_are_refused(wrong: NDArray[Any]) -> None:
    with pytest.raises(InvalidOption, match="0 to 255"):
        from_values(wrong, SPEC)


@pytest.mark.parametrize("values", [PIXELS, PIXELS / 255, np.full(PIXELS.shape, np.inf), np.full(PIXELS.shape, np.nan)])
def test_a_wrong_or_missing_normalisation_is_refused(values: NDArray[Any]) -> None:
    with pytest.raises(InvalidOption, match=r"mean \[0.485, 0.456, 0.406\] and std \[0.229, 0.224, 0.225\]"):
        from_normalised(values.transpose(0, 3, 1, 2).astype(np.float32), SPEC)


def test_the_error_names_the_first_bad_value_and_its_index() -> None:
    values = ((PIXELS / 255 - MEAN) / STD).transpose(0, 3, 1, 2)
    values[1, 2, 5, 3] = 100
    with pytest.raises(InvalidOption, match=r"100 at \[1, 2, 5, 3\]"):
        from_normalised(values, SPEC)


@pytest.mark.parametrize("shape", [(1, 4, 6, 3), (6, 4, 3), (1, 3, 6, 4), (1, 6, 4, 1)])
def test_a_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidOption, match=r"\[N, 6, 4, 3\]"):
        from_values(np.zeros(shape, np.uint8), SPEC)


def test_the_box_is_the_whole_picture() -> None:
    (picture, _) = from_values(PIXELS, SPEC)
    image = as_decoded(picture)
    assert image.box == (0, 0, image.info.width, image.info.height) == (0, 0, 4, 6)
    assert image.picture is None
