"""The fast path for plain JPEGs gives Pillow's pixels. Other files do not take it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pellucid.decode.image import plain_jpeg
from tests.support import SAMPLES


def _jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def _sample(name: str = "cat") -> Image.Image:
    return Image.open(SAMPLES / f"{name}.jpg")


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("name", ["cat", "coffee", "rocket"])
def test_pixels_equal_those_of_pillow(name: str, progressive: bool, subsampling: str) -> None:
    data = _jpeg(_sample(name), progressive=progressive, subsampling=subsampling)
    pixels = plain_jpeg(data, Image.open(io.BytesIO(data)))
    assert pixels is not None
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(data))))


def test_broken_and_non_rgb_files_are_left_to_pillow() -> None:
    whole = _jpeg(_sample())
    png = io.BytesIO()
    _sample().save(png, "PNG")
    others = [whole[: len(whole) // 2], png.getvalue(), _jpeg(_sample().convert("L")), _jpeg(_sample().convert("CMYK"))]
    for data in others:
        assert plain_jpeg(data, Image.open(io.BytesIO(data))) is None
