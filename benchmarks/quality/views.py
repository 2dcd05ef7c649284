"""What a network recognises and where it points, by the view of the picture: its centre, all of it, finer and finer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.report import Figures, table
from pellucid.library import Network
from pellucid.resampling import upsample
from pellucid.types import Box, Floats

_BEST: Final = 5
_FINER: Final = 1.25
# Of the longer side: Zhang et al. allow 15 pixels on pictures of about 500 x 375.
_TOLERANCE: Final = 15 / 500


def measure(
    network: Network, folder: Path, boxes: Mapping[tuple[str, int], list[Box]], say: Callable[[str], None]
) -> Figures:
    """The figures of each view, over all pairs of a picture and a class. ``boxes`` are in pixels of the picture."""
    detail = network.spec.preprocess.resize
    views: dict[str, dict[str, Any]] = {"centre": {}, "squash": {"view": "squash"}}
    if network.sizes.multiple is None:
        views["whole, in tiles"] = {"view": "whole"}
    else:
        for each in (detail, round(detail * _FINER)):
            views[f"whole, detail {each}"] = {"view": "whole", "detail": each}
    found: Figures = {}
    for name, options in views.items():
        seen = [_seen(network, folder / file, target, places, options) for (file, target), places in boxes.items()]
        recognised, pointed, pixels = np.mean(seen, 0)
        found[name] = {"recognised": recognised, "pointed": pointed, "pixels": pixels, "pairs": len(seen)}
        say(f"{name}: {found[name]}")
    return found


def page(found: Figures) -> str:
    """The figures as a table."""
    centre = found["centre"]["pixels"]
    rows = [
        [name, f"{of['recognised']:.1%}", f"{of['pointed']:.1%}", f"{of['pixels'] / centre:.2f}"]
        for name, of in found.items()
    ]
    head = ["what the network sees", "class in the top 5", "pointing game, all pairs", "pixels"]
    return f"{table(head, rows)}\n\n{found['centre']['pairs']} pairs of a picture and a class."


def _seen(
    network: Network, picture: Path, target: int, boxes: list[Box], options: dict[str, Any]
) -> tuple[float, float, float]:
    """Whether the class is among the best, whether its map points at a box, and the pixels that the network sees."""
    best = {prediction.index for prediction in network.predict(picture, top_k=_BEST, **options)}
    result = network.explain(picture, include="grad_cam", target=target, max_side=8, provenance=True, **options)
    assert result.grad_cam is not None
    assert result.frame is not None
    (cam,), (across, down) = result.grad_cam, result.frame.scale
    x0, y0, x1, y1 = cam.box
    size = (result.image.width or 0, result.image.height or 0)
    heat = np.asarray(cam.raw.values, np.float32)
    seen = result.tiles or [cam.box]
    pixels = sum(round((right - left) * across) * round((bottom - top) * down) for left, top, right, bottom in seen)
    return float(target in best), float(_points(heat, (x0, y0, x1, y1), boxes, size)), float(pixels)


def _points(heat: Floats, over: Box, boxes: list[Box], size: tuple[int, int]) -> bool:
    """Whether the largest value of a map ``[h, w]`` of the box ``over`` lies in one of the boxes, or close to it."""
    if np.ptp(heat) == 0:
        return False
    width, height = over[2] - over[0], over[3] - over[1]
    row, column = divmod(int(upsample(heat, width, height).argmax()), width)
    x, y, near = over[0] + column + 0.5, over[1] + row + 0.5, _TOLERANCE * max(size)
    return any(x0 - near <= x <= x1 + near and y0 - near <= y <= y1 + near for x0, y0, x1, y1 in boxes)
