"""The photographs that every part is measured with: a dozen distinct JPEGs of 500 x 375 from the three samples."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageOps

SAMPLES = Path(__file__).parents[1] / "service" / "web" / "samples"
SIZE = (500, 375)
QUALITY = 90
# Which 4:3 part of a sample: its width and height as a share of the largest that fits, and where in what is left over.
_CROPS = ((1.0, 0.0), (1.0, 1.0), (0.9, 0.5), (0.8, 0.3))


def photographs() -> list[bytes]:
    """Twelve JPEGs, the same bytes on every call: four parts of each sample, every second one mirrored."""
    taken = []
    for path in sorted(SAMPLES.glob("*.jpg")):
        with Image.open(path) as image:
            picture = image.convert("RGB")
        whole = min(picture.width / SIZE[0], picture.height / SIZE[1])
        for number, (share, place) in enumerate(_CROPS):
            width, height = SIZE[0] * whole * share, SIZE[1] * whole * share
            left, top = (picture.width - width) * place, (picture.height - height) * place
            box = (left, top, left + width, top + height)
            part = picture.resize(SIZE, Image.Resampling.BICUBIC, box)
            buffer = io.BytesIO()
            (ImageOps.mirror(part) if number % 2 else part).save(buffer, "JPEG", quality=QUALITY)
            taken.append(buffer.getvalue())
    return taken
