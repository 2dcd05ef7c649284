"""Which channels respond to what is in a part of the picture: options, plan, and JSON."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from pellucid.decode.region import box_of, positions
from pellucid.network.lookup import layer_name
from pellucid.parts.atlas import MEANINGS, AtlasOptions, meaning_json
from pellucid.parts.option_types import Analysis, CommaSeparated, Name, Offer
from pellucid.types import Plan, Region, Tap


class ChannelOptions(AtlasOptions):
    """Options of /v1/channels."""

    box: Annotated[list[float], CommaSeparated] = Field(
        default_factory=list,
        max_length=4,
        description="The part of the picture, as x0, y0, x1, y1 in pixels of the upright picture. Separate the "
        "numbers by commas, or repeat the option. Default: all that the network sees.",
        examples=[[120, 80, 300, 260]],
    )
    layer: Name | None = Field(
        None,
        description="The layer of the channels, by a name from /v1/models/{name}. Default: the last layer with a "
        "spatial extent.",
        examples=["head"],
    )
    count: int = Field(10, ge=1, le=256, description="Number of channels to list.", examples=[10])

    def asks(self, offer: Offer, plan: Plan) -> Plan:
        self._region()
        layer = layer_name(self.layer or offer.network.default_layer, offer.network)
        channels = offer.network.by_name[layer].shape[0]
        return replace(plan, taps=(Tap(layer, tuple(range(channels))),))

    def _region(self) -> Region:
        return box_of(self.box) if self.box else Region("picture")

    def written(self, analysis: Analysis) -> dict[str, Any]:
        """See ``schemas.BoxChannels`` for the score."""
        (maps,) = analysis.outcome.maps
        inside = positions(self._region(), analysis.image, maps.values.shape[1:])
        within = maps.values[:, inside].mean(1)
        outside = maps.values[:, ~inside].mean(1) if not inside.all() else np.zeros_like(within)
        known = analysis.atlas.layers.get(maps.layer) if analysis.atlas else None
        scale = maps.values.std() if known is None else known.maximum.quantiles[:, -2]
        scores = (within - outside) / np.maximum(scale, 1e-6)
        best = np.argsort(-scores, kind="stable")[: self.count].tolist()
        told = analysis.atlas if self.atlas else None
        return {
            "channels": {
                "layer": maps.layer,
                "positions": int(inside.sum()),
                "scale": "layer" if known is None else "atlas",
                "entries": [
                    {
                        "channel": channel,
                        "score": scores[channel],
                        "inside": within[channel],
                        "outside": outside[channel],
                        **(
                            {"meaning": meaning_json(told, maps.layer, channel, analysis.spec)}
                            if told and rank < MEANINGS
                            else {}
                        ),
                    }
                    for rank, channel in enumerate(best)
                ],
            }
        }
