"""Rows in the order of a key, of parts that come in any order: an external merge sort.

A part that follows the one before it belongs to the same run, so parts that are in order are only
copied. Other runs are merged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import polars as pl

from imgsim_assets.storage import row_blocks
from imgsim_assets.storage.row_blocks import RowBlocks
from imgsim_assets.storage.stored_rows import ScratchRows, in_scratch, that_fit

# One row in so many tells where merged rows are cut.
_ROWS_PER_SAMPLE = 1 << 8


def sorted_rows(parts: Iterable[pl.DataFrame], schema: pl.Schema, by: Sequence[str]) -> RowBlocks:
    """The rows of some parts in order; of rows with the same key the last one counts.

    Args:
        parts: frames with the columns of the schema, of which one is in memory at a time.
        schema: of the rows.
        by: the columns of the key, of which the first is a string; no value is null.
    """
    few, others = that_fit(_in_order(part.select(schema.names()), by) for part in parts)
    if others is None:
        rows = pl.concat([pl.DataFrame(schema=schema), *few], rechunk=True)
        return RowBlocks.of(_in_order(rows, by) if len(few) > 1 else rows)
    runs = _Runs(schema, by)
    for part in others:
        runs.append(part)
    return RowBlocks(runs.merged())


def _in_order(rows: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    # Equal keys stay in the order of the parts.
    rows = rows.sort(by, maintain_order=True)
    is_last = pl.any_horizontal(pl.col(key).ne_missing(pl.col(key).shift(-1)) for key in by)
    return rows.filter(is_last)


class _Runs:
    """Sorted runs in a scratch file, one after the other."""

    def __init__(self, schema: pl.Schema, by: Sequence[str]) -> None:
        self._schema, self._by = schema, list(by)
        self._stored = ScratchRows(schema)
        self._starts: list[int] = []
        self._last: tuple[object, ...] | None = None
        self._sample: list[str] = []
        self._count = 0

    def append(self, part: pl.DataFrame) -> None:
        """Add a part in order."""
        if not part.height:
            return
        keys = part.select(self._by)
        if self._last is None or keys.row(0) <= self._last:
            self._stored.flush()
            self._starts.append(len(self._stored))
        self._last = keys.row(-1)
        # A block of each run is in memory: with more runs, blocks are smaller.
        self._stored.extend(part, max(1, row_blocks.BLOCK_ROWS // len(self._starts)))
        first = -self._count % _ROWS_PER_SAMPLE
        self._sample += part[self._by[0]].gather_every(_ROWS_PER_SAMPLE, first).to_list()
        self._count += part.height

    def merged(self) -> ScratchRows:
        """The rows of all runs in order."""
        self._stored.flush()
        if len(self._starts) <= 1:
            return self._stored
        # Strings of a frame that was merged keep those of all its pieces in memory.
        return in_scratch(self._merge(), self._schema, row_blocks.BLOCK_ROWS)

    def _merge(self) -> Iterator[pl.DataFrame]:
        """The rows in order, about a block at a time."""
        stops = [*self._starts[1:], len(self._stored)]
        runs = [
            _Run(self._stored, self._by[0], *span) for span in zip(self._starts, stops, strict=True)
        ]
        per_block = max(1, row_blocks.BLOCK_ROWS // _ROWS_PER_SAMPLE)
        bounds = dict.fromkeys(sorted(self._sample)[::per_block])
        for after in [*list(bounds)[1:], None]:
            yield _in_order(pl.concat([run.take(after) for run in runs]), self._by)


class _Run:
    """The rows of a sorted run that are left, of which a block is in memory."""

    def __init__(self, stored: ScratchRows, column: str, start: int, stop: int) -> None:
        self._stored, self._column = stored, column
        self._next, self._stop = start, stop
        self._read = pl.DataFrame(schema=stored.schema)

    def take(self, after: str | None) -> pl.DataFrame:
        """The rows before a value of the column, None for all; they are left no more."""
        parts = [self._read]
        while self._next < self._stop and self._is_before(parts[-1], after):
            end = self._stored.block_end(self._next)
            parts.append(self._stored.read(self._next, end))
            self._next = end
        rows = pl.concat(parts) if len(parts) > 1 else parts[0]
        count = rows.height
        if after is not None and not self._is_before(rows, after):
            count = int(rows[self._column].search_sorted(after, "left"))
        self._read = rows[count:]
        return rows[:count]

    def _is_before(self, rows: pl.DataFrame, after: str | None) -> bool:
        """Whether all rows are before a value."""
        return not rows.height or after is None or bool(rows[self._column][-1] < after)
