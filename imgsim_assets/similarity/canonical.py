"""The order in which items become the canonical one of their group, and which are protected."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.download.ledger.table import ledger_table, with_all_columns
from imgsim_assets.download.status import OK
from imgsim_assets.errors import StoreError
from imgsim_assets.storage.gc import LOCATION
from imgsim_assets.storage.row_blocks import RowBlocks, begins_item
from imgsim_assets.storage.store import Store

PROTECTED = "protected"
IS_LINK = "is_link"
# By rule, what orders the images of an item, and items: the lowest comes first.
_RANKS: Mapping[str, pl.Expr] = {
    "largest_resolution": -(pl.col("width").cast(pl.Int64) * pl.col("height")),
    "largest_file": -pl.col("bytes"),
    "first_seen": pl.col("fetched_at"),
}

_COLUMNS = ["id", "status", IS_LINK, "width", "height", "bytes", "fetched_at"]
# Where an image is, which `keep` asks for.
_PATHS = ["url", LOCATION]
_ROWS_GROUPED = 1 << 17


def item_ranks(
    store: Store,
    images: Mapping[str, RowBlocks],
    keep: Sequence[str],
    *,
    separator: str | None = None,
) -> pl.DataFrame:
    """What decides which item of a group is canonical.

    Args:
        store: holds the ledgers of the catalogs.
        images: the images (id, sha256) of each catalog, in the order of the catalogs.
        keep: folders and catalogs whose items are protected.
        separator: between the catalog and the id, in the ids of the result; None leaves ids.

    Returns:
        The items by id, with `is_link` and `protected`: whether an item is always kept. That is
        also true of items with an image that a protected link may lead to. Then a column for each
        rule, by which the lowest item comes first; of an item with several images that of the
        first of them.

    Raises:
        StoreError: a catalog has no ledger, or an entry of `keep` protects nothing.
    """
    ledgers = {name: _ledger(store, name, keep) for name in images}
    _require_matches(keep, ledgers)
    facts = {
        name: _facts(ledgers.pop(name), name, priority, keep)
        for priority, name in enumerate(images)
    }
    has_targets = any(
        each.select((pl.col(IS_LINK) & pl.col(PROTECTED)).any()).item() for each in facts.values()
    )
    # The hashes of images are read where a link may lead to one of them.
    columns = ["id", "sha256"] if has_targets else ["id"]
    ranked = []
    for name, of_catalog in images.items():
        prefix = "" if separator is None else f"{name}{separator}"
        ranked += [
            block.with_columns(
                (pl.lit(prefix) + pl.col("id")).alias("id"),
                pl.col(IS_LINK, PROTECTED).fill_null(value=False),
            )
            for block in _with_facts(of_catalog, columns, facts.pop(name))
        ]
    rows = pl.concat(ranked)
    if not has_targets:
        return rows
    linked = rows.filter(pl.col(IS_LINK) & pl.col(PROTECTED))["sha256"].unique()
    is_target = pl.col("sha256").is_in(linked.implode()).any().over("id")
    rows = rows.with_columns(pl.col(PROTECTED) | (~pl.col(IS_LINK) & is_target))
    return rows.drop("sha256").unique("id", maintain_order=True)


def _facts(ledger: pl.DataFrame, name: str, priority: int, keep: Sequence[str]) -> pl.DataFrame:
    """What ranks the items of a catalog, by its images."""
    is_protected = [pl.lit(name in keep), *map(_is_below, keep)]
    has_image = pl.col("status") == OK
    facts = (
        pl.col(IS_LINK).filter(has_image).fill_null(value=False).all(),
        pl.any_horizontal(is_protected).any().alias(PROTECTED),
        pl.lit(priority).alias("catalog_order"),
        *(rank.filter(has_image).min().alias(rule) for rule, rank in _RANKS.items()),
    )
    # Grouping takes far more memory than its result, so it is done for some items at a time.
    count = 1 + ledger.height // _ROWS_GROUPED
    part = pl.col("id").hash() % count
    return pl.concat(
        ledger.filter(part == number).group_by("id").agg(facts) for number in range(count)
    )


def _with_facts(
    images: RowBlocks, columns: Sequence[str], facts: pl.DataFrame
) -> Iterator[pl.DataFrame]:
    """The images of a catalog by blocks, with what ranks their items; without sha256, the items."""
    facts = facts.sort("id")
    last: str | None = None
    for _, block in images.blocks(columns):
        if not block.height:
            yield block.join(facts.clear(), on="id", how="left")
            continue
        ids, last_before, last = block["id"], last, block["id"][-1]
        rows = block if "sha256" in columns else block.filter(begins_item(ids, last_before))
        first = facts["id"].search_sorted(str(ids.min()), "left")
        stop = facts["id"].search_sorted(str(ids.max()), "right")
        yield rows.join(facts[first:stop], on="id", how="left", maintain_order="left")


def canonical_order(ranks: pl.DataFrame, rules: Sequence[str]) -> NDArray[np.int64]:
    """The row numbers of the items of `item_ranks`, the canonical ones first.

    A link is after all files: without its file it is nothing. Then come the protected items, and
    among equals the rules decide, then the id.
    """
    order = pl.arg_sort_by(
        [IS_LINK, PROTECTED, *rules, "id"],
        descending=[False, True, *(False for _ in rules), False],
        nulls_last=True,
    )
    return ranks.select(order).to_series().to_numpy().astype(np.int64)


def _ledger(store: Store, name: str, keep: Sequence[str]) -> pl.DataFrame:
    table = ledger_table(store, name)
    commit = table.latest()
    if commit is None:
        raise StoreError(f"{name}/images has no version, which ranks its items; materialize it")
    columns = [*_COLUMNS, *(_PATHS if keep else [])]
    return with_all_columns(table.read(commit, columns=columns)).select(columns)


def _is_below(folder: str) -> pl.Expr:
    """Whether an image's url or location is a folder, or is in it."""
    path = folder.rstrip("/") if "://" in folder else posixpath.normpath(folder).rstrip("/")
    return pl.any_horizontal(
        ((pl.col(column) == path) | pl.col(column).str.starts_with(f"{path}/")).fill_null(
            value=False
        )
        for column in _PATHS
    )


def _require_matches(keep: Sequence[str], ledgers: Mapping[str, pl.DataFrame]) -> None:
    """Raise StoreError for an entry of `keep` that is no catalog and no folder of an image."""
    if not keep:
        return
    rows = pl.concat(ledger.select(_PATHS) for ledger in ledgers.values())
    for entry in keep:
        if rows.height and entry not in ledgers and not rows.filter(_is_below(entry)).height:
            paths = list(dict.fromkeys(filter(None, rows.row(0))))
            raise StoreError(
                f"keep: no image is in {entry!r}, and none of the catalogs has that name; name a "
                f"folder as the images' paths begin, such as {' or '.join(map(repr, paths))}"
            )
