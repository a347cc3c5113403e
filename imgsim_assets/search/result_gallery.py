"""Galleries of datasets, and of models and the results of their queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from imgsim_assets.errors import SettingsError
from imgsim_assets.gallery.document import Details, Gallery
from imgsim_assets.gallery.pairs import RESULT_COLUMNS, item_columns, result_gallery
from imgsim_assets.gallery.thumbnails import GivenImages
from imgsim_assets.search.dataset import Dataset
from imgsim_assets.search.image_ref import ImageRef
from imgsim_assets.storage.reader import open_store

if TYPE_CHECKING:
    from imgsim_assets.search.parts import ModelParts
    from imgsim_assets.search.references import References
    from imgsim_assets.storage.store import Store


def item_images(items: References | Dataset) -> tuple[pl.DataFrame, GivenImages]:
    """The rows of a dataset, or of a model's items, and their images.

    Returns:
        For each image id (the label as text), image (its number) and key; and what gives the
        images of the keys.
    """
    names = items.labels.cast(pl.String).gather(items.rows.item).alias("id")
    numbers = pl.Series("image", items.rows.image, dtype=pl.Int32)
    rows = pl.DataFrame([names, numbers]).with_columns(
        pl.int_range(pl.len()).cast(pl.String).alias("key")
    )
    images = dict(zip(rows["key"].to_list(), items.optional_images, strict=True))
    return rows, GivenImages(images)


def item_details(given: Any, items: Dataset, label: str | None) -> Details | None:
    """The further columns of a dataset that is a frame, or the paths of its images."""
    if isinstance(given, pl.DataFrame | pl.LazyFrame):
        frame = given.lazy().collect()
        shown = {label} if frame.schema[items.feature] == pl.String else {label, items.feature}
        columns = frame.drop(name for name in frame.columns if name in shown)
        return Details(columns, pl.Series(items.rows.item))
    names = [image.name for image in items.images or []]
    if not any("/" in name for name in names):
        return None
    return Details(pl.DataFrame({"path": names}), pl.Series(range(len(names))))


def first_thumbnails(references: References, count: int = 8) -> dict[str, bytes]:
    """The thumbnails of a model's first items that have an image, by label."""
    rows, images = item_images(references)
    firsts = rows.unique("id", keep="first", maintain_order=True).head(count)
    made = zip(firsts["id"], images.thumbnails(firsts["key"].to_list()), strict=True)
    return {label: each.jpeg for label, each in made if each.jpeg is not None}


def gallery_of_result(
    parts: ModelParts,
    result: pl.DataFrame,
    queries: Any,
    items: References | Dataset,
    *,
    label: str | None,
    title: str,
) -> Gallery:
    """The gallery of the result of a query, with the columns of both sides.

    Args:
        parts: the model.
        result: the result of the query.
        queries: the dataset as it was given.
        items: its images, or those of the model.
        label: the column of labels of the dataset.
        title: the heading.
    """
    references, store = parts.references, parts.store
    of_model = columns_of(references, store=store, catalog=parts.provenance.catalog)
    of_queries = of_model
    if items is not references:
        of_queries = columns_of(items, store=store, given=queries, label=label)
    columns = {"left": of_queries, "right": of_model}
    return model_gallery(result, items, references, title=title, columns=columns)


def model_gallery(
    result: pl.DataFrame,
    queries: References | Dataset,
    references: References,
    *,
    title: str,
    columns: Mapping[str, Details | None] | None = None,
) -> Gallery:
    """The images of each query beside the nearest image of each of its neighbors.

    Args:
        result: the result of the query.
        queries: the images that were queried.
        references: the items of the model.
        title: the heading.
        columns: by side the columns of each row of `queries` (left) and `references` (right).

    Raises:
        SettingsError: when a column of the result is missing.
    """
    missing = RESULT_COLUMNS - set(result.columns)
    if missing:
        raise SettingsError(f"result: it has no column {min(missing)!r}; give the result of query")
    images: dict[str, ImageRef | None] = {}
    keys: dict[str, pl.Series] = {}
    details: dict[str, Details] = {}
    for side, name, items in (("left", "query", queries), ("right", "reference", references)):
        rows = _rows_of(result, name, items)
        keys[side] = f"{name}:" + rows.cast(pl.String)
        shown = rows.drop_nulls().unique().sort().to_list()
        images |= {f"{name}:{row}": items.optional_images[row] for row in shown}
        of_side = (columns or {}).get(side)
        if of_side is not None:
            details[side] = replace(of_side, positions=of_side.positions.gather(rows))
    return result_gallery(result, keys, GivenImages(images), title=title, details=details)


def _rows_of(result: pl.DataFrame, name: str, items: References | Dataset) -> pl.Series:
    """For each row of a result the row of the item's image; null for an unknown one."""
    numbers = f"{name}_image"
    shown = result.select(
        pl.col(f"{name}_label").cast(pl.String).alias("id"),
        # A result without numbers of images is about image 0.
        (pl.col(numbers) if numbers in result.columns else pl.lit(0)).cast(pl.Int32).alias("image"),
    )
    known, _ = item_images(items)
    known = known.with_row_index("row").unique(["id", "image"], keep="first", maintain_order=True)
    return shown.join(known, on=["id", "image"], how="left", maintain_order="left")["row"]


def columns_of(
    items: References | Dataset,
    *,
    store: Store | str | Path | None,
    catalog: Mapping[str, Any] | None = None,
    given: Any = None,
    label: str | None = None,
) -> Details | None:
    """The columns of each row of a dataset or of a model's items, if there are any.

    Args:
        items: the rows.
        store: the only store that is read, whatever store a saved model names.
        catalog: name and store of the catalog of a model's items; None without one.
        given: the dataset as it was given.
        label: its column of labels.
    """
    if isinstance(items, Dataset):
        if items.catalog is None:
            return item_details(given, items, label)
        catalog = items.catalog.source
    if catalog is None:
        return None
    own = open_store(store)
    if catalog["store"] != own.url:
        return None
    rows, _ = item_images(items)
    return Details.of(rows, ["id", "image"], item_columns(own, catalog["name"]))
