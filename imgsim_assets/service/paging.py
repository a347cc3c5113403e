"""Pages of a table: a cursor keeps to the versions from which the first page was read."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

import polars as pl
from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from imgsim_assets.errors import SettingsError
from imgsim_assets.service.json_rows import json_rows
from imgsim_assets.service.view import View

Row = TypeVar("Row")
Asked = TypeVar("Asked", bound="PageQuery")

_MAX_LIMIT = 1000
_MAX_CURSOR = 2000
# Polars counts rows in 64 bits.
MAX_OFFSET = 2**62
Limit = Annotated[int, Query(ge=1, le=_MAX_LIMIT, description="rows of the page, at most")]
CursorText = Annotated[
    str | None,
    Query(alias="cursor", max_length=_MAX_CURSOR, description="`next_cursor` of the page before"),
]


class PageQuery(BaseModel):
    """Which rows are returned, a page at a time. A subclass has the filters."""

    model_config = ConfigDict(extra="forbid")

    limit: Limit = 100
    cursor: CursorText = None

    @property
    def filters(self) -> dict[str, Any]:
        """What all pages of a cursor have in common."""
        return self.model_dump(exclude={"limit", "cursor"})


class Page(BaseModel, Generic[Row]):
    """A page of rows. All pages of a cursor are of the same versions."""

    versions: dict[str, int] = Field(description="the versions of the tables that were read")
    total: int = Field(description="rows that the filters let through, on all pages")
    rows: list[Row]
    next_cursor: str | None = Field(description="for the next page; null on the last one")


class Cursor(NamedTuple):
    """Where a page begins: the versions of the tables, the first row, and a digest of the query."""

    versions: Mapping[str, int]
    offset: int
    query: str

    def to_text(self) -> str:
        """The cursor as a client returns it."""
        body = json.dumps([dict(self.versions), self.offset, self.query], separators=(",", ":"))
        return base64.urlsafe_b64encode(body.encode()).decode().rstrip("=")

    @classmethod
    def from_text(cls, text: str) -> Cursor:
        """Parse what a client returned.

        Raises:
            SettingsError: It is not a cursor.
        """
        try:
            body = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            versions, offset, query = json.loads(body)
            cursor = cls({str(name): int(v) for name, v in versions.items()}, int(offset), query)
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise _no_cursor() from error
        if not 0 <= cursor.offset <= MAX_OFFSET or not isinstance(query, str):
            raise _no_cursor()
        return cursor


def read_page(
    current: Mapping[str, int],
    read: Callable[[dict[str, int]], pl.DataFrame],
    query: PageQuery,
    **of: str,
) -> dict[str, Any]:
    """The fields of a page.

    Args:
        current: The newest versions, for the first page.
        read: All rows of the query at some versions, in an order that these determine.
        query: What the client asks for; a cursor belongs to its filters.
        of: What else a cursor belongs to, such as the table.

    Raises:
        SettingsError: The cursor is malformed, or of another query.
    """
    asked = json.dumps(query.filters | of, sort_keys=True, default=str)
    digest = hashlib.sha256(asked.encode()).hexdigest()[:16]
    start = Cursor(current, 0, digest)
    if query.cursor is not None:
        start = Cursor.from_text(query.cursor)
    if start.query != digest or start.versions.keys() != current.keys():
        raise SettingsError("cursor: it belongs to another query; repeat the filters of its page")
    frame = read(dict(start.versions))
    end = start.offset + query.limit
    return {
        "versions": dict(start.versions),
        "total": frame.height,
        "rows": json_rows(frame.slice(start.offset, query.limit)),
        "next_cursor": start._replace(offset=end).to_text() if end < frame.height else None,
    }


def read_table_page(
    view: View, table: str, query: Asked, select: Callable[[pl.DataFrame, Asked], pl.DataFrame]
) -> dict[str, Any]:
    """The fields of a page of one table, as of `read_page`; `select` applies the query."""

    def read(versions: dict[str, int]) -> pl.DataFrame:
        return select(view.frame_at(table, versions[table]), query)

    return read_page({table: view.commit(table).version}, read, query, table=table)


def _no_cursor() -> SettingsError:
    return SettingsError("cursor: it is not a cursor of this service; give that of a page, or none")
