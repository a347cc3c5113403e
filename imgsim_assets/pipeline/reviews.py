"""People's decisions about the pairs of a match table: which images they are about."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import polars as pl

from imgsim_assets.errors import StoreError
from imgsim_assets.index.stage import embedded_images
from imgsim_assets.reviews.files import read_verdicts
from imgsim_assets.reviews.table import (
    SCHEMA,
    add_reviews,
    read_reviews,
    reviews_table,
    unknown_reviews,
)
from imgsim_assets.similarity.matches import match_table, reviewed_name
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

_PREFIX = "matches/"
_PAIR = ["left_id", "right_id"]
_SIDES = ("left", "right")
_IMAGES = [f"{side}_sha256" for side in _SIDES]
_SHOWN = 3


class ImportReport(NamedTuple):
    """What an import did.

    Attributes:
        rows: decisions of the file.
        added: those that were new.
        unknown: those about an item that its catalog does not have, or has no image of; they
            were not added.
        first_unknown: what and where some of them are, for messages.
        version: the version of the decisions afterwards, 0 while there are none.
    """

    rows: int
    added: int
    unknown: int
    first_unknown: Sequence[str]
    version: int


def catalogs_of(store: Store, name: str) -> tuple[str, str]:
    """The left and right catalog of a match table.

    Raises:
        StoreError: when the store has no such match table.
    """
    tables = [table for table in store.table_names() if table.startswith(_PREFIX)]
    for table in tables:
        commit = store.table(table).latest() if reviewed_name(table) == name else None
        if commit is not None:
            return str(commit.properties["left"]), str(commit.properties["right"])
    existing = ", ".join(dict.fromkeys(map(reviewed_name, tables))) or "none"
    raise StoreError(f"{store.url} has no match table {name}; it has {existing}")


def import_reviews(
    store: Store,
    name: str,
    catalogs: tuple[str, str],
    path: Path,
    *,
    now: datetime,
    reviewer: str | None = None,
) -> ImportReport:
    """Add the decisions of a file to those about a match table.

    A decision without sha256 is about the images by which the items match, else about the first
    image of each item.

    Args:
        store: the store of the match table.
        name: the match table, which need not exist yet.
        catalogs: its left and right catalog.
        path: a .csv, .tsv or .parquet file; see `read_verdicts`.
        now: the time of new decisions that have none.
        reviewer: of the rows that name none.

    Raises:
        SourceError: when a row is not a decision. Nothing is added then.
        StoreError: when a catalog has no embeddings yet.
    """
    table = reviews_table(store, name)
    rows = read_verdicts(path, reviewer=reviewer)
    commit = table.latest()
    new = unknown_reviews(rows, read_reviews(table, commit))
    first_unknown: list[str] = []
    added = unknown = 0
    if new.height:
        completed = _with_images(store, name, catalogs, new)
        has_images = pl.all_horizontal(pl.col(_IMAGES).is_not_null())
        missing = completed.filter(~has_images)
        unknown, first_unknown = missing.height, _describe(missing, catalogs)
        decided = completed.filter(has_images).with_columns(pl.col("decided_at").fill_null(now))
        commit, added = add_reviews(table, decided.select(list(SCHEMA)))
    version = commit.version if commit is not None else 0
    return ImportReport(rows.height, added, unknown, first_unknown, version)


def _with_images(
    store: Store, name: str, catalogs: tuple[str, str], rows: pl.DataFrame
) -> pl.DataFrame:
    """The rows with the sha256 that they are about; null where the catalog has no such item."""
    matched = _matched_images(match_table(store, name), match_table(store, name).latest())
    rows = rows.join(matched, on=_PAIR, how="left", suffix="_matched", maintain_order="left")
    for side, catalog in zip(_SIDES, catalogs, strict=True):
        _, images = embedded_images(store, catalog)
        first = images.unique("id", keep="first", maintain_order=True).select(
            pl.col("id").alias(f"{side}_id"), pl.col("sha256").alias(f"{side}_sha256_first")
        )
        rows = rows.join(first, on=f"{side}_id", how="left", maintain_order="left")
    # Both images of one pair: one that matched and a first one may never have been compared.
    is_matched = pl.all_horizontal(
        pl.col(name).is_null() & pl.col(f"{name}_matched").is_not_null() for name in _IMAGES
    )
    return rows.with_columns(
        pl.when(is_matched)
        .then(f"{name}_matched")
        .otherwise(pl.coalesce(name, f"{name}_first"))
        .alias(name)
        for name in _IMAGES
    )


def _matched_images(table: Table, commit: Commit | None) -> pl.DataFrame:
    if commit is None:
        return pl.DataFrame(schema=dict.fromkeys([*_PAIR, *_IMAGES], pl.String))
    return table.read(commit, columns=[*_PAIR, *_IMAGES])


def _describe(missing: pl.DataFrame, catalogs: tuple[str, str]) -> list[str]:
    """Which item each of the first rows is about that its catalog has no image of."""
    described = []
    for row in missing.head(_SHOWN).iter_rows(named=True):
        side = "left" if row["left_sha256"] is None else "right"
        catalog = catalogs[_SIDES.index(side)]
        described.append(f"{side}_id {row[f'{side}_id']!r} of {catalog} in row {row['row']}")
    return described
