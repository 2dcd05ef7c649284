"""Converts pixels of any mode to 8-bit sRGB. Works in strips, so that a large picture is never in memory twice."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Final

import numpy as np
from PIL import Image, ImageCms

# Pixels converted at once.
_STRIP: Final = 1 << 20
# Larger colour profiles are ignored. A camera's or a screen's takes some kilobytes, a printer's some hundred.
_LARGEST_PROFILE: Final = 4 << 20


def to_rgb(image: Image.Image, factor: int = 1) -> Image.Image:
    """Convert the picture to RGB, with each side reduced by the integer ``factor``, by averaging.

    Transparency is blended over white. 16-bit greyscale keeps its high byte; Pillow alone would clip it. An embedded
    colour profile is applied if it is valid. Raises ValueError for pixels of modes I and F, whose range is unknown.
    """
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no known range; use 8 or 16 bits")
    if image.mode == "RGB" and factor == 1 and not image.has_transparency_data and transform_of(image) is None:
        return image
    rows = max(1, _STRIP // image.width // factor) * factor
    if rows >= image.height:
        return _converted(image).reduce(factor)
    whole = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        whole.paste(_converted(strip).reduce(factor), (0, top // factor))
    return whole


def transform_of(image: Image.Image) -> ImageCms.ImageCmsTransform | None:
    """The transform of the picture's pixels to sRGB, or None if it has no usable profile or is in sRGB already."""
    profile = image.info.get("icc_profile")
    return _to_srgb(profile, image.mode) if profile and len(profile) <= _LARGEST_PROFILE else None


def _converted(image: Image.Image) -> Image.Image:
    flat = image
    if image.mode.startswith("I;16"):
        flat = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        flat = Image.new("RGB", rgba.size, (255, 255, 255))
        flat.paste(rgba, mask=rgba.getchannel("A"))
    elif image.mode in ("P", "1", "LAB", "YCbCr", "HSV"):
        flat = image.convert("RGB")
    flat.info = image.info
    transform = transform_of(flat)
    return flat.convert("RGB") if transform is None else transform.apply(flat)


@lru_cache(16)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform from ``profile`` to sRGB. None if the profile is sRGB, is broken, or does not fit ``mode``."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in (source.profile.profile_description or ""):
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except Exception:  # lcms and its wrapper raise errors of many types for broken profiles
        return None
