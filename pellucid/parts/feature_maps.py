"""What the channels of some layers see: options, plan, and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Final, Self

import numpy as np
from pydantic import Field

from pellucid.errors import UnknownName
from pellucid.lookup import gate_names, layer_name
from pellucid.network.spec import NetworkSpec
from pellucid.parts.channels import AtlasOptions
from pellucid.parts.option_types import Analysis, ColormapName, CommaSeparated, Name, Offer
from pellucid.render import compose, plot
from pellucid.render.encode import Picture, encode
from pellucid.render.figure import number
from pellucid.types import FeatureMaps, Plan, Tap

GRID_COLOURS: Final = "viridis"
_TILE: Final = 112
_LABELLED_TILE: Final = 224


class FeatureMapOptions(AtlasOptions):
    """Options of /v1/feature-maps."""

    layers: Annotated[list[Name], CommaSeparated] = Field(
        default_factory=list,
        max_length=16,
        description="Layers to show, by names from /v1/models/{name}. Separate several by commas, or repeat the "
        "option. Default: an early, a middle and a late layer.",
        examples=[["stem", "blocks.4", "head"]],
    )
    gates: Annotated[list[Name], CommaSeparated] = Field(
        default_factory=list,
        max_length=16,
        description="Channel-attention gates to show, by their `layer` in /v1/models/{name}. Each shows the same "
        "channels before the gate, after it, and their difference. Without `layers`, only the gates are shown. "
        "Separate several by commas, or repeat the option.",
        examples=[["blocks.4.gate"]],
    )
    channels: Annotated[list[int], CommaSeparated] = Field(
        default_factory=list,
        max_length=256,
        description="Channels to show, in this order, counted from 0. Separate several by commas, or repeat the "
        "option. Default: the strongest.",
        examples=[[0, 7, 12]],
    )
    count: int = Field(
        Tap("").count,
        ge=1,
        le=256,
        description="Number of the strongest channels to show, by mean absolute activation. Ignored if `channels` is "
        "given.",
        examples=[16],
    )
    colormap: ColormapName | None = Field(
        None,
        description=f"Colours. Default: {GRID_COLOURS} for feature maps, turbo for overlays, coolwarm for signed "
        "overlays.",
        examples=[GRID_COLOURS],
    )
    scale: compose.Stretch = Field(
        "channel",
        description="The range of values that the colours cover in each cell of the grid. `channel`: the channel's own "
        "range. `layer`: one range for all cells of a layer, so that they can be compared. `percentile`: from the "
        "channel's 5th to its 95th percentile, so that a few extreme values don't hide the others.",
        examples=["channel"],
    )
    columns: int | None = Field(
        None,
        ge=1,
        le=256,
        description="Cells in a row of the grid. Default: the number that makes the grid closest to a square.",
        examples=[4],
    )
    tile: int | None = Field(
        None,
        ge=1,
        le=512,
        description="Longer side of a cell of the grid in pixels. Small maps are enlarged by a whole factor up to it, "
        f"and large maps are reduced to it. Default: {_TILE}, {_LABELLED_TILE} with `labels`.",
        examples=[_TILE],
    )
    labels: bool | None = Field(
        None,
        description="Write the layer, its shape, the channels' numbers and ranges, and a scale of the colours into "
        "the grid. Default: true if the reply is a picture, false in JSON.",
        examples=[False],
    )

    @property
    def tile_side(self) -> int:
        """The longer side of a tile in pixels."""
        return self.tile or (_LABELLED_TILE if self.labels else _TILE)

    def as_picture(self) -> Self:
        options = super().as_picture()
        return options if options.labels is not None else options.model_copy(update={"labels": True})

    def asks(self, offer: Offer, plan: Plan) -> Plan:
        return replace(plan, taps=_taps(self, offer.network))

    def written(self, analysis: Analysis) -> dict[str, Any]:
        maps = analysis.outcome.maps
        return {"feature_maps": [_feature_maps_json(each, maps, self, analysis.media_type) for each in maps]}

    def pictures(self, plan: Plan) -> int:
        return sum(3 if tap.gate else 1 for tap in plan.taps)

    def picture(self, entry: dict[str, Any], media_type: str) -> tuple[Picture, dict[str, str]]:
        (maps,) = entry["feature_maps"]
        channels = ",".join(map(str, maps["channels"]))
        return maps["grid"], {"Pellucid-Layer": maps["layer"], "Pellucid-Channels": channels}

    def pixels(self, plan: Plan) -> int:
        return sum((len(tap.channels) or tap.count) * (3 if tap.gate else 1) for tap in plan.taps) * self.tile_side**2


def _taps(options: FeatureMapOptions, network: NetworkSpec) -> tuple[Tap, ...]:
    gates = gate_names(options.gates, network)
    layers = tuple(dict.fromkeys(layer_name(name, network) for name in options.layers))
    if not layers and not gates:
        layers = network.feature_layers or (layer_name("", network),)
    # A list: a gate can have the name of a layer with another shape.
    shapes = [(gate.layer, gate.shape) for gate in network.gates if gate.layer in gates]
    shapes += [(name, network.by_name[name].shape) for name in layers]
    for name, (channels, _, _) in shapes:
        for channel in options.channels:
            if not 0 <= channel < channels:
                raise UnknownName(
                    f"Unknown channel {channel} of layer {name!r}. Channels from 0 to {channels - 1} are allowed."
                )
    shown = tuple(options.channels), options.count
    return (*(Tap(name, *shown) for name in layers), *(Tap(name, *shown, gate=True) for name in gates))


def _feature_maps_json(
    maps: FeatureMaps, others: Sequence[FeatureMaps], options: FeatureMapOptions, media_type: str
) -> dict[str, Any]:
    colours = GRID_COLOURS
    shown = compose.value_range([maps.values], options.scale)
    if maps.side is not None:
        # A gate only scales a channel. With a range of its own, each side would look the same.
        sides = [other.values for other in others if other.layer == maps.layer and other.side in ("before", "after")]
        low, high = compose.value_range(sides, options.scale)
        shown = low, high
        if maps.side == "difference":
            reach = np.maximum(np.abs(low), np.abs(high))
            shown, colours = (-reach, reach), "coolwarm"
    style = (plot.GRID_GAP, plot.GREYS) if options.labels else ()
    grid = compose.grid(maps, shown, options.colormap or colours, options.tile_side, options.columns, *style)
    levels, (left, top) = grid.levels, (0, 0)
    if options.labels:
        levels, (left, top) = plot.labelled(grid, _labels(maps, shown, options))
    return {
        "layer": maps.layer,
        **({"side": maps.side} if maps.side else {}),
        "shape": maps.shape,
        "channels": maps.channels,
        "grid": encode(levels, media_type, grid.palette),
        "tiles": {
            "columns": grid.columns,
            "rows": grid.rows,
            "width": grid.tile[0],
            "height": grid.tile[1],
            "gap": grid.gap,
            "left": left,
            "top": top,
        },
        "stats": {"mean": maps.mean, "max": maps.max, "zeros": maps.zeros},
    }


_SCALES: Final[dict[compose.Stretch, str]] = {
    "channel": "The colours of each tile span the range above it: its smallest to its largest value.",
    "layer": "The colours of all tiles span one range: the smallest to the largest value.",
    "percentile": "The colours of each tile span the range above it: its {}th to its {}th percentile.".format(
        *compose.PERCENTILES
    ),
}
_SIDES: Final = {"before": "before", "after": "after", "difference": "after minus before"}


def _labels(maps: FeatureMaps, shown: compose.Range, options: FeatureMapOptions) -> plot.Labels:
    """The texts of a grid."""
    channels, height, width = maps.shape
    count = len(maps.channels)
    which = "" if options.channels else ", most changed first" if maps.side else ", strongest first"
    low, high = (np.broadcast_to(end.ravel(), count).tolist() for end in shown)
    one_range = options.scale == "layer"
    return plot.Labels(
        f"{maps.layer}, {_SIDES[maps.side]}" if maps.side else maps.layer,
        f"{count} of {channels} channels of {height} \N{MULTIPLICATION SIGN} {width}{which}",
        [*map(str, maps.channels)],
        ["" if one_range else f"{number(least)} to {number(most)}" for least, most in zip(low, high, strict=True)],
        (number(low[0]), number(high[0])) if one_range else ("least", "most"),
        _SCALES[options.scale] + (" Before and after the gate, the range is the same." if maps.side else ""),
    )
