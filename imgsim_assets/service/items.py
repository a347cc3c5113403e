"""The items of a catalog."""

from __future__ import annotations

from typing import Annotated

import polars as pl
import polars.selectors as cs
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from imgsim_assets.service.errors import PROBLEMS
from imgsim_assets.service.paging import Page, PageQuery, read_table_page
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


class ItemFilter(PageQuery):
    """Which items are returned."""

    id: list[str] = Field([], description="only these items")
    text: str | None = Field(
        None, max_length=_MAX_TEXT, description="only items with this text in any column of text"
    )


class ImageFilter(PageQuery):
    """Which images are returned."""

    id: list[str] = Field([], description="only images of these items")
    status: list[str] = Field([], description="only images with these statuses")


@router.get("/items/{catalog}")
def get_items(
    view: CurrentView, catalog: CatalogName, query: Annotated[ItemFilter, Query()]
) -> Page[ItemRow]:
    """Get the items of a catalog."""
    return Page[ItemRow](**read_table_page(view, f"{catalog}/items", query, _select_items))


@router.get("/items/{catalog}/images")
def get_item_images(
    view: CurrentView, catalog: CatalogName, query: Annotated[ImageFilter, Query()]
) -> Page[ImageRow]:
    """Get the images of items, with the sha256 by which they are shown."""
    return Page[ImageRow](**read_table_page(view, f"{catalog}/images", query, _select_images))


def _select_images(rows: pl.DataFrame, query: ImageFilter) -> pl.DataFrame:
    if query.id:
        rows = rows.filter(pl.col("id").is_in(query.id))
    return rows.filter(pl.col("status").is_in(query.status)) if query.status else rows


def _select_items(rows: pl.DataFrame, query: ItemFilter) -> pl.DataFrame:
    if query.id:
        rows = rows.filter(pl.col("id").is_in(query.id))
    if query.text:
        text = query.text.lower()
        has_text = cs.string().str.to_lowercase().str.contains(text, literal=True)
        rows = rows.filter(pl.any_horizontal(has_text))
    return rows
