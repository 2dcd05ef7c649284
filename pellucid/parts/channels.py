"""What channels respond to: in a part of this picture, and in the pictures of an atlas. Options, plan, and JSON."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, Self
from weakref import ref

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from pellucid.atlas.content import OF_GATES, OF_LAYERS, ClassScore, Distribution, Example, Relation
from pellucid.atlas.file import Atlas, Gate, Layer
from pellucid.decode.region import box_of, positions
from pellucid.errors import InvalidOption, UnknownName
from pellucid.lookup import class_index, layer_name
from pellucid.network.spec import ModelSpec
from pellucid.parts.option_types import Analysis, CommaSeparated, Name, Offer, Options
from pellucid.parts.predictions import class_json
from pellucid.render.encode import Picture
from pellucid.types import Floats, Pixels, Plan, Region, Tap

Order = Literal["number", "mean", "maximum", "zeros", "target"]
# The share of its channels outside of all pictures of the atlas from which a gate is unusual, if it is also further
# outside than the atlas' own pictures are outside of the others (``alone``).
# docs/explanation/atlas.md has what it finds.
UNUSUAL: Final = 0.05
# Crops and classes beside a channel of a picture.
_FEW: Final = 3
# The channels of `importance` that are named.
_STRONGEST: Final = 5
# The side of a crop in pixels, and the brightness where the channel is silent.
_CROP_SIDE, _DIMMED = 96, 0.3
_QUALITY: Final = 75
# Channels of each layer's feature maps whose meaning is told. Drawing the crops of each takes 5 ms.
MEANINGS: Final = 16
# Classes of a list of one channel.
_LISTED: Final = 10


class AtlasOptions(Options):
    """The option of parts that name channels."""

    atlas: bool = Field(
        False,
        description="Also report what the named channels respond to, and, with `view=centre`, how usual their values "
        "are. Needs an atlas of the network: see `atlas` in /v1/models/{name}.",
        examples=[True],
    )

    def as_picture(self) -> Self:
        if self.atlas:
            raise InvalidOption("atlas: A picture can't show what the atlas says. Ask for application/json.")
        return super().as_picture()

    def plan(self, offer: Offer, images: int) -> Plan:
        if self.atlas:
            opened(offer)
        return super().plan(offer, images)

    def entry(self, analysis: Analysis) -> dict[str, Any]:
        found = super().entry(analysis)
        if analysis.atlas is None or not self.atlas:
            return found
        return _annotated(found, analysis.atlas, analysis.spec, places=self.view == "centre", left=analysis.left)


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


def opened(offer: Offer) -> Atlas:
    """The network's atlas. Raises InvalidOption if it has none."""
    if offer.atlas is None:
        raise InvalidOption(
            f"atlas: {offer.spec.name} has no atlas here. `pellucid atlas` builds one; PELLUCID_ATLASES=FILE "
            "serves it, and pellucid.open(..., atlas=FILE) opens it."
        )
    return offer.atlas


def member(atlas: Atlas, name: str) -> Layer | Gate:
    """A layer or gate of the atlas; a gate comes first. Raises UnknownName."""
    found = atlas.gates.get(name) or atlas.layers.get(name)
    if found is None:
        raise UnknownName.among("layer of the atlas", name, [*atlas.layers, *atlas.gates])
    return found


@dataclass(frozen=True, slots=True)
class Ranking:
    """The channels of a layer or gate in an order: their numbers, their scores for ``target``, their typical values."""

    of: Layer | Gate
    channels: NDArray[np.intp]
    scores: Floats | None
    values: Mapping[str, Floats]


def ranking(of: Layer | Gate, spec: ModelSpec, order: Order | None, target: str | None, against: str | None) -> Ranking:
    """The channels in this order. Raises UnknownName and InvalidOption."""
    if target is None and (order == "target" or against is not None):
        raise InvalidOption(
            f"{'order: target' if against is None else 'against'} needs `target`, a class by label or index."
        )
    order = order or ("number" if target is None else "target")
    scores = None if target is None else _told_apart(of, spec, target, against)
    values = _typical(of)
    keys = {"target": scores, "zeros": None if isinstance(of, Gate) else of.zeros, **values}
    key = keys.get(order)
    if order != "number" and key is None:
        raise InvalidOption(f"order: A gate can be ordered by number, {', '.join(values)} or target, not by {order}.")
    channels = np.arange(of.channels) if key is None else np.argsort(-key, kind="stable")
    return Ranking(of, channels, scores, values)


