"""Duplicate groups: the items of one catalog or of several that show the same."""

from __future__ import annotations

from typing import Annotated

import polars as pl
from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from imgsim_assets.service.errors import PROBLEMS, NotFoundError
from imgsim_assets.service.paging import Limit, Page, PageQuery, read_table_page
from imgsim_assets.service.view import CurrentView

router = APIRouter(prefix="/api", tags=["groups"], responses=PROBLEMS)

_OF_GROUP = ("group_id", "size", "min_similarity", "mean_similarity", "bridges")


class Member(BaseModel):
    """An item of a group."""

    model_config = ConfigDict(extra="allow")

    id: str
    catalog: str | None = Field(None, description="of groups across catalogs")
    image: int = Field(description="number of the image that links it")
    sha256: str
    is_canonical: bool = Field(description="whether it stands for the group")
    keep: bool = Field(description="whether it is kept")
    similarity: float | None = Field(description="to the canonical item")


class Group(BaseModel):
    """Items that show the same."""

    group_id: str
    size: int
    min_similarity: float | None
    mean_similarity: float | None
    bridges: int = Field(description="links that alone hold two parts of the group together")
    members: list[Member] = Field(description="the canonical item first")


class GroupFilter(PageQuery):
    """Which groups are returned."""

    group_id: list[str] = Field([], description="only these groups")
    id: list[str] = Field([], description="only groups with one of these items")
    min_size: int | None = Field(None, ge=2, description="items of a group, at least")
    limit: Limit = 50


@router.get("/groups/{table:path}")
def get_groups(
    view: CurrentView,
    table: Annotated[
        str, Path(description="such as products/duplicate_groups or duplicate_groups/both")
    ],
    query: Annotated[GroupFilter, Query()],
) -> Page[Group]:
    """Get the groups of a table."""
    if table not in view.group_tables:
        raise NotFoundError(f"the store has no groups {table!r}")
    return Page[Group](**read_table_page(view, table, query, _select_groups))


def _select_groups(rows: pl.DataFrame, query: GroupFilter) -> pl.DataFrame:
    members = pl.struct(pl.exclude(_OF_GROUP)).alias("members")
    selected = _select_rows(rows, query).select(*_OF_GROUP, members)
    return selected.group_by(_OF_GROUP, maintain_order=True).agg("members")


def _select_rows(rows: pl.DataFrame, query: GroupFilter) -> pl.DataFrame:
    if query.group_id:
        rows = rows.filter(pl.col("group_id").is_in(query.group_id))
    if query.id:
        rows = rows.filter(pl.col("id").is_in(query.id).any().over("group_id"))
    if query.min_size is not None:
        rows = rows.filter(pl.col("size") >= query.min_size)
    return rows.sort("group_id", pl.col("is_canonical").not_(), maintain_order=True)
