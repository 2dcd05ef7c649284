"""Pixels of any mode are converted to the right colours, within the documented memory."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pellucid.decode.image import decode
from pellucid.types import Upload
from tests.decode.test_image import SPEC, encoded, pixels_of, quadrants
from tests.support import REPOSITORY

WHITE = (255, 255, 255)


def corner(image: Image.Image, file_format: str = "PNG", **options: object) -> tuple[int, ...]:
    """The picture's first pixel after decoding."""
    return tuple(pixels_of(encoded(image, file_format, **options))[0, 0].tolist())


def test_transparency_is_blended_over_white() -> None:
    image = quadrants().convert("RGBA")
    image.putalpha(0)
    assert (pixels_of(encoded(image, "PNG")) == 255).all()
    image.putalpha(127)
    assert corner(image) == pytest.approx((255, 128, 128), abs=1)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_works_for_grey_and_for_colour(mode: str) -> None:
    assert corner(Image.new("RGBA", (8, 8), (80, 80, 80, 51)).convert(mode)) == pytest.approx((220,) * 3, abs=1)


def test_a_palette_is_applied_and_its_transparent_colour_is_white() -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([255, 0, 0, 10, 20, 255])
    assert corner(image) == (10, 20, 255)
    assert corner(image, transparency=1) == WHITE


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_high_byte(file_format: str) -> None:
    assert corner(Image.fromarray(np.full((8, 8), 0x80FF, np.uint16)), file_format) == (0x80, 0x80, 0x80)


def test_sixteen_bit_colour_keeps_its_high_byte() -> None:
    rows = b"".join(b"\0" + struct.pack(">HHH", 0x80FF, 0x1000, 0xFF00) * 8 for _ in range(8))
    assert tuple(pixels_of(png(b"IHDR" + struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0), rows))[0, 0]) == (
        0x80,
        0x10,
        0xFF,
    )


def png(header: bytes, rows: bytes) -> bytes:
    def chunk(body: bytes) -> bytes:
        return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))

    return b"\x89PNG\r\n\x1a\n" + b"".join(map(chunk, (header, b"IDAT" + zlib.compress(rows), b"IEND")))


@pytest.mark.parametrize("file_format", ["JPEG", "TIFF"])
def test_cmyk_is_converted_to_the_colours_of_ink(file_format: str) -> None:
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    black = Image.new("CMYK", (8, 8), (0, 0, 0, 255))
    assert corner(cyan, file_format) == pytest.approx((0, 255, 255), abs=3)
    assert corner(black, file_format) == pytest.approx((0, 0, 0), abs=3)


@pytest.mark.parametrize(("mode", "colour"), [("L", 100), ("1", 255)])
def test_grey_is_three_equal_channels(mode: str, colour: int) -> None:
    assert corner(Image.new(mode, (8, 8), colour)) == (colour,) * 3


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_is_read_as_its_first_frame(file_format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((250, 0, 0), (0, 0, 250))]
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:])
    assert tuple(pixels_of(data)[0, 0].tolist()) == pytest.approx((250, 0, 0), abs=3)


def test_an_mpo_is_read_as_a_jpeg() -> None:
    frames = [Image.new("RGB", (1200, 1100), colour) for colour in ((250, 0, 0), (0, 0, 250))]
    data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "MPO"
    found = decode(Upload(data), SPEC, 10_000_000)
    assert found.info.format == "JPEG"
    assert tuple(found.pixels[0, 0].tolist()) == pytest.approx((250, 0, 0), abs=3)


def profile(red: int, green: int, blue: int, space: bytes = b"RGB ") -> bytes:
    """A colour profile like sRGB, whose red, green and blue primaries are those of the given channels."""
    primaries = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
    white = struct.pack(">3i", *(round(value * 65536) for value in (0.9642, 1, 0.8249)))

    def xyz(channel: int) -> bytes:
        return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in primaries[channel]))

    gamma = b"curv" + bytes(4) + struct.pack(">IHH", 1, 0x0233, 0)
    tags = {b"rXYZ": xyz(red), b"gXYZ": xyz(green), b"bXYZ": xyz(blue), b"wtpt": b"XYZ " + bytes(4) + white}
    tags |= {b"rTRC": gamma, b"gTRC": gamma, b"bTRC": gamma}
    table, data, offset = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", offset + len(data), len(content))
        data += content
    head = struct.pack(">4xI4s4s4s", 0x02100000, b"mntr", space, b"XYZ ") + bytes(12) + b"acsp"
    body = head.ljust(64, b"\0") + white
    return struct.pack(">I", 128 + len(table) + len(data)) + body.ljust(124, b"\0") + table + data


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_embedded_colour_profile_is_applied(file_format: str) -> None:
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    assert corner(red, file_format, icc_profile=profile(0, 1, 2)) == pytest.approx((255, 0, 0), abs=4)
    assert corner(red, file_format, icc_profile=profile(1, 0, 2)) == pytest.approx((0, 255, 0), abs=4)


@pytest.mark.parametrize("broken", [b"no profile", profile(1, 0, 2)[:200], profile(1, 0, 2, b"CMYK")])
def test_an_invalid_profile_is_ignored(broken: bytes) -> None:
    assert corner(Image.new("RGB", (8, 8), (255, 0, 0)), icc_profile=broken) == (255, 0, 0)


def test_a_large_transparent_picture_is_reduced_in_strips_and_looks_the_same() -> None:
    across = np.linspace(0, 255, 3000, dtype=np.uint8)
    pixels = np.stack(np.broadcast_arrays(across, across[:, None], np.uint8(60), across[::-1]), axis=-1)
    large = encoded(Image.fromarray(pixels, "RGBA"), "PNG", compress_level=1)
    small = encoded(Image.fromarray(pixels, "RGBA").resize((1000, 1000), Image.Resampling.BOX), "PNG")
    found, expected = (decode(Upload(data), SPEC, 10_000_000) for data in (large, small))
    assert (found.info.width, found.box) == (3000, (188, 188, 2812, 2812))
    assert np.abs(found.pixels - expected.pixels.astype(int)).max() <= 2


_MEASURE = """
import resource, sys
from pellucid.decode.image import decode
from pellucid.types import Upload
from tests.decode.test_image import SPEC
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
for path in sys.argv[1:]:
    before = peak()
    decode(Upload(open(path, "rb").read()), SPEC, 10**8)
    print(peak() - before)
"""


def test_a_picture_takes_no_more_memory_than_documented(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("small", "CMYK", "RGBA", "webp")]
    colour = (9, 99, 199, 128)
    paths[0].write_bytes(encoded(quadrants().resize((300, 300)), "PNG"))
    paths[1].write_bytes(encoded(Image.new("CMYK", (3000, 3000), colour), "TIFF"))
    paths[2].write_bytes(encoded(Image.new("RGBA", (3000, 3000), colour), "PNG", compress_level=1))
    paths[3].write_bytes(encoded(Image.new("RGBA", (3000, 3000), colour), "WEBP", lossless=True, method=0))
    measured = subprocess.run(
        [sys.executable, "-c", _MEASURE, *map(str, paths)], cwd=REPOSITORY, check=True, capture_output=True, text=True
    )
    _, cmyk, rgba, webp = (int(grown) / 3000**2 for grown in measured.stdout.split())
    assert cmyk < 8
    assert cmyk + rgba < 8
    assert cmyk + rgba + webp < 18
