"""Pictures of any format are decoded to upright RGB pixels of the network's size, with the right box."""

from __future__ import annotations

import io
import itertools
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2
from torchvision.transforms.functional import pil_to_tensor

from pellucid.decode.image import FORMATS, TYPES, decode
from pellucid.decode.preprocess import Frame
from pellucid.errors import ContentTooLarge, UndecodableImage, UnsupportedMediaType
from pellucid.network.spec import PreprocessSpec
from pellucid.types import InputPixels, Upload

SPEC = PreprocessSpec((224, 224), 256, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# Takes the whole picture without scaling, so that tests can read single pixels.
WHOLE = PreprocessSpec((8, 8), 8, "nearest", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SAMPLES = Path(__file__).parents[2] / "service" / "web" / "samples"


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def pixels_of(data: bytes) -> InputPixels:
    return decode(Upload(data), WHOLE, 10_000_000).pixels


def quadrants() -> Image.Image:
    """8 x 8: red at the top left, green at the top right, blue at the bottom left, white at the bottom right."""
    array = np.zeros((8, 8, 3), np.uint8)
    array[:4, :4, 0], array[:4, 4:, 1], array[4:, :4, 2], array[4:, 4:] = 255, 255, 255, 255
    return Image.fromarray(array)


_PNG = encoded(quadrants(), "PNG")


@pytest.mark.parametrize("name", ["cat", "coffee", "rocket"])
def test_pixels_equal_torchvisions_resize_and_crop(name: str) -> None:
    data = (SAMPLES / f"{name}.jpg").read_bytes()
    plain = v2.Compose([v2.Resize(256, v2.InterpolationMode.BICUBIC), v2.CenterCrop(224)])
    expected = pil_to_tensor(plain(Image.open(io.BytesIO(data)))).permute(1, 2, 0)
    found = torch.tensor(decode(Upload(data), SPEC, 10_000_000).pixels)
    assert (found.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("width", [451, 2000])
def test_a_squashed_picture_is_cropped_on_all_four_sides(width: int) -> None:
    cat = Image.open(SAMPLES / "cat.jpg").resize((width, 300))
    plain = v2.Compose([v2.Resize((256, 256), v2.InterpolationMode.BICUBIC), v2.CenterCrop(224)])
    found = decode(Upload(encoded(cat, "PNG")), replace(SPEC, squash=True), 10_000_000)
    assert np.abs(found.pixels - np.asarray(plain(cat)).astype(int)).max() <= 2
    assert found.box[1::2] == (19, 281)
    assert found.box[2] - found.box[0] == pytest.approx(width * 224 / 256, abs=1)


def test_a_wide_picture_equals_torchvisions_resize_and_crop() -> None:
    cat = Image.open(SAMPLES / "cat.jpg").resize((2000, 300))
    plain = v2.Compose([v2.Resize(256, v2.InterpolationMode.BICUBIC), v2.CenterCrop(224)])
    expected = np.asarray(plain(cat)).astype(int)
    found = decode(Upload(encoded(cat, "PNG")), SPEC, 10_000_000)
    assert np.abs(found.pixels - expected).max() <= 1
    assert found.box == (869, 19, 1131, 281)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_at_a_reduced_size_and_looks_the_same(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    large = encoded(Image.open(SAMPLES / "coffee.jpg").resize((3600, 2400)), "JPEG", quality=92, exif=exif)
    found = decode(Upload(large), SPEC, 10_000_000, picture_side=600)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(large)))
    assert (found.info.width, found.info.height) == upright.size
    plain = v2.Compose([v2.Resize(256, v2.InterpolationMode.BICUBIC), v2.CenterCrop(224)])
    difference = np.abs(found.pixels - np.asarray(plain(upright)).astype(int))
    assert difference.mean() < 0.5
    assert difference.max() <= 12
    assert found.picture is not None
    assert max(found.picture.shape) == 600
    inside = tuple(round(edge * 256 / 2400) for edge in found.box)
    assert (inside[2] - inside[0], inside[3] - inside[1]) == (224, 224)


@pytest.mark.parametrize(("width", "height"), list(itertools.product((1, 7, 224, 300, 1001), repeat=2)))
def test_the_box_lies_inside_the_picture_and_has_the_crops_shape(width: int, height: int) -> None:
    x0, y0, x1, y1 = Frame.of(width, height, SPEC).box(width, height)
    assert 0 <= x0 < x1 <= width + 1e-9
    assert 0 <= y0 < y1 <= height + 1e-9
    assert x1 - x0 == pytest.approx(min(width, height) * 224 / 256, rel=0.01)
    assert (x1 - x0) / (y1 - y0) == pytest.approx(1, rel=0.01)
    assert x0 + x1 == pytest.approx(width, abs=width / 100)


@pytest.mark.parametrize("file_format", FORMATS)
def test_every_format_is_detected_from_its_bytes(file_format: str) -> None:
    image = decode(Upload(encoded(quadrants().resize((64, 64)), file_format), "a.txt"), SPEC, 10_000_000)
    assert (image.info.format, image.info.width, image.info.height) == (file_format, 64, 64)
    assert image.info.filename == "a.txt"
    corner = image.pixels[20, 20].astype(int)
    assert corner[0] > 200 > 60 > corner[1]


@pytest.mark.parametrize(
    ("orientation", "top_left"), [(1, 0), (2, 1), (3, 3), (4, 2), (5, 0), (6, 2), (7, 3), (8, 1), (9, 0)]
)
def test_exif_orientation_is_applied(orientation: int, top_left: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]  # reading order
    assert tuple(pixels_of(encoded(quadrants(), "PNG", exif=exif))[0, 0]) == colours[top_left]


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_a_tiff_is_turned_once(compression: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = quadrants().resize((8, 16))
    files = encoded(picture, "PNG", exif=exif), encoded(picture, "TIFF", exif=exif, compression=compression)
    png, tiff = (decode(Upload(data), WHOLE, 10_000_000) for data in files)
    assert np.array_equal(png.pixels, tiff.pixels)
    assert (png.info.width, png.info.height) == (tiff.info.width, tiff.info.height) == (16, 8)


def test_a_broken_exif_tag_does_not_affect_the_orientation() -> None:
    entries = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack(">HHI4s", 0x011A, 2, 3, b"72")
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2) + entries + bytes(4)  # rotated; XResolution is a string
    data = encoded(quadrants().resize((64, 64)), "JPEG", exif=exif)
    assert decode(Upload(data), SPEC, 10_000_000).info.width == 64


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_without_a_known_range_are_refused(dtype: type) -> None:
    data = encoded(Image.fromarray(np.ones((8, 8), dtype)), "TIFF")
    with pytest.raises(UndecodableImage, match="no known range"):
        pixels_of(data)


def test_a_rotated_picture_is_reported_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    info = decode(Upload(encoded(Image.new("RGB", (40, 20)), "JPEG", exif=exif)), SPEC, 10_000_000).info
    assert (info.width, info.height) == (20, 40)


def test_the_picture_is_kept_whole_and_reduced_to_picture_side() -> None:
    data = encoded(Image.new("RGB", (400, 200)), "PNG")
    assert decode(Upload(data), SPEC, 10_000_000).picture is None
    small, large = (decode(Upload(data), SPEC, 10_000_000, side).picture for side in (100, 1000))
    assert small is not None
    assert large is not None
    assert small.shape == (50, 100, 3)
    assert large.shape == (200, 400, 3)


@pytest.mark.parametrize("data", [b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b"\0" * 64])
def test_an_unknown_format_is_refused_with_the_list_of_formats(data: bytes) -> None:
    with pytest.raises(UnsupportedMediaType) as refused:
        decode(Upload(data), SPEC, 10_000_000)
    assert refused.value.allowed == TYPES


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_truncated_file_is_undecodable(file_format: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    data = encoded(noise, file_format)
    with pytest.raises(UndecodableImage):
        decode(Upload(data[: len(data) // 2]), SPEC, 10_000_000)


def test_the_number_of_pixels_is_checked_before_decoding() -> None:
    data = encoded(Image.new("1", (4000, 4000)), "PNG")[:200]  # hardly any pixel data
    with pytest.raises(ContentTooLarge, match="4000 x 4000"):
        decode(Upload(data), SPEC, 15_000_000)


def test_a_gif_with_a_huge_frame_is_refused_before_the_frame_is_allocated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    control, frame = b"!\xf9\x04" + bytes((2 << 2, 0, 0, 0, 0)), b"," + struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0)
    data = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x80, 0, 0) + bytes(6) + control + frame + b"\x08\x01\0\0;"

    def fill(*_: object) -> None:
        raise AssertionError("the frame was allocated")

    monkeypatch.setattr("PIL.Image.core.fill", fill)
    with pytest.raises(ContentTooLarge, match="more than twice"):
        decode(Upload(data), SPEC, 10_000_000)


def test_the_limit_of_pixels_is_halved_for_webp() -> None:
    data = encoded(Image.new("RGB", (100, 100)), "WEBP")
    assert decode(Upload(data), SPEC, 20_000).info.width == 100
    with pytest.raises(ContentTooLarge, match="for WEBP"):
        decode(Upload(data), SPEC, 19_999)


def test_a_jpeg_with_too_many_scans_is_refused() -> None:
    data = encoded(quadrants().resize((64, 64)), "JPEG", progressive=True)
    scan = data.index(b"\xff\xda")
    assert decode(Upload(data), SPEC, 4096).info.width == 64
    with pytest.raises(ContentTooLarge, match="too many scans"):
        decode(Upload(data[:scan] + data[scan:-2] * 100 + data[-2:]), SPEC, 4096)


@pytest.mark.parametrize("size", [(1, 1), (1, 600), (600, 1)])
def test_the_box_of_a_very_thin_picture_has_at_least_one_pixel(size: tuple[int, int]) -> None:
    x0, y0, x1, y1 = decode(Upload(encoded(Image.new("RGB", size), "PNG")), SPEC, 10_000_000).box
    assert 0 <= x0 < x1 <= size[0]
    assert 0 <= y0 < y1 <= size[1]


@pytest.mark.parametrize("error", [IndexError, MemoryError, struct.error, RecursionError, Image.DecompressionBombError])
def test_any_error_of_a_decoder_means_an_undecodable_image(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(_: Image.Image) -> None:
        raise error("<PIL.Image object at 0x7f>")

    monkeypatch.setattr(Image.Image, "load", fail)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(UndecodableImage) as refused:
        pixels_of(_PNG)
    assert "0x7f" not in refused.value.detail
