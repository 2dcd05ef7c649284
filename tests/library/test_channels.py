"""Networks of any channels: what torch computes from the values is what a picture or an array of them gets."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

import pellucid
from pellucid.compiler.compiling import CompileError
from pellucid.decode.image import decode
from pellucid.errors import ContentTooLarge, UndecodableImage
from pellucid.library import Network
from pellucid.network.spec import PreprocessSpec
from pellucid.trust.perturbations import Design, Perturbations
from pellucid.types import Upload

SIDE = 24
LABELS = ["a", "b", "c"]
BANDS = ("blue", "green", "red", "nir", "swir")
USUAL: dict[str, Any] = {"resize": SIDE, "progress": False}
Array = NDArray[Any]


@pytest.fixture(autouse=True)
def limit_of_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back what decoding sets for the whole process."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)


class Net(nn.Module):
    """A network without kinks."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        torch.manual_seed(channels)
        self.first, self.second = nn.Conv2d(channels, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.classifier = nn.Linear(8, len(LABELS))

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.silu(self.second(nn.functional.silu(self.first(x))))
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits


def opened(folder: Path, count: int, engine: Any = "openvino", **declared: Any) -> Network:
    """A network of so many channels, opened in single precision."""
    path = folder / f"net{count}.pellucid"
    declared = {} if count == 3 and not declared else {"mean": [0.5] * count, "std": [0.25] * count, **declared}
    pellucid.compile(Net(count), path, labels=LABELS, size=SIDE, output="softmax", **USUAL, **declared)
    return pellucid.open(path, engine=engine, precision="fp32", threads=1, cache=folder)


def logits(network: Network, image: Any) -> Array:
    found = sorted(network.predict(image, top_k=3), key=lambda each: each.index)
    return np.array([each.logit for each in found])


def by_torch(channels: int, values: Array, spec: PreprocessSpec) -> Array:
    """The logits of values ``[H, W, C]``, normalised here."""
    low, high, mean, std = (np.array(each) for each in (spec.low, spec.high, spec.mean, spec.std))
    pixels = torch.from_numpy((((values - low) / (high - low) - mean) / std).transpose(2, 0, 1)[None]).float()
    with torch.no_grad():
        found: Array = Net(channels).eval()(pixels)[0].numpy()
    return found


def noise(channels: int, low: float = 0, high: float = 1) -> Array:
    return np.random.default_rng(channels).uniform(low, high, (SIDE, SIDE, channels)).astype(np.float32)


def png(array: Array) -> bytes:
    """A PNG of gray, BGR or BGRA, in 8 or 16 bits, by OpenCV."""
    return cv2.imencode(".png", array)[1].tobytes()


def encoded(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def pages(*planes: Array, **options: Any) -> bytes:
    first, *others = map(Image.fromarray, planes)
    return encoded(first, "TIFF", save_all=True, append_images=others, **options)


@pytest.mark.parametrize("engine", ["openvino", "torch"])
@pytest.mark.parametrize("channels", [1, 4, 5, 16])
def test_an_array_gets_what_torch_computes_of_its_values(tmp_path: Path, channels: int, engine: str) -> None:
    declared = {"mean": np.linspace(0.3, 0.6, channels), "std": [0.2] * channels, "low": -20, "high": 60}
    network = opened(tmp_path, channels, engine, **declared)
    values = noise(channels, -30, 70)  # values beyond the range are values too
    expected = by_torch(channels, values, network.spec.preprocess)
    forms = [values, values.astype(np.float64), np.asfortranarray(values), values.transpose(2, 0, 1)]
    forms += [values[:, :, 0]] if channels == 1 else []
    for form in forms:
        np.testing.assert_allclose(logits(network, form), expected, atol=1e-5)
    whole = np.rint(values)
    np.testing.assert_allclose(
        logits(network, whole.astype(np.int16)), by_torch(channels, whole, network.spec.preprocess), atol=1e-5
    )


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_an_8_bit_network_takes_bytes_or_floats_from_0_to_1(tmp_path: Path, channels: int) -> None:
    network = opened(tmp_path, channels)
    assert network.spec.preprocess.depth == "uint8"
    values = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, channels), np.uint8)
    np.testing.assert_allclose(logits(network, values), by_torch(channels, values, network.spec.preprocess), atol=1e-5)
    assert logits(network, values / np.float32(255)).tolist() == logits(network, values).tolist()
    for wrong, told in (
        (values.astype(np.float32), "numbers of float32 from"),
        (values.astype(int), "the dtype int64"),
    ):
        with pytest.raises(
            UndecodableImage, match=f"has {told}.* the network takes 8-bit values: send uint8, or floats"
        ):
            network.predict(wrong)


