"""Pairs of items with their images, columns and decisions, as the review API answers them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from imgsim_assets.reviews.decisions import Decisions
from imgsim_assets.reviews.table import PAIR
from imgsim_assets.service.review_models import Cell, ItemImage, Pair
from imgsim_assets.service.review_table import SIDES, ReviewSide, ReviewTable
from imgsim_assets.service.review_tabs import with_similarity
from imgsim_assets.service.view import View
from imgsim_assets.text import printable_line

MAX_TEXT = 300
# Entries of a cell that is a list, and images of an item.
_MAX_LIST = 24
_DECISION = ("verdict", "reviewer", "note", "decided_at")


def describe_pairs(
    view: View, table: ReviewTable, pairs: pl.DataFrame, decisions: Decisions
) -> list[Pair]:
    """Pairs (`review_tabs.tab_pairs`) as JSON, in their order."""
    judged = decisions.standing.select(*PAIR, *_DECISION)
    reopened = decisions.reopened.select(*PAIR, pl.col("verdict").alias("reopened"))
    rows = (
        with_similarity(table, pairs)
        .join(judged, on=list(PAIR), how="left", maintain_order="left")
        .join(reopened, on=list(PAIR), how="left", maintain_order="left")
    )
    known = {}
    for side in SIDES:
        ids = rows[f"{side}_id"].drop_nulls().unique()
        known[side] = _columns(view, table.side(side).catalog, ids), _images(table.side(side), ids)
    described = []
    for row in rows.iter_rows(named=True):
        items: dict[str, Any] = {}
        for side in SIDES:
            columns, images = known[side]
            items[side] = columns.get(row[f"{side}_id"], {})
            items[f"{side}_images"] = images.get(row[f"{side}_id"], [])
        described.append(Pair(**row, **items))
    return described


def cell(value: Any) -> Cell:
    """A value for JSON: text on one line, cut, and without passwords of URLs."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) <= 2**53:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_text(each) for each in value[:_MAX_LIST]]
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if isinstance(value, dict | list):
        value = json.dumps(value, default=str, ensure_ascii=False)
    return printable_line(str(value), MAX_TEXT)


def _columns(view: View, catalog: str, ids: pl.Series) -> dict[str, dict[str, Cell]]:
    """The columns of items by id; none of an item that the catalog no longer has."""
    table = f"{catalog}/items"
    if table not in view.commits:
        return {}
    rows = view.frame(table).filter(pl.col("id").is_in(ids.implode()))
    return {
        row["id"]: {name: cell(value) for name, value in _shown(row)}
        for row in rows.iter_rows(named=True)
    }


def _shown(row: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """The columns that people read: those that the source carries first, then where it is."""
    carried = [
        (name, value) for name, value in row.items() if name not in ("id", "url", "other_urls")
    ]
    urls = [(name, row[name]) for name in ("url", "other_urls") if row.get(name)]
    return [*carried, *urls]


def _images(side: ReviewSide, ids: pl.Series) -> dict[str, list[ItemImage]]:
    """The images of items by id."""
    images: dict[str, list[ItemImage]] = {}
    rows = side.images.filter(pl.col("id").is_in(ids.implode()))
    for item, number, sha256 in rows.iter_rows():
        of_item = images.setdefault(item, [])
        if len(of_item) < _MAX_LIST:
            of_item.append(ItemImage(image=number, sha256=sha256))
    return images
