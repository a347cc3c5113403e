"""Whether the service is up, and what it measures about itself."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field

from imgsim_assets import __version__
from imgsim_assets.service.errors import PROBLEMS
from imgsim_assets.service.view import Views

router = APIRouter(tags=["operations"])


_METRICS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {}}, "description": "counters, gauges and histograms"},
    **PROBLEMS,
}


class Health(BaseModel):
    """The state of the service."""

    status: str = Field(description="ok, or the reason why the store cannot be followed")
    version: str = Field(description="of imgsim_assets")


@router.get("/healthz", responses={503: {"model": Health}})
def get_health(request: Request, response: Response) -> Health:
    """Whether requests are answered, and from a store that can be read."""
    views: Views = request.app.state.views
    if views.problem is not None:
        response.status_code = 503
    return Health(status=views.problem or "ok", version=__version__)


@router.get("/metrics", response_class=Response, responses=_METRICS)
def get_metrics(request: Request) -> Response:
    """Metrics in the text format of Prometheus."""
    return Response(
        generate_latest(request.app.state.metrics.registry), media_type=CONTENT_TYPE_LATEST
    )
