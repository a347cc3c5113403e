"""What the store has: catalogs, match tables and duplicate groups with their versions."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel, Field

from imgsim_assets.service.errors import PROBLEMS
from imgsim_assets.service.view import CurrentView, View
from imgsim_assets.similarity.settings import CROSS_CATALOG_GROUPS
from imgsim_assets.storage.commit import Commit

router = APIRouter(prefix="/api", tags=["results"], responses=PROBLEMS)


class TableVersion(BaseModel):
    """A version of a table."""

    table: str = Field(description="name of the table, such as products/items")
    version: int
    rows: int
    committed_at: datetime
    run_id: str | None = Field(description="the Dagster run that committed the version")


class CatalogResult(BaseModel):
    """An image catalog and its tables."""

    name: str
    items: TableVersion | None
    images: TableVersion
    embeddings: TableVersion | None
    index: TableVersion | None
    similarity_graph: TableVersion | None
    duplicate_groups: TableVersion | None


class MatchResult(BaseModel):
    """A match table and the decisions about it."""

    name: str
    left: str | None = Field(description="name of the catalog of left_id")
    right: str | None = Field(description="name of the catalog of right_id")
    threshold: float | None = Field(description="smallest similarity of a match")
    matches: TableVersion
    reviews: TableVersion | None


class GroupResult(BaseModel):
    """A table of duplicate groups."""

    name: str = Field(description="the catalog, or the name of groups across catalogs")
    catalogs: list[str]
    threshold: float | None
    groups: TableVersion


class Results(BaseModel):
    """Everything that can be browsed or reviewed."""

    store: str = Field(description="name of the store")
    catalogs: list[CatalogResult]
    match_tables: list[MatchResult]
    group_tables: list[GroupResult]


@router.get("/results")
def get_results(view: CurrentView) -> Results:
    """List the catalogs, match tables and duplicate groups, with their versions."""
    return read_results(view)


def read_results(view: View) -> Results:
    """The catalogs, match tables and duplicate groups of a view."""
    return Results(
        store=view.store.url.rstrip("/").rpartition("/")[2],
        catalogs=[_catalog(view, name) for name in view.catalogs],
        match_tables=[_matches(view, name) for name in view.match_tables],
        group_tables=[_groups(view, table) for table in view.group_tables],
    )


def _version(view: View, table: str) -> TableVersion | None:
    commit = view.commits.get(table)
    return table_version(commit) if commit is not None else None


def table_version(commit: Commit) -> TableVersion:
    """A commit as the API shows it."""
    return TableVersion(
        table=commit.table,
        version=commit.version,
        rows=commit.rows,
        committed_at=datetime.fromisoformat(commit.committed_at),
        run_id=commit.run_id,
    )


def _catalog(view: View, name: str) -> CatalogResult:
    return CatalogResult(
        name=name,
        items=_version(view, f"{name}/items"),
        images=table_version(view.commit(f"{name}/images")),
        embeddings=_version(view, f"{name}/embeddings"),
        index=_version(view, f"{name}/index"),
        similarity_graph=_version(view, f"{name}/similarity_graph"),
        duplicate_groups=_version(view, f"{name}/duplicate_groups"),
    )


def _matches(view: View, name: str) -> MatchResult:
    commit = view.commit(f"matches/{name}")
    return MatchResult(
        name=name,
        left=commit.properties.get("left"),
        right=commit.properties.get("right"),
        threshold=commit.properties.get("threshold"),
        matches=table_version(commit),
        reviews=_version(view, f"reviews/{name}"),
    )


def _groups(view: View, table: str) -> GroupResult:
    commit = view.commit(table)
    kind, _, rest = table.partition("/")
    return GroupResult(
        name=rest if kind == CROSS_CATALOG_GROUPS else kind,
        catalogs=list(commit.properties["catalogs"]),
        threshold=commit.properties.get("threshold"),
        groups=table_version(commit),
    )
