"""What the channels of a network answer to, by its atlas: lists of channels, and each in detail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from pellucid.atlas.file import Atlas
from pellucid.errors import InvalidOption, NoAtlas
from pellucid.parts import channels, result
from pellucid.parts.channels import Order
from pellucid.parts.figures import channel as channel_figure
from pellucid.parts.figures.figure import FIGURE_TYPES, SVG
from pellucid.parts.option_types import unknown_option
from pellucid.schemas import ChannelDetail, ChannelList

from ..flow.networks import Served, Service
from ..flow.reply import JSON, negotiate
from ..http.openapi_problems import CHANNEL_FIGURE_PROBLEMS, CHANNEL_PROBLEMS

_NAME: Final = Path(description="A name from /v1/models.", examples=["lite0"])
_LAYER: Final = Path(description="A layer or gate of the atlas, from `atlas` of /v1/models/{name}.", examples=["head"])

# Writes a reply, whose names are resolved.
Written = Callable[[], dict[str, Any] | bytes]

_AS_FIGURE: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": f"The channel. With `Accept: image/png`, `image/webp` or `{SVG}`: a figure, 1200 pixels wide.",
        "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in FIGURE_TYPES},
    },
    **CHANNEL_FIGURE_PROBLEMS,
}


def router(service: Service) -> APIRouter:
    """The channels of a layer or gate, and one of them."""
    routes = APIRouter(tags=["models"], dependencies=[Depends(_require_known_options)])

    @routes.get(
        "/v1/models/{name}/layers/{layer}/channels",
        summary="The channels of a layer, and what they respond to",
        response_model=ChannelList,
        responses=CHANNEL_PROBLEMS,
    )
    async def layer_channels(
        request: Request,
        name: Annotated[str, _NAME],
        layer: Annotated[str, _LAYER],
        order: Annotated[
            Order | None,
            Query(
                description="Order of the channels. `number`: by number. Other orders begin with the largest value. "
                "`mean` and `maximum`: the median over pictures of the channel's mean or largest activation. `zeros`: "
                "the share of zeros. `target`: how much the channel speaks for `target`. Default: `target` if that "
                "option is given, else `number`."
            ),
        ] = None,
        target: Annotated[
            str | None,
            Query(max_length=256, description="A class, by index or label. Scores then say what speaks for it."),
        ] = None,
        against: Annotated[
            str | None,
            Query(max_length=256, description="Another class, to compare `target` with. Default: all classes."),
        ] = None,
        offset: Annotated[int, Query(ge=0, le=2**20, description="Number of channels to skip.")] = 0,
        limit: Annotated[int, Query(ge=1, le=1000, description="Largest number of channels to list.")] = 50,
    ) -> Response:
        """The channels of a layer or gate, what they respond to, and which distinguish one class from another."""
        served, atlas = _open(service, name)

        def resolved() -> Written:
            ranked = channels.ranking(channels.member(atlas, layer), served.spec, order, target, against)
            return lambda: channels.listed(ranked, served.spec, offset, limit)

        return await _reply(request, served, resolved)

    @routes.get(
        "/v1/models/{name}/layers/{layer}/channels/{channel}",
        summary="What a channel responds to",
        response_model=ChannelDetail,
        responses=_AS_FIGURE,
    )
    async def layer_channel(
        request: Request,
        name: Annotated[str, _NAME],
        layer: Annotated[str, _LAYER],
        channel: Annotated[int, Path(ge=0, lt=2**20, description="The channel, counted from 0.", examples=[795])],
    ) -> Response:
        """The pictures that activate a channel most, the classes it speaks for, and how its values are distributed.

        As a picture: one figure with the crops, the classes and the distribution.
        """
        media_type = negotiate(", ".join(request.headers.getlist("accept")), *FIGURE_TYPES)
        served, atlas = _open(service, name)

        def resolved() -> Written:
            of = channels.member(atlas, layer)
            channels.require_channel(of, channel)
            if media_type != JSON:
                return lambda: channel_figure.drawn(atlas, of, channel, served.spec, media_type).data
            return lambda: channels.channel_json(atlas, of, channel, served.spec)

        return await _reply(request, served, resolved, media_type)

    return routes


def _open(service: Service, name: str) -> tuple[Served, Atlas]:
    """The network that the path names, and its atlas. Raises UnknownModel and NoAtlas."""
    served = service.addressed(name)
    if served.atlas is None:
        raise NoAtlas(f"{name} has no atlas here. `pellucid atlas` builds one, and PELLUCID_ATLASES=FILE serves it.")
    return served, served.atlas


async def _reply(request: Request, served: Served, resolved: Callable[[], Written], media_type: str = JSON) -> Response:
    """The reply, written in the pool, or 304 if the client has it. Names are resolved in either case.

    The ETag covers all that decides the answer at an address: the atlas, the network with its labels, and the version.
    """
    kind = "" if media_type == JSON else "-" + media_type.partition("/")[2].partition("+")[0]
    tag = f'"{served.atlas_tag}{kind}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache", "Vary": "Accept"}
    known = {each.strip().removeprefix("W/") for each in ",".join(request.headers.getlist("if-none-match")).split(",")}

    def content() -> str | bytes | None:
        written = resolved()
        if known & {tag, "*"}:
            return None
        found = written()
        return found if isinstance(found, bytes) else result.as_json({"model": served.spec.name, **found})

    body = await served.in_pool(content)
    if body is None:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=media_type, headers=headers)


def _require_known_options(request: Request) -> None:
    """Raise InvalidOption for an option that the route does not take, or that is given several times."""
    allowed = [field.alias for field in request.scope["route"].dependant.query_params]
    for name, times in Counter(name for name, _ in request.query_params.multi_items()).items():
        if name not in allowed:
            raise InvalidOption(unknown_option(name, allowed))
        if times > 1:
            raise InvalidOption(f"{name} is given {times} times; it takes one value.")
