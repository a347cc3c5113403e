"""A gallery: rows of a result, the images they show and the columns of their items."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time, timedelta
from typing import Any, Literal

import polars as pl

from imgsim_assets.gallery.thumbnails import ImageSource
from imgsim_assets.text import without_credentials

Layout = Literal["pairs", "groups", "items"]
# Longer texts of a cell are truncated.
_MAX_TEXT = 2000
_SCORES = ("similarity", "distance", "min_similarity", "mean_similarity")
_DECIMALS = 6


@dataclass(frozen=True)
class ItemColumns:
    """What a person reads of images, a row each.

    Attributes:
        keys: `id` of the item, and `image`, the number of the image.
        columns: under the names that a source gives them, which may be those of the keys.
    """

    keys: pl.DataFrame
    columns: pl.DataFrame


@dataclass(frozen=True)
class Details:
    """The columns of the items that rows show, each item once.

    Attributes:
        frame: the columns.
        positions: for each row of the gallery, the row of `frame`; null for none.
    """

    frame: pl.DataFrame
    positions: pl.Series

    @classmethod
    def of(cls, rows: pl.DataFrame, keys: Sequence[str], items: ItemColumns) -> Details:
        """The columns of those items that rows of a gallery show.

        Args:
            rows: the rows of the gallery.
            keys: the columns of `rows` with the id of the item and the number of its image.
            items: the items.
        """
        known = items.keys.with_row_index("row").unique(["id", "image"], keep="first")
        named = rows.select(keys).rename(dict(zip(keys, ("id", "image"), strict=True)))
        shown = named.join(known, on=["id", "image"], how="left", maintain_order="left")["row"]
        used = shown.drop_nulls().unique(maintain_order=True)
        positions = shown.to_frame().join(
            used.to_frame().with_row_index("position"), on="row", how="left", maintain_order="left"
        )["position"]
        columns = items.columns[used]
        # The page shows the id anyway.
        ids = items.keys["id"].gather(used)
        repeated = [each.name for each in columns if each.dtype == pl.String and each.equals(ids)]
        return cls(columns.drop(repeated), positions)

    def head(self, count: int) -> Details:
        """The details of the first rows."""
        return replace(self, positions=self.positions.head(count))

    def json(self) -> dict[str, Any]:
        """The details as the page reads them."""
        columns = {name: cells(self.frame[name]) for name in self.frame.columns}
        return {
            "columns": {name: values for name, values in columns.items() if values is not None},
            "positions": self.positions.to_list(),
        }


@dataclass(frozen=True)
class Gallery:
    """What a page shows.

    Attributes:
        title: the heading.
        subtitle: what the page shows.
        layout: pairs (left_id, right_id), groups (group_id, id) or items (id).
        rows: the columns that every result of this layout has, in the order of the page.
        keys: for each side (left and right, or item) the key of each row's image; null for none.
        images: gives the images of the keys.
        details: for each side the columns of the items; of "pair" those of the pair itself.
        labels: what the left and the right side are.
        empty: what the page says if nothing is to be shown.
    """

    title: str
    subtitle: str
    layout: Layout
    rows: pl.DataFrame
    keys: Mapping[str, pl.Series]
    images: ImageSource
    details: Mapping[str, Details] = field(default_factory=dict)
    labels: tuple[str, str] = ("left", "right")
    empty: str = "Nothing passes the filters."

    def head(self, count: int) -> Gallery:
        """The gallery of the first rows."""
        if self.rows.height <= count:
            return self
        return replace(
            self,
            subtitle=f"{self.subtitle}, the first {count:,} shown",
            rows=self.rows.head(count),
            keys={side: keys.head(count) for side, keys in self.keys.items()},
            details={side: each.head(count) for side, each in self.details.items()},
        )

    def image_keys(self) -> list[str]:
        """The distinct keys of all images, in the order of the rows."""
        if not self.keys:
            return []
        # Row by row, so that the images that are shown first come first.
        by_row = pl.DataFrame(
            [keys.cast(pl.String).alias(side) for side, keys in self.keys.items()]
        )
        keys = by_row.select(pl.concat_list(pl.all()).explode()).to_series().drop_nulls()
        return keys.unique(maintain_order=True).to_list()

    def json(self, positions: Mapping[str, int]) -> dict[str, Any]:
        """The data of the page, with the position of each image in the list of images.

        Args:
            positions: of the images, by key; an image that is not there cannot be shown.
        """
        rows = self.rows.with_columns(
            pl.col(name).round(_DECIMALS) for name in _SCORES if name in self.rows.columns
        )
        columns = {name: cells(rows[name]) for name in rows.columns}
        return {
            "layout": self.layout,
            "labels": list(self.labels),
            "count": rows.height,
            "rows": {name: values for name, values in columns.items() if values is not None},
            "thumbnails": {
                side: [positions.get(key) if key is not None else None for key in keys]
                for side, keys in self.keys.items()
            },
            "details": {side: each.json() for side, each in self.details.items()},
        }


def cells(values: pl.Series) -> list[Any] | None:
    """The values of a column for JSON; None for a column that nobody can read."""
    if values.dtype in (pl.Binary, pl.Object) or isinstance(values.dtype, pl.Struct):
        return None
    return [_cell(value) for value in values.to_list()]


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, datetime | date | time | timedelta):
        return str(value)
    if isinstance(value, Iterable) and not isinstance(value, str):
        value = ", ".join(str(entry) for entry in value)
    text = without_credentials(str(value))
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}\N{HORIZONTAL ELLIPSIS}"
