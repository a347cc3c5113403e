"""What a shard's ledger comes to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import polars as pl

from imgsim_assets.download.ledger import table as ledger
from imgsim_assets.storage.digest import RowsDigest


class Summary:
    """Counts and data version of a ledger whose rows come sorted by id, in parts."""

    def __init__(self) -> None:
        self._statuses: Counter[str] = Counter()
        self._refresh_failures: Counter[str] = Counter()
        self._images = RowsDigest(2)

    def add(self, rows: pl.DataFrame) -> None:
        """Take in the rows that come next."""
        self._statuses.update(_counts(rows["status"]))
        self._refresh_failures.update(_counts(rows["revalidation_error"].drop_nulls()))
        self._images.update(ledger.images(rows))

    @property
    def items(self) -> int:
        """How many rows there are."""
        return self._statuses.total()

    @property
    def statuses(self) -> Mapping[str, int]:
        """The items of each status."""
        return dict(sorted(self._statuses.items()))

    @property
    def revalidation_errors(self) -> Mapping[str, int]:
        """The good images that could not be asked for again, by what was met."""
        return dict(sorted(self._refresh_failures.items()))

    @property
    def data_version(self) -> str:
        """`ledger.data_version` of all rows."""
        return self._images.hexdigest()


def _counts(kinds: pl.Series) -> dict[str, int]:
    return dict(kinds.value_counts().iter_rows())
