"""The tools of agents: requests of a client, and answers short enough for a model's context."""

from __future__ import annotations

import asyncio
import inspect
import io
import json
import logging
import os
import re
from base64 import b64decode, b64encode
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

import httpx
from mcp.server import Server
from mcp.types import CallToolResult, ImageContent, ListToolsResult, TextContent, Tool, ToolAnnotations
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from pellucid.client import ApiError, AsyncClient
from pellucid.client.figure import FigureRoute
from pellucid.parts.option_types import invalid
from pellucid.schemas import Result, Schema, Target

from .words import Where, explained, where

log = logging.getLogger("pellucid")

_INSTRUCTIONS: Final = (
    "Pellucid runs image networks and explains them. `predict` says what a network finds in a picture. `explain` "
    "shows where the evidence is, in a figure and a sentence that also says how far to trust the map: pass its "
    "doubts on. `compare` compares classes, pictures or networks. `what_if` edits channels. `models` lists all "
    "names. Probabilities are not calibrated. A map shows what a network used, not whether the network is right."
)
_FIGURE: Final = 1000  # pixels of its longer side: its text can be read, and it has about 100 kB
_MASK: Final = {"max_side": 8}  # the smallest: places are those of the raw map
_LISTED: Final = 24  # names in an answer or an error
_FILE: Final = 32  # no picture's file has fewer bytes

_BASE64: Final = "the picture's file in base64 or as a data: URL"
_ON_DISK: Final = f"the path of a picture on this machine, or {_BASE64}"
_PICTURES: Final = ("image", "other", "reference")
_ARGUMENTS: Final[dict[str, tuple[Any, str]]] = {
    "image": (str, "The picture: {picture}."),
    "other": (str, "A second picture to compare with: {picture}."),
    "reference": (str, "For a network whose output is an embedding, the picture to compare with: {picture}."),
    "model": (str, "A network by its name in `models`. Default: the service's own."),
    "view": (
        Literal["whole", "centre", "squash"],
        "What the network sees: the whole picture, its centre, or all of it squeezed to the network's input. Default: "
        "whole; squash for two pictures.",
    ),
    "top_k": (Annotated[int, Field(ge=1, le=20)], "Number of the most probable classes to list. Default: 5."),
    "target": (str | int, "What to explain: a label, or its index. Default: the most probable class."),
    "compare target": (list[str | int], "Two labels to compare, or one for both sides. Default: the first side's."),
    "against": (str | int, "Explain what speaks for the target and not for this label."),
    "against_model": (str, "A second network to compare with, by its name in `models`."),
    "method": (str, "A method of heat maps in `models`. Default: the first there."),
    "layer": (str, "A layer in `models`. Default: the network's default layer."),
    "trust": (bool, "Test how far the map can be trusted, by about 200 passes through the network. Default: true."),
    "gate": (str, "A gate in `models`. Edits its weights instead of a layer's channels."),
    "mute": (list[int], "Channels to multiply by 0, counted from 0."),
    "keep": (list[int], "Channels to keep. All others are multiplied by 0."),
    "scale": (list[str], "Channels and their factors, each as CHANNEL:FACTOR."),
    "rank": (bool, "Also measure the effect of muting each channel alone. Default: false."),
    "find": (str, "List the labels and layers that contain this text."),
}


class Scored(Schema):
    """A class, label or quantity. The score is a probability, a value with its unit, a share or a similarity."""

    label: str
    index: int
    score: str


def _model(name: str, fields: dict[str, Any]) -> type[BaseModel]:
    """A model that allows no other fields. Those with a default are optional."""
    return create_model(name, __config__=ConfigDict(extra="forbid"), **fields)


_OPTIONAL: Final = Field(None)
_SAME: Final = ("model", "view")
_SIDE: Final = {"model": str, "predictions": list[Scored], "target": Scored, "where": (Where | None, _OPTIONAL)}
_NUMBER: Final = (float | None, _OPTIONAL)
_TRUST: Final = Literal["follows", "unclear", "contradicts", "not tested"]
# Tool -> its arguments, and the fields of its answer.
_TOOLS: Final[dict[str, tuple[tuple[str, ...], dict[str, Any]]]] = {
    "predict": (("image", "top_k", *_SAME), {"model": str, "predictions": list[Scored]}),
    "explain": (
        ("image", "target", "against", "reference", "method", "layer", "trust", "top_k", *_SAME),
        {
            "sentence": str,
            **_SIDE,
            "method": str,
            "layer": str,
            "trust": _TRUST,
            "advantage": _NUMBER,
            "p_value": _NUMBER,
        },
    ),
    "compare": (
        ("image", "other", "target", "against_model", "method", "layer", *_SAME),
        {"first": _model("side", _SIDE), "second": _model("side", _SIDE), "rank_agreement": _NUMBER},
    ),
    "what_if": (
        ("image", "mute", "keep", "scale", "layer", "gate", "target", "reference", "rank", *_SAME),
        dict(layer=str, before=list[Scored], after=list[Scored], target=Scored, change=float)
        | {"most": (dict[int, float] | None, _OPTIONAL)},
    ),
    "models": (
        ("model", "find"),
        dict(models=dict[str, str], model=str, output=str, methods=list[str], layers=list[str], gates=list[str])
        | {"found": (list[str] | None, _OPTIONAL)},
    ),
}


