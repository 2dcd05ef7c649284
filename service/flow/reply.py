"""Outcomes -> the reply: one envelope of JSON on every route, or one picture or file of numbers alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import mimeparse
import orjson
from starlette.requests import Request
from starlette.responses import Response

from pellucid.decode.image import identify
from pellucid.errors import InvalidOption, NotAcceptable, PellucidError
from pellucid.parts import result
from pellucid.parts.figures.figure import SOURCE_SIDE, FigureOptions
from pellucid.parts.option_types import Analysis, Options
from pellucid.parts.trust import Trusted
from pellucid.render import png
from pellucid.render.encode import MEDIA_TYPES, Picture
from pellucid.render.figure import FIGURE_TYPES, SVG
from pellucid.types import DecodedImage, Outcome, Plan, Upload

from ..http.problem_json import problem
from ..telemetry.metrics import Call
from . import provenance
from .bodies import Body
from .networks import Service
from .one_pass import Ask
from .serve import Route

log = logging.getLogger(__name__)

JSON: Final = "application/json"
# What routes offer beside JSON.
PICTURES: Final = MEDIA_TYPES
NUMBERS: Final = result.NPZ
FIGURES: Final = FIGURE_TYPES
_LONGEST_ACCEPT: Final = 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """What a reply says of one image: JSON, or a file of ``media_type`` with ``headers`` that say what it shows."""

    content: bytes
    media_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


class Results(Route[Options, Entry]):
    """A route under /v1: a result for each image in one envelope, or one picture or figure, or one file of numbers.

    An image that fails beside others has a result with its error.
    """

    def __init__(self, request: Request, service: Service, *more: str) -> None:
        """``more`` are the media types that the route offers beside JSON. Raises NotAcceptable."""
        self._media_type = negotiate(", ".join(request.headers.getlist("accept")), *more)
        self._request = request
        self._service = service
        self._origin: dict[str, Any] | None = None

    def asks(self, body: Body, options: Options) -> list[Ask]:
        """One pass for each image, all by one plan."""
        network = self._service.network(options.model)
        if self._media_type in FIGURE_TYPES:
            options = options.as_picture()
        # Requests with the same query share its options. Options of a body can be megabytes, so they are not kept.
        images = len(body.uploads)
        plan = options.plan(network, images) if body.fields else network.planned(options, images)
        if self._media_type != JSON:
            _require_one_picture(images, plan, options, self._media_type)
        side = SOURCE_SIDE if self._media_type in FIGURE_TYPES and isinstance(options, FigureOptions) else None
        if options.provenance:
            self._origin = provenance.of_reply(self._request.scope["route"].path, options, plan, network)
        return [Ask(image, network, plan, options, side=side) for image in body.uploads]

    def written(self, ask: Ask, image: DecodedImage, outcome: Outcome, trusted: Sequence[Trusted] = ()) -> Entry:
        if outcome.gates and ask.network.drift is not None and ask.options.view == "centre":
            ask.network.drift.observe(outcome.gates)
        if self._media_type == result.NPZ:
            data = result.npz(image, outcome, self._origin)
            return Entry(data, result.NPZ)
        if self._media_type == JSON:
            return Entry(result.as_json(entry(ask, image, outcome, trusted)))
        shown, headers = self._picture(ask, image, outcome, trusted)
        data = shown.data
        if self._origin is not None:
            text = result.provenance_json(image, self._origin)
            data = png.annotated(data, {result.PROVENANCE: text})
        return Entry(data, shown.media_type, headers)

    def _picture(
        self, ask: Ask, image: DecodedImage, outcome: Outcome, trusted: Sequence[Trusted]
    ) -> tuple[Picture, dict[str, str]]:
        if isinstance(ask.options, FigureOptions):
            return ask.options.figure(_analysis(ask, image, outcome, trusted, self._media_type)), {}
        found = entry(ask, image, outcome, trusted, self._media_type)
        return ask.options.picture({**found, "model": ask.network.spec.name}, self._media_type)

    async def failed(self, number: int, ask: Ask, error: Exception) -> Entry:
        """The result of an image that failed beside others."""
        call: Call = self._request.state.call
        if not isinstance(error, PellucidError):  # a fault of ours: the other images still have their answers
            log.error("request %s failed on one of its images", call.request_id, exc_info=error)
            error = PellucidError("The service failed on this image; its log has the cause under the request's id.")
        call.problems.append(error.slug)
        told = problem(error, call.request_id)

        def written() -> Entry:
            assert isinstance(ask.image, Upload)
            return Entry(result.as_json({"image": result.image_info(identify(ask.image)), "error": told}))

        return await asyncio.to_thread(written)

    def reply(self, asks: Sequence[Ask], written: Sequence[Entry]) -> Response:
        """All results in the order of the images, or the one file."""
        if self._media_type != JSON:
            (file,) = written
            return Response(file.content, media_type=file.media_type, headers=dict(file.headers))
        head = {"model": asks[0].network.spec.name, "request_id": self._request.state.request_id}
        if self._origin is not None:
            head["provenance"] = self._origin
        body = [orjson.dumps(head)[:-1], b',"results":[']  # joined once: results with pictures are megabytes
        for each in written:
            body += each.content, b","
        body[-1] = b"]}"
        return Response(b"".join(body), media_type=JSON)


def entry(
    ask: Ask, image: DecodedImage, outcome: Outcome, trusted: Sequence[Trusted] = (), media_type: str = "image/png"
) -> dict[str, Any]:
    """One image's result as plain data; its pictures, of ``media_type``, are still Pictures."""
    found = ask.options.entry(_analysis(ask, image, outcome, trusted, media_type))
    return {"image": result.image_info(image.info), **found}


def _analysis(ask: Ask, image: DecodedImage, outcome: Outcome, trusted: Sequence[Trusted], media_type: str) -> Analysis:
    network = ask.network
    return Analysis(image, outcome, network.spec, trusted, media_type, network.methods, network.atlas, ask.left)


def negotiate(accept: str | None, *more: str) -> str:
    """The media type of the reply: JSON, unless the Accept header prefers one of the others, ``more``.

    Of types that it likes equally, the first of them wins. Raises NotAcceptable.
    """
    offered = (*more[::-1], JSON)  # mimeparse lets the last of equals win
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


def _require_one_picture(images: int, plan: Plan, options: Options, media_type: str) -> None:
    """Raise NotAcceptable, before any work is done, if the answer would hold more or fewer pictures than one.

    A figure holds any number of maps. Raises InvalidOption for a picture that can't carry the provenance that is asked
    for.
    """
    if options.provenance and media_type in ("image/webp", SVG):
        kind = "An SVG" if media_type == SVG else "A WebP"
        raise InvalidOption(f"provenance: {kind} picture can't carry it; image/png and application/json can.")
    if isinstance(options, FigureOptions):
        if images > 1:
            raise NotAcceptable(f"A figure shows one image, and {images} were sent.", allowed=[JSON])
        options.require_room(plan)
        return
    if options.design:
        raise NotAcceptable(f"`trust` is numbers, which {media_type} can't hold: ask for {JSON}.", allowed=[JSON])
    if media_type == result.NPZ and images == 1:  # of any number of maps
        result.require_one_size(plan)
        return
    pictures = images * options.pictures(plan)
    if pictures != 1:
        raise NotAcceptable(
            f"The answer would be {pictures} pictures, and {media_type} can hold only one. Ask for one image and one "
            f"part with one target, method and layer, or for {JSON}.",
            allowed=[JSON],
        )
