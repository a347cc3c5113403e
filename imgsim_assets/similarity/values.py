"""The values in which the items of a pair must agree, with `within`."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from imgsim_assets.catalog.stage import items_table
from imgsim_assets.errors import StoreError
from imgsim_assets.similarity.items import VALUE
from imgsim_assets.storage.store import Store

# The setting, as a recipe records it.
WITHIN = "within"


def values_within(store: Store, name: str, columns: Sequence[str]) -> pl.DataFrame | None:
    """The value of each item of a catalog, as text: id and value.

    Args:
        store: the store of the catalog.
        name: the catalog.
        columns: columns of its items table.

    Returns:
        With several columns, a JSON list of their values. Null where one of them is null. None
        without columns: then all items are compared.

    Raises:
        StoreError: when the catalog has no items or lacks a column.
    """
    if not columns:
        return None
    table = items_table(store, name)
    commit = table.latest()
    if commit is None:
        raise StoreError(f"{name}/items has no version yet; materialize it first")
    rows = table.read(commit)
    for column in columns:
        if column not in rows.columns:
            carried = ", ".join(sorted(set(rows.columns) - {"id"}))
            raise StoreError(
                f"within: {name}/items has no column {column!r}; name one of {carried}, or let the "
                "source carry it"
            )
    # A list has empty text where another source has null.
    texts = [pl.col(column).cast(pl.String).replace("", None) for column in columns]
    together = texts[0] if len(texts) == 1 else pl.struct(texts).struct.json_encode()
    has_all = ~pl.any_horizontal(text.is_null() for text in texts)
    return rows.select("id", pl.when(has_all).then(together).alias(VALUE))


def items_versions(store: Store, names: Sequence[str], columns: Sequence[str]) -> dict[str, int]:
    """The newest versions of the items tables that `values_within` reads; none without columns."""
    tables = [items_table(store, name) for name in names] if columns else []
    commits = {table.name: table.latest() for table in tables}
    return {name: commit.version for name, commit in commits.items() if commit is not None}
