"""KServe's protocol v1, the same as TensorFlow Serving's: instances in, predictions or explanations out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, TypeVar

import orjson
from fastapi import APIRouter, Path, Query, Request, Response

from pellucid.errors import MalformedRequest
from pellucid.parts import result
from pellucid.parts.explain import ExplainOptions
from pellucid.parts.option_types import Options
from pellucid.parts.predictions import PredictOptions
from pellucid.parts.trust import Trusted
from pellucid.types import DecodedImage, Outcome, Upload

from ..flow import bodies, reply
from ..flow.networks import Served, Service
from ..flow.one_pass import Ask
from ..flow.serve import Route, serve
from ..http.route import OptionsRoute
from . import documented

T = TypeVar("T")
ModelName = Annotated[str, Path(description="A name from /v1/models.", examples=["lite0"])]
# An instance is an image, or an object with one input of one of these names.
_INPUTS: Final = ("image", "image_bytes")


def router(service: Service) -> APIRouter:
    """Aliases of /v1/predict and /v1/explain."""
    routes = APIRouter(tags=["protocols"], route_class=OptionsRoute)

    @routes.post(
        "/v1/models/{name}:predict",
        name="kserve_v1_predict",
        summary="KServe v1: the most probable classes",
        response_description="The predictions of /v1/predict.",
        responses=documented.PREDICTIONS,
        openapi_extra=documented.INSTANCES_BODY,
    )
    async def predict(request: Request, options: Annotated[PredictOptions, Query()], name: ModelName) -> Response:
        """An alias of /v1/predict: one prediction for each instance, the entry that /v1/predict has in `results`."""
        return await serve(request, service, options, _Instances(service.addressed(name), "predictions"))

    @routes.post(
        "/v1/models/{name}:explain",
        name="kserve_v1_explain",
        summary="KServe v1: explanations",
        response_description="The explanations of /v1/explain.",
        responses=documented.EXPLANATIONS,
        openapi_extra=documented.INSTANCES_BODY,
    )
    async def explain(request: Request, options: Annotated[ExplainOptions, Query()], name: ModelName) -> Response:
        """An alias of /v1/explain: one explanation for each instance, the entry that /v1/explain has in `results`."""
        return await serve(request, service, options, _Instances(service.addressed(name), "explanations"))

    return routes


class Addressed(Route[Options, T]):
    """A route whose path names the network: one pass for each image, all by one plan.

    One image's failure is the request's.
    """

    any_type = True

    def __init__(self, served: Served) -> None:
        self._served = served

    def asks(self, body: bodies.Body, options: Options) -> list[Ask]:
        """Raises InvalidOption if the options contradict the path."""
        plan = options.addressed_to(self._served.spec.name).plan(self._served, len(body.uploads))
        return [Ask(image, self._served, plan, options) for image in body.uploads]


class _Instances(Addressed[orjson.Fragment]):
    """An entry for each instance under ``key``."""

    def __init__(self, served: Served, key: str) -> None:
        super().__init__(served)
        self._key = key

    async def read(self, request: Request, limits: bodies.Limits, hold: Callable[[int], None]) -> bodies.Body:
        """Instances, and options as their parameters."""
        return await asyncio.to_thread(_from_json, await bodies.whole(request, limits, hold), limits)

    def written(
        self, ask: Ask, image: DecodedImage, outcome: Outcome, trusted: Sequence[Trusted] = ()
    ) -> orjson.Fragment:
        """The entry that /v1 has in `results`."""
        return orjson.Fragment(result.as_json(reply.entry(ask, image, outcome, trusted)))

    def reply(self, asks: Sequence[Ask], written: Sequence[orjson.Fragment]) -> Response:
        return Response(orjson.dumps({self._key: written}), media_type=reply.JSON)


def _from_json(body: bytes, limits: bodies.Limits) -> bodies.Body:
    said = bodies.from_json(body, limits)
    if not isinstance(said, dict) or not isinstance(said.get("instances"), list):
        raise MalformedRequest('The body must be a JSON object with a list of "instances", each {"b64": base64}.')
    instances, parameters = said.pop("instances"), said.pop("parameters", {})
    if said or not isinstance(parameters, dict):
        raise MalformedRequest('Besides "instances", the body may have only "parameters", an object of options.')
    if len(instances) > limits.images:  # before they are decoded
        raise bodies.too_many(limits)
    uploads = tuple(_image(instance, number) for number, instance in enumerate(instances))
    bodies.require_images(uploads, limits)
    return bodies.Body(uploads, parameters)


def _image(instance: Any, number: int) -> Upload:
    if isinstance(instance, dict) and len(instance) == 1:
        (named,) = instance
        instance = instance[named] if named in _INPUTS else instance
    if isinstance(instance, dict) and instance.keys() == {"b64"}:
        instance = instance["b64"]
    return bodies.json_image(instance, f"instances[{number}]")
