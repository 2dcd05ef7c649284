"""What was found, where the evidence lies, and how far to trust that, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from pydantic import Field

from pellucid.render import compose
from pellucid.schemas import GradCam, ImageInfo, RawMap, Schema, Target

# Cells of a map are enlarged if their longer side has fewer than this.
_GRID: Final = 128
# A part of the frame is named if it has this share of the strongest evidence; none is if that covers _SPREAD of it all.
_NAMED, _SPREAD = 0.2, 0.5
_PARTS: Final = (
    *("upper left", "upper middle", "upper right"),
    *("middle left", "centre", "middle right"),
    *("lower left", "lower middle", "lower right"),
)
# From this mean correlation with the maps of random weights, a map does not depend on what the network has learnt.
_SAME: Final = 0.8


class Where(Schema):
    """Where the strongest evidence is: at least 0.8 of the map's largest value."""

    words: str = Field(description="Parts of the picture, in thirds of each side.", examples=["the centre"])
    peak: list[int] = Field(description="x, y of the largest value, in pixels of the picture.", examples=[[210, 140]])
    share: float = Field(description="Its share of what the network saw, 0 to 1.", examples=[0.04])


def where(raw: RawMap, box: Sequence[int], image: ImageInfo, reach: float = 0) -> Where | None:
    """The place of the strongest evidence, as a figure's line shows it, by a map over the ``box`` of an image.

    ``reach``: the end of a scale that several maps share. None if a figure shows no evidence.
    """
    heat = np.array(raw.values, np.float32)
    enlarged = 2 * (_GRID // max(heat.shape)) + 1  # odd, so a cell's centre is a pixel's, with the cell's value
    strong = compose.strong(heat, (enlarged * heat.shape[1], enlarged * heat.shape[0]))
    if heat.max() < compose.BEGIN * reach or not strong.any():
        return None
    width, height = image.width or 1, image.height or 1
    x0, y0, x1, y1 = box
    down, across = (y1 - y0) / strong.shape[0], (x1 - x0) / strong.shape[1]  # pixels of the picture in one of the map
    ys, xs = np.nonzero(strong)
    rows, columns = 3 * (y0 + (ys + 0.5) * down) / height, 3 * (x0 + (xs + 0.5) * across) / width
    counts = np.bincount(3 * rows.astype(int).clip(0, 2) + columns.astype(int).clip(0, 2), minlength=9)
    named = [f"the {_PARTS[part]}" for part in np.argsort(-counts, kind="stable") if counts[part] >= _NAMED * len(ys)]
    spread = not named or len(ys) > _SPREAD * strong.size
    y, x = (enlarged * (each + 0.5) for each in divmod(int(heat.argmax()), heat.shape[1]))
    return Where(
        words="no one place" if spread else " and ".join(filter(None, [", ".join(named[:-1]), named[-1]])),
        peak=[int(x0 + x * across), int(y0 + y * down)],
        share=len(ys) / strong.size,
    )


def explained(
    model: str, image: ImageInfo, best: Sequence[Target], cam: GradCam, place: Where | None, untested: str
) -> str:
    """What was found, where, and how far to trust it.

    ``best``: the predictions. ``untested``: why there is no trust, if not by choice.
    """
    said = f"{model} gives {cam.target.label!r} {cam.target.score}"
    if cam.target.similarity is not None:
        said = f"{model} gives the picture and the reference a similarity of {cam.target.score}"
    if len(best) > 1 and best[0].value is None:
        first = best[0].index == cam.target.index
        said += f", {'ahead of' if first else 'behind'} {best[first].label!r} {best[first].score}"
    if cam.target.applies is False:
        said += ", below the threshold from which the label applies"
    said += f"; by {cam.method} at {cam.layer}, "
    about = "it" + "".join(f" and against {each.label!r}" for each in cam.against or [])
    if place is None:
        said += f"no position has evidence for {about}."
    else:
        share = f"{place.share:.0%}" if place.share >= 0.01 else "less than 1%"
        x0, y0, x1, y1 = cam.box
        if (x1 - x0, y1 - y0) != (image.width, image.height):
            share += f" of the {x1 - x0} x {y1 - y0} pixels that it saw"
        said += f"the strongest evidence for {about} lies in {place.words} ({compose.LINE:.0%} or more of its "
        said += f"maximum, on {share} of the picture's {image.width} x {image.height} pixels)."
    if cam.trust is None:
        return f"{said} Whether the network follows this map was not tested{untested}."
    if (cam.trust.sanity.mean_magnitude or 0) >= _SAME:
        said += " The map is much the same with random weights, so it shows the picture more than what was learnt."
    return f"{said} {cam.trust.sentence}"
