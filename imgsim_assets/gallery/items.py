"""Galleries of single images: those of a catalog, or of a dataset."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from imgsim_assets.gallery.document import Details, Gallery, ItemColumns
from imgsim_assets.gallery.thumbnails import ImageSource, StoredImages
from imgsim_assets.storage.store import Store
from imgsim_assets.text import counted

IMAGE_COLUMNS = frozenset(["id", "sha256"])
_ROW_COLUMNS = ("id", "image", "status")


def image_gallery(
    store: Store,
    rows: pl.DataFrame,
    *,
    title: str,
    items: ItemColumns | None = None,
) -> Gallery:
    """The gallery of images of a store.

    Args:
        store: has the images.
        rows: id, sha256 (null for an image that is not there), image and further columns, such
            as rows of `<catalog>/images`.
        title: the heading.
        items: the columns of the items, in place of the further ones.
    """
    if items is not None and "image" in rows.columns:
        details = Details.of(rows, ["id", "image"], items)
    else:
        others = [name for name in rows.columns if name not in (*_ROW_COLUMNS, "sha256")]
        details = Details(rows.select(others), pl.Series(range(rows.height)))
    return item_gallery(
        rows.select(name for name in _ROW_COLUMNS if name in rows.columns),
        rows["sha256"].to_list(),
        StoredImages(store),
        details,
        title=title,
    )


def item_gallery(
    rows: pl.DataFrame,
    keys: Sequence[str | None],
    images: ImageSource,
    details: Details | None,
    *,
    title: str,
) -> Gallery:
    """The gallery of images, one row (id, image) for each, with their keys."""
    items = rows["id"].n_unique()
    of_items = f" of {counted(items, 'item')}" if items < rows.height else ""
    return Gallery(
        title=title,
        subtitle=f"{counted(rows.height, 'image')}{of_items}",
        layout="items",
        rows=rows.with_columns(pl.col("id").cast(pl.String)),
        keys={"item": pl.Series(keys, dtype=pl.String)},
        images=images,
        details={} if details is None else {"item": details},
        empty="Nothing passes the filters." if rows.height else "There are no images.",
    )