def server(client: AsyncClient, *, file_bytes: int = 0) -> Server[Any]:
    """The server of the tools, which asks ``client``.

    ``file_bytes``: the size of the largest file of this machine that may be a picture. 0 allows none.
    """
    tools, picture = _Tools(client), _ON_DISK if file_bytes else _BASE64
    arguments, answers, listed = {}, {}, []
    for name, (names, answer) in _TOOLS.items():
        fields: dict[str, Any] = {}
        for each in names:
            kind, said = _ARGUMENTS.get(f"{name} {each}", _ARGUMENTS[each])
            about = Field(... if each == "image" else None, description=said.format(picture=picture))
            fields[each] = (kind if each == "image" else kind | None, about)
        arguments[name], answers[name] = _model(name, fields), _model(f"{name} answer", answer)
        tool = Tool(
            name=name,
            description=inspect.getdoc(getattr(tools, name)),
            input_schema=arguments[name].model_json_schema(),
            output_schema=answers[name].model_json_schema(),
            annotations=ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False),
        )
        listed.append(tool)

    async def list_tools(*_: Any) -> ListToolsResult:
        return ListToolsResult(tools=listed)

    async def call_tool(_: Any, call: Any) -> CallToolResult:
        try:
            if call.name not in _TOOLS:
                raise ValueError(f"There is no tool {call.name!r}. Allowed: {', '.join(_TOOLS)}.")
            given = arguments[call.name].model_validate(call.arguments or {}).model_dump(exclude_none=True)
            named = [name for name in _PICTURES if name in given]
            read = {name: await asyncio.to_thread(_read, given[name], file_bytes) for name in named}
            answer, *figure = await getattr(tools, call.name)(**given | read)
        except Exception as error:
            allowed = _TOOLS[call.name][0] if call.name in _TOOLS else ()
            return CallToolResult(content=[TextContent(type="text", text=_refusal(error, allowed))], is_error=True)
        # As text for clients that show it, and as an object. Three digits are enough of a number.
        told = answers[call.name](**answer).model_dump_json(exclude_none=True)
        found = json.loads(told, parse_float=lambda each: float(f"{float(each):.3g}"))
        text = TextContent(type="text", text=json.dumps(found, ensure_ascii=False))
        return CallToolResult(content=[text, *figure], structured_content=found)

    return Server(
        "pellucid",
        version=version("pellucid"),
        instructions=_INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def _read(picture: str, file_bytes: int) -> str | bytes:
    """The bytes of a picture in base64, or the path of one on this machine. Raises OSError, ValueError."""
    path = os.path.expanduser(picture)
    if picture.startswith("file:"):
        url = urlsplit(picture)
        path = url2pathname(url.path) if url.netloc in ("", "localhost") else ""
    # Not a device or FIFO, and nothing in /proc, which has no size.
    if file_bytes and os.path.isfile(path) and (size := os.path.getsize(path)) >= _FILE:
        if size > file_bytes:
            raise ValueError(f"{path} has {size / 2**20:.1f} MiB, and at most {file_bytes / 2**20:g} MiB are allowed.")
        return path
    try:
        data = b64decode(picture.partition(";base64,")[2] or picture, validate=True)
    except ValueError:
        data = b""
    if len(data) < _FILE:
        shown = f"{picture[:_LISTED]!r}" + (" ..." if len(picture) > _LISTED else "")
        raise ValueError(f"{shown} can't be read as a picture. Give {_ON_DISK if file_bytes else _BASE64}.")
    return data


def _refusal(error: Exception, arguments: Sequence[str]) -> str:
    """What is wrong, and what is allowed, for the agent."""
    match error:
        case ValidationError():
            return f"{invalid(error.errors()).detail} Arguments: {', '.join(arguments)}."
        case ApiError():
            allowed = error.allowed or []
            if not allowed or "Did you mean" in error.detail or allowed[0] in error.detail:
                return error.detail or error.title
            more = f" and {len(allowed) - _LISTED} more" if len(allowed) > _LISTED else ""
            return f"{error.detail} Allowed: {', '.join(allowed[:_LISTED])}{more}."
        case httpx.TransportError():
            return f"The service does not answer: {error or type(error).__name__}. `pellucid serve` starts one."
        case OSError():
            return f"The picture can't be read: {error.strerror}."
        case ValueError():
            return str(error)
    log.exception("a tool failed", exc_info=error)
    return "The tool failed; the log of `pellucid mcp` has the cause."


class _Tools:
    """The tools by name. The descriptions are for agents."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def predict(self, image: str | bytes, **options: Any) -> list[Any]:
        """What a network finds in a picture: its most probable classes, its labels or quantities."""
        model, result = await self._asked("predict", image, options)
        return [{"model": model, "predictions": _scored(*result.predictions or [])}]

    async def explain(self, image: str | bytes, **options: Any) -> list[Any]:
        """Why a network gives a picture a class. Returns a figure with a heat map of the evidence, and a sentence that
        says what was found, where in the picture, and how far to trust the map. `trust` follows from the `advantage` of
        the map over the same map at random places, and its `p_value`. Every class has a map, even a wrong class.
        `where` is missing if there is no evidence."""
        asked, tested, untested = {"include": ["predictions", "grad_cam"], **_MASK}, options.pop("trust", True), ""
        try:
            model, result = await self._asked("explain", image, options, trust=tested, **asked)
        except ApiError as error:
            if not tested or error.kind != "too-costly":
                raise
            (took,) = re.findall(r"about (\d+) ms", error.detail) or ["0"]
            untested = f": that would take about {max(1, round(int(took) / 1000))} s, longer than allowed"
            model, result = await self._asked("explain", image, options, **asked)
        (cam,), found = result.grad_cam or [], result.predictions or []
        place, trust = where(cam.raw, cam.box, result.image), cam.trust
        answer = {
            "sentence": explained(model, result.image, found, cam, place, untested),
            **_side(model, found, cam.target, place),
            "method": cam.method,
            "layer": cam.layer,
            "trust": trust.finding if trust else "not tested",
            "advantage": trust and trust.advantage,
            "p_value": trust and trust.p_value,
        }
        return [answer, await self._figure("explain", image, **options)]

    async def compare(self, image: str | bytes, other: str | bytes | None = None, **options: Any) -> list[Any]:
        """Compares two classes (in `target`), two pictures (`other`) or two networks (`against_model`): how probable
        each is, where its evidence is, the rank correlation of the maps (1: the same places in the same
        order), and a figure of both maps and their difference. `where` is missing if there is hardly any evidence."""
        options.setdefault("view", "squash" if other else "whole")
        found = await self._client.compare(image, other, **options | _MASK)
        maps = found.maps
        answer: dict[str, Any] = {"rank_agreement": maps.rank_agreement}
        for name, side, shown in (("first", found.first, maps.first), ("second", found.second, maps.second)):
            box = side.box if maps.frame == "input" else maps.box
            place = where(shown.raw, box, side.image, maps.reach)
            answer[name] = _side(side.model, side.predictions, side.target, place)
        return [answer, await self._figure("compare", image, other, **options)]

    async def what_if(self, image: str | bytes, **options: Any) -> list[Any]:
        """What a network would answer if channels of a layer or gate were muted, kept alone or scaled: the classes
        before and after, the `change` of the target's logit, and a figure of the maps. `rank` finds the channels that
        matter: `most` has the changes if each is muted alone."""
        _, result = await self._asked("what-if", image, options, **_MASK)
        found = result.what_if
        assert found is not None
        answer = {
            "layer": found.layer,
            "before": _scored(*found.before),
            "after": _scored(*found.after),
            "target": _scored(found.targets[0].after)[0],
            "change": found.targets[0].change,
            "most": found.ranking and {each.channel: each.muted for each in found.ranking.most},
        }
        return [answer, await self._figure("what-if", image, **options)]

    async def models(self, model: str = "", find: str = "") -> list[Any]:
        """The networks, and the names in one of them: methods, gates, the default layer and some others. `find`
        searches all labels and layers."""
        models = await self._client.models()
        detail = await self._client.model(model or next(each.name for each in models if each.default))
        names = (*detail.labels, *(layer.name for layer in detail.layers))
        answer = {
            "models": {each.name: each.title for each in models},
            "model": detail.name,
            "output": detail.output.kind,
            "methods": detail.methods,
            "layers": [*dict.fromkeys((detail.default_layer.name, *detail.feature_layers))],
            "gates": [gate.layer for gate in detail.gates][:_LISTED],
            "found": [name for name in names if find.lower() in name.lower()][:_LISTED] if find else None,
        }
        return [answer]

    async def _asked(self, route: str, image: str | bytes, options: dict[str, Any], **more: Any) -> tuple[str, Result]:
        """The network's name and the result. ``options`` get the default view."""
        options.setdefault("view", "whole")
        reply = await self._client.reply(route, image, **options | more)
        (result,) = reply.results
        assert isinstance(result, Result)  # the only image of a request fails by its status
        return reply.model, result

    async def _figure(self, route: FigureRoute, *images: Any, **options: Any) -> ImageContent:
        """The figure of an answer, as a JPEG of moderate size."""
        figure = await self._client.figure(*images, route=route, **options)
        data = await asyncio.to_thread(_jpeg, bytes(figure))
        return ImageContent(type="image", data=b64encode(data).decode(), mime_type="image/jpeg")


def _scored(*targets: Target) -> list[Scored]:
    return [Scored(label=each.label, index=each.index, score=each.score) for each in targets]


def _side(model: str, predictions: Sequence[Target], target: Target, place: Where | None) -> dict[str, Any]:
    return {"model": model, "predictions": _scored(*predictions), "target": _scored(target)[0], "where": place}


def _jpeg(figure: bytes) -> bytes:
    picture, file = Image.open(io.BytesIO(figure)).convert("RGB"), io.BytesIO()
    picture.thumbnail((_FIGURE, _FIGURE), Image.Resampling.LANCZOS)
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()
