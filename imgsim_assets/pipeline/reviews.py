"""Files of people's decisions: which of their rows are new, and which images they are about."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, get_args

import polars as pl

from imgsim_assets.index.stage import embedded_images
from imgsim_assets.pipeline.reviewed import Reviewed, Side
from imgsim_assets.reviews.files import read_verdicts
from imgsim_assets.reviews.table import (
    IMAGES,
    PAIR,
    SCHEMA,
    add_made_now,
    add_reviews,
    edits_without_time,
    read_reviews,
    unknown_reviews,
    unordered,
)
from imgsim_assets.similarity.matches import match_table
from imgsim_assets.storage.store import Store

_SIDES: tuple[Side, ...] = get_args(Side)
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


def import_reviews(
    store: Store, reviewed: Reviewed, path: Path, *, now: datetime, reviewer: str | None = None
) -> ImportReport:
    """Add the decisions of a file to those about a match table, or about groups.

    A decision without sha256 is about the images by which the items match, else about the first
    image of each item. A row without a time is a new decision when the file says something else
    than it said at the last import; so is a row of an export that was edited.

    Args:
        store: the store of the result.
        reviewed: the match table or the groups, which need not exist yet.
        path: a .csv, .tsv or .parquet file; see `read_verdicts`.
        now: the time of new decisions that have none.
        reviewer: of the rows that name none.

    Raises:
        SourceError: when a row is not a decision. Nothing is added then.
        StoreError: when a catalog has no embeddings yet.
    """
    table = reviewed.decisions(store)
    rows = read_verdicts(path, reviewer=reviewer)
    if not reviewed.is_ordered:
        rows = unordered(rows)
    commit = table.latest()
    existing = read_reviews(table, commit)
    new = unknown_reviews(edits_without_time(rows, existing), existing)
    first_unknown: list[str] = []
    added = unknown = 0
    if new.height:
        completed = _with_images(store, reviewed, new)
        has_images = pl.all_horizontal(pl.col(IMAGES).is_not_null())
        missing = completed.filter(~has_images)
        unknown, first_unknown = missing.height, _describe(missing, reviewed)
        decided = completed.filter(has_images)
        is_timed = pl.col("decided_at").is_not_null()
        commit, added = add_reviews(table, decided.filter(is_timed))
        undated = decided.filter(~is_timed).select(name for name in SCHEMA if name != "decided_at")
        commit, more = add_made_now(table, undated, now)
        added += more
    version = commit.version if commit is not None else 0
    return ImportReport(rows.height, added, unknown, first_unknown, version)


def _with_images(store: Store, reviewed: Reviewed, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with the sha256 that they are about; null where the catalog has no such item."""
    matched = _matched_images(store, reviewed)
    rows = rows.join(matched, on=PAIR, how="left", suffix="_matched", maintain_order="left")
    for side in _SIDES:
        first = pl.concat(
            _first_images(store, catalog, reviewed.prefix(catalog))
            for catalog in reviewed.catalogs_of(side)
        )
        named = first.rename({"id": f"{side}_id", "sha256": f"{side}_sha256_first"})
        rows = rows.join(named, on=f"{side}_id", how="left", maintain_order="left")
    # Both images of one pair: one that matched and a first one may never have been compared.
    is_matched = pl.all_horizontal(
        pl.col(name).is_null() & pl.col(f"{name}_matched").is_not_null() for name in IMAGES
    )
    return rows.with_columns(
        pl.when(is_matched)
        .then(f"{name}_matched")
        .otherwise(pl.coalesce(name, f"{name}_first"))
        .alias(name)
        for name in IMAGES
    )


def _first_images(store: Store, catalog: str, prefix: str) -> pl.DataFrame:
    """The id, with a prefix, and the sha256 of the first image of each item of a catalog."""
    _, images = embedded_images(store, catalog)
    first = images.unique("id", keep="first", maintain_order=True)
    return first.select((pl.lit(prefix) + pl.col("id")).alias("id"), "sha256")


def _matched_images(store: Store, reviewed: Reviewed) -> pl.DataFrame:
    """The images by which the items of a match table match; groups have none."""
    none = pl.DataFrame(schema=dict.fromkeys([*PAIR, *IMAGES], pl.String))
    if reviewed.is_groups:
        return none
    table = match_table(store, reviewed.name)
    commit = table.latest()
    return none if commit is None else table.read(commit, columns=[*PAIR, *IMAGES])


def _describe(missing: pl.DataFrame, reviewed: Reviewed) -> list[str]:
    """Which item each of the first rows is about that its catalog has no image of."""
    described = []
    for row in missing.head(_SHOWN).iter_rows(named=True):
        side: Side = "left" if row["left_sha256"] is None else "right"
        catalogs = " or ".join(reviewed.catalogs_of(side))
        described.append(f"{side}_id {row[f'{side}_id']!r} of {catalogs} in row {row['row']}")
    return described
