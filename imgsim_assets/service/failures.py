"""What failed in a catalog: rejected rows, images that were not fetched, or have no vector."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import polars as pl
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from imgsim_assets.pipeline.failures import read_failures
from imgsim_assets.service.errors import PROBLEMS, NotFoundError
from imgsim_assets.service.paging import Page, PageQuery, read_page
from imgsim_assets.service.query import CatalogName
from imgsim_assets.service.view import CurrentView, View

router = APIRouter(prefix="/api", tags=["failures"], responses=PROBLEMS)

_TABLES = ("items", "rejects", "images", "embeddings")


class FailureRow(BaseModel):
    """A failure, with the carried columns of its item."""

    model_config = ConfigDict(extra="allow")

    id: str | None = Field(description="null for a rejected row")
    image: int | None
    url: str | None
    stage: Literal["source", "images", "embeddings"]
    status: str = Field(description="why it failed; docs/statuses.md explains each")
    detail: str | None
    retryable: bool | None = Field(description="whether a later run tries again")
    next_retry_at: datetime | None
    failed_at: datetime | None


class FailureFilter(PageQuery):
    """Which failures are returned."""

    stage: list[Literal["source", "images", "embeddings"]] = Field([], description="only these")
    status: list[str] = Field([], description="only these statuses")
    id: list[str] = Field([], description="only these items")


@router.get("/failures/{catalog}")
def get_failures(
    view: CurrentView, catalog: CatalogName, query: Annotated[FailureFilter, Query()]
) -> Page[FailureRow]:
    """Get what failed in a catalog, with the reason."""
    if catalog not in view.catalogs:
        raise NotFoundError(f"the store has no catalog {catalog!r}")
    tables = [f"{catalog}/{name}" for name in _TABLES]
    current = {name: view.commit(name).version for name in tables if name in view.commits}

    def read(versions: dict[str, int]) -> pl.DataFrame:
        return _select(_failures(view, catalog, versions), query)

    return Page[FailureRow](**read_page(current, read, query, catalog=catalog))


def _failures(view: View, catalog: str, versions: dict[str, int]) -> pl.DataFrame:
    store = view.at(versions)
    commits = [store.table(name).latest() for name in sorted(versions)]
    key = ("failures", catalog, *(commit.commit_id for commit in commits if commit is not None))
    return view.cache.get(key, lambda: read_failures(store, catalog))


def _select(rows: pl.DataFrame, query: FailureFilter) -> pl.DataFrame:
    for name, chosen in (("stage", query.stage), ("status", query.status), ("id", query.id)):
        if chosen:
            rows = rows.filter(pl.col(name).is_in(chosen))
    return rows
