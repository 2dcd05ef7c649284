"""Regions of a picture become positions of a segmentation, or are refused."""

from __future__ import annotations

import io
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pellucid.decode.region import drawn, placed
from pellucid.errors import InvalidOption
from pellucid.network.spec import ModelSpec, OutputSpec, PreprocessSpec
from pellucid.parts.grad_cam import GradCamOptions
from pellucid.types import Box, DecodedImage, ImageInfo, Mask, Plan, Region
from tests.support import encoded


def model(output: OutputSpec) -> ModelSpec:
    return ModelSpec(
        "areas", "", ("a", "b"), PreprocessSpec((16, 32), 16, "bilinear", (0.5,), (0.5,)), "", output=output
    )


MODEL = model(OutputSpec("dense", (2, 4, 8)))  # a position covers 10 x 10 pixels
BOX: Box = (20, 0, 100, 40)
SIZE = (120, 40)


def image(size: tuple[int | None, int | None] = SIZE, box: Box = BOX) -> DecodedImage:
    return DecodedImage(ImageInfo(None, "", "PNG", *size), np.zeros((16, 32, 3), np.uint8), box)


def positions(region: Region, of: DecodedImage | None = None) -> Mask:
    (found,) = placed(Plan(regions=(region,)), of or image(), MODEL).regions
    assert found.mask is not None
    assert (found.kind, found.at) == (region.kind, region.at)
    return found.mask


def where(region: Region, of: DecodedImage | None = None) -> list[list[int]]:
    """Row and column of each position."""
    rows: list[list[int]] = np.argwhere(positions(region, of)).tolist()
    return rows


def mask_of(levels: NDArray[np.uint8], file_format: str = "PNG") -> Region:
    return Region("mask", drawn=drawn(b64encode(encoded(levels, file_format)).decode()))


@pytest.mark.parametrize(
    ("at", "row", "column"),
    [((20, 0), 0, 0), ((29.9, 9.9), 0, 0), ((30.1, 10.1), 1, 1), ((99.9, 39.9), 3, 7), ((64, 25), 2, 4)],
)
def test_a_point_is_the_position_that_holds_it(at: tuple[float, float], row: int, column: int) -> None:
    assert where(Region("point", at)) == [[row, column]]


def test_a_box_holds_the_positions_whose_middle_it_holds() -> None:
    assert where(Region("box", (30, 10, 50, 20))) == [[1, 1], [1, 2]]
    assert where(Region("box", (34, 14, 46, 16))) == [[1, 1], [1, 2]]
    assert positions(Region("box", (0, 0, 120, 40))).all()
    assert where(Region("box", (41, 31, 43, 33))) == [[3, 2]]  # smaller than a position
    assert where(Region("box", (0, 5, 22, 15))) == [[0, 0]]  # of which the network sees two columns


