"""Galleries of duplicate groups: a card for each group, the canonical item first."""

from __future__ import annotations

import polars as pl

from imgsim_assets.gallery.document import Details, Gallery
from imgsim_assets.gallery.thumbnails import StoredImages
from imgsim_assets.storage.store import Store
from imgsim_assets.text import counted

GROUP_COLUMNS = frozenset(["group_id", "id", "sha256", "size", "is_canonical"])
_ROW_COLUMNS = (
    "group_id",
    "catalog",
    "id",
    "image",
    "similarity",
    "size",
    "min_similarity",
    "mean_similarity",
    "bridges",
    "judged",
    "keep",
    "reason",
)
_HIDDEN = {*_ROW_COLUMNS, "sha256", "is_canonical"}


def group_gallery(
    store: Store, members: pl.DataFrame, *, title: str, keep: bool = False
) -> Gallery:
    """The gallery of duplicate groups.

    Args:
        store: has the images.
        members: rows of duplicate groups; the columns that `group_members` adds are shown too.
        title: the heading.
        keep: whether new thumbnails are kept in the store.
    """
    details = members.drop(name for name in members.columns if name in _HIDDEN)
    if {"width", "height", "format"} <= set(details.columns):
        size = pl.format("{} x {} {}", "width", "height", "format").alias("size")
        details = details.select(size, pl.exclude("width", "height", "format"))
    groups = members["group_id"].n_unique()
    return Gallery(
        title=title,
        subtitle=f"{counted(groups, 'group')} of {counted(members.height, 'item')}",
        layout="groups",
        rows=members.select(name for name in _ROW_COLUMNS if name in members.columns),
        keys={"item": members["sha256"]},
        images=StoredImages(store, keep=keep),
        details={"item": Details(details, pl.Series(range(members.height)))},
        empty="Nothing passes the filters." if members.height else "There are no groups.",
    )
