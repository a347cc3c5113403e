"""The gallery of any table of a store, by its name or by the columns of its rows."""

from __future__ import annotations

import polars as pl

from imgsim_assets.download.ledger.table import ledger_table, with_all_columns
from imgsim_assets.gallery.document import Gallery
from imgsim_assets.gallery.groups import GROUP_COLUMNS, group_gallery
from imgsim_assets.gallery.items import IMAGE_COLUMNS, image_gallery
from imgsim_assets.gallery.pairs import (
    GRAPH_COLUMNS,
    MATCH_COLUMNS,
    graph_gallery,
    item_columns,
    match_gallery,
)
from imgsim_assets.pipeline.group_members import group_members
from imgsim_assets.similarity.join_spec import MIN_COSINE
from imgsim_assets.similarity.settings import CROSS_CATALOG_GROUPS
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table
from imgsim_assets.text import counted

_MATCHES, _GRAPH, _IMAGES = "matches", "similarity_graph", "images"


def gallery_of_catalog(store: Store, name: str, *, title: str | None = None) -> Gallery | None:
    """The images of a catalog with the columns of their items; None for an unknown catalog."""
    table = ledger_table(store, name)
    commit = table.latest()
    if commit is None:
        return None
    rows = with_all_columns(table.read(commit)).sort("id", "image")
    shown = rows.select("id", "image", "status", "sha256")
    return image_gallery(store, shown, title=title or name, items=item_columns(store, name))


def gallery_of_table(
    store: Store, table: Table, commit: Commit, *, title: str | None = None, keep: bool = False
) -> Gallery | None:
    """A version of a match table, similarity graph or table of groups; None for another table.

    Args:
        store: the store of the table.
        table: the table.
        commit: its version.
        title: the heading; by default the name of the table.
        keep: whether new thumbnails are kept in the store.
    """
    first, _, second = table.name.partition("/")
    kind = second.partition(".")[0]
    heading = title or table.name
    if first == _MATCHES:
        catalogs = commit.properties["left"], commit.properties["right"]
        sides = zip(("left", "right"), catalogs, strict=True)
        rows = table.read(commit)
        return match_gallery(
            store,
            rows,
            title=heading,
            subtitle=f"{counted(rows.height, 'pair')}{_threshold(commit)}, "
            f"version {commit.version}",
            items={side: item_columns(store, name) for side, name in sides},
            labels=catalogs,
            keep=keep,
        )
    if kind == _GRAPH:
        items = item_columns(store, first)
        return graph_gallery(store, table.read(commit), title=heading, items=items)
    if CROSS_CATALOG_GROUPS in (first, kind):
        members = group_members(store, table, commit)
        return group_gallery(store, members, title=heading, keep=keep)
    if kind in (_IMAGES, "items"):
        return gallery_of_catalog(store, first, title=heading)
    return None


def _threshold(commit: Commit) -> str:
    """The threshold of a match table in words; nothing without a lower bound."""
    threshold = commit.properties["threshold"]
    return "" if threshold is None or threshold <= MIN_COSINE else f", threshold {threshold:g}"


def gallery_of_frame(
    frame: pl.DataFrame | pl.LazyFrame, store: Store, *, title: str
) -> Gallery | None:
    """The gallery of rows that name images of a store by their sha256; None for other frames.

    Args:
        frame: rows of a match table, a similarity graph, duplicate groups or images.
        store: has the images.
        title: the heading.
    """
    schema = frame.collect_schema()
    names = set(schema.names())
    if names >= MATCH_COLUMNS:
        return match_gallery(store, frame.lazy().collect(), title=title)
    if names >= GRAPH_COLUMNS:
        return graph_gallery(store, frame.lazy().collect(), title=title)
    if names >= GROUP_COLUMNS:
        return group_gallery(store, frame.lazy().collect(), title=title)
    holds_images = any(dtype in (pl.Binary, pl.Object) for dtype in schema.values())
    if names >= IMAGE_COLUMNS and not holds_images:
        return image_gallery(store, frame.lazy().collect(), title=title)
    return None