def test_a_mask_covers_the_source_in_any_resolution() -> None:
    for scale in (1, 2, 7):
        levels = np.zeros((4 * scale, 12 * scale), np.uint8)
        levels[scale : 2 * scale, 3 * scale : 5 * scale] = 255
        levels[:, : 2 * scale] = 255  # outside of what the network sees
        for region in (mask_of(levels), mask_of(levels // 2 + 1)):
            assert where(region) == [[1, 1], [1, 2]]
    coloured = np.zeros((4, 12, 4), np.uint8)
    coloured[1, 3:5] = 255
    assert where(mask_of(coloured)) == [[1, 1], [1, 2]]


def test_the_whole_picture_has_all_positions_and_a_class_none_yet() -> None:
    assert positions(Region("picture")).all()
    (found,) = placed(Plan(regions=(Region("class"),)), image(), MODEL).regions
    assert found.mask is None


def test_pixels_that_were_sent_as_a_tensor_are_their_own_source() -> None:
    assert where(Region("point", (31, 15)), image((None, None), (0, 0, 32, 16))) == [[3, 7]]


@pytest.mark.parametrize(
    "region",
    [
        Region("point", (19.9, 5)),
        Region("point", (100, 5)),
        Region("point", (50, 40)),
        Region("box", (0, 0, 20, 40)),
        Region("box", (100, 0, 120, 40)),
        Region("box", (110, 0, 400, 40)),
        Region("box", (30, 90, 50, 95)),
    ],
)
def test_a_region_that_the_network_does_not_see_is_refused(region: Region) -> None:
    with pytest.raises(
        InvalidOption, match="outside of what the network sees: x from 20 to 100, y from 0 to 40 in pixels"
    ):
        positions(region)


def test_a_mask_that_is_dark_where_the_network_sees_is_refused() -> None:
    with pytest.raises(InvalidOption, match=r"No pixel is bright \(128 to 255\) where the network sees"):
        positions(mask_of(np.zeros((4, 12), np.uint8)))


def test_all_images_of_a_request_share_one_decoding_of_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    convert = Image.Image.convert

    def counting(image: Image.Image, mode: str) -> Image.Image:
        decoded.append(mode)
        return convert(image, mode)

    levels = np.zeros((40, 120), np.uint8)
    levels[10:20, 30:50] = 255
    asked = GradCamOptions(region_mask=b64encode(encoded(levels)).decode())
    plan = asked.aim(Plan(), MODEL)
    monkeypatch.setattr(Image.Image, "convert", counting)
    with ThreadPoolExecutor(8) as pool:
        plans = list(pool.map(lambda _: placed(plan, image(), MODEL), range(32)))
    for each in plans:
        (found,) = each.regions
        assert found.drawn is None  # the engine needs the positions alone
        assert found.mask is not None
        assert np.argwhere(found.mask).tolist() == [[1, 1], [1, 2]]
    assert decoded == ["L"]


@pytest.mark.parametrize(
    ("file_format", "side", "said"),
    [
        ("PNG", 4100, "has 4100 x 4100 pixels; at most 16.8 million are allowed for PNG"),
        ("JPEG", 4100, "has 4100 x 4100 pixels; at most 16.8 million are allowed for JPEG"),
        ("WEBP", 3000, "has 3000 x 3000 pixels; at most 8.4 million are allowed for WEBP"),
        ("PNG", 14_000, "has too many pixels; at most 16.8 million are allowed"),
    ],
)
def test_a_mask_of_too_many_pixels_is_refused(
    file_format: str, side: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64_000_000)
    with pytest.raises(InvalidOption, match=f"region_mask: The image {said}"):
        mask_of(np.zeros((side, side), np.uint8), file_format)


def test_a_mask_of_too_many_scans_is_refused() -> None:
    buffer = io.BytesIO()
    Image.new("L", (4096, 4096)).save(buffer, "JPEG")
    scans = b"".join([b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"] * 40)
    with pytest.raises(InvalidOption, match="too many scans"):
        drawn(b64encode(buffer.getvalue() + scans).decode())


@pytest.mark.parametrize("text", ["", "x", "data:image/png;base64,", b64encode(b"GIF89a" + bytes(20)).decode()])
def test_a_mask_that_is_no_image_is_refused(text: str) -> None:
    with pytest.raises(InvalidOption, match="region_mask: This is not an image in base64"):
        drawn(text)


def test_a_mask_that_is_cut_off_is_refused() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    cut = Region("mask", drawn=drawn(b64encode(encoded(noise)[:-2000]).decode()))
    with pytest.raises(InvalidOption, match="region_mask: This is not an image in base64"):
        positions(cut)
    with pytest.raises(InvalidOption, match="region_mask: This is not an image in base64"):
        positions(cut)  # of the next image


SIDES = st.integers(1, 300)
NUMBERS = st.one_of(st.integers(0, 300), st.floats(0, 1e30, allow_nan=False))


@given(SIDES, SIDES, st.integers(1, 40), st.integers(1, 40), st.lists(NUMBERS, min_size=4, max_size=4), st.data())
def test_any_region_is_placed_or_refused(
    wide: int, high: int, columns: int, rows: int, at: list[float], data: st.DataObject
) -> None:
    x0, y0 = data.draw(st.integers(0, wide - 1)), data.draw(st.integers(0, high - 1))
    seen: Box = (x0, y0, data.draw(st.integers(x0 + 1, wide)), data.draw(st.integers(y0 + 1, high)))
    x, y = seen[0] + (seen[2] - seen[0]) * 0.99, seen[1]
    output = OutputSpec("dense", (3, rows, columns))
    of = image((wide, high), seen)
    for region in (Region("point", (x, y)), Region("box", seen), Region("picture")):
        (found,) = placed(Plan(regions=(region,)), of, model(output)).regions
        assert found.mask is not None
        assert found.mask.shape == (rows, columns)
        assert found.mask.sum() == (1 if region.kind == "point" else rows * columns)
    left, right, top, bottom = *sorted(at[:2]), *sorted(at[2:])
    overlaps = max(left, seen[0]) < min(right, seen[2]) and max(top, seen[1]) < min(bottom, seen[3])
    try:
        (found,) = placed(Plan(regions=(Region("box", (left, top, right, bottom)),)), of, model(output)).regions
    except InvalidOption:
        assert not overlaps
        return
    assert overlaps
    assert found.mask is not None
    assert found.mask.any()
