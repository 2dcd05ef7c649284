"""KServe's protocol v1, which is TensorFlow Serving's: instances in, predictions or explanations out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Path, Query, Request, Response

from pellucid.errors import MalformedRequest
from pellucid.parts import result
from pellucid.parts.explain import ExplainOptions
from pellucid.parts.option_types import Analysis, Options
from pellucid.parts.predictions import PredictOptions
from pellucid.types import Upload

from ..flow import body as intake
from ..flow import reply
from ..flow.serve import Order, Service, serve
from ..http.route import OptionsRoute
from . import documented

ModelName = Annotated[str, Path(description="A name from /v1/models.", examples=["lite0"])]
# An instance is an image, or an object of one input, which callers call by one of these.
_INPUTS: Final = ("image", "image_bytes")


def router(service: Service) -> APIRouter:
    """Aliases of /v1/predict and /v1/explain."""
    routes = APIRouter(tags=["protocols"], route_class=OptionsRoute)

    @routes.post(
        "/v1/models/{name}:predict",
        name="kserve_v1_predict",
        summary="KServe v1: the most probable classes",
        responses=documented.kserve_v1("predictions", "Those of /v1/predict."),
        openapi_extra=documented.instances(),
    )
    async def predict(request: Request, options: Annotated[PredictOptions, Query()], name: ModelName) -> Response:
        """An alias of /v1/predict: one prediction for each instance, the entry that /v1/predict has in `results`."""
        return await _answer(request, service, name, options, "predictions")

    @routes.post(
        "/v1/models/{name}:explain",
        name="kserve_v1_explain",
        summary="KServe v1: why",
        responses=documented.kserve_v1("explanations", "Those of /v1/explain."),
        openapi_extra=documented.instances(),
    )
    async def explain(request: Request, options: Annotated[ExplainOptions, Query()], name: ModelName) -> Response:
        """An alias of /v1/explain: one explanation for each instance, the entry that /v1/explain has in `results`."""
        return await _answer(request, service, name, options, "explanations")

    return routes


async def _answer(request: Request, service: Service, name: str, options: Options, key: str) -> Response:
    pipeline = service.addressed(name)

    def order(body: intake.Intake) -> Order[orjson.Fragment]:
        chosen = options.merged(body.fields).addressed_to(name)
        plan = chosen.plan(pipeline, len(body.uploads))
        return Order(
            pipeline,
            plan,
            chosen,
            lambda image, outcome, trusted=(): orjson.Fragment(
                result.as_json(
                    {
                        "image": result.image_info(image.info),
                        **chosen.entry(Analysis(image, outcome, pipeline.spec.labels, trusted)),
                    }
                )
            ),
            partial(_reply, key),
            timeout_ms=chosen.timeout_ms,
        )

    return await serve(request, service, options.timeout_ms, _read, order, any_type=True)


def _reply(key: str, entries: Sequence[orjson.Fragment]) -> Response:
    return Response(orjson.dumps({key: entries}), media_type=reply.JSON)


async def _read(request: Request, limits: intake.Limits, hold: Callable[[int], None]) -> intake.Intake:
    return await asyncio.to_thread(_from_json, await intake.whole(request, limits, hold), limits)


def _from_json(body: bytes, limits: intake.Limits) -> intake.Intake:
    said = intake.from_json(body, limits)
    if not isinstance(said, dict) or not isinstance(said.get("instances"), list):
        raise MalformedRequest('The body must be a JSON object with a list of "instances", each {"b64": base64}.')
    instances, parameters = said.pop("instances"), said.pop("parameters", {})
    if said or not isinstance(parameters, dict):
        raise MalformedRequest('Beside "instances" the body takes "parameters", an object of options, and no more.')
    if len(instances) > limits.images:  # before they are decoded
        raise intake.too_many(limits)
    uploads = tuple(_image(instance, number) for number, instance in enumerate(instances))
    intake.require_images(uploads, limits)
    return intake.Intake(uploads, parameters)


def _image(instance: Any, number: int) -> Upload:
    if isinstance(instance, dict) and len(instance) == 1:
        (named,) = instance
        instance = instance[named] if named in _INPUTS else instance
    if isinstance(instance, dict) and instance.keys() == {"b64"}:
        instance = instance["b64"]
    return intake.json_image(instance, f"instances[{number}]")
