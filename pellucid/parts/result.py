"""Outcome -> one image's entry of a reply, as plain data; pictures are still Pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import orjson

from pellucid.parts.classes import prediction, target
from pellucid.parts.plan import Look
from pellucid.parts.trust import Trusted, trust
from pellucid.parts.what_if import what_if
from pellucid.render import compose
from pellucid.render.encode import Picture, encode
from pellucid.types import DecodedImage, Explanation, FeatureMaps, GateReading, ImageInfo, Outcome

# How many channels are named as a gate's strongest and weakest.
_EXTREMES: Final = 5


def result(
    image: DecodedImage, outcome: Outcome, look: Look, labels: Sequence[str], trusted: Sequence[Trusted] = ()
) -> dict[str, Any]:
    """One entry of ``results`` but for what is known of the upload.

    Pictures are still Pictures, so that a caller can also have their bytes. ``trusted`` has what was measured of each
    map, where it was.
    """
    entry: dict[str, Any] = {}
    if "predictions" in look.parts:
        entry["predictions"] = [prediction(each, labels) for each in outcome.predictions]
    if "attention" in look.parts:
        entry["attention"] = _attention(outcome, labels)
    if "feature_maps" in look.parts:
        entry["feature_maps"] = [_feature_maps(maps, outcome.maps, look) for maps in outcome.maps]
    if "grad_cam" in look.parts:
        entry["grad_cam"] = [_grad_cam(image, explanation, look, labels) for explanation in outcome.explanations]
        for cam, found in zip(entry["grad_cam"], trusted, strict=False):
            cam["trust"] = trust(found, cam["target"]["label"])
    if outcome.what_if is not None:
        entry["what_if"] = what_if(outcome.what_if, image.box, look, labels)
    if look.provenance:
        entry["frame"] = frame(image)
    return entry


def image_info(info: ImageInfo) -> dict[str, Any]:
    """What is known of an upload, as JSON."""
    return {
        "filename": info.filename,
        "format": info.format,
        "width": info.width,
        "height": info.height,
        "sha256": info.sha256,
    }


def _attention(outcome: Outcome, labels: Sequence[str]) -> dict[str, Any]:
    importance = outcome.importance
    assert importance is not None  # whoever plans this part asks for it
    return {
        "gates": [_gate(gate) for gate in outcome.gates],
        "importance": {
            "layer": importance.layer,
            "target": _class(importance.target.index, labels),
            "weights": importance.weights,
        },
    }


def _class(index: int, labels: Sequence[str]) -> dict[str, Any]:
    return {"index": index, "label": labels[index]}


def _gate(gate: GateReading) -> dict[str, Any]:
    order = gate.ascending.tolist()

    def named(channels: list[int]) -> list[dict[str, Any]]:
        return [{"channel": channel, "weight": gate.weights[channel]} for channel in channels]

    did = {"effects": gate.effects, "restored": gate.restored}
    return {
        "layer": gate.layer,
        "type": gate.type,
        "channels": len(gate.weights),
        "weights": gate.weights,
        "mean": gate.weights.mean(),
        "strongest": named(order[: -_EXTREMES - 1 : -1]),
        "weakest": named(order[:_EXTREMES]),
        **{name: values for name, values in did.items() if values is not None},
    }


def _feature_maps(maps: FeatureMaps, others: Sequence[FeatureMaps], look: Look) -> dict[str, Any]:
    colours = "viridis"
    shown = compose.value_range([maps.values], look.scale == "layer")
    if maps.side is not None:
        # A gate only scales a channel: stretched by itself, each side would look like the other.
        sides = [other.values for other in others if other.layer == maps.layer and other.side in ("before", "after")]
        low, high = compose.value_range(sides, look.scale == "layer")
        shown = low, high
        if maps.side == "difference":
            reach = np.maximum(np.abs(low), np.abs(high))
            shown, colours = (-reach, reach), "coolwarm"
    grid = compose.grid(maps, shown, look.colormap or colours, look.tile, look.columns)
    return {
        "layer": maps.layer,
        **({"side": maps.side} if maps.side else {}),
        "shape": maps.shape,
        "channels": maps.channels,
        "grid": encode(grid.levels, look.media_type, grid.palette),
        "tiles": {
            "columns": grid.columns,
            "rows": grid.rows,
            "width": grid.tile[0],
            "height": grid.tile[1],
            "gap": grid.gap,
        },
        "stats": {"mean": maps.mean, "max": maps.max, "zeros": maps.zeros},
    }


def _grad_cam(image: DecodedImage, explanation: Explanation, look: Look, labels: Sequence[str]) -> dict[str, Any]:
    x0, y0, x1, y1 = image.box
    levels = compose.mask(explanation.heat, compose.scaled_size(x1 - x0, y1 - y0, look.max_side), look.signed)
    overlay = None
    if look.overlay and image.picture is not None:
        size = (image.info.width or 0, image.info.height or 0)
        colours = look.colormap or ("coolwarm" if look.signed else "turbo")
        overlay = encode(compose.overlay(image.picture, size, image.box, levels, colours, look.alpha), look.media_type)
    heat, contrast = explanation.heat, explanation.contrast
    return {
        "target": target(explanation.target, labels),
        **({"against": [_class(index, labels) for index in contrast.against]} if contrast else {}),
        "layer": explanation.layer,
        **({"fused": explanation.fuse} if explanation.fuse else {}),
        "method": explanation.method,
        "mask": encode(levels, look.media_type),
        "overlay": overlay,
        "box": image.box,
        "raw": {
            "shape": heat.shape,
            "values": heat,
            "min": heat.min(),
            "max": heat.max(),
            "all_negative": bool(heat.max() <= 0),
        },
    }


def frame(image: DecodedImage) -> dict[str, Any]:
    """What of a picture the network was given, as ``schemas.Frame`` has it."""
    x0, y0, x1, y1 = image.box
    height, width = image.pixels.shape[:2]
    return {
        "box": image.box,
        "scale": [width / (x1 - x0), height / (y1 - y0)],
        "pixels_sha256": hashlib.sha256(image.pixels.tobytes()).hexdigest(),
    }


def as_json(found: dict[str, Any]) -> bytes:
    """Results as JSON, made in the pool: long lists and pictures cost the event loop nothing."""
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_PASSTHROUGH_DATACLASS
    return orjson.dumps(found, default=_picture_as_json, option=options)


def _picture_as_json(value: Any) -> Any:
    if isinstance(value, Picture):
        return value.as_json()
    raise TypeError(f"{type(value).__name__} has no JSON form")
