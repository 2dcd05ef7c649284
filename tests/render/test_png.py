"""Pillow reads our PNGs as the pixels that were encoded."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pellucid.render import colormap, png
from tests.support import SAMPLES

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (37, 53), (37, 53, 3), (1, 1, 3)])
def test_grey_and_colour_survive_encoding_unchanged(shape: tuple[int, ...]) -> None:
    pixels = RNG.integers(0, 256, shape, np.uint8)
    image = Image.open(io.BytesIO(png.encode(pixels)))
    image.verify()  # the checksums
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png.encode(pixels)))), pixels)


def test_a_palette_gives_each_level_its_colour() -> None:
    levels, palette = RNG.integers(0, 256, (20, 30), np.uint8), colormap.table("turbo")
    image = Image.open(io.BytesIO(png.encode(levels, palette)))
    assert image.mode == "P"
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), palette[levels])


def test_a_photograph_takes_at_most_a_tenth_more_bytes_than_pillows() -> None:
    photograph = Image.open(SAMPLES / "coffee.jpg").convert("RGB")
    pillows = io.BytesIO()
    photograph.save(pillows, "PNG", compress_level=1)
    assert len(png.encode(np.asarray(photograph))) <= 1.1 * len(pillows.getvalue())
