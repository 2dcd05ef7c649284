"""What figures show: panels with the photograph and maps, bars of scores, and words about both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from pellucid.network.spec import ModelSpec
from pellucid.parts.figures.figure import Bars, Panel, Row, Scale, rgb
from pellucid.parts.option_types import Analysis
from pellucid.parts.predictions import prediction_json
from pellucid.render import compose
from pellucid.render.compose import Size
from pellucid.render.figure import number
from pellucid.types import Box as SourceBox
from pellucid.types import DecodedImage, Explanation, Floats, GateReading, ImageInfo, MethodSpec, Pixels, Prediction

_MOST_ROWS: Final = 8
# What shows through a difference: the grey of its bar, and of a photograph beneath, which is paled towards it.
_GROUND: Final = "#dddddd"
_PALED: Final = 0.5


# The colours of a segmentation's classes: Okabe and Ito's, and lighter ones.
# fmt: off
_CLASSES: Final = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442", "#8c6bb1", "#7f7f7f", "#b2df8a",
    "#fb9a99", "#a6761d",
)
# fmt: on


# -- numbers and words


def score(target: dict[str, Any]) -> str:
    """A target's score for readers: as ``schemas.Target.score``."""
    if "similarity" in target:
        return f"{target['similarity']:.3f}".replace("-", "\N{MINUS SIGN}")
    if "value" in target:
        return f"{target['value']:.4g} {target.get('unit', '')}".rstrip().replace("-", "\N{MINUS SIGN}", 1)
    if "share" in target:
        return f"{target['share']:.1%} of the picture"
    return f"{target.get('probability', 0):.1%}"


def score_unit(spec: ModelSpec, index: int) -> str:
    """The unit of what is explained."""
    output = spec.output
    if output.kind == "embedding":
        return "cosine similarity"
    if output.kind == "linear":
        return (output.units[index] if output.units else "") or "units of the value"
    return "logits"


def map_unit(explanation: Explanation, methods: Sequence[MethodSpec], spec: ModelSpec) -> str:
    """What a map's numbers are, as the caption of its scale."""
    if explanation.fuse:
        return "from 0 to 1, each layer stretched"
    (unit,) = {method.unit for method in methods if method.name == explanation.method} or {""}
    return f"in {unit or score_unit(spec, explanation.target.index)}"


def score_words(spec: ModelSpec) -> str:
    """What is explained, in one word."""
    return {"embedding": "similarity", "linear": "value"}.get(spec.output.kind, "logit")


def picture_words(info: ImageInfo) -> str:
    """A picture's name and size."""
    return f"{info.filename or 'Picture'}, {info.width} \N{MULTIPLICATION SIGN} {info.height} pixels"


def sources(
    images: Sequence[DecodedImage], specs: Iterable[ModelSpec], names: Iterable[str], methods: Sequence[MethodSpec]
) -> list[str]:
    """What scores of pictures in tiles are, the papers of the methods ``names``, and which weights saw which pictures.

    A sentence can be empty.
    """
    tiles = "Scores and the factors of gates are means over the tiles." if any(each.tiling for each in images) else ""
    known = {method.name: method for method in methods}
    papers = [f"{known[name].title}: {known[name].paper}." for name in dict.fromkeys(names) if name in known]
    pictures = ", ".join(dict.fromkeys(f"picture {image.info.sha256[:12]}" for image in images))
    weights = dict.fromkeys((spec.name, spec.parameters_sha256 or spec.weights_sha256) for spec in specs)
    networks = [f"{name}, weights {digest[:12]}" if digest else name for name, digest in weights]
    return [tiles, " ".join(papers), *(f"{each}; {pictures} (first digits of SHA-256)" for each in networks)]


# -- panels


def source_size(image: DecodedImage) -> Size:
    """Width and height of the photograph."""
    return image.info.width or 1, image.info.height or 1


