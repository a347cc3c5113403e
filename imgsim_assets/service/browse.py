"""Browsing the items of a catalog: filters, and pages that start after a cursor."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from imgsim_assets.catalog.image_rows import OTHER_URLS
from imgsim_assets.errors import SettingsError
from imgsim_assets.service.catalog_rows import CatalogRows

CONTAINS, EQUALS, AT_LEAST, AT_MOST, IS_EMPTY = "contains", "equals", "at_least", "at_most", "empty"
OPERATORS: Mapping[str, str] = {
    CONTAINS: "contains",
    EQUALS: "is",
    AT_LEAST: "is at least",
    AT_MOST: "is at most",
    IS_EMPTY: "is empty",
}
MAX_PAGE = 200


class Condition(NamedTuple):
    """One condition on a column; `operator` is one of OPERATORS. Empty cells match EMPTY only."""

    column: str
    operator: str
    value: str


class ItemPage(NamedTuple):
    """One page of items.

    Attributes:
        rows: id, status, images, sha256, url and the carried columns. A carried column of one of
            these names is left out.
        total: how many items satisfy the conditions.
        offset: how many of them are before the page.
        next_cursor: the cursor of the next page; None on the last one.
        previous_cursor: the cursor of the page before; None on the first one, whose cursor is "".
    """

    rows: pl.DataFrame
    total: int
    offset: int
    next_cursor: str | None
    previous_cursor: str | None


def browse(
    catalog: CatalogRows,
    conditions: Sequence[Condition] = (),
    *,
    status: str | None = None,
    sha256: str | None = None,
    after: str = "",
    limit: int = 60,
) -> ItemPage:
    """A page of the items that satisfy all conditions, by id.

    Args:
        catalog: the version to browse.
        conditions: on id, url and the carried columns.
        status: only items with this status.
        sha256: only items that have this image.
        after: the cursor: only items whose id is greater.
        limit: items of the page, 1 to MAX_PAGE.

    Raises:
        SettingsError: a condition names a column or operator that does not exist, or compares a
            column of numbers with a value that is no number.
    """
    limit = min(max(limit, 1), MAX_PAGE)
    overview = catalog.overview
    mask = pl.repeat(value=True, n=overview.height, dtype=pl.Boolean, eager=True)
    if conditions:
        matching = [_expression(catalog, condition) for condition in conditions]
        mask = catalog.items.select(pl.all_horizontal(matching).fill_null(value=False)).to_series()
    if status:
        mask &= overview["status"] == status
    if sha256:
        carriers = catalog.images.filter(pl.col("sha256") == sha256)["id"].unique()
        mask &= overview["id"].is_in(carriers.implode())
    positions = mask.arg_true()
    ids = overview["id"]
    start = 0
    if after:
        first = int(ids.search_sorted(after, "right"))
        start = int(positions.search_sorted(first, "left"))
    shown = positions.slice(start, limit)
    end = start + len(shown)
    before = start - limit
    return ItemPage(
        rows=_rows_at(catalog, shown),
        total=len(positions),
        offset=start,
        next_cursor=str(ids[int(shown[-1])]) if end < len(positions) else None,
        previous_cursor=None
        if start == 0
        else str(ids[int(positions[before - 1])])
        if before > 0
        else "",
    )


def find_words(catalog: CatalogRows, words: str, limit: int) -> tuple[pl.DataFrame, int]:
    """The items of which the id or a column contains some words, in upper or lower case.

    Args:
        catalog: the version to search.
        words: the text, literally.
        limit: how many items, at most.

    Returns:
        The items as of `browse`, the one with exactly this id first, and how many there are.
    """
    columns = [column for column in catalog.items.columns if column not in ("url", OTHER_URLS)]
    contain = [_expression(catalog, Condition(column, CONTAINS, words)) for column in columns]
    mask = catalog.items.select(pl.any_horizontal(contain).fill_null(value=False)).to_series()
    positions = mask.arg_true()
    exact = catalog.position(words)
    if exact is not None:
        positions = pl.concat([pl.Series([exact], dtype=positions.dtype), positions]).unique(
            maintain_order=True
        )
    return _rows_at(catalog, positions.head(limit)), len(positions)


def _rows_at(catalog: CatalogRows, positions: pl.Series) -> pl.DataFrame:
    overview = catalog.overview[positions]
    columns = catalog.items[positions].drop(overview.columns, strict=False)
    return pl.concat([overview, columns], how="horizontal")


def _expression(catalog: CatalogRows, condition: Condition) -> pl.Expr:
    column, operator, value = condition
    if column not in catalog.items.columns:
        known = ", ".join(catalog.items.columns)
        raise SettingsError(f"column: {catalog.name} has no column {column!r}; it has {known}")
    if operator not in OPERATORS:
        raise SettingsError(f"op: {operator!r} is not one of {', '.join(OPERATORS)}")
    kind = catalog.items.schema[column]
    cell = pl.col(column)
    if operator == IS_EMPTY:
        return cell.is_null() | (_text(cell, kind) == "")
    if operator == CONTAINS:
        return _text(cell, kind).str.contains(f"(?i){pl.escape_regex(value)}")
    if kind.is_numeric():
        return _COMPARISONS[operator](cell, _number(condition))
    # Lists of text files have numbers as text.
    if operator != EQUALS and _is_number(value) and kind == pl.String:
        return _COMPARISONS[operator](cell.cast(pl.Float64, strict=False), float(value))
    return _COMPARISONS[operator](_text(cell, kind), value)


_COMPARISONS: Mapping[str, Callable[[pl.Expr, Any], pl.Expr]] = {
    EQUALS: lambda cell, value: cell == value,
    AT_LEAST: lambda cell, value: cell >= value,
    AT_MOST: lambda cell, value: cell <= value,
}


def _number(condition: Condition) -> float:
    if not _is_number(condition.value):
        raise SettingsError(
            f"value: the column {condition.column} has numbers, and {condition.value!r} is none"
        )
    return float(condition.value)


def _is_number(value: str) -> bool:
    try:
        return not math.isnan(float(value))
    except ValueError:
        return False


def _text(cell: pl.Expr, kind: pl.DataType) -> pl.Expr:
    """A cell as text; of a list, its values one after the other."""
    if isinstance(kind, pl.List):
        return cell.cast(pl.List(pl.String)).list.join(" ", ignore_nulls=True)
    return cell if kind == pl.String else cell.cast(pl.String, strict=False)
