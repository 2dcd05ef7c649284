"""Heat maps as numbers: files of /v1/grad-cam -> arrays."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NPZ: Final = "application/x-npz"
PNG16: Final = "image/png;depth=16"


@dataclass(frozen=True)
class HeatMaps:
    """K maps of one picture. ``heat`` ``[K, h, w]``: the weighted sums over channels before ReLU, scaling and resizing.

    ``targets``, ``layers`` and ``methods`` say of each what it is of. ``box`` is what they cover of the upright source
    (x0, y0, x1, y1 in pixels), ``size`` the source's width and height, ``sha256`` the digest of its file.
    ``provenance`` is as JSON has it, None where it was not asked for.
    """

    heat: NDArray[np.float32]
    targets: tuple[int, ...]
    layers: tuple[str, ...]
    methods: tuple[str, ...]
    box: tuple[int, ...]
    size: tuple[int, ...]
    sha256: str
    provenance: dict[str, Any] | None = None


def read_npz(data: bytes) -> HeatMaps:
    """Of a reply to ``Accept: application/x-npz``: every number as it was computed. Raises ValueError or KeyError for
    anything else.
    """
    import numpy as np  # whoever reads JSON needn't have it

    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return HeatMaps(
            file["heat"],
            tuple(file["targets"].tolist()),
            tuple(file["layers"].tolist()),
            tuple(file["methods"].tolist()),
            tuple(file["box"].tolist()),
            tuple(file["size"].tolist()),
            str(file["sha256"]),
            _provenance(str(file[_PROVENANCE]) if _PROVENANCE in file else None),
        )


def read_png(data: bytes) -> HeatMaps:
    """Of a reply to ``Accept: image/png;depth=16``: one map, each number within half a step of 65535 in its range.

    Needs Pillow. Raises OSError, KeyError or ValueError for anything else.
    """
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        texts: dict[str, str] = picture.text  # type: ignore[attr-defined]  # of PNGs alone
        levels = np.asarray(picture).astype(np.float64)
    values = float(texts["pellucid-offset"]) + float(texts["pellucid-scale"]) * levels
    return HeatMaps(
        values.astype(np.float32)[None],
        (int(texts["pellucid-target"]),),
        (str(texts["pellucid-layer"]),),
        (str(texts["pellucid-method"]),),
        _numbers(texts["pellucid-box"]),
        _numbers(texts["pellucid-size"]),
        str(texts["pellucid-sha256"]),
        _provenance(texts.get(_PROVENANCE)),
    )


_PROVENANCE: Final = "pellucid-provenance"


def _numbers(between_commas: str) -> tuple[int, ...]:
    return tuple(map(int, between_commas.split(",")))


def _provenance(text: str | None) -> dict[str, Any] | None:
    import json

    found: dict[str, Any] | None = json.loads(text) if text else None
    return found
