"""What a channel responds to, as one figure: its crops, classes and distribution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image

from pellucid.atlas.content import QUANTILES, By, ClassScore, Example
from pellucid.atlas.file import Atlas, Gate, Layer
from pellucid.network.spec import ModelSpec
from pellucid.parts.channels import dimmed, require_channel
from pellucid.parts.figures import contents, figure
from pellucid.parts.predictions import class_json
from pellucid.render.compose import Size
from pellucid.render.encode import Picture
from pellucid.render.figure import number as as_text
from pellucid.types import Floats, Pixels

_SHOWN: Final = 9  # examples in a row
_GAP: Final = 0.08  # between two, as a share of one
_PAPER: Final = (255, 255, 255)
_LEVELS: Final = {"minimum": 0.0, "a quarter below": 0.25, "median": 0.5, "three quarters below": 0.75, "maximum": 1.0}
_OF_LAYERS: Final[dict[By, str]] = {"maximum": "Largest activations", "mean": "Largest means"}
_OF_GATES: Final[dict[By, str]] = {"highest": "Largest weights", "lowest": "Smallest weights"}


def drawn(atlas: Atlas, of: Layer | Gate, number: int, spec: ModelSpec, media_type: str) -> Picture:
    """The figure of a channel, as a file. Raises UnknownName."""
    require_channel(of, number)
    blocks: list[figure.Bars | None] = []
    if isinstance(of, Gate):
        captions = _OF_GATES
        blocks += [_distribution("Weight", of.weight.quantiles[number]), _damaged(of, number)]
        activating = "Predicted classes with the largest weights", "standard deviations from the mean"
        scores = [_classes(*activating, of.classes_of(number, "activating"), spec)]
        note = f"weights of the channel, which scale {of.before}"
    else:
        captions = _OF_LAYERS
        blocks += [_distribution("Largest activation", of.maximum.quantiles[number])]
        blocks += [_distribution("Mean activation", of.mean.quantiles[number])]
        unit = {"weights": "mean of weight times activation", "gradients": "mean of gradient times activation"}
        speaks_for = "Classes it speaks for", unit.get(of.facts.evidence, "")
        activating = "Predicted classes that activate it", "standard deviations above the mean"
        scores = [_classes(*speaks_for, of.classes_of(number, "for"), spec)]
        scores += [_classes(*activating, of.classes_of(number, "activating"), spec)]
        note = f"{of.zeros[number]:.0%} of its positions are 0"
    panels = [_examples(atlas, title, of.examples_of(number, by), spec) for by, title in captions.items()]
    sheet = figure.Sheet(
        f"{of.name}, channel {number}",
        f"{spec.name}, over {atlas.about.pictures:,} pictures of its atlas; {note}",
        [[panel] for panel in panels if panel],
        [*scores, *blocks],
        [] if atlas.about.crops else ["The atlas was built without crops."],
        [f"atlas {atlas.digest[:12]} (first digits of SHA-256). Crops are dark where the channel is inactive."],
    )
    return figure.drawn(sheet, "light", media_type)


def _examples(atlas: Atlas, title: str, examples: Sequence[Example], spec: ModelSpec) -> figure.Panel | None:
    """Crops in a row, the strongest first. None without crops."""
    shown = [each for each in examples if each.crop is not None][:_SHOWN]
    if not shown:
        return None
    predicted = (atlas.picture(each.picture).predicted for each in shown)
    counts = Counter(class_json(index, spec)["label"] for index in predicted if index is not None)
    said = ", ".join(f"{label} {count}" if count > 1 else label for label, count in counts.most_common())
    values = " to ".join(dict.fromkeys(as_text(shown[place].value) for place in (0, -1)))

    def draw(size: Size) -> Pixels:
        sheet, side = Image.new("RGB", size, _PAPER), size[1]
        for place, example in enumerate(shown):
            crop = Image.fromarray(atlas.crop(example.crop or 0).pixels())
            scale = side / max(crop.size)
            crop = crop.resize((max(1, round(crop.width * scale)), max(1, round(crop.height * scale))))
            if example.mask is not None:
                crop = dimmed(crop, example.mask)
            left = round(place * (1 + _GAP) * side)
            sheet.paste(crop, (left + (side - crop.width) // 2, (side - crop.height) // 2))
        return np.asarray(sheet)

    return figure.Panel(title, f"{values}; predicted {said}" if said else values, _SHOWN + (_SHOWN - 1) * _GAP, draw)


def _classes(title: str, unit: str, found: Sequence[ClassScore], spec: ModelSpec) -> figure.Bars | None:
    return contents.changes(title, unit, [(class_json(each.index, spec)["label"], each.score, "") for each in found])


def _distribution(title: str, quantiles: Floats) -> figure.Bars:
    """Five quantiles, as bars from 0."""
    chosen = [(name, float(quantiles[round(share * (len(quantiles) - 1))])) for name, share in _LEVELS.items()]
    low, high = min(0.0, chosen[0][1]), max(0.0, chosen[-1][1])
    reach = (high - low) or 1.0
    rows = [
        figure.Row(name, as_text(value), (min(0.0, value) - low) / reach, (max(0.0, value) - low) / reach)
        for name, value in chosen
    ]
    return figure.Bars(title, "over pictures", rows, -low / reach if low else None)


def _damaged(of: Gate, number: int) -> figure.Bars | None:
    """The medians over damaged copies of the same pictures."""
    medians = {kind: float(each.quantiles[number, QUANTILES // 2]) for kind, each in of.damaged.items()}
    if not medians:
        return None
    reach = max(medians.values()) or 1.0
    rows = [figure.Row(kind, as_text(value), 0, value / reach) for kind, value in medians.items()]
    return figure.Bars("Median weight of damaged copies", "clean: the same pictures, undamaged", rows)
