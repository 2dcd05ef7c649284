"""The forms in which an image's part of a reply is written: JSON, one picture alone, a file of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from starlette.responses import Response

from pellucid.errors import InvalidOption, NotAcceptable
from pellucid.parts import numbers_file, result
from pellucid.parts.option_types import Analysis, Options
from pellucid.parts.trust import Trusted
from pellucid.render import plot, png
from pellucid.render.encode import encode
from pellucid.types import DecodedImage, ImageInfo, Outcome, Plan

from . import reply

# The axis of a gate's bars goes from 1 at least this far.
_LEAST_REACH: Final = 0.75


def written(
    image: DecodedImage,
    outcome: Outcome,
    trusted: Sequence[Trusted] = (),
    *,
    options: Options,
    labels: Sequence[str],
    media_type: str,
    origin: dict[str, Any] | None,
) -> reply.Entry:
    """One image's part of a reply of this type. ``origin`` is the reply's provenance, if that is asked for.

    ``trusted`` as in ``Analysis``.
    """
    if media_type == numbers_file.NPZ:
        data = numbers_file.npz(image, outcome, origin, result.frame(image))
        return reply.Entry(image.info, data, numbers_file.NPZ)
    if media_type == numbers_file.PNG16:
        data, headers = numbers_file.png16(image, outcome, origin, result.frame(image))
        return reply.Entry(image.info, data, "image/png", headers)
    if media_type == reply.JSON:
        return reply.entry(image.info, options.entry(Analysis(image, outcome, labels, trusted)))
    found = options.entry(Analysis(image, outcome, labels, trusted, media_type))
    return picture(image.info, found, media_type, origin)


def require_one_picture(images: int, plan: Plan, options: Options, media_type: str) -> None:
    """Raise NotAcceptable, before any work is done, if the answer would hold more or fewer pictures than one.

    Raises InvalidOption for a picture that can't carry the provenance that is asked for.
    """
    if options.provenance and media_type == "image/webp":
        raise InvalidOption("provenance: A WebP picture can't carry it; image/png and application/json can.")
    if options.design:
        raise NotAcceptable(
            f"`trust` is numbers, which {media_type} can't hold: ask for {reply.JSON}.", allowed=[reply.JSON]
        )
    if media_type == numbers_file.NPZ and images == 1:  # of any number of maps
        numbers_file.require_one_size(plan)
        return
    pictures = images * options.pictures(plan)
    if pictures != 1:
        raise NotAcceptable(
            f"The answer would hold {pictures} pictures, which can't be one {media_type}. "
            f"Ask for one image and one part with one target, method and layer, or for {reply.JSON}.",
            allowed=[reply.JSON],
        )


def picture(info: ImageInfo, entry: dict[str, Any], media_type: str, origin: dict[str, Any] | None) -> reply.Entry:
    """The one picture of a result, with what it shows in headers, and its provenance, if asked for, in a text chunk.

    The plot of the channels' weights, the grid of feature maps, the overlay where one was asked for, or the mask.
    """
    headers = {}
    if "attention" in entry:
        shown = encode(plot.bars(_strips(entry["attention"])), media_type)
        part = entry["attention"]["importance"]
        headers["Pellucid-Target"] = str(part["target"]["index"])
    elif "feature_maps" in entry:
        (part,) = entry["feature_maps"]
        shown = part["grid"]
        headers["Pellucid-Channels"] = ",".join(map(str, part["channels"]))
    else:
        (part,) = entry["grad_cam"]
        shown = part["overlay"] or part["mask"]
        headers |= {
            "Pellucid-Box": ",".join(map(str, part["box"])),
            "Pellucid-Target": str(part["target"]["index"]),
            "Pellucid-All-Negative": str(part["raw"]["all_negative"]).lower(),
        }
    data = shown.data
    if origin is not None:
        data = png.annotated(data, {numbers_file.PROVENANCE: numbers_file.told(info, entry, origin)})
    return reply.Entry(info, data, shown.media_type, {"Pellucid-Layer": part["layer"], **headers})


def file(entries: Sequence[reply.Entry]) -> Response:
    """The one file that was asked for, with what it shows in headers."""
    (found,) = entries
    return Response(found.content, media_type=found.media_type, headers=dict(found.headers))


def _strips(attention: dict[str, Any]) -> list[plot.Strip]:
    # All gates on one axis, and most pictures on the same: a bar's length means the same everywhere.
    reach = max([_LEAST_REACH, *(float(np.abs(gate["weights"] - 1).max()) for gate in attention["gates"])])
    strips = [
        plot.Strip(
            f"{gate['layer']}: {gate['channels']} channels, {gate['weights'].min():.2f} to {gate['weights'].max():.2f}",
            gate["weights"],
            neutral=1,
            reach=reach,
        )
        for gate in attention["gates"]
    ]
    importance = attention["importance"]
    largest = float(np.abs(importance["weights"]).max()) or 1.0
    title = f"Grad-CAM channel weights at {importance['layer']} for {importance['target']['label']} (not a gate)"
    return [*strips, plot.Strip(title, importance["weights"], neutral=0, reach=largest)]
