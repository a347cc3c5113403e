"""The application of `imgsim serve`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from functools import lru_cache, partial

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

import imgsim_assets
from imgsim_assets.download.http.client import HttpClient
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.errors import describe_error
from imgsim_assets.pages.templates import static_folder
from imgsim_assets.service import (
    changes,
    errors,
    explore,
    failures,
    groups,
    health,
    home,
    images,
    items,
    login,
    matches,
    query,
    results,
    review,
)
from imgsim_assets.service.limits import Limits
from imgsim_assets.service.measured import Measured
from imgsim_assets.service.metrics import Metrics
from imgsim_assets.service.query_encoder import QueryEncoder
from imgsim_assets.service.review_table import ReviewTables
from imgsim_assets.service.root_path import RootPath
from imgsim_assets.service.security import Security
from imgsim_assets.service.settings import ServeSettings
from imgsim_assets.service.view import Views
from imgsim_assets.storage.store import Store

_ROUTERS = (
    health,
    home,
    login,
    results,
    images,
    query,
    items,
    matches,
    groups,
    failures,
    changes,
    explore,
    review,
)
# A quarter of the cache is for thumbnails.
_THUMBNAILS = 4
# Pairs of images whose matched features are kept, about 10 kB each.
_MATCHED_FEATURES = 4096
_log = logging.getLogger(__name__)


def create_app(store: Store, settings: ServeSettings | None = None) -> FastAPI:
    """The API and the pages over a store.

    Args:
        store: Where the results are. New commits are followed while the application runs.
        settings: How they are served.

    Returns:
        An ASGI application.
    """
    settings = settings or ServeSettings()
    app = FastAPI(
        title="imgsim_assets",
        version=imgsim_assets.__version__,
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.settings = settings
    app.state.metrics = Metrics()
    app.state.views = Views(store, settings.cache_bytes)
    app.state.thumbnails = images.Thumbnails(settings.cache_bytes // _THUMBNAILS)
    app.state.encoder = QueryEncoder(settings.max_waiting_encodes)
    app.state.review_tables = ReviewTables()
    app.state.matched_features = lru_cache(_MATCHED_FEATURES)(
        partial(review.matched_features, store)
    )
    errors.add_handlers(app)
    for module in _ROUTERS:
        app.include_router(module.router)
    app.mount("/static", StaticFiles(directory=static_folder()), name="static")
    # The last one is the first to see a request.
    app.add_middleware(Limits, settings=settings)
    app.add_middleware(Security, settings=settings)
    app.add_middleware(Measured, metrics=app.state.metrics)
    app.add_middleware(RootPath, root_path=settings.root_path)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: ServeSettings = app.state.settings
    download = DownloadSettings(
        allowed_hosts=settings.query_hosts, max_megabytes=settings.max_upload_bytes / 1e6
    )
    async with HttpClient(download) as app.state.http_client, _following_store(app):
        yield
    app.state.encoder.close()


@contextlib.asynccontextmanager
async def _following_store(app: FastAPI) -> AsyncIterator[None]:
    await _refresh(app)
    follower = asyncio.create_task(_refresh_often(app), name="follow the store")
    try:
        yield
    finally:
        follower.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await follower


async def _refresh_often(app: FastAPI) -> None:
    settings: ServeSettings = app.state.settings
    while True:
        await asyncio.sleep(settings.refresh_s)
        await _refresh(app)


async def _refresh(app: FastAPI) -> None:
    """Take over new commits. A store that cannot be read is tried again; the view stays."""
    views: Views = app.state.views
    metrics: Metrics = app.state.metrics
    with metrics.reload_seconds.time():
        try:
            has_changed = await asyncio.to_thread(views.refresh)
        except Exception as error:  # clients of object stores raise their own errors
            views.problem = describe_error(error) or repr(error)
            metrics.reloads.labels("failed").inc()
            _log.exception("the store cannot be read")
            return
    views.problem = None
    if has_changed:
        metrics.reloads.labels("changed").inc()
        metrics.show_versions(views.current.commits)
