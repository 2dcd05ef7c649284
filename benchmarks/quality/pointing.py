"""What a network recognises and where it points, by the view of the picture: its centre, all of it, finer and finer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.quality.boxes import Pair
from benchmarks.report import Figures, table
from pellucid.library import Network
from pellucid.resampling import upsample
from pellucid.types import Box, Floats

_BEST: Final = 5
_FINER: Final = 1.25
# Of the longer side: Zhang et al. allow 15 pixels on pictures of about 500 x 375.
_TOLERANCE: Final = 15 / 500


def measure(
    network: Network, folder: Path, boxes: Mapping[Pair, list[Box]], classes: Path | None, say: Callable[[str], None]
) -> Figures:
    """The figures of each view, over all pairs of a picture and a class. ``boxes`` are in pixels of the picture.

    ``classes`` is a folder of folders of pictures, one for each class, named by its number: how often is the first
    class the right one?
    """
    detail = network.spec.preprocess.resize
    views: dict[str, dict[str, Any]] = {"centre": {}, "squash": {"view": "squash"}}
    if network.sizes.multiple is None:
        views["whole, in tiles"] = {"view": "whole"}
    else:
        for each in (detail, round(detail * _FINER)):
            views[f"whole, detail {each}"] = {"view": "whole", "detail": each}
    found: Figures = {}
    for name, options in views.items():
        seen = [_seen(network, folder / file, targets, places, options) for (file, targets), places in boxes.items()]
        recognised, pointed, pixels = np.mean(seen, 0)
        found[name] = {"recognised": recognised, "pointed": pointed, "pixels": pixels, "pairs": len(seen)}
        if classes is not None:
            first = [
                (int(path.parent.name), network.predict(path, top_k=1, **options)[0].index)
                for path in sorted(classes.rglob("*.*"))
            ]
            found[name] |= {"right": np.mean([named == said for named, said in first]), "pictures": len(first)}
        say(f"{name}: {found[name]}")
    return found


def page(network: str, found: Figures) -> str:
    """The figures as a table."""
    centre = found["centre"]
    top_1 = "right" in centre
    shares = ("recognised", "pointed", *(["right"] if top_1 else []))
    rows = [
        [name, *(f"{of[key]:.1%}" for key in shares), f"{of['pixels'] / centre['pixels']:.2f}"]
        for name, of in found.items()
    ]
    head = ["what the network sees", "class in the top 5", "pointing game, all pairs", *(["top 1"] if top_1 else [])]
    about = f"`{network}`, {centre['pairs']} pairs of a picture and a class" + (
        f", top 1 of {centre['pictures']} others." if top_1 else "."
    )
    return f"{table([*head, 'pixels'], rows)}\n\n{about}"


def _seen(
    network: Network, picture: Path, targets: tuple[int, ...], boxes: list[Box], options: dict[str, Any]
) -> tuple[float, float, float]:
    """Whether a class is among the best, whether the map of the likeliest points at a box, and the pixels seen."""
    ranked = [each.index for each in network.predict(picture, top_k=len(network.spec.labels), **options)]
    target = min(targets, key=ranked.index)
    result = network.explain(picture, include="grad_cam", target=target, max_side=8, provenance=True, **options)
    assert result.grad_cam is not None
    assert result.frame is not None
    (cam,), (across, down) = result.grad_cam, result.frame.scale
    x0, y0, x1, y1 = cam.box
    size = (result.image.width or 0, result.image.height or 0)
    heat = np.asarray(cam.raw.values, np.float32)
    seen = result.tiles or [cam.box]
    pixels = sum(round((right - left) * across) * round((bottom - top) * down) for left, top, right, bottom in seen)
    return float(target in ranked[:_BEST]), float(_points(heat, (x0, y0, x1, y1), boxes, size)), float(pixels)


def _points(heat: Floats, over: Box, boxes: list[Box], size: tuple[int, int]) -> bool:
    """Whether the largest value of a map ``[h, w]`` of the box ``over`` lies in one of the boxes, or close to it."""
    if np.ptp(heat) == 0:
        return False
    width, height = over[2] - over[0], over[3] - over[1]
    row, column = divmod(int(upsample(heat, width, height).argmax()), width)
    x, y, near = over[0] + column + 0.5, over[1] + row + 0.5, _TOLERANCE * max(size)
    return any(x0 - near <= x <= x1 + near and y0 - near <= y <= y1 + near for x0, y0, x1, y1 in boxes)
