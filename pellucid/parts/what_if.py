"""What a change of channels would do: options, plan, and JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Annotated, Any, Final

import numpy as np
from pydantic import Field

from pellucid.errors import InvalidOption, UnknownName
from pellucid.network.spec import ModelSpec, NetworkSpec
from pellucid.parts import side_by_side
from pellucid.parts.atlas import AtlasOptions
from pellucid.parts.names import gate_names, layer_name
from pellucid.parts.option_types import (
    MAX_SIDE,
    MOST_EDITED,
    Analysis,
    CommaSeparated,
    Fit,
    LeastSide,
    Name,
    Offer,
    Scaled,
    Side,
)
from pellucid.parts.predictions import TopOptions, prediction_json
from pellucid.parts.targets import LayerOptions
from pellucid.trust.ranks import spearman
from pellucid.types import ChannelRanking, DecodedImage, Edit, Plan, WhatIf

# The length of ``most``: the channels with the largest effect.
_NAMED: Final = 10


class WhatIfOptions(TopOptions, LayerOptions, AtlasOptions):
    """Options of /v1/what-if."""

    gate: Name | None = Field(
        None,
        description="Edit the weights of this channel-attention gate, by the `layer` of /v1/models/{name}, in place of "
        "a layer's channels.",
        examples=["blocks.15.gate"],
    )
    mute: Annotated[list[int], CommaSeparated] = Field(
        default_factory=list,
        max_length=MOST_EDITED,
        description="Channels that are set to zero, counted from 0; several between commas or repeated.",
        examples=[[12, 40]],
    )
    keep: Annotated[list[int], CommaSeparated] = Field(
        default_factory=list,
        max_length=MOST_EDITED,
        description="Channels that stay as they are while all that are not named become zero.",
        examples=[[3, 7]],
    )
    scale: Annotated[list[Scaled], CommaSeparated] = Field(
        default_factory=list,
        max_length=MOST_EDITED,
        description="Channels and the factors that they are multiplied by, as CHANNEL:FACTOR; several between commas "
        "or repeated.",
        examples=[["12:0.5", "40:2"]],
    )
    rank: bool = Field(
        False,
        description="Also measure for every channel of the layer what muting it alone does to the first target's "
        "logit. Costs a pass behind the layer for each, save where the head is linear.",
        examples=[True],
    )
    signed: bool = Field(False, description="Keep evidence against the class in the masks.", examples=[False])
    max_side: Side = Field(MAX_SIDE, description="Longest side of the masks in pixels.", examples=[MAX_SIDE])
    min_side: LeastSide = Field(
        0,
        description="Masks whose longer side is shorter are enlarged to this many pixels, at most to `max_side`.",
        examples=[512],
    )
    fit: Fit = Field(
        "box",
        description="What the masks cover: the `box` that the network saw, or with `source` the whole photograph: "
        "outside of the box they have the level of no evidence.",
        examples=["source"],
    )

    def asks(self, offer: Offer, plan: Plan) -> Plan:
        plan = self.aim(plan, offer.spec)
        layer, edit = _edited(self, offer.network)
        return replace(plan, top_k=self.top_k, layer=layer, edit=edit, gates=bool(edit.gate))

    def written(self, analysis: Analysis) -> dict[str, Any]:
        found = analysis.outcome.what_if
        assert found is not None  # `asks` has an edit
        return {"what_if": _what_if_json(found, analysis.image, self, analysis.spec)}

    def pixels(self, plan: Plan) -> int:
        return 3 * max(1, len(plan.targets)) * self.max_side**2  # before, after, and their difference


def _edited(options: WhatIfOptions, network: NetworkSpec) -> tuple[str, Edit]:
    """The layer whose channels are edited, and how.

    Raises UnknownName for what the network does not have, and InvalidOption for two changes of one channel.
    """
    if options.gate and options.layer:
        raise InvalidOption("Name a `layer` or a `gate` to edit, not both.")
    if options.gate:
        gate_names([options.gate], network)
        (layer,) = (gate.after for gate in network.gates if gate.layer == options.gate)
    else:
        layer = layer_name(options.layer or network.default_layer, network)
    gate = options.gate or next((gate.layer for gate in network.gates if gate.after == layer), "")
    count = network.by_name[layer].shape[0]
    pairs = [(channel, 0.0) for channel in options.mute] + [(channel, 1.0) for channel in options.keep]
    for entry in options.scale:
        name, _, factor = entry.partition(":")
        pairs.append((int(name), float(factor)))
    for channel, times in Counter(channel for channel, _ in pairs).items():
        if not 0 <= channel < count:
            raise UnknownName(
                f"Unknown channel {channel} of layer {layer!r}. Channels from 0 to {count - 1} are allowed."
            )
        if times > 1:
            raise InvalidOption(f"Channel {channel} is named {times} times among `mute`, `keep` and `scale`.")
    return layer, Edit(tuple(sorted(pairs)), 0.0 if options.keep else 1.0, gate, options.rank)


def _what_if_json(found: WhatIf, image: DecodedImage, options: WhatIfOptions, spec: ModelSpec) -> dict[str, Any]:
    edit = found.edit
    source = (image.info.width or 1, image.info.height or 1) if options.fit == "source" else None
    canvas = side_by_side.Canvas(image.box, options.max_side, options.min_side, source)
    return {
        "layer": found.layer,
        "gate": edit.gate or None,
        "edit": {
            "channels": [{"channel": channel, "factor": factor} for channel, factor in edit.channels],
            "others": edit.others,
        },
        "before": [prediction_json(each, spec) for each in found.before],
        "after": [prediction_json(each, spec) for each in found.after],
        "targets": [
            {
                "before": prediction_json(before.target, spec),
                "after": prediction_json(after.target, spec),
                "change": np.float32(after.target.logit - before.target.logit),
                "maps": side_by_side.maps_json(before.heat, after.heat, canvas, options.signed),
            }
            for before, after in found.targets
        ],
        "ranking": None if found.ranking is None else _ranking_json(found.ranking),
    }


def _ranking_json(ranking: ChannelRanking) -> dict[str, Any]:
    did = -ranking.muted
    taken = {
        "gradient_weights": ranking.gradient_weights,
        "gradient_activation": ranking.gradient_activation,
        "gate_weights": ranking.gate_weights,
    }
    agreement = {name: None if values is None else spearman(did, values) for name, values in taken.items()}
    most = np.argsort(-np.abs(ranking.muted), kind="stable")[:_NAMED]
    return {
        "muted": ranking.muted,
        **taken,
        "most": [{"channel": int(channel), "muted": ranking.muted[channel]} for channel in most],
        "agreement": {name: None if value is None else np.float32(value) for name, value in agreement.items()},
    }
