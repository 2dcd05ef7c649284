"""Heat maps as numbers: a file of /v1/grad-cam -> arrays."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NPZ: Final = "application/x-npz"


@dataclass(frozen=True)
class HeatMaps:
    """K maps of one picture. ``heat`` ``[K, h, w]``: the weighted sums over channels before ReLU, scaling and resizing.

    ``targets``, ``layers`` and ``methods`` have K entries. ``box`` is the part of the upright source under the maps
    (x0, y0, x1, y1 in pixels), ``size`` the source's width and height, ``sha256`` the digest of its file.
    ``provenance`` is that of the JSON reply, None without ``provenance=True``.
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
    """The maps in a reply to ``Accept: application/x-npz``. Raises ValueError or KeyError for anything else."""
    import numpy as np  # only these maps need it

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


_PROVENANCE: Final = "pellucid-provenance"


def _provenance(text: str | None) -> dict[str, Any] | None:
    import json

    found: dict[str, Any] | None = json.loads(text) if text else None
    return found
