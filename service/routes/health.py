"""Probes for an orchestrator, and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from pellucid.schemas import Health

from ..flow.networks import Service
from ..http.openapi_problems import LIVE_PROBLEMS, READY_PROBLEMS


def router(service: Service) -> APIRouter:
    """/livez, /readyz and /metrics."""
    routes = APIRouter(tags=["health"])

    @routes.get("/livez", summary="Is the process alive?", responses=LIVE_PROBLEMS)
    async def livez() -> Health:
        """For an orchestrator's liveness probe: it fails where only a restart helps, as when the network hangs."""
        service.require_engines()
        return Health(status="ok")

    @routes.get("/readyz", summary="Is it ready?", responses=READY_PROBLEMS)
    async def readyz() -> Health:
        """Ready once the network is loaded and warm, as long as it answers, until the service stops."""
        service.require_ready()
        return Health(status="ok")

    @routes.get(
        "/metrics",
        summary="What has been counted and timed",
        response_class=PlainTextResponse,
        responses={200: {"description": "Metrics, as Prometheus reads them.", "content": {"text/plain": {}}}},
    )
    async def metrics(request: Request) -> Response:
        """For Prometheus: requests, seconds by stage, batches, queues, refusals; all in docs/reference/settings.md."""
        page, media_type = service.metrics.page(request.headers.get("accept", ""))
        return Response(page, headers={"Content-Type": media_type})

    return routes
