"""What a person needs to judge a pair: the titles and links of its items, and what is new."""

from __future__ import annotations

import polars as pl

from imgsim_assets.catalog.stage import items_table
from imgsim_assets.errors import StoreError
from imgsim_assets.similarity.evidence.accepted_pairs import COLUMNS
from imgsim_assets.similarity.items import ORIENTATION
from imgsim_assets.storage.changes import Changes, read_changes
from imgsim_assets.storage.store import Store

# Carried columns that name an item, the best first.
_TITLES = ("title", "name", "label", "product_name", "description")


def with_titles(store: Store, pairs: pl.DataFrame, left: str, right: str) -> pl.DataFrame:
    """Pairs (left_id, right_id, similarity) with left_title, right_title, left_url and right_url.

    The orientation and the columns of evidence stay. A catalog without a column such as title or
    name has no titles.
    """
    for side, catalog in (("left", left), ("right", right)):
        described = _described(store, catalog, pairs[f"{side}_id"])
        pairs = pairs.join(
            described.rename({column: f"{side}_{column}" for column in described.columns}),
            on=f"{side}_id",
            how="left",
            maintain_order="left",
        )
    texts = [f"{side}_{text}" for text in ("title", "url") for side in ("left", "right")]
    optional = [name for name in (ORIENTATION, *COLUMNS, *texts) if name in pairs.columns]
    return pairs.select("similarity", "left_id", "right_id", *optional)


def _described(store: Store, catalog: str, ids: pl.Series) -> pl.DataFrame:
    table = items_table(store, catalog)
    commit = table.latest()
    if commit is None:
        return pl.DataFrame({"id": ids.clear()})
    rows = table.read(commit).filter(pl.col("id").is_in(ids.unique().implode()))
    title = next((column for column in _TITLES if column in rows.columns), None)
    titles = [pl.col(title).cast(pl.String).alias("title")] if title is not None else []
    return rows.select("id", *titles, "url")


def changes_since_last_version(store: Store, name: str, version: int) -> Changes | None:
    """The rows that a version of a table changed; None if the one before was deleted."""
    try:
        return read_changes(name, since=version - 1, until=version, store=store)
    except StoreError:
        return None