def test_an_array_is_the_picture_that_it_holds(tmp_path: Path) -> None:
    network = opened(tmp_path, 3)
    photograph = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    file = io.BytesIO()
    np.save(file, photograph)
    assert logits(network, file.getvalue()).tolist() == logits(network, photograph).tolist()
    file = io.BytesIO()
    np.save(file, photograph.transpose(2, 0, 1))
    assert logits(network, file.getvalue()).tolist() == logits(network, photograph).tolist()


def test_a_gray_network_sees_the_gray_of_colours(tmp_path: Path) -> None:
    network = opened(tmp_path, 1)
    assert network.spec.preprocess.channels == ("gray",)
    colours = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    gray = np.asarray(Image.fromarray(colours).convert("L"))
    expected = by_torch(1, gray[:, :, None], network.spec.preprocess)
    for image in (colours, gray, Image.fromarray(colours), encoded(Image.fromarray(gray), "TIFF")):
        np.testing.assert_allclose(logits(network, image), expected, atol=1e-5)
    (cam,) = network.grad_cam(colours, overlay=True, alpha=0)
    assert cam.overlay is not None
    np.testing.assert_array_equal(np.asarray(cam.overlay.to_pil().convert("RGB")), np.stack([gray] * 3, 2))


def test_gray_is_repeated_for_three_channels(tmp_path: Path) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), np.uint8)
    for declared in ({}, {"high": 255}):
        network = opened(tmp_path, 3, **declared)
        expected = by_torch(3, np.stack([gray] * 3, 2), network.spec.preprocess)
        np.testing.assert_allclose(logits(network, gray), expected, atol=1e-5)


def test_colours_fill_the_channels_of_their_names(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    for declared in ({}, {"high": 255}):
        network = opened(tmp_path, 3, channels=BANDS[:3], **declared)
        expected = by_torch(3, colours[:, :, ::-1], network.spec.preprocess)
        np.testing.assert_allclose(logits(network, colours), expected, atol=1e-5)
        (cam,) = network.grad_cam(colours, overlay=True, alpha=0)
        assert cam.overlay is not None
        np.testing.assert_array_equal(np.asarray(cam.overlay.to_pil().convert("RGB")), colours)


def test_alpha_is_a_channel_where_it_is_declared(tmp_path: Path) -> None:
    network = opened(tmp_path, 4, channels=["red", "green", "blue", "alpha"])
    picture = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 4), np.uint8)
    spec = network.spec.preprocess
    np.testing.assert_allclose(logits(network, picture), by_torch(4, picture, spec), atol=1e-5)
    opaque = np.concatenate((picture[:, :, :3], np.full((SIDE, SIDE, 1), 255, np.uint8)), 2)
    np.testing.assert_allclose(logits(network, picture[:, :, :3]), by_torch(4, opaque, spec), atol=1e-5)
    gray = picture[:, :, :1].repeat(4, 2)
    gray[:, :, 3] = 255
    np.testing.assert_allclose(logits(network, picture[:, :, 0]), by_torch(4, gray, spec), atol=1e-5)


