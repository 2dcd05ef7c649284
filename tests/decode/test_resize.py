"""The network's input equals Pillow's resize and crop within two levels, for pictures of any size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pellucid.decode import resize
from pellucid.decode.preprocess import Frame, to_input
from pellucid.decode.resize import Filter
from pellucid.network.spec import PreprocessSpec
from pellucid.types import Pixels
from tests.support import SAMPLES

SPEC = PreprocessSpec((224, 224), 256, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NAMES = ("cat", "coffee", "rocket")
ODD = ((1, 1), (1, 600), (600, 1), (900, 3), (7, 5), (256, 256), (255, 257), (300, 2000), (2000, 300), (1501, 1000))
FILTERS: tuple[Filter, ...] = ("bilinear", "bicubic")


def sample(name: str) -> Image.Image:
    return Image.open(SAMPLES / f"{name}.jpg").convert("RGB")


def noise(size: tuple[int, int]) -> Image.Image:
    """Random black and white in every channel, which overshoots most."""
    levels = np.random.default_rng(0).integers(0, 2, (size[1], size[0], 3), np.uint8) * np.uint8(255)
    return Image.fromarray(levels)


def published(image: Image.Image, spec: PreprocessSpec) -> Pixels:
    """Resize the whole picture with Pillow, then crop. Rows come first: Pillow 13 alone would choose the order."""
    frame = Frame.of(*image.size, spec)
    method = Image.Resampling[spec.interpolation.upper()]
    rows = image.resize((frame.resized[0], image.height), method)
    return np.asarray(rows.resize(frame.resized, method).crop(frame.crop))


def found(image: Image.Image, spec: PreprocessSpec) -> Pixels:
    return to_input(np.array(image), Frame.of(*image.size, spec), spec)


def apart(some: Pixels, others: Pixels) -> Pixels:
    assert some.shape == others.shape
    return np.asarray(np.abs(some.astype(np.int16) - others), np.uint8)


@pytest.fixture(params=["installed", "Pillow alone"], autouse=True)
def _resizer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test twice: with the fast resizer, and as on platforms without its wheel."""
    if request.param == "Pillow alone":
        monkeypatch.setattr(resize, "simd", None)


@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("photograph", NAMES)
def test_photographs_rarely_differ_from_pillow_by_more_than_a_level(
    photograph: str, name: Filter, squash: bool
) -> None:
    spec = replace(SPEC, interpolation=name, squash=squash)
    difference = apart(found(sample(photograph), spec), published(sample(photograph), spec))
    assert difference.max() <= 2
    assert (difference > 1).mean() <= 1e-4


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize(("size", "squash"), [*((size, False) for size in ODD), (ODD[3], True), (ODD[-1], True)])
def test_odd_sizes_and_the_hardest_edges_are_within_two_levels_of_pillow(
    size: tuple[int, int], name: Filter, squash: bool
) -> None:
    spec = replace(SPEC, interpolation=name, squash=squash)
    for image in (sample("cat").resize(size), noise(size)):
        assert apart(found(image, spec), published(image, spec)).max() <= 2


@pytest.mark.parametrize("size", ODD)
def test_nearest_equals_pillows(size: tuple[int, int]) -> None:
    spec = replace(SPEC, interpolation="nearest")
    np.testing.assert_array_equal(found(noise(size), spec), published(noise(size), spec))


@pytest.mark.parametrize("name", FILTERS)
def test_images_arrays_and_any_strips_give_the_same_pixels(name: Filter, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = replace(SPEC, interpolation=name)
    image, frame = sample("rocket"), Frame.of(*sample("rocket").size, spec)
    whole = to_input(image, frame, spec)
    np.testing.assert_array_equal(to_input(np.array(image), frame, spec), whole)
    monkeypatch.setattr(resize, "_STRIP", 10_000)
    np.testing.assert_array_equal(to_input(image, frame, spec), whole)


def test_the_pixels_are_writable() -> None:
    assert found(sample("cat"), SPEC).flags.writeable


def test_a_crop_larger_than_the_resized_picture_is_stretched() -> None:
    spec = replace(SPEC, resize=200)
    expected = np.asarray(
        sample("cat").resize((224, 224), Image.Resampling.BICUBIC, Frame.of(451, 300, spec).box(451, 300))
    )
    assert apart(found(sample("cat"), spec), expected).max() <= 2