def listed(ranked: Ranking, spec: ModelSpec, first: int, most: int) -> dict[str, Any]:
    """``most`` channels from the ``first``."""
    of, scores = ranked.of, ranked.scores
    return {
        "layer": of.name,
        "channels": of.channels,
        "evidence": of.facts.evidence if isinstance(of, Layer) else "none",
        "entries": [
            {
                "channel": channel,
                **{name: value[channel] for name, value in ranked.values.items()},
                **({"zeros": of.zeros[channel]} if isinstance(of, Layer) else {}),
                **({"score": scores[channel]} if scores is not None else {}),
                "speaks_for": _classes(of.classes_of(channel, "for"), spec, _FEW) if isinstance(of, Layer) else [],
                "activating": _classes(of.classes_of(channel, "activating"), spec, _FEW),
            }
            for channel in ranked.channels[first : first + most].tolist()
        ],
    }


def require_channel(of: Layer | Gate, number: int) -> None:
    """Raises UnknownName if the layer or gate has no such channel."""
    if not 0 <= number < of.channels:
        raise UnknownName(f"Unknown channel {number} of {of.name!r}. Channels from 0 to {of.channels - 1} are allowed.")


def channel_json(atlas: Atlas, of: Layer | Gate, number: int, spec: ModelSpec) -> dict[str, Any]:
    """All that the atlas knows of one channel. Raises UnknownName."""
    require_channel(of, number)
    found: dict[str, Any] = {"layer": of.name, "channel": number, "pictures": atlas.about.pictures}
    if isinstance(of, Gate):
        damaged = {kind: each.quantiles[number] for kind, each in of.damaged.items()}
        found |= {"before": of.before, "weight": of.weight.quantiles[number], "damaged": damaged}
    else:
        found |= {"maximum": of.maximum.quantiles[number], "mean": of.mean.quantiles[number]}
        found |= {"zeros": float(of.zeros[number])}
        found |= of.facts.model_dump(include={"evidence", "crops_predict", "classes_agree"})
    lists: dict[str, Relation] = {"speaks_for": "for", "speaks_against": "against", "activating": "activating"}
    found |= {name: _classes(of.classes_of(number, relation), spec, _LISTED) for name, relation in lists.items()}
    bys = OF_GATES if isinstance(of, Gate) else OF_LAYERS
    examples = {by: [_example_json(atlas, each, spec) for each in of.examples_of(number, by)] for by in bys}
    return found | {"examples": examples}


def crop(atlas: Atlas, example: Example) -> Picture | None:
    """An example's crop, dimmed where the channel is silent. None without crops."""
    if example.crop is None:
        return None
    mask = None if example.mask is None else example.mask.tobytes()
    return _crop(ref(atlas), example.crop, mask, None if example.mask is None else example.mask.shape)


@lru_cache(2048)
def _crop(of: ref[Atlas], number: int, mask: bytes | None, cells: tuple[int, ...] | None) -> Picture:
    """The crop, drawn once. The reference is weak, so that an atlas that is closed is not kept."""
    atlas = of()
    assert atlas is not None
    image = Image.fromarray(atlas.crop(number).pixels())
    image.thumbnail((_CROP_SIDE, _CROP_SIDE))
    if mask is not None and cells is not None:
        image = dimmed(image, np.frombuffer(mask, np.uint8).reshape(cells))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=_QUALITY, method=0)
    return Picture(buffer.getvalue(), "image/webp", *image.size)


def dimmed(image: Image.Image, mask: Pixels) -> Image.Image:
    """A crop, darker where its ``mask`` is low."""
    levels = Image.fromarray(mask).resize(image.size, Image.Resampling.BILINEAR)
    share = _DIMMED + (1 - _DIMMED) / 255 * np.asarray(levels, np.float32)[..., None]
    return Image.fromarray((np.asarray(image) * share).astype(np.uint8))


