"""TorchServe's inference API: one image in, a mapping of labels to probabilities or an explanation out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request, Response

from pellucid.errors import MalformedRequest
from pellucid.network.spec import ModelSpec
from pellucid.parts import result
from pellucid.parts.explain import ExplainOptions
from pellucid.parts.option_types import Analysis, Options
from pellucid.parts.predictions import PredictOptions
from pellucid.parts.trust import Trusted
from pellucid.types import DecodedImage, Outcome, Upload

from ..flow import body as intake
from ..flow import reply
from ..flow.serve import Order, Service, serve
from ..http.route import OptionsRoute
from . import documented
from .kserve_v1 import ModelName


def router(service: Service) -> APIRouter:
    """Aliases of /v1/predict and /v1/explain, by POST, and by PUT for ``curl -T``."""
    routes = APIRouter(tags=["protocols"], route_class=OptionsRoute)

    async def predict(request: Request, options: Annotated[PredictOptions, Query()], name: ModelName) -> Response:
        """An alias of /v1/predict for one image: the `top_k` most probable labels with their probabilities.

        A label that several classes share has the class's index behind it, as `crane (134)`. PUT does the same.
        """
        return await _answer(request, service, name, options, probabilities)

    async def explain(request: Request, options: Annotated[ExplainOptions, Query()], name: ModelName) -> Response:
        """An alias of /v1/explain for one image: the entry that /v1/explain has in `results`. PUT does the same."""
        return await _answer(request, service, name, options, lambda entry, _: entry)

    for path, endpoint, summary, said in (
        ("/predictions/{name}", predict, "the most probable classes", "Probabilities by label, the highest first."),
        ("/explanations/{name}", explain, "why", "The explanation."),
    ):
        routes.add_api_route(path, endpoint, methods=["POST", "PUT"], include_in_schema=False)
        routes.add_api_route(  # for the document, which can't have one operation under two methods
            path,
            endpoint,
            name=f"torchserve_{endpoint.__name__}",
            methods=["POST"],
            summary=f"TorchServe: {summary}",
            responses=documented.torchserve(said),
            openapi_extra=documented.one_image(),
        )
    return routes


def probabilities(entry: dict[str, Any], spec: ModelSpec) -> dict[str, np.float32]:
    """A result's predictions as TorchServe's image classifier gives them."""
    shared = Counter(spec.labels)
    return {
        each["label"] if shared[each["label"]] == 1 else f"{each['label']} ({each['index']})": each["probability"]
        for each in entry["predictions"]
    }


async def _answer(
    request: Request,
    service: Service,
    name: str,
    options: Options,
    shown: Callable[[dict[str, Any], ModelSpec], dict[str, Any]],
) -> Response:
    pipeline = service.addressed(name)

    def order(body: intake.Intake) -> Order[bytes]:
        plan = options.addressed_to(name).plan(pipeline, 1)

        def form(image: DecodedImage, outcome: Outcome, trusted: Sequence[Trusted] = ()) -> bytes:
            entry = {
                "image": result.image_info(image.info),
                **options.entry(Analysis(image, outcome, pipeline.spec.labels, trusted)),
            }
            return result.as_json(shown(entry, pipeline.spec))

        return Order(pipeline, plan, options, form, _reply, timeout_ms=options.timeout_ms)

    return await serve(request, service, options.timeout_ms, _read, order, any_type=True)


def _reply(entries: Sequence[bytes]) -> Response:
    (entry,) = entries
    return Response(entry, media_type=reply.JSON)


async def _read(request: Request, limits: intake.Limits, hold: Callable[[int], None]) -> intake.Intake:
    if intake.media_type_of(request) == intake.MULTIPART:
        uploads = await intake.multipart(request, limits, hold, "data")
    else:  # whatever its type is said to be: curl -T says none, and curl --data-binary that it is a form
        uploads = (Upload(await intake.whole(request, limits, hold)),)
    if len(uploads) > 1:
        raise MalformedRequest(f"The form holds {len(uploads)} images; this route takes one.")
    intake.require_images(uploads, limits)
    return intake.Intake(uploads)
