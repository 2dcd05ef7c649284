"""Heat maps as numbers: a file of /v1/grad-cam -> arrays."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pellucid.schemas.shown import Encoded, brief

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

NPZ: Final = "application/x-npz"
_PROVENANCE: Final = "pellucid-provenance"  # the name in the file
# The longer side of a map in a picture, and the space between two, in pixels.
_SIDE: Final = 192
_GAP: Final = 8


@dataclass(frozen=True, repr=False)
class HeatMaps(Encoded):
    """K maps of one picture. ``heat`` ``[K, h, w]``: the weighted sums over channels before ReLU, scaling and resizing.

    ``targets``, ``layers`` and ``methods`` have K entries. ``box`` is the part of the upright source under the maps
    (x0, y0, x1, y1 in pixels), ``size`` the source's width and height, ``sha256`` the digest of its file.
    ``provenance`` is that of the JSON reply, None without ``provenance=True``.

    ``bytes(maps)`` is the file. ``save`` writes it to a ``.npz``, and a picture to any other suffix. A notebook shows
    the maps beside each other in colour, each up to its own largest evidence.
    """

    heat: NDArray[np.float32]
    targets: tuple[int, ...]
    layers: tuple[str, ...]
    methods: tuple[str, ...]
    box: tuple[int, ...]
    size: tuple[int, ...]
    sha256: str
    provenance: dict[str, Any] | None = None
    _file: bytes = b""
    media_type = NPZ

    def __repr__(self) -> str:
        """One line: the shape, targets, layers and methods."""
        names = (brief(list(dict.fromkeys(each))) for each in (self.targets, self.layers, self.methods))
        return "<HeatMaps {}: targets {}, layers {}, methods {}>".format(list(self.heat.shape), *names)

    def to_numpy(self) -> NDArray[np.float32]:
        """``heat``, ``[K, h, w]``."""
        return self.heat

    def to_pil(self) -> Image.Image:
        """The maps beside each other as one picture, in the proportions of ``box``."""
        import numpy as np
        from PIL import Image

        from pellucid.schemas.html import coloured

        width, height = self.box[2] - self.box[0], self.box[3] - self.box[1]
        size = max(1, _SIDE * width // max(width, height)), max(1, _SIDE * height // max(width, height))
        sheet = Image.new("RGB", (len(self.heat) * (size[0] + _GAP) - _GAP, size[1]), "white")
        for number, each in enumerate(self.heat):
            levels = np.rint(255 * np.maximum(each, 0) / max(float(each.max()), 1e-30)).astype(np.uint8)
            enlarged = Image.fromarray(levels).resize(size, Image.Resampling.BILINEAR)
            sheet.paste(coloured(enlarged, "heat"), (number * (size[0] + _GAP), 0))
        return sheet

    def __bytes__(self) -> bytes:
        return self._file


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
            json.loads(str(file[_PROVENANCE])) if _PROVENANCE in file else None,
            data,
        )