def _annotated(
    entry: dict[str, Any], atlas: Atlas, spec: ModelSpec, *, places: bool, left: Callable[[], bool]
) -> dict[str, Any]:
    """An entry with what the atlas says of the channels that it names, and with the ``places`` of its values.

    It is incomplete once the caller has ``left``.
    """
    attention, maps, what_if = (entry.get(part) for part in ("attention", "feature_maps", "what_if"))
    for gate in attention["gates"] if attention else ():
        if (known := atlas.gates.get(gate["layer"])) is not None:
            if places:
                gate["atlas"] = _place_json(known, gate["weights"])
            for each in (*gate["strongest"], *gate["weakest"]):
                each["meaning"] = meaning_json(atlas, known.before, each["channel"], spec)
    if attention and (importance := attention.get("importance")) and importance["layer"] in atlas.layers:
        weights = importance["weights"]
        strongest = np.argsort(-np.abs(weights), kind="stable")[:_STRONGEST].tolist()
        importance["strongest"] = [
            {
                "channel": channel,
                "weight": weights[channel],
                "meaning": meaning_json(atlas, importance["layer"], channel, spec),
            }
            for channel in strongest
        ]
    for found in maps or ():
        layer = atlas.layers.get(found["layer"])
        if layer is not None and "side" not in found:
            shown, stats = found["channels"], found["stats"]
            found["atlas"] = {
                "meanings": [
                    meaning_json(atlas, layer.name, channel, spec) for channel in shown[:MEANINGS] if not left()
                ]
            }
            for name, values, of in (("mean", stats["mean"], layer.mean), ("maximum", stats["max"], layer.maximum)):
                if places:
                    found["atlas"][name] = Distribution(of.quantiles[[*shown]]).place(np.asarray(values))
    if what_if:
        named = [*what_if["edit"]["channels"][:_STRONGEST], *(what_if["ranking"] or {"most": ()})["most"]]
        gate = atlas.gates.get(what_if["gate"] or "")
        for each in named:
            each["meaning"] = meaning_json(atlas, gate.before if gate else what_if["layer"], each["channel"], spec)
    return entry


def _place_json(gate: Gate, values: Floats) -> dict[str, Any]:
    beyond = gate.weight.beyond(values)
    outside = float((beyond > 0).mean())
    unusual = outside >= UNUSUAL and float(beyond.mean()) > gate.facts.alone
    return {"places": gate.weight.place(values), "outside": outside, "unusual": unusual}


def meaning_json(atlas: Atlas, layer: str, channel: int, spec: ModelSpec) -> dict[str, Any] | None:
    """What a channel responds to, in short. None if the atlas lacks the layer."""
    of = atlas.layers.get(layer)
    if of is None:
        return None
    crops = (crop(atlas, each) for each in of.examples_of(channel, "maximum")[:_FEW])
    return {
        "layer": layer,
        "speaks_for": _classes(of.classes_of(channel, "for"), spec, _FEW),
        "activating": _classes(of.classes_of(channel, "activating"), spec, _FEW),
        "crops": [each for each in crops if each is not None],
    }


def _classes(scores: Sequence[ClassScore], spec: ModelSpec, most: int) -> list[dict[str, Any]]:
    return [{**class_json(each.index, spec), "score": each.score, "pictures": each.pictures} for each in scores[:most]]


def _example_json(atlas: Atlas, example: Example, spec: ModelSpec) -> dict[str, Any]:
    picture = atlas.picture(example.picture)
    return {
        "value": example.value,
        "position": [example.row, example.column] if example.row >= 0 else None,
        "crop": crop(atlas, example),
        "box": None if example.crop is None else atlas.crop(example.crop).box,
        "sha256": picture.sha256,
        "name": picture.name,
        "predicted": None if picture.predicted is None else class_json(picture.predicted, spec),
    }


def _typical(of: Layer | Gate) -> dict[str, Floats]:
    """The median over the atlas' pictures of each channel's values."""
    named: Iterable[tuple[str, Distribution]] = (
        (("mean", of.weight),) if isinstance(of, Gate) else (("mean", of.mean), ("maximum", of.maximum))
    )
    return {name: each.quantiles[:, each.quantiles.shape[1] // 2] for name, each in named}


def _told_apart(of: Layer | Gate, spec: ModelSpec, target: str, against: str | None) -> Floats:
    """How much each channel ``[C]`` speaks for one class against another, or against the mean of all.

    At a layer that global average pooling and one linear layer follow: the difference of the classes' weights, times
    the channel's standard deviation over pictures, in units of the logit. Elsewhere: the difference of the mean
    activations in pictures of the classes, in standard deviations. Raises InvalidOption if the atlas has no such
    pictures.
    """
    one, other = (None if name is None else class_index(name, spec) for name in (target, against))
    found = of.class_means()
    rows = of.weights if isinstance(of, Layer) and of.weights is not None else None
    if rows is not None:
        assert one is not None
        less = rows.mean(0) if other is None else rows[other]
        apart: Floats = ((rows[one] - less) * found.spread).astype(np.float32)
        return apart
    place = {index: row for row, index in enumerate(found.classes.tolist())}
    for index in (one, other):
        if index is not None and index not in place:
            raise InvalidOption(
                f"target: No picture of the atlas was predicted as {spec.labels[index]!r}, so the channels of "
                f"{of.name} can't be ranked by it."
            )
    means = found.means
    less = np.average(means, 0, found.pictures) if other is None else means[place[other]]
    difference: Floats = ((means[place[one or 0]] - less) / np.maximum(found.spread, 1e-12)).astype(np.float32)
    return difference
