"""Two maps on one scale, and the second less the first."""

from __future__ import annotations

from typing import Any

import numpy as np

from service.render import compose
from service.render.encode import encode
from service.trust.ranks import spearman
from service.types import Box, Floats


def maps(first: Floats, second: Floats, box: Box, max_side: int, keep_sign: bool) -> dict[str, Any]:
    """The maps ``[h, w]``, which may differ in size, as masks over ``box``.

    ``reach`` is the largest magnitude of both and of the difference, and the end of all masks' scale.
    """
    height, width = (max(sides) for sides in zip(first.shape, second.shape, strict=True))
    one, other = (
        heat if heat.shape == (height, width) else compose.upsample(heat, width, height) for heat in (first, second)
    )
    difference = other - one
    reach = float(max(np.abs(values).max() for values in (one, other, difference)))
    x0, y0, x1, y1 = box
    size = compose.scaled_size(x1 - x0, y1 - y0, max_side)

    def entry(heat: Floats, signed: bool) -> dict[str, Any]:
        return {
            "mask": encode(compose.shared_mask(heat, size, reach or 1.0, signed)),
            "raw": {
                "shape": heat.shape,
                "values": heat,
                "min": heat.min(),
                "max": heat.max(),
                "all_negative": bool(heat.max() <= 0),
            },
        }

    agreement = spearman(one, other)
    return {
        "box": box,
        "reach": np.float32(reach),
        "first": entry(first, keep_sign),
        "second": entry(second, keep_sign),
        "difference": entry(difference, True),
        "rank_agreement": None if agreement is None else np.float32(agreement),
    }
