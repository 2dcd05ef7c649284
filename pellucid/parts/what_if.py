"""What a change of channels would do: options, plan, and JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Annotated, Any, Final

import numpy as np
from pydantic import Field

from pellucid.errors import InvalidOption, UnknownName
from pellucid.lookup import gate_names, layer_name
from pellucid.network.spec import ModelSpec, NetworkSpec
from pellucid.parts.channels import AtlasOptions
from pellucid.parts.figures import contents, figure, side_by_side
from pellucid.parts.figures.figure import FigureOptions
from pellucid.parts.grad_cam import COLOURS, SIGNED_COLOURS
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
from pellucid.parts.predictions import TopOptions, prediction_json, target_json
from pellucid.parts.targets import LayerOptions
from pellucid.ranks import spearman
from pellucid.render.figure import number
from pellucid.types import ChannelRanking, DecodedImage, Edit, Plan, TargetMap, WhatIf

# The length of ``most``: the channels with the largest effect.
_NAMED: Final = 10


class WhatIfOptions(TopOptions, LayerOptions, FigureOptions, AtlasOptions):
    """Options of /v1/what-if."""

    gate: Name | None = Field(
        None,
        description="Edit the weights of this channel-attention gate instead of a layer's channels. It is named by "
        "its `layer` in /v1/models/{name}.",
        examples=["blocks.15.gate"],
    )
    mute: Annotated[list[int], CommaSeparated] = Field(
        default_factory=list,
        max_length=MOST_EDITED,
        description="Channels to set to zero, counted from 0. Separate several by commas, or repeat the option.",
        examples=[[12, 40]],
    )
    keep: Annotated[list[int], CommaSeparated] = Field(
        default_factory=list,
        max_length=MOST_EDITED,
        description="Channels to leave as they are. All channels that no option names are set to zero.",
        examples=[[3, 7]],
    )
    scale: Annotated[list[Scaled], CommaSeparated] = Field(
        default_factory=list,
        max_length=MOST_EDITED,
        description="Channels to multiply by a factor, as CHANNEL:FACTOR. Separate several by commas, or repeat the "
        "option.",
        examples=[["12:0.5", "40:2"]],
    )
    rank: bool = Field(
        False,
        description="Also measure how the first target's logit changes when a channel alone is muted, for every "
        "channel of the layer. Costs a pass behind the layer for each channel, unless the network behind it is "
        "linear.",
        examples=[True],
    )
    signed: bool = Field(False, description="Keep evidence against the class in the masks.", examples=[False])
    max_side: Side = Field(MAX_SIDE, description="Longest side of the masks in pixels.", examples=[MAX_SIDE])
    min_side: LeastSide = Field(
        0,
        description="Smaller masks are enlarged until their longer side has this many pixels, but not beyond "
        "`max_side`.",
        examples=[512],
    )
    fit: Fit = Field(
        "box",
        description="Area that the masks cover. `box`: the part of the picture that the network saw. `source`: the "
        "whole photograph, with the level of no evidence outside of the box.",
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

    def maps(self, plan: Plan) -> int:
        return 3 * max(1, len(plan.targets))

    def sheet(self, analysis: Analysis) -> figure.Sheet:
        found, spec = analysis.outcome.what_if, analysis.spec
        assert found is not None
        rows = [self._panels(*pair, found.layer, analysis) for pair in found.targets]
        photograph = contents.photograph(analysis.image)
        panels: list[list[figure.Panel | None]] = [[photograph, rows[0][0]], rows[0][1:]]
        if len(rows) > 1:
            panels = [[None if index else photograph, *row] for index, row in enumerate(rows)]
        facts = [
            contents.predictions(f"Predictions {when}", listed, spec)
            for when, listed in (("before", found.before), ("after", found.after))
        ]
        if found.ranking:
            muted = found.ranking.muted
            order = np.argsort(-np.abs(muted), kind="stable")[:_NAMED].tolist()
            rows_of_channels = [(f"channel {channel}", float(muted[channel]), "") for channel in order]
            note = f"change of the {contents.score_words(spec)} when a channel alone is muted"
            facts.append(contents.changes(f"Channels of {found.layer}", note, rows_of_channels))
        return figure.Sheet(
            f"{spec.name}: what if",
            f"{_edit_words(found)} in {contents.picture_words(analysis.image.info)}",
            panels,
            facts,
            [_change_words(*pair, spec) for pair in found.targets],
            contents.sources([analysis.image], [spec], ["grad-cam"], analysis.methods),
        )

    def _panels(self, before: TargetMap, after: TargetMap, layer: str, analysis: Analysis) -> list[figure.Panel | None]:
        """The maps before and after, on one scale, and their difference."""
        image, spec = analysis.image, analysis.spec
        *_, difference, reach = side_by_side.compared(before.heat, after.heat)
        look = contents.Look(SIGNED_COLOURS if self.signed else COLOURS, self.signed, reach=reach or 1.0)
        unit = f"in {contents.score_unit(spec, before.target.index)}"
        panels: list[figure.Panel | None] = []
        for when, side in (("Before", before), ("After", after)):
            target = target_json(side.target, spec)
            title = f"{when}: {target['label']}, {contents.score(target)}"
            panels.append(contents.overlay(title, f"grad-cam at {layer}", image, side.heat, image.box, look, unit))
        return [*panels, contents.difference("After minus before", image, difference, image.box, SIGNED_COLOURS, unit)]


def _edit_words(found: WhatIf) -> str:
    """The edit: which channels of which layer or gate, and their factors."""
    edit = found.edit
    factors: dict[float, list[int]] = {}
    for channel, factor in edit.channels:
        factors.setdefault(factor, []).append(channel)
    parts = []
    for factor, channels in factors.items():
        named = ", ".join(map(str, channels[:6])) + (f" and {len(channels) - 6} more" if len(channels) > 6 else "")
        parts.append(f"channel{'s' * (len(channels) > 1)} {named} {_factor_words(factor)}")
    if edit.others != 1:
        parts.append(f"all others {_factor_words(edit.others)}")
    if not parts:
        parts = ["no channel edited"]
    return f"{edit.gate or found.layer}: {', '.join(parts)},"


def _factor_words(factor: float) -> str:
    return "muted" if factor == 0 else "kept" if factor == 1 else f"\N{MULTIPLICATION SIGN} {factor:g}"


def _change_words(before: TargetMap, after: TargetMap, spec: ModelSpec) -> str:
    was, is_now = (target_json(side.target, spec) for side in (before, after))
    change = after.target.logit - before.target.logit
    said = (
        f"{was['label']}: {contents.score(was)} before, {contents.score(is_now)} after; "
        f"its {contents.score_words(spec)} changes by {number(change)}."
    )
    if spec.output.kind == "softmax" and change * (is_now["probability"] - was["probability"]) < 0:
        moves = ("falls", "rises") if change > 0 else ("rises", "falls")
        said += f" The probability {moves[0]} while the logit {moves[1]}, because of the softmax over all classes."
    return said


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
            raise InvalidOption(
                f"Channel {channel} is named {times} times among `mute`, `keep` and `scale`. Name it once."
            )
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
