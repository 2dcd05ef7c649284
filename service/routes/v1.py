"""The routes under /v1 that take images: what is in the picture, and why the network says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.types import DecoratedCallable

from pellucid.parts.attention import AttentionOptions
from pellucid.parts.channels import ChannelOptions
from pellucid.parts.compare import CompareOptions
from pellucid.parts.explain import ExplainOptions
from pellucid.parts.feature_maps import FeatureMapOptions
from pellucid.parts.grad_cam import GradCamOptions
from pellucid.parts.option_types import Options
from pellucid.parts.predictions import PredictOptions
from pellucid.parts.what_if import WhatIfOptions
from pellucid.schemas import CompareReply, Reply, Schema

from ..flow.networks import Service
from ..flow.reply import FIGURES, NUMBERS, PICTURES, Results
from ..flow.serve import serve
from ..http import openapi
from ..http.route import OptionsRoute
from .compare import Comparison


def router(service: Service) -> APIRouter:
    """Each route: its document, its options, and what it answers."""
    routes = APIRouter(route_class=OptionsRoute, generate_unique_id_function=openapi.operation_id)

    def post(
        path: str,
        summary: str,
        options: type[Options],
        *media_types: str,
        tag: str = "explain",
        reply: type[Schema] = Reply,
        **stated: Any,
    ) -> Callable[[DecoratedCallable], DecoratedCallable]:
        """Declare a route that takes images. ``media_types``: what it answers as beside JSON."""
        return routes.post(
            path,
            tags=[tag],
            summary=summary,
            response_model=reply,
            responses=openapi.responses(path, media_types, **stated),
            openapi_extra=openapi.request_body(options),
        )

    @post("/v1/predict", "The most probable classes", PredictOptions, tag="predict", names=False)
    async def predict(request: Request, options: Annotated[PredictOptions, Query()]) -> Response:
        """The `top_k` most probable classes of each image: index, label, probability (softmax) and logit."""
        return await serve(request, service, options, Results(request, service))

    @post("/v1/attention", "The weight of every channel", AttentionOptions, *PICTURES)
    async def attention(request: Request, options: Annotated[AttentionOptions, Query()]) -> Response:
        """Two kinds of weights.

        `gates`: the factor by which each channel-attention gate of the network multiplied each channel of this
        picture, and the effect of each channel on `target`. For the gate that `restore` names, the effect is also
        measured. A network without such gates has none.

        `importance`: Grad-CAM's channel weights at `layer` for `target`, which every network has.

        As a picture: a strip of bars for each gate, above 1 or below, and one for `importance`.
        """
        return await serve(request, service, options, Results(request, service, *PICTURES))

    @post("/v1/feature-maps", "Feature maps: the channels of some layers", FeatureMapOptions, *PICTURES)
    async def feature_maps(request: Request, options: Annotated[FeatureMapOptions, Query()]) -> Response:
        """Channels of one layer or several as grids of tiles, with each channel's mean, maximum and share of zeros.

        One reply can hold several layers, so that shallow layers can be compared with deep ones.
        """
        return await serve(request, service, options, Results(request, service, *PICTURES))

    @post("/v1/grad-cam", "Where the evidence for a class lies", GradCamOptions, *PICTURES, NUMBERS)
    async def grad_cam(request: Request, options: Annotated[GradCamOptions, Query()]) -> Response:
        """Grad-CAM (arXiv 1610.02391) for one class or several: a mask, an overlay on request, and the raw map.

        The raw maps alone come as numpy's `.npz` with `Accept: application/x-npz`.

        The mask covers `box` of the source picture. It is stretched to full contrast, so look at `raw.min`, `raw.max`
        and `raw.all_negative` before comparing the masks of two pictures.
        """
        return await serve(request, service, options, Results(request, service, *PICTURES, NUMBERS))

    @post("/v1/what-if", "What if some channels were scaled or muted?", WhatIfOptions, *FIGURES)
    async def what_if(request: Request, options: Annotated[WhatIfOptions, Query()]) -> Response:
        """Predictions and maps before and after channels of a layer, or weights of a gate, are muted, kept alone or
        scaled. With `rank=true`, also which channels matter.

        As a picture: one figure with the photograph, the maps before and after, and the predictions.
        """
        return await serve(request, service, options, Results(request, service, *FIGURES))

    @post("/v1/channels", "Which channels respond to what is in a box?", ChannelOptions)
    async def channels(request: Request, options: Annotated[ChannelOptions, Query()]) -> Response:
        """The channels of a layer that are more active in the box than elsewhere in the picture. With `atlas=true`,
        also what they respond to in other pictures.
        """
        return await serve(request, service, options, Results(request, service))

    @post(
        "/v1/compare",
        "Compare two classes, two pictures or two networks",
        CompareOptions,
        *FIGURES,
        reply=CompareReply,
        said="What was found in all images together.",
    )
    async def compare(request: Request, options: Annotated[CompareOptions, Query()]) -> Response:
        """Both sides' predictions and maps, the maps on one scale with their difference, and what their gates did.

        Send one picture and two `target`s to compare classes, two pictures to compare these, or one picture and
        `against_model` to compare networks. A difference is the second side minus the first.

        As a picture: one figure with both sides, their difference and their predictions.
        """
        return await serve(request, service, options, Comparison(request, service))

    @post(
        "/v1/explain",
        "Predictions, weights, feature maps and heat maps, or some of these, from one forward pass",
        ExplainOptions,
        *FIGURES,
    )
    async def explain(request: Request, options: Annotated[ExplainOptions, Query()]) -> Response:
        """All four parts, or those that `include` names, from one pass of the network over each picture.

        As a picture: one figure with the photograph, a map for each target, method and layer, the predictions, and what
        the gates changed.
        """
        return await serve(request, service, options, Results(request, service, *FIGURES))

    return routes
