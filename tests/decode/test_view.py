"""What the network sees of a picture by each view."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid.decode.image import decode
from pellucid.decode.resize import resized
from pellucid.decode.view import MOST_PIXELS, RATIOS, View, whole_size
from pellucid.errors import InvalidOption
from pellucid.network.spec import PreprocessSpec
from pellucid.types import Tiling, Upload
from tests.support import encoded

SPEC = PreprocessSpec((224, 224), 256, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SIDES = st.integers(1, 20_000)


@given(SIDES, SIDES, st.integers(64, 1024), st.sampled_from([32, 64]))
def test_a_whole_picture_has_sides_that_fit_and_few_pixels(width: int, height: int, detail: int, multiple: int) -> None:
    if max(width, height) > 3 * min(width, height):
        return
    rows, columns = whole_size(width, height, View("whole", detail, multiple))
    assert rows % multiple == columns % multiple == 0
    assert multiple <= rows * columns <= MOST_PIXELS
    assert (columns >= rows) or height > width
    assert min(rows, columns) <= detail + multiple / 2
    assert (columns, rows) == whole_size(height, width, View("whole", detail, multiple)) or width == height


@given(SIDES, SIDES, st.sampled_from([256, 320, 512, 1024]))
def test_a_whole_picture_is_hardly_squeezed(width: int, height: int, detail: int) -> None:
    if max(width, height) > 3 * min(width, height):
        return
    rows, columns = whole_size(width, height, View("whole", detail))
    squeezed = columns / rows / (width / height)
    assert max(squeezed, 1 / squeezed) <= (1.0607 if detail == 256 else 1.093)


@pytest.mark.parametrize("detail", [224, 256, 384, 1024])
def test_pictures_have_few_sizes(detail: int) -> None:
    sizes = {whole_size(1000 + more, 1000, View("whole", detail)) for more in range(2001)}
    assert len(sizes) <= len(RATIOS) == 13


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        (400, 300, (256, 352)),
        (300, 400, (352, 256)),
        (900, 600, (256, 384)),
        (1920, 1080, (256, 448)),
        (9, 9, (256, 256)),
    ],
)
def test_usual_pictures(width: int, height: int, size: tuple[int, int]) -> None:
    assert whole_size(width, height, View("whole", 256)) == size


@pytest.mark.parametrize(("kind", "size"), [("whole", (256, 384)), ("squash", (224, 224))])
def test_the_box_is_the_picture_and_the_pixels_are_all_of_it(kind: str, size: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (400, 600, 3), np.uint8)
    image = decode(Upload(encoded(picture)), SPEC, 10**7, view=View(kind, 256))  # type: ignore[arg-type]
    assert image.box == (0, 0, 600, 400)
    np.testing.assert_array_equal(image.pixels, resized(picture, (0, 0, 600, 400), size[::-1], "bicubic"))


def test_a_large_jpeg_is_decoded_with_enough_detail() -> None:
    y, x = np.mgrid[:1200, :1600]
    picture = np.stack([x / 1600 * 255, y / 1200 * 255, (x + y) % 256 / 2 + 64], -1).astype(np.uint8)
    for kind, detail in (("whole", 512), ("squash", 0)):
        view = View(kind, detail)  # type: ignore[arg-type]
        exact = decode(Upload(encoded(picture, "PNG")), SPEC, 10**7, view=view)
        found = decode(Upload(encoded(picture, "JPEG")), SPEC, 10**7, view=view)
        assert found.pixels.shape == exact.pixels.shape
        assert np.abs(found.pixels.astype(int) - exact.pixels)[..., :2].mean() < 2


def test_a_panorama_is_cut_into_tiles_of_the_longest_shape() -> None:
    image = decode(Upload(encoded(np.zeros((100, 400, 3), np.uint8))), SPEC, 10**7, view=View("whole", 256))
    assert image.tiling == Tiling((256, 1024), (256, 768), ((0, 0), (0, 256)))
    assert image.tile_boxes == [(0, 0, 300, 100), (100, 0, 400, 100)]
    with pytest.raises(InvalidOption, match="too long for 16 tiles of 768 x 256, so it can't be seen whole"):
        decode(Upload(encoded(np.zeros((10, 1000, 3), np.uint8))), SPEC, 10**7, view=View("whole", 256))
