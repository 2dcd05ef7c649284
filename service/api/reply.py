"""Outcome -> the reply: one envelope on every route, or, where one picture is asked for, its bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import mimeparse
import numpy as np
import orjson
from starlette.responses import Response

from service.api.classes import prediction, target
from service.api.plan import Look
from service.api.trials import Trusted
from service.api.trust_reply import trust
from service.api.what_if import what_if
from service.errors import NotAcceptable, PellucidError
from service.render import compose, plot
from service.render.encode import MEDIA_TYPES, Picture, encode
from service.types import DecodedImage, Explanation, FeatureMaps, GateReading, ImageInfo, Outcome, Plan

JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"
# How many channels are named as a gate's strongest and weakest.
_EXTREMES: Final = 5
# The axis of a gate's bars goes from 1 at least this far.
_LEAST_REACH: Final = 0.75
_LONGEST_ACCEPT: Final = 1024


def negotiate(accept: str | None, pictures: bool) -> str:
    """The media type of the reply: JSON unless the Accept header prefers a picture and the route has one.

    Raises NotAcceptable.
    """
    offered = [*MEDIA_TYPES[::-1], JSON] if pictures else [JSON]  # mimeparse lets the last of equals win
    if accept and len(accept) > _LONGEST_ACCEPT:  # mimeparse takes 50 ms of the event loop for 30 KiB
        raise NotAcceptable(f"The Accept header has more than {_LONGEST_ACCEPT} characters.", allowed=offered)
    try:
        chosen = mimeparse.best_match(offered, accept or "*/*")
    except mimeparse.MimeTypeParseException as error:
        raise NotAcceptable(f"The Accept header can't be read: {error}.", allowed=offered) from error
    if not chosen:
        raise NotAcceptable(f"This route answers as {', '.join(offered)}, not as {accept!r}.", allowed=offered)
    return str(chosen)


def result(
    image: DecodedImage, outcome: Outcome, look: Look, labels: Sequence[str], trusted: Sequence[Trusted] = ()
) -> dict[str, Any]:
    """One entry of ``results``; pictures are still Pictures, so that a caller can also have their bytes.

    ``trusted`` has what was measured of each map, where it was.
    """
    entry: dict[str, Any] = {"image": image_info(image.info)}
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
    first = outcome.explanations[0]
    return {
        "gates": [_gate(gate) for gate in outcome.gates],
        "importance": {
            "layer": first.layer,
            "target": {"index": first.target.index, "label": labels[first.target.index]},
            "weights": first.channel_weights,
        },
    }


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
    heat = explanation.heat
    return {
        "target": target(explanation.target, labels),
        "layer": explanation.layer,
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


def failure(info: ImageInfo, problem: dict[str, Any]) -> orjson.Fragment:
    """The entry of an image that could not be explained, among others that could."""
    return fragment({"image": image_info(info), "error": problem})


def fragment(entry: dict[str, Any]) -> orjson.Fragment:
    """An entry of ``results`` as JSON, made in the pool: long lists and pictures cost the event loop nothing."""
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_PASSTHROUGH_DATACLASS
    return orjson.Fragment(orjson.dumps(entry, default=_as_json, option=options))


def envelope(model: str, request_id: str, results: Sequence[orjson.Fragment]) -> Response:
    """The JSON reply."""
    return Response(orjson.dumps({"model": model, "request_id": request_id, "results": results}), media_type=JSON)


def _as_json(value: Any) -> Any:
    if isinstance(value, Picture):
        return value.as_json()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def require_one_picture(images: int, plan: Plan, look: Look, media_type: str) -> None:
    """Raise NotAcceptable, before any work is done, if the answer would hold more or fewer pictures than one."""
    plots = int("attention" in look.parts)
    grids = sum(3 if tap.gate else 1 for tap in plan.taps)
    masks = max(1, len(plan.targets)) if "grad_cam" in look.parts else 0
    if look.design:
        raise NotAcceptable(f"`trust` is numbers, which {media_type} can't hold: ask for {JSON}.", allowed=[JSON])
    pictures = images * (plots + grids + masks)
    if pictures != 1:
        raise NotAcceptable(
            f"The answer would hold {pictures} pictures, which can't be one {media_type}. "
            f"Ask for one image and one part with one target or one layer, or for {JSON}.",
            allowed=[JSON],
        )


def picture(entry: dict[str, Any], media_type: str) -> Response:
    """The one picture of a result, with what it shows in headers.

    The plot of the channels' weights, the grid of feature maps, the overlay where one was asked for, or the mask.
    """
    headers = {}
    if "attention" in entry:
        shown = encode(plot.bars(_strips(entry["attention"])), media_type)
        part = entry["attention"]["importance"]
        headers["Pellucid-Target"] = str(part["target"]["index"])
    elif "feature_maps" in entry:
        (part,) = entry["feature_maps"]
        shown = part["grid"]
        headers["Pellucid-Channels"] = ",".join(map(str, part["channels"]))
    else:
        (part,) = entry["grad_cam"]
        shown = part["overlay"] or part["mask"]
        headers |= {
            "Pellucid-Box": ",".join(map(str, part["box"])),
            "Pellucid-Target": str(part["target"]["index"]),
            "Pellucid-All-Negative": str(part["raw"]["all_negative"]).lower(),
        }
    return Response(shown.data, media_type=shown.media_type, headers={"Pellucid-Layer": part["layer"], **headers})


def _strips(attention: dict[str, Any]) -> list[plot.Strip]:
    # All gates on one axis, and most pictures on the same: a bar's length means the same everywhere.
    reach = max([_LEAST_REACH, *(float(np.abs(gate["weights"] - 1).max()) for gate in attention["gates"])])
    strips = [
        plot.Strip(
            f"{gate['layer']}: {gate['channels']} channels, {gate['weights'].min():.2f} to {gate['weights'].max():.2f}",
            gate["weights"],
            neutral=1,
            reach=reach,
        )
        for gate in attention["gates"]
    ]
    importance = attention["importance"]
    largest = float(np.abs(importance["weights"]).max()) or 1.0
    title = f"Grad-CAM channel weights at {importance['layer']} for {importance['target']['label']} (not a gate)"
    return [*strips, plot.Strip(title, importance["weights"], neutral=0, reach=largest)]


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
