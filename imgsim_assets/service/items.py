"""The items of a catalog."""

from __future__ import annotations

from typing import Annotated

import polars as pl
import polars.selectors as cs
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from imgsim_assets.service.errors import PROBLEMS
from imgsim_assets.service.paging import CursorText, Limit, Page, read_page
from imgsim_assets.service.query import CatalogName
from imgsim_assets.service.view import CurrentView

router = APIRouter(prefix="/api", tags=["items"], responses=PROBLEMS)

_MAX_TEXT = 200


class ItemRow(BaseModel):
    """An item, with the carried columns of its source."""

    model_config = ConfigDict(extra="allow")

    id: str
    url: str | None = Field(None, description="of its first image")


class ImageRow(BaseModel):
    """An image of an item, and the outcome of its download."""

    model_config = ConfigDict(extra="allow")

    id: str
    image: int = Field(description="number within the item")
    url: str
    status: str = Field(description="ok, or why it could not be fetched")
    sha256: str | None = Field(description="of its bytes, which /api/images/{sha256} returns")


class ItemFilter(BaseModel):
    """Which items are returned."""

    model_config = ConfigDict(extra="forbid")

    id: list[str] = Field([], description="only these items")
    text: str | None = Field(
        None, max_length=_MAX_TEXT, description="only items with this text in any column of text"
    )
    limit: Limit = 100
    cursor: CursorText = None


class ImageFilter(BaseModel):
    """Which images are returned."""

    model_config = ConfigDict(extra="forbid")

    id: list[str] = Field([], description="only images of these items")
    status: list[str] = Field([], description="only images with these statuses")
    limit: Limit = 100
    cursor: CursorText = None


@router.get("/items/{catalog}")
def get_items(
    view: CurrentView, catalog: CatalogName, query: Annotated[ItemFilter, Query()]
) -> Page[ItemRow]:
    """Get the items of a catalog."""
    table = f"{catalog}/items"

    def read(versions: dict[str, int]) -> pl.DataFrame:
        return _select(view.frame_at(table, versions[table]), query)

    asked = query.model_dump(exclude={"limit", "cursor"}) | {"table": table}
    current = {table: view.commit(table).version}
    return Page[ItemRow](**read_page(current, read, asked, query.cursor, query.limit))


@router.get("/items/{catalog}/images")
def get_item_images(
    view: CurrentView, catalog: CatalogName, query: Annotated[ImageFilter, Query()]
) -> Page[ImageRow]:
    """Get the images of items, with the sha256 by which they are shown."""
    table = f"{catalog}/images"

    def read(versions: dict[str, int]) -> pl.DataFrame:
        rows = view.frame_at(table, versions[table])
        if query.id:
            rows = rows.filter(pl.col("id").is_in(query.id))
        return rows.filter(pl.col("status").is_in(query.status)) if query.status else rows

    asked = query.model_dump(exclude={"limit", "cursor"}) | {"table": table}
    current = {table: view.commit(table).version}
    return Page[ImageRow](**read_page(current, read, asked, query.cursor, query.limit))


def _select(rows: pl.DataFrame, query: ItemFilter) -> pl.DataFrame:
    if query.id:
        rows = rows.filter(pl.col("id").is_in(query.id))
    if query.text:
        text = query.text.lower()
        has_text = cs.string().str.to_lowercase().str.contains(text, literal=True)
        rows = rows.filter(pl.any_horizontal(has_text))
    return rows
