"""What is served, and every name that a request may use."""

from __future__ import annotations

import json
import pathlib
from dataclasses import asdict
from functools import cache
from typing import Annotated, Any

from fastapi import APIRouter, Path

from pellucid.network.spec import PIXELS, ModelSpec
from pellucid.parts.option_types import Options
from pellucid.schemas import (
    AtlasFacts,
    DefaultLayer,
    GateShape,
    Layer,
    MethodCost,
    MethodCostHere,
    MethodDetail,
    ModelDetail,
    ModelList,
    ModelSummary,
    Output,
    TrustCost,
    WholeView,
)
from pellucid.trust.perturbations import Design
from pellucid.types import Plan

from ..flow import provenance
from ..flow.networks import Served, Service
from ..flow.trust_trials import estimate
from ..http.openapi_problems import MODEL_PROBLEMS, MODELS_PROBLEMS


def router(service: Service) -> APIRouter:
    """The list of networks, and each in detail."""
    routes = APIRouter()

    @routes.get("/v1/models", tags=["models"], summary="The served networks", responses=MODELS_PROBLEMS)
    async def models() -> ModelList:
        """The networks that a request can choose."""
        default, *others = service.networks.values()
        summaries = [_summary(default, default=True), *(_summary(other, default=False) for other in others)]
        return ModelList(models=[ModelSummary.model_validate(summary) for summary in summaries])

    @routes.get(
        "/v1/models/{name}",
        tags=["models"],
        summary="A network's labels, layers, gates and methods",
        responses=MODEL_PROBLEMS,
    )
    async def model(
        name: Annotated[str, Path(description="A name from /v1/models.", examples=["lite0"])],
    ) -> ModelDetail:
        """Input and preprocessing, labels, layers with their shapes, gates, the default layer and its reason."""
        return _detail(service.addressed(name), default=name == next(iter(service.networks)))

    return routes


def _summary(served: Served, default: bool) -> dict[str, Any]:
    spec = served.spec
    return {
        "name": spec.name,
        "title": spec.title,
        "classes": len(spec.labels),
        "output": _output(spec),
        "input": list(spec.preprocess.shape),
        "whole": _whole(served),
        "default": default,
    }


def _whole(served: Served) -> WholeView:
    view = Options(view="whole").seen(served.spec, served.sizes)
    return WholeView(
        multiple=view.multiple,
        detail=view.detail or min(served.spec.preprocess.size),
        tile=list(view.tile) if view.tile else None,
        why_tiles=served.sizes.why if view.tile else None,
    )


def _output(spec: ModelSpec) -> Output:
    output = spec.output
    return Output(
        kind=output.kind,
        shape=list(output.shape or (spec.scalars,)),
        units=list(output.units) or None,
        threshold=output.threshold if output.kind == "sigmoid" else None,
        background=output.background,
    )


def _detail(served: Served, default: bool) -> ModelDetail:
    spec, network = served.spec, served.network
    default_layer = network.by_name.get(network.default_layer)
    return ModelDetail(
        **_summary(served, default),
        source=spec.source,
        weights_sha256=spec.weights_sha256,
        engine=served.engine,
        parameters_sha256=spec.parameters_sha256,
        preprocess=provenance.preprocess(spec.preprocess),
        labels=list(spec.labels),
        layers=[Layer(**asdict(layer)) for layer in network.layers],
        gates=[GateShape(**asdict(gate)) for gate in network.gates],
        spatial_gates=[GateShape(**asdict(gate)) for gate in network.spatial_gates],
        default_layer=DefaultLayer(
            name=network.default_layer,
            shape=list(default_layer.shape) if default_layer else [],
            why=network.default_layer_reason,
        ),
        feature_layers=list(network.feature_layers),
        methods=[method.name for method in served.methods],
        method_details=_methods(served),
        atlas=_atlas(served),
        trust=_trust_cost(served),
    )


def _atlas(served: Served) -> AtlasFacts | None:
    atlas = served.atlas
    if atlas is None:
        return None
    return AtlasFacts(
        pictures=atlas.about.pictures,
        crops=atlas.about.crops,
        layers=[*atlas.layers],
        gates=[*atlas.gates],
        sha256=atlas.digest,
    )


def _trust_cost(served: Served) -> TrustCost:
    passes = Design().passes(targets=1)
    seconds = estimate(served, passes, Plan())
    return TrustCost(passes=passes, estimated_ms=round(1000 * seconds) if seconds else None)


def _methods(served: Served) -> list[MethodDetail]:
    """What each method is, needs and costs with this network."""
    origin = dict(_costs().get(served.spec.name, {}))
    measured = origin.pop("methods", {})
    return [
        MethodDetail(
            name=method.name,
            title=method.title,
            needs=method.needs,
            at=[*["layers"] * method.at_layers, *["pixels"] * method.at_pixels],
            default_layer=PIXELS
            if method.at_pixels
            else " + ".join(method.stands_for.layers)
            if method.stands_for
            else served.network.default_layer,
            signed=method.signed,
            of_class=method.of_class,
            formula=method.formula,
            paper=method.paper,
            cost_here=_cost_here(served, method.name),
            cost=MethodCost(**origin, **measured[method.name]) if method.name in measured else None,
        )
        for method in served.methods
    ]


def _cost_here(served: Served, method: str) -> MethodCostHere | None:
    seconds, prediction = served.times.seconds(method), served.times.seconds()
    if not seconds or not prediction:
        return None
    return MethodCostHere(times=round(seconds / prediction, 2), ms=round(1000 * seconds, 1))


@cache
def _costs() -> dict[str, Any]:
    """The costs that come with the package, by network: whose they are, and by method. `make methods` measures them."""
    found: dict[str, Any] = json.loads(pathlib.Path(__file__).with_name("method_costs.json").read_text("utf-8"))
    return found
