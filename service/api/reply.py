"""Outcome -> the reply: one envelope on every route, or, where one picture is asked for, its bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import mimeparse
import numpy as np
import orjson
from starlette.responses import Response

from service.api import numbers_file, provenance
from service.api.classes import prediction, target
from service.api.plan import Look
from service.api.trials import Trusted
from service.api.trust_reply import trust
from service.api.what_if import what_if
from service.errors import NotAcceptable, PellucidError
from service.render import compose
from service.render.encode import MEDIA_TYPES, Picture, encode
from service.types import DecodedImage, Explanation, FeatureMaps, GateReading, ImageInfo, Outcome

JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"
# How many channels are named as a gate's strongest and weakest.
_EXTREMES: Final = 5
_LONGEST_ACCEPT: Final = 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """One image's part of a reply: the rest of its entry as JSON, or a file of ``media_type`` with what it shows in
    ``headers``. Nothing in it but ``info.filename`` is of the request.
    """

    info: ImageInfo
    content: bytes
    media_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


def negotiate(accept: str | None, pictures: bool, numbers: bool = False) -> str:
    """The media type of the reply: JSON unless the Accept header prefers a picture and the route has one, or, where it
    has maps of ``numbers``, a file of those.

    Raises NotAcceptable.
    """
    offered = (JSON,)
    if pictures:  # mimeparse lets the last of equals win
        offered = (*(numbers_file.TYPES if numbers else ()), *MEDIA_TYPES[::-1], JSON)
    if accept and len(accept) > _LONGEST_ACCEPT:  # mimeparse takes 50 ms of the event loop for 30 KiB
        raise NotAcceptable(f"The Accept header has more than {_LONGEST_ACCEPT} characters.", allowed=offered)
    try:
        chosen = _best_match(offered, accept or "*/*")
    except mimeparse.MimeTypeParseException as error:
        raise NotAcceptable(f"The Accept header can't be read: {error}.", allowed=offered) from error
    if not chosen:
        raise NotAcceptable(f"This route answers as {', '.join(offered)}, not as {accept!r}.", allowed=offered)
    return chosen


@lru_cache(256)  # callers send a few headers again and again
def _best_match(offered: tuple[str, ...], accept: str) -> str:
    return str(mimeparse.best_match(offered, accept))


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
        entry["frame"] = provenance.frame(image)
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


def failure(info: ImageInfo, problem: dict[str, Any]) -> Entry:
    """The entry of an image that could not be explained, among others that could."""
    return entry(info, {"error": problem})


def entry(info: ImageInfo, found: dict[str, Any]) -> Entry:
    """An entry of ``results``, but for what is known of the upload, as JSON."""
    return Entry(info, as_json(found))


def as_json(found: dict[str, Any]) -> bytes:
    """Results as JSON, made in the pool: long lists and pictures cost the event loop nothing."""
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_PASSTHROUGH_DATACLASS
    return orjson.dumps(found, default=_picture_as_json, option=options)


def envelope(model: str, request_id: str, origin: dict[str, Any] | None, results: Sequence[Entry]) -> Response:
    """The JSON reply. ``origin`` is its provenance, where that is asked for."""
    head: dict[str, Any] = {"model": model, "request_id": request_id}
    if origin is not None:
        head["provenance"] = origin
    body: list[bytes | memoryview] = [orjson.dumps(head)[:-1], b',"results":[']
    for number, each in enumerate(results):
        image = orjson.dumps(image_info(each.info))
        body += [b',{"image":' if number else b'{"image":', image, b",", memoryview(each.content)[1:]]
    body.append(b"]}")
    return Response(b"".join(body), media_type=JSON)


def _picture_as_json(value: Any) -> Any:
    if isinstance(value, Picture):
        return value.as_json()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def problem(error: PellucidError, request_id: str) -> dict[str, Any]:
    """An error as RFC 9457 has it, with the request's id, and what is allowed where a list of it helps."""
    body: dict[str, Any] = {
        "type": f"urn:pellucid:problem:{error.slug}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "request_id": request_id,
    }
    if error.allowed is not None:
        body["allowed"] = error.allowed
    return body


def problem_response(error: PellucidError, request_id: str) -> Response:
    """An error as the whole reply."""
    return Response(
        orjson.dumps(problem(error, request_id)),
        status_code=error.status,
        headers=error.headers,
        media_type=PROBLEM,
    )
