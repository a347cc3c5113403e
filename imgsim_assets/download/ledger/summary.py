"""Counts and data version of a shard's ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import polars as pl

from imgsim_assets.download.ledger.table import images
from imgsim_assets.storage.digest import RowsDigest


class LedgerSummary:
    """Counts and data version of rows that are added in parts, sorted by id."""

    def __init__(self) -> None:
        self._statuses: Counter[str] = Counter()
        self._revalidation_errors: Counter[str] = Counter()
        self._images = RowsDigest(2)

    def add(self, rows: pl.DataFrame) -> None:
        """Add the next rows."""
        self._statuses.update(_counts(rows["status"]))
        self._revalidation_errors.update(_counts(rows["revalidation_error"].drop_nulls()))
        self._images.update(images(rows))

    @property
    def items(self) -> int:
        """The number of rows."""
        return self._statuses.total()

    @property
    def statuses(self) -> Mapping[str, int]:
        """Items by status."""
        return dict(sorted(self._statuses.items()))

    @property
    def revalidation_errors(self) -> Mapping[str, int]:
        """Good images whose revalidation failed, by the status of the failure."""
        return dict(sorted(self._revalidation_errors.items()))

    @property
    def data_version(self) -> str:
        """`table.data_version` of all rows."""
        return self._images.hexdigest()


def _counts(values: pl.Series) -> dict[str, int]:
    return dict(values.value_counts().iter_rows())
