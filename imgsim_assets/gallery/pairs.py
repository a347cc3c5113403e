"""Galleries of pairs: match tables, similarity graphs, and results of queries."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from imgsim_assets.catalog.image_rows import OTHER_URLS, image_rows
from imgsim_assets.catalog.stage import items_table
from imgsim_assets.gallery.document import Details, Gallery, ItemColumns
from imgsim_assets.gallery.thumbnails import ImageSource, StoredImages
from imgsim_assets.similarity.evidence.accepted_pairs import COLUMNS as EVIDENCE
from imgsim_assets.storage.store import Store
from imgsim_assets.text import counted

SIDES = ("left", "right")
_NO_MATCHES = "There are no matches."
# What the page shows of a pair beside its items.
_PAIR_COLUMNS = (
    "left_id",
    "left_image",
    "right_id",
    "right_image",
    "similarity",
    "distance",
    "rank",
    *EVIDENCE,
    "verdict",
    "orientation",
)
MATCH_COLUMNS = frozenset(["left_id", "right_id", "similarity", "left_sha256", "right_sha256"])
GRAPH_COLUMNS = frozenset(["src_id", "dst_id", "similarity", "src_sha256", "dst_sha256"])
RESULT_COLUMNS = frozenset(["query_label", "reference_label", "distance"])
_GRAPH_SIDES = {"src": "left", "dst": "right"}


def match_gallery(
    store: Store,
    rows: pl.DataFrame,
    *,
    title: str,
    subtitle: str = "",
    items: Mapping[str, ItemColumns] | None = None,
    labels: tuple[str, str] = ("left", "right"),
    keep: bool = False,
) -> Gallery:
    """The gallery of a match table.

    Args:
        store: has the images.
        rows: the match table; further columns are shown too, those that begin with `left_` or
            `right_` with their item.
        title: the heading.
        subtitle: what the page shows; by default the number of pairs.
        items: by side the columns of the items.
        labels: what the two sides are.
        keep: whether new thumbnails are kept in the store.
    """
    details: dict[str, Details] = {}
    for side in SIDES:
        if items is not None:
            keys = [f"{side}_id", f"{side}_image"]
            rows = rows if keys[1] in rows.columns else rows.with_columns(_first_image(keys[1]))
            details[side] = Details.of(rows, keys, items[side])
        else:
            details |= _prefixed(rows, side)
    known = {*_PAIR_COLUMNS, *(f"{side}_sha256" for side in SIDES)}
    prefixes = tuple(f"{side}_" for side in SIDES)
    others = [name for name in rows.columns if name not in known and not name.startswith(prefixes)]
    if others:
        details["pair"] = Details(rows.select(others), pl.Series(range(rows.height)))
    return Gallery(
        title=title,
        subtitle=subtitle or counted(rows.height, "pair"),
        layout="pairs",
        rows=_pair_rows(rows),
        keys={side: rows[f"{side}_sha256"] for side in SIDES},
        images=StoredImages(store, keep=keep),
        details=details,
        labels=labels,
        empty="Nothing passes the filters." if rows.height else _NO_MATCHES,
    )


def graph_gallery(
    store: Store,
    edges: pl.DataFrame,
    *,
    title: str,
    items: ItemColumns | None = None,
) -> Gallery:
    """The gallery of a similarity graph: each item beside its neighbors.

    Args:
        store: has the images.
        edges: the edges.
        title: the heading.
        items: the columns of the items.
    """
    renamed = {
        name: f"{side}_{name.removeprefix(f'{end}_')}"
        for end, side in _GRAPH_SIDES.items()
        for name in edges.columns
        if name.startswith(f"{end}_")
    }
    rows = edges.drop("distance", strict=False).rename(renamed)
    return match_gallery(
        store,
        rows,
        title=title,
        subtitle=f"{counted(rows['left_id'].n_unique(), 'item')} with "
        f"{counted(rows.height, 'neighbor')}",
        items=None if items is None else {"left": items, "right": items},
        labels=("item", "neighbor"),
    )


def result_gallery(
    result: pl.DataFrame,
    keys: Mapping[str, pl.Series],
    images: ImageSource,
    *,
    title: str,
    details: Mapping[str, Details] | None = None,
) -> Gallery:
    """The gallery of the result of a query.

    Args:
        result: query_label, reference_label, distance and further columns.
        keys: by side the key of each row's image.
        images: gives the images of the keys.
        title: the heading.
        details: by side the columns of the items.
    """
    names = {"query_label": "left_id", "reference_label": "right_id"}
    names |= {"query_image": "left_image", "reference_image": "right_image"}
    rows = result.rename(names, strict=False)
    queries = rows["left_id"].n_unique()
    return Gallery(
        title=title,
        subtitle=f"{counted(queries, 'query', 'queries')} with {counted(rows.height, 'neighbor')}",
        layout="pairs",
        rows=_pair_rows(rows),
        keys=keys,
        images=images,
        details=details or {},
        labels=("query", "item"),
        empty="Nothing passes the filters." if rows.height else "The query found nothing.",
    )


def item_columns(store: Store, catalog: str) -> ItemColumns:
    """The image's `url` and what the source carries; none before the catalog has items."""
    table = items_table(store, catalog)
    commit = table.latest()
    if commit is None:
        keys = pl.DataFrame(schema={"id": pl.String, "image": pl.Int32})
        return ItemColumns(keys, pl.DataFrame())
    items = table.read(commit)
    carried = items.drop("url", OTHER_URLS, strict=False)
    images = image_rows(items)
    columns = images.select("id", "url").join(carried, on="id", how="left", maintain_order="left")
    return ItemColumns(images.select("id", "image"), columns.drop("id"))


def _first_image(name: str) -> pl.Expr:
    """Match tables of earlier versions are about image 0 of each item."""
    return pl.lit(0, pl.Int32).alias(name)


def _pair_rows(rows: pl.DataFrame) -> pl.DataFrame:
    shown = [name for name in _PAIR_COLUMNS if name in rows.columns]
    return rows.select(shown).with_columns(
        # Labels of models may be integers.
        pl.col("left_id").cast(pl.String),
        pl.col("right_id").cast(pl.String),
    )


def _prefixed(rows: pl.DataFrame, side: str) -> dict[str, Details]:
    """The further columns of a match table that begin with the name of a side."""
    prefix = f"{side}_"
    known = {f"{prefix}{name}" for name in ("id", "image", "sha256")}
    names = [name for name in rows.columns if name.startswith(prefix) and name not in known]
    if not names:
        return {}
    frame = rows.select(pl.col(name).alias(name.removeprefix(prefix)) for name in names)
    return {side: Details(frame, pl.Series(range(rows.height)))}