def photograph(image: DecodedImage, title: str = "Photograph") -> Panel:
    """The whole photograph, the box that the network saw marked if it did not see all of it."""
    width, height = source_size(image)
    x0, y0, x1, y1 = image.box
    whole = image.box == (0, 0, width, height)
    mark = None if whole else (x0 / width, y0 / height, x1 / width, y1 / height)
    rows, columns = image.seen_size
    how = f" in {len(image.tiling.corners)} tiles of" if image.tiling else ", at"
    seen = f"the network saw {'all of it' if whole else 'the frame'}{how} {columns} \N{MULTIPLICATION SIGN} {rows}"

    def draw(size: Size) -> Pixels:
        assert image.picture is not None
        return compose.resized(image.picture, size)

    return Panel(title, seen, width / height, draw, mark=mark)


@dataclass(frozen=True, slots=True)
class Look:
    """How maps are coloured. ``reach`` > 0 ends a scale that several of them share."""

    colours: str
    signed: bool
    alpha: float = 0.6
    reach: float | None = None


def overlay(title: str, note: str, image: DecodedImage, heat: Floats, box: SourceBox, look: Look, unit: str) -> Panel:
    """A map ``[h, w]`` over ``box`` of the photograph, with its scale."""
    source = source_size(image)

    def draw(size: Size) -> Pixels:
        assert image.picture is not None
        return compose.overlay(
            image.picture, source, box, heat, look.colours, look.alpha, look.signed, size, look.reach
        )

    return Panel(title, note, source[0] / source[1], draw, scale(heat, look, unit))


def scale(heat: Floats, look: Look, unit: str) -> Scale:
    """The scale of a map's colours, in the map's own numbers."""
    tints = compose.tints(look.colours, look.signed)
    if look.signed:
        end = look.reach or float(np.abs(heat).max())
        ticks = [(0.0, number(-end)), (0.5, "0"), (1.0, number(end))] if end else [(0.5, "0")]
        return Scale(tints, ticks, f"evidence {unit}: below 0 against, above 0 for")
    least, most = (0.0, look.reach) if look.reach else (max(0.0, float(heat.min())), float(heat.max()))
    if most <= 0:
        return Scale(tints, [(0.0, "0")], f"no evidence for it: the map is {number(heat.min())} to {number(most)}")
    middle = (least + most) / 2
    ticks = [(0.0, number(least)), (0.5, number(middle)), (1.0, number(most))]
    return Scale(tints, ticks, f"evidence {unit}")


def difference(title: str, image: DecodedImage | None, heat: Floats, box: SourceBox, colours: str, unit: str) -> Panel:
    """One map minus another on a scale of its own, over the photograph in pale grey.

    Over plain grey where the two maps have a photograph each.
    """
    look = Look(colours, True)
    shown = replace(scale(heat, look, unit), caption=unit, ground=_GROUND)
    reach = float(np.abs(heat).max())
    span = f"{number(heat.min())} to {number(heat.max())}"
    note = f"scale of its own, \N{PLUS-MINUS SIGN}{number(reach)}; {span}" if reach else "no difference"
    if image is None:
        source, proportion = (1, 1), box[2] / box[3]
        place, alpha, beneath = (0, 0, 1, 1), 1.0, np.array([[rgb(_GROUND)]], np.uint8)
    else:
        assert image.picture is not None
        source, place, alpha = source_size(image), box, 0.8
        proportion = source[0] / source[1]
        grey = image.picture @ np.array([0.299, 0.587, 0.114], np.float32)
        paled = grey * (1 - _PALED) + _PALED * rgb(_GROUND)[0]
        beneath = np.repeat(paled.astype(np.uint8)[..., None], 3, axis=2)

    def draw(size: Size) -> Pixels:
        return compose.overlay(beneath, source, place, heat, colours, alpha, True, size)

    return Panel(title, note, proportion, draw, shown)


# -- facts


