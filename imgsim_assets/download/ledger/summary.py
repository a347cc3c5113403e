"""Counts and data version of a shard's ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import polars as pl

from imgsim_assets.download.ledger.table import images
from imgsim_assets.storage.digest import RowsDigest


class LedgerSummary:
    """Counts and data version of rows that are added in parts, sorted by id.

    `statuses` counts all rows; `revalidation_errors` counts the good images whose revalidation
    failed.
    """

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.revalidation_errors: Counter[str] = Counter()
        self._images = RowsDigest(2)

    def add(self, rows: pl.DataFrame) -> None:
        """Add the next rows."""
        self.statuses.update(dict(rows["status"].value_counts().iter_rows()))
        errors = rows["revalidation_error"].drop_nulls()
        self.revalidation_errors.update(dict(errors.value_counts().iter_rows()))
        self._images.update(images(rows))

    def add_all(self, parts: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        """Pass the parts through, and add each."""
        for rows in parts:
            self.add(rows)
            yield rows

    @property
    def items(self) -> int:
        """The number of rows."""
        return self.statuses.total()

    @property
    def data_version(self) -> str:
        """`table.data_version` of all rows."""
        return self._images.hexdigest()
