"""What all replies share: the fields ``image`` and ``frame``, and their encoding as JSON or, for maps, as ``.npz``."""

from __future__ import annotations

import hashlib
import io
from typing import Any, Final

import numpy as np
import orjson

from pellucid.errors import InvalidOption
from pellucid.render.encode import Picture
from pellucid.types import OF_ATTENTION, DecodedImage, ImageInfo, Outcome, Plan

NPZ: Final = "application/x-npz"
# The keyword of a PNG's text chunk, and the name in an .npz, for the provenance.
PROVENANCE: Final = "pellucid-provenance"


def image_info(info: ImageInfo) -> dict[str, Any]:
    """The field ``image``."""
    return {
        "filename": info.filename,
        "format": info.format,
        "width": info.width,
        "height": info.height,
        "sha256": info.sha256,
    }


def frame(image: DecodedImage) -> dict[str, Any]:
    """The field ``frame``: the part of the picture that the network sees. See ``schemas.Frame``."""
    x0, y0, x1, y1 = image.box
    height, width = image.pixels.shape[:2]
    return {
        "box": image.box,
        "scale": [width / (x1 - x0), height / (y1 - y0)],
        "pixels_sha256": hashlib.sha256(image.pixels.tobytes()).hexdigest(),
    }


def as_json(found: dict[str, Any]) -> bytes:
    """Results as JSON. Call it in the pool: long lists and pictures take milliseconds."""
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_PASSTHROUGH_DATACLASS
    return orjson.dumps(found, default=_picture_as_json, option=options)


def _picture_as_json(value: Any) -> Any:
    if isinstance(value, Picture):
        return value.as_json()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def require_one_size(plan: Plan) -> None:
    """Raise InvalidOption if a plan's maps may differ in size: an .npz holds them as one array."""
    if len({heat.layers for heat in plan.wanted}) > 1:
        raise InvalidOption(
            "layer: Maps of several layers differ in size, and an .npz holds maps of one size. Name one layer, or "
            "`best` as the only method."
        )
    if len({heat.method in OF_ATTENTION for heat in plan.wanted}) > 1:
        raise InvalidOption(
            f"method: The maps of {' and '.join(OF_ATTENTION)} have another size than others, and an .npz holds maps "
            "of one size."
        )


def npz(image: DecodedImage, outcome: Outcome, origin: dict[str, Any] | None) -> bytes:
    """All K maps of one image as arrays. ``numpy.load`` needs no pickle for them.

    ``heat`` [K, h, w] float32; ``targets`` [K], ``probabilities`` [K], ``layers`` [K] and ``methods`` [K]; ``box`` [4];
    ``size`` [2], the source's width and height; ``sha256`` of the source's bytes. Values of quantities and the
    similarity of an embedding are ``scores`` [K] in place of the probabilities.
    """
    found = outcome.explanations
    targets = [each.target for each in found]
    probabilities = [each.probability for each in targets if each.probability is not None]
    arrays: dict[str, Any] = {
        "heat": np.stack([each.heat for each in found]),
        "targets": np.array([each.index for each in targets], np.int64),
        "probabilities" if probabilities else "scores": np.array(
            probabilities or [each.logit for each in targets], np.float32
        ),
        "layers": np.array([each.layer for each in found]),
        "methods": np.array([each.method for each in found]),
        "box": np.array(image.box, np.int64),
        "size": np.array([image.info.width, image.info.height], np.int64),
        "sha256": np.array(image.info.sha256),
    }
    if origin is not None:
        arrays[PROVENANCE] = np.array(provenance_json(image, origin))
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def provenance_json(image: DecodedImage, origin: dict[str, Any]) -> str:
    """The provenance of a file as JSON: that of the reply, and the picture's digest and frame."""
    return orjson.dumps({**origin, "image_sha256": image.info.sha256, "frame": frame(image)}).decode()