def predictions(title: str, of: Sequence[Prediction], spec: ModelSpec) -> Bars | None:
    """The predictions, with bars where there are probabilities or shares."""
    found, more = [prediction_json(each, spec) for each in of[:_MOST_ROWS]], len(of) - _MOST_ROWS
    rest = f", {more} more in the JSON" if more > 0 else ""
    kind = spec.output.kind
    if not found:
        return None
    if kind == "linear":
        return Bars(title, f"values{rest}", [Row(each["label"], score(each)) for each in found], tracks=False)
    if kind == "dense":
        rows = [
            Row(each["label"], f"{each['share']:.1%}", 0, each["share"], class_colour(each["index"])) for each in found
        ]
        return Bars(title, f"share of what the network saw{rest}", rows)
    line = spec.output.threshold if kind == "sigmoid" else None
    note = "probability (softmax)" if line is None else f"probability (sigmoid); a label applies from {line:g}"
    rows = [
        Row(
            each["label"],
            f"{each['probability']:.1%}",
            0,
            float(each["probability"]),
            "bar" if each.get("applies", True) else "line",
        )
        for each in found
    ]
    return Bars(title, note + rest, rows, line)


def likeness(target: dict[str, Any]) -> Bars:
    """The similarity of two pictures, from -1 to 1."""
    value = float(target["similarity"])
    return Bars(
        "Similarity to the reference",
        "cosine of both embeddings, \N{MINUS SIGN}1 to 1",
        [_signed("cosine", value, 1.0)],
        0.5,
    )


def _signed(name: str, value: float, reach: float, shown: str = "") -> Row:
    end = 0.5 + 0.5 * value / (reach or 1.0)
    return Row(name, shown or number(value), min(0.5, end), max(0.5, end), "above" if value >= 0 else "below")


def changed_gates(gates: Sequence[GateReading]) -> Bars | None:
    """Of the gates whose weights are furthest from 1, the channel that each changed most."""
    extremes = [(gate, int(np.abs(gate.weights - 1).argmax())) for gate in gates]
    found = sorted(extremes, key=lambda pair: -abs(float(pair[0].weights[pair[1]]) - 1))[:_MOST_ROWS]
    if not found:
        return None
    reach = abs(float(found[0][0].weights[found[0][1]]) - 1)
    rows = [
        _signed(
            f"{gate.layer}, channel {channel}",
            float(gate.weights[channel]) - 1,
            reach,
            f"\N{MULTIPLICATION SIGN} {gate.weights[channel]:.2f}",
        )
        for gate, channel in found
    ]
    return Bars("What the gates changed most", "what a channel is multiplied by; the line is 1, no change", rows, 0.5)


def changes(title: str, note: str, rows: Sequence[tuple[str, float, str]]) -> Bars | None:
    """Names with signed numbers, as bars from 0. The third of each is the number's text, if it is not the number."""
    reach = max((abs(value) for _, value, _ in rows), default=0.0)
    if not reach:
        return None
    return Bars(title, note, [_signed(name, value, reach, shown) for name, value, shown in rows[:_MOST_ROWS]], 0.5)


def class_colour(index: int) -> str:
    """The colour of a class of a segmentation."""
    return _CLASSES[index % len(_CLASSES)]


def segmentation(analysis: Analysis) -> Panel | None:
    """The classes over the photograph, in the colours of their bars. The background is left as it is."""
    image, levels, output = analysis.image, analysis.outcome.segmentation, analysis.spec.output
    if levels is None:
        return None
    source = source_size(image)
    palette = np.array([rgb(class_colour(index)) for index in range(256)], np.uint8)
    names = len(analysis.spec.labels)
    shown = levels > 0 if names == 1 else levels != (-1 if output.background is None else output.background)
    colours = palette[np.maximum(levels, 1) - 1 if names == 1 else levels]

    def draw(size: Size) -> Pixels:
        assert image.picture is not None
        return compose.tinted(image.picture, source, image.box, colours, shown, 0.6, size)

    left = "" if output.background is None else f"; {analysis.spec.labels[output.background]} has no colour"
    return Panel("Segmentation", f"the class with the largest logit{left}", source[0] / source[1], draw)
