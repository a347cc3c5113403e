"""The rows of a table that were added, changed and removed after a version."""

from __future__ import annotations

from typing import Annotated, Literal

import polars as pl
from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from imgsim_assets.errors import SettingsError, StoreError
from imgsim_assets.service.errors import PROBLEMS, GoneError
from imgsim_assets.service.paging import Page, PageQuery, read_page
from imgsim_assets.service.view import CurrentView, View
from imgsim_assets.storage.changes import read_changes

router = APIRouter(prefix="/api", tags=["changes"], responses=PROBLEMS)

_SINCE, _UNTIL = "since", "until"


class ChangedRow(BaseModel):
    """A row of the table: the new one, or the one that was removed."""

    model_config = ConfigDict(extra="allow")

    change: Literal["added", "changed", "removed"]


class ChangeFilter(PageQuery):
    """Which changes are returned."""

    since: int = Field(0, ge=0, description="a version that the client has; 0 for none")


@router.get("/changes/{table:path}")
def get_changes(
    view: CurrentView,
    table: Annotated[str, Path(description="such as matches/products__suppliers")],
    query: Annotated[ChangeFilter, Query()],
) -> Page[ChangedRow]:
    """Get the changes of a table since a version.

    `versions` has `since` and `until`. A client that gives `until` as its next `since` sees every
    change once.
    """
    newest = view.commit(table).version
    if query.since > newest:
        raise SettingsError(f"since: {table} is at version {newest}")

    def read(versions: dict[str, int]) -> pl.DataFrame:
        return _changes(view, table, versions[_SINCE], versions[_UNTIL])

    current = {_SINCE: query.since, _UNTIL: newest}
    return Page[ChangedRow](**read_page(current, read, query, table=table))


def _changes(view: View, table: str, since: int, until: int) -> pl.DataFrame:
    def read() -> pl.DataFrame:
        try:
            return read_changes(table, since=since, until=until, store=view.store).rows
        except StoreError as error:
            raise GoneError(f"{error}; read the whole table") from error

    return view.cache.get(("changes", table, view.commit(table).commit_id, since, until), read)
