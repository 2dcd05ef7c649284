"""What is in the picture."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from pellucid.parts.predictions import PredictOptions
from pellucid.schemas import Reply

from ..flow.serve import Service, answer
from ..http import openapi
from ..http.route import OptionsRoute


def router(service: Service) -> APIRouter:
    """Routes that answer with predictions alone."""
    routes = APIRouter(tags=["predict"], route_class=OptionsRoute)

    @routes.post(
        "/v1/predict",
        summary="The most probable classes",
        response_model=Reply,
        responses=openapi.responses("/v1/predict", pictures=False, names=False),
        openapi_extra=openapi.request_body(PredictOptions),
    )
    async def predict(request: Request, options: Annotated[PredictOptions, Query()]) -> Response:
        """The `top_k` most probable classes of each image: index, label, probability (softmax) and logit."""
        return await answer(request, service, options, pictures=False)

    return routes
