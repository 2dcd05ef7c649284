"""What is served, and whether it is well."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from starlette.responses import PlainTextResponse, Response

from pellucid.schemas import (
    DefaultLayer,
    GateShape,
    Health,
    Layer,
    ModelDetail,
    ModelList,
    ModelSummary,
    TrustCost,
)
from pellucid.trust.trials import Design

from ..flow import provenance
from ..flow.run import Pipeline
from ..flow.serve import Service
from ..flow.trust_trials import estimate
from ..http.openapi_problems import LIVE_PROBLEMS, MODEL_PROBLEMS, MODELS_PROBLEMS, READY_PROBLEMS
from . import methods


def router(service: Service) -> APIRouter:
    """The catalogue and the probes."""
    routes = APIRouter()

    @routes.get("/v1/models", tags=["models"], summary="The served networks", responses=MODELS_PROBLEMS)
    async def models() -> ModelList:
        """The networks that answer here."""
        default, *others = service.pipelines.values()
        summaries = [_summary(default, default=True), *(_summary(other, default=False) for other in others)]
        return ModelList(models=[ModelSummary.model_validate(summary) for summary in summaries])

    @routes.get(
        "/v1/models/{name}",
        tags=["models"],
        summary="Everything in a network that has a name",
        responses=MODEL_PROBLEMS,
    )
    async def model(
        name: Annotated[str, Path(description="A name from /v1/models.", examples=["lite0"])],
    ) -> ModelDetail:
        """Input and preprocessing, labels, layers with their shapes, gates, the default layer and why."""
        return _detail(service.addressed(name), default=name == next(iter(service.pipelines)))

    @routes.get("/livez", tags=["health"], summary="Is the process alive?", responses=LIVE_PROBLEMS)
    async def livez() -> Health:
        """For an orchestrator's liveness probe: it fails where only a restart helps, as when the network hangs."""
        service.require_engines()
        return Health(status="ok")

    @routes.get("/readyz", tags=["health"], summary="Does it take work?", responses=READY_PROBLEMS)
    async def readyz() -> Health:
        """Ready once the network is loaded and warm, as long as it answers, until the service stops."""
        service.require_ready()
        return Health(status="ok")

    @routes.get(
        "/metrics",
        tags=["health"],
        summary="What has been counted and timed",
        response_class=PlainTextResponse,
        responses={200: {"description": "Metrics, as Prometheus reads them.", "content": {"text/plain": {}}}},
    )
    async def metrics(request: Request) -> Response:
        """For Prometheus: requests, seconds by stage, batches, queues, refusals. docs/operations.md has them all."""
        page, media_type = service.metrics.page(request.headers.get("accept", ""))
        return Response(page, headers={"Content-Type": media_type})

    return routes


def _summary(pipeline: Pipeline, default: bool) -> dict[str, Any]:
    spec = pipeline.spec
    return {
        "name": spec.name,
        "title": spec.title,
        "classes": len(spec.labels),
        "input": [3, *spec.preprocess.size],
        "default": default,
    }


def _detail(pipeline: Pipeline, default: bool) -> ModelDetail:
    spec, network = pipeline.spec, pipeline.network
    default_layer = network.by_name.get(network.default_layer)
    return ModelDetail(
        **_summary(pipeline, default),
        source=spec.source,
        weights_sha256=spec.weights_sha256,
        engine=pipeline.engine,
        parameters_sha256=spec.parameters_sha256,
        preprocess=provenance.preprocess(spec.preprocess),
        labels=list(spec.labels),
        layers=[Layer(name=layer.name, kind=layer.kind, shape=list(layer.shape)) for layer in network.layers],
        gates=[
            GateShape(
                layer=gate.layer,
                type=gate.type,
                shape=list(gate.shape),
                before=gate.before,
                after=gate.after,
                squash=gate.squash,
            )
            for gate in network.gates
        ],
        default_layer=DefaultLayer(
            name=network.default_layer,
            shape=list(default_layer.shape) if default_layer else [],
            why=network.default_layer_reason,
        ),
        feature_layers=list(network.feature_layers),
        methods=[method.name for method in pipeline.methods],
        method_details=methods.details(pipeline),
        trust=_trust_cost(pipeline),
    )


def _trust_cost(pipeline: Pipeline) -> TrustCost:
    passes = Design().passes(targets=1)
    seconds = estimate(pipeline, passes)
    return TrustCost(passes=passes, estimated_ms=round(1000 * seconds) if seconds else None)