def test_transparency_in_four_channels_has_half_the_limit() -> None:
    names = ("red", "green", "blue", "alpha")
    spec = PreprocessSpec((8, 8), 8, "bilinear", (0.5,) * 4, (0.5,) * 4, channels=names)
    picture = np.zeros((10, 10, 4), np.uint8)
    decode(Upload(encoded(Image.fromarray(picture), "PNG")), spec, 200)
    with pytest.raises(ContentTooLarge, match=r"10 x 10 pixels; at most 9\.5e-05 million are allowed for colour with"):
        decode(Upload(encoded(Image.fromarray(picture), "PNG")), spec, 190)
    decode(Upload(encoded(Image.fromarray(picture[:, :, :3]), "PNG")), spec, 100)


def test_the_low_byte_of_16_bits_matters_where_it_is_declared(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(20_000, 21_000, (SIDE, SIDE), np.uint16)
    network = opened(tmp_path, 1, mean=[0.5], std=[0.5], low=20_000, high=21_000)
    expected = by_torch(1, values[:, :, None], network.spec.preprocess)
    deep = logits(network, png(values))
    np.testing.assert_allclose(deep, expected, atol=1e-5)
    for same in (values, encoded(Image.fromarray(values), "TIFF"), Image.fromarray(values)):
        np.testing.assert_allclose(logits(network, same), expected, atol=1e-5)
    copy = png(np.rint((values - 20_000.0) * 255 / 1000).astype(np.uint8))  # 0 to 255 stand for the range
    assert 1e-5 < np.abs(logits(network, copy) - deep).max() < 0.01
    plain = opened(tmp_path, 1, mean=[0.5], std=[0.5])
    assert logits(plain, png(values)).tolist() == logits(plain, png((values >> 8).astype(np.uint8))).tolist()


@pytest.mark.parametrize("form", [".png", ".tiff", "lzw .tiff"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_16_bits_are_read_at_full_depth(tmp_path: Path, channels: int, form: str) -> None:
    names = ["red", "green", "blue", "alpha"][:channels]
    network = opened(tmp_path, channels, channels=names, high=65_535)
    values = np.random.default_rng(0).integers(0, 65_536, (SIDE, SIDE, channels), np.uint16)
    bgr = np.concatenate((values[:, :, 2::-1], values[:, :, 3:]), 2)
    options = [cv2.IMWRITE_TIFF_COMPRESSION, 5 if "lzw" in form else 1] if "tiff" in form else []
    data = cv2.imencode(form.split()[-1], bgr, options)[1].tobytes()
    expected = by_torch(channels, values, network.spec.preprocess)
    np.testing.assert_allclose(logits(network, data), expected, atol=1e-5)


def test_gray_of_16_bits_with_alpha_lies_over_white(tmp_path: Path) -> None:
    network = opened(tmp_path, 1, high=65_535)
    gray, alpha = np.random.default_rng(0).integers(0, 65_536, (2, SIDE, SIDE), np.uint16).astype(float)
    data = gray_and_alpha(np.stack((gray, alpha), 2).astype(np.uint16))
    expected = (gray * alpha + 65_535 * (65_535 - alpha)) / 65_535
    np.testing.assert_allclose(
        logits(network, data), by_torch(1, expected[:, :, None], network.spec.preprocess), atol=1e-4
    )


def gray_and_alpha(values: Array) -> bytes:
    """A PNG of 16-bit gray with alpha, which neither Pillow nor OpenCV writes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, _ = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 4, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("compression", ["raw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_each_page_of_a_tiff_is_a_channel(tmp_path: Path, dtype: type[np.generic], compression: str) -> None:
    eight = dtype is np.uint8
    network = opened(tmp_path, 5, channels=BANDS, **({} if eight else {"high": 10_000}))
    values = noise(5, 0, 255 if eight else 10_000).astype(dtype)
    data = pages(*values.transpose(2, 0, 1), compression=compression)
    np.testing.assert_allclose(logits(network, data), by_torch(5, values, network.spec.preprocess), atol=1e-5)


def test_overlays_are_drawn_on_the_shown_channels_stretched_from_their_range(tmp_path: Path) -> None:
    values = noise(5, -10, 30)
    for shown, drawn in ((["nir", "red", "green"], (3, 2, 1)), ([], (2, 1, 0)), (["swir"], (4, 4, 4))):
        network = opened(tmp_path, 5, channels=BANDS, low=-5, high=[20, 25, 30, 20, 15], shown=shown)
        (cam,) = network.grad_cam(values, overlay=True, alpha=0)
        assert cam.overlay is not None
        range_of = (values + 5) * 255 / (np.array(network.spec.preprocess.high) + 5)
        expected = np.rint(np.clip(range_of, 0, 255))[:, :, drawn]
        found = np.asarray(cam.overlay.to_pil().convert("RGB")).astype(int)
        assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_maps_at_the_pixels_are_those_of_all_channels(tmp_path: Path, engine: str) -> None:
    network = opened(tmp_path, 5, engine, channels=BANDS, high=1)
    values = noise(5)
    (cam,) = network.grad_cam(values, method="integrated-gradients", target="b", signed=True, samples=64)
    mean = np.full_like(values, network.spec.preprocess.blank)
    there, nowhere = (by_torch(5, each, network.spec.preprocess)[1] for each in (values, mean))
    assert np.sum(cam.raw.values) == pytest.approx(there - nowhere, abs=1e-4)  # completeness
    for method in ("smoothgrad", "score-cam", "ablation-cam"):
        assert network.grad_cam(values, method=method)[0].raw.shape


@pytest.mark.parametrize("declared", [{}, {"low": -100, "high": 300}])
def test_maps_of_any_channels_can_be_tried_edited_and_compared(tmp_path: Path, declared: dict[str, Any]) -> None:
    network = opened(tmp_path, 5, channels=BANDS, **declared)
    values = noise(5, 0, 255)
    image = values if declared else values.astype(np.uint8)
    (cam,) = network.grad_cam(image, trust=True, trust_steps=2, trust_maps=4)
    assert cam.trust is not None
    deletion = cam.trust.curves[0]
    # What is deleted becomes the mean, which is normalised to 0.
    mean = np.full_like(values, network.spec.preprocess.blank)
    blank = torch.from_numpy(by_torch(5, mean if declared else np.rint(mean), network.spec.preprocess))
    assert deletion.map[-1] == pytest.approx(float(blank.softmax(0)[cam.target.index]), abs=1e-4)
    assert network.what_if(image, layer="first", mute=[0]).targets[0].before.label
    assert network.compare(image, image[::-1]).maps.reach > 0
    assert network.explain(image).predictions


def test_a_float_picture_is_perturbed_in_its_range() -> None:
    values = noise(5, -1, 1)
    heat = np.random.default_rng(0).random((6, 6)).astype(np.float32)
    low, high = (-1.0,) * 5, (1.0,) * 5
    trials = Perturbations(values, [heat], [127.5] * 5, Design(2, 4), low, high)
    for number, perturbation in enumerate(trials.plan):
        picture = trials.picture(number)
        assert picture.dtype == np.float32
        assert picture.shape == values.shape
        assert np.abs(picture).max() < 1.1
        if perturbation.kind == "original":
            assert picture is values
        if perturbation.kind == "blank":
            np.testing.assert_allclose(picture, 0, atol=1e-6)


FIVE = PreprocessSpec(
    (SIDE, SIDE),
    SIDE,
    "bilinear",
    (0.5,) * 5,
    (0.25,) * 5,
    channels=BANDS,
    high=(1.0,) * 5,
    depth="float32",
)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            encoded(Image.new("RGB", (9, 9))),
            r"takes 5 channels \(blue, green, red, nir, swir\), and the picture has 3: ",
        ),
        (encoded(Image.new("LA", (9, 9))), r"takes 5 channels .*, and the picture has 3: "),
        (encoded(Image.new("RGB", (9, 9)), "JPEG"), "and the picture has 3: send a TIFF with a page for each channel"),
        (png(np.zeros((9, 9, 3), np.uint16)), "and the picture has 3"),
        (png(np.zeros((9, 9), np.uint16)), "and the picture has 1"),
        (pages(*np.zeros((4, 9, 9), np.float32)), r"each a gray page of one size; the TIFF has 4 pages\."),
        (pages(*np.zeros((7, 9, 9), np.float32)), r"the TIFF has more than 5 pages\."),
        (pages(*np.zeros((4, 9, 9), np.uint8), np.zeros((8, 9), np.uint8)), "not all are gray and of one size"),
        (pages(*np.zeros((5, 9, 9, 3), np.uint8)), "not all are gray and of one size"),
        (pages(*np.full((5, 9, 9), np.nan, np.float32)), "channel blue has NaN, infinity .* in row 0, column 0"),
        (pages(*np.zeros((5, 9, 9), np.float32))[:-900], "corrupt or truncated"),
    ],
)
def test_a_picture_of_other_channels_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(UndecodableImage, match=message):
        decode(Upload(data), FIVE, 10_000)


def test_pages_and_16_bits_count_towards_the_limit_of_pixels() -> None:
    five = pages(*np.zeros((5, 9, 9), np.float32))
    assert decode(Upload(five), FIVE, 5 * 81).pixels.shape == (SIDE, SIDE, 5)
    with pytest.raises(ContentTooLarge, match="allowed for a TIFF of 5 pages"):
        decode(Upload(five), FIVE, 5 * 81 - 1)
    three = replace(FIVE, mean=(0.5,) * 3, std=(0.5,) * 3, channels=(), low=(), high=(), shown=())
    assert decode(Upload(png(np.zeros((9, 9, 3), np.uint16))), three, 162).pixels.shape == (SIDE, SIDE, 3)
    with pytest.raises(ContentTooLarge, match="allowed for 16-bit colour"):
        decode(Upload(png(np.zeros((9, 9, 3), np.uint16))), three, 161)


def test_a_tiff_of_a_million_pages_is_not_searched_for_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    sought: list[int] = []
    seek = TiffImagePlugin.TiffImageFile.seek

    def noted(image: TiffImagePlugin.TiffImageFile, frame: int) -> None:
        sought.append(frame)
        seek(image, frame)

    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "seek", noted)
    with pytest.raises(UndecodableImage, match="more than 5 pages"):
        decode(Upload(pages(*np.zeros((40, 9, 9), np.uint8))), FIVE, 10_000)
    assert max(sought) == 5


def test_numbers_without_a_known_range_are_refused_by_8_bit_networks() -> None:
    gray = PreprocessSpec((SIDE, SIDE), SIDE, "bilinear", (0.5,), (0.25,))
    for data in (encoded(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"),):
        with pytest.raises(UndecodableImage, match="no known range"):
            decode(Upload(data), gray, 10_000)


def npy(array: Array) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=True)
    return file.getvalue()


def forged(header: str, body: bytes = b"", version: int = 1) -> bytes:
    """A .npy file of this header."""
    text = header.encode("latin-1")
    return b"\x93NUMPY" + bytes((version, 0)) + len(text).to_bytes(2 if version == 1 else 4, "little") + text + body


def described(dtype: str = "<f4", shape: str = "2, 2, 5", body: bytes = bytes(80), order: str = "False") -> bytes:
    return forged(f"{{'descr': '{dtype}', 'fortran_order': {order}, 'shape': ({shape}), }}\n", body)


HOSTILE = {
    "other channels last": (npy(np.zeros((9, 9, 4), np.float32)), r"shape \[9, 9, 4\], and the network takes \[height"),
    "no channels": (npy(np.zeros((9, 9), np.float32)), r"takes \[height, width, 5\] or \[5, height, width\]: blue, gr"),
    "a batch": (npy(np.zeros((1, 9, 9, 5), np.float32)), r"the shape \[1, 9, 9, 5\]"),
    "a number": (npy(np.zeros((), np.float32)), r"the shape \[\]"),
    "ambiguous": (npy(np.zeros((5, 9, 5), np.float32)), r"its first and its last axis both have 5 entries"),
    "empty": (npy(np.zeros((0, 9, 5), np.float32)), r"impossible shape \(0, 9, 5\)"),
    "complex": (npy(np.zeros((9, 9, 5), np.complex64)), "has the dtype '<c8'"),
    "bool": (npy(np.zeros((9, 9, 5), bool)), r"has the dtype '\|b1'"),
    "text": (npy(np.full((9, 9, 5), "a")), "has the dtype '<U1'"),
    "long double": (npy(np.zeros((9, 9, 5), np.longdouble)), "has the dtype"),
    "dates": (npy(np.zeros((9, 9, 5), "M8[s]")), r"has the dtype '<M8\[s\]'"),
    "pickled": (npy(np.full((2, 2, 5), None)), "holds Python objects, which are never read"),
    "structured": (npy(np.zeros((2, 2, 5), [("a", "<f4")])), "does not describe an array of plain numbers"),
    "NaN": (npy(np.full((9, 9, 5), np.nan, np.float32)), "channel blue has NaN"),
    "infinity": (npy(np.full((9, 9, 5), np.inf)), "infinity"),
    "too large for float32": (npy(np.full((9, 9, 5), 1e300)), "a number beyond single precision"),
    "too large for the network": (
        npy(np.full((9, 9, 5), 3e38)),
        r"blue has 3e\+38 in row 0, column 0: at most 1e\+\d+ is read",
    ),
    "truncated": (
        npy(np.zeros((9, 9, 5), np.float32))[:-1],
        "truncated or too long: the header describes 1620 bytes, 16",
    ),
    "too long": (npy(np.zeros((9, 9, 5), np.float32)) + b"x", "truncated or too long"),
    "huge shape": (described(shape="99999, 99999, 5"), "truncated or too long: the header describes 199996000020"),
    "huge sides": (described(shape="9" * 40 + ", 2, 5"), "impossible shape"),
    "negative": (described(shape="-2, 2, 5"), "does not describe"),
    "code for a shape": (described(shape="__import__('os').abort()"), "does not describe"),
    "code": (forged("__import__('os').abort()"), "does not describe"),
    "no header": (forged(""), "does not describe"),
    "brackets": (forged("(" * 9000), "does not describe"),
    "a long header": (forged("{" + " " * 20_000 + "}"), "more than 10000 bytes"),
    "a header that is not there": (b"\x93NUMPY\x01\x00\xff\x0f{", "truncated"),
    "the version of another age": (forged("{}", version=9), "not of version 1 or 2"),
    "magic alone": (b"\x93NUMPY", "truncated"),
    "twice the shape": (forged("{'shape': (2,), 'shape': (2,), 'shape': (2,), }"), "does not describe"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_strangers_array_is_refused_in_a_sentence(name: str) -> None:
    data, message = HOSTILE[name]
    with pytest.raises(UndecodableImage, match=message) as refused:
        decode(Upload(data), FIVE, 10_000)
    assert len(refused.value.detail) < 300
    assert refused.value.detail.endswith(".")


def test_an_array_of_too_many_pixels_is_refused() -> None:
    array = npy(np.zeros((100, 101, 5), np.float32))
    for limits in ((10_099, 200), (20_000, 100)):
        with pytest.raises(ContentTooLarge, match="The array has 101 x 100 pixels; at most"):
            decode(Upload(array), FIVE, limits[0], max_side=limits[1])


@pytest.mark.parametrize("order", ["True", "False"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "|u1", "<u2", ">i2", "<f2", "<f8", "<i8"])
def test_arrays_of_any_plain_numbers_are_read(dtype: str, order: str) -> None:
    values = np.random.default_rng(0).integers(0, 100, (SIDE, SIDE, 5)).astype(dtype)
    body = values.tobytes("F" if order == "True" else "C")
    found = decode(Upload(described(dtype, f"{SIDE}, {SIDE}, 5", body, order), "a.npy"), FIVE, 10_000)
    expected = values / 255 if dtype == "|u1" else values  # 0 to 255 stand for 0 to 1
    np.testing.assert_allclose(found.pixels, expected, rtol=1e-6)
    assert (found.info.format, found.info.width, found.info.filename) == ("NPY", SIDE, "a.npy")


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({}, r"^net5 takes 5 channels, not 3 \(red, green, blue\): give mean and std with a number for each$"),
        ({"mean": [0.5] * 4}, r"^net5 takes 5 channels, not 4 \(channel 1, .*\)"),
        ({"mean": [0.5] * 5, "std": [0.2] * 4}, "^mean has 5 numbers, one for each channel, and std 4$"),
        ({"mean": [0.5] * 5, "channels": ["a"]}, "^mean has 5 numbers, one for each channel, and channels 1$"),
        ({"mean": [0.5] * 5, "low": [0, 1]}, "^mean has 5 numbers, one for each channel, and low 2$"),
        ({"channels": list("aabcd")}, "^two channels have the same name among a, a, b, c, d$"),
        ({"channels": "abcde"}, "^channels and shown are lists of names"),
        ({"channels": BANDS, "shown": ["uv"]}, "^shown names one or three of blue, .*, not uv$"),
        ({"channels": BANDS, "shown": ["red", "nir"]}, "^shown names one or three of blue, .*, not red, nir$"),
        ({"channels": BANDS, "low": 5, "high": 5}, "^low must be below high"),
        ({"channels": BANDS, "std": [0.2] * 4 + [0]}, "."),
        ({"mean": [0.5] * 17}, "^a network takes 1 to 16 channels, and mean has 17 numbers$"),
        ({"mean": [500] * 5, "high": 1000}, r"must be those of values from 0 to 1.*\(value - low\) / \(high - low\)$"),
    ],
)
def test_what_can_not_be_compiled_is_said_in_a_sentence(tmp_path: Path, declared: dict[str, Any], message: str) -> None:
    with pytest.raises(CompileError, match=message):
        pellucid.compile(
            Net(5), tmp_path / "net5.pellucid", labels=LABELS, size=SIDE, output="softmax", progress=False, **declared
        )
    assert not [*tmp_path.iterdir()]


def test_a_file_of_before_has_8_bit_rgb(tmp_path: Path) -> None:
    network = opened(tmp_path, 3).compiled
    assert network.model.preprocess.is_plain
    dumped = TypeAdapter(PreprocessSpec).dump_python(network.model.preprocess)
    old = {name: dumped[name] for name in ("size", "resize", "interpolation", "mean", "std", "squash")}
    assert TypeAdapter(PreprocessSpec).validate_python(old) == network.model.preprocess
    wrongs: list[dict[str, Any]] = [{"depth": "float64"}, {"low": [0.0]}, {"high": [1.0] * 3}, {"mean": []}]
    for wrong in (*wrongs, {"channels": ["", "a", "b"]}):
        with pytest.raises(ValidationError):
            TypeAdapter(PreprocessSpec).validate_python({**dumped, **wrong})


def test_pixels_of_float32_run_in_single_precision_unless_asked(tmp_path: Path) -> None:
    float32, plain = opened(tmp_path, 1, high=1).compiled, opened(tmp_path, 3).compiled
    for engine in ("openvino", "torch"):
        assert pellucid.open(float32, engine=engine, cache=tmp_path).engine.info.precision == "fp32"
        assert pellucid.open(float32, engine=engine, precision="bf16", cache=tmp_path).engine.info.precision == "bf16"
    assert repr(float32).startswith("<network net1: 3 classes, 24 x 24 pixels of 1 channel, ")
    assert repr(plain).startswith("<network net3: 3 classes, 24 x 24 pixels, ")
