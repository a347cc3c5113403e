"""The right rows of a join by blocks: what a join finds out about a block serves those that follow.

The vectors of a block are read again for each batch of left rows, but they are checked and searched
for equal rows once. 8 bytes a row are kept of it, and 24 more in blocks that have equal rows; of
rows that are read once nothing is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from imgsim_assets.similarity.cosine import Doubles, Floats, Indices, UnitRows
from imgsim_assets.similarity.join_input import JoinInput
from imgsim_assets.similarity.join_side import JoinSide
from imgsim_assets.similarity.shared_prefilter import SharedPrefilter
from imgsim_assets.similarity.unique_rows import UniqueRows

# The vectors of a side of one block are kept, if they have no more bytes.
_MAX_KEPT_BYTES = 32 << 20


class References:
    """Right rows that several batches of left rows are compared with.

    A pickled object knows nothing of its blocks: the process that unpickles it checks them again.

    Attributes:
        side: the rows.
        prefilter: of the joins with them.
    """

    def __init__(self, side: JoinSide) -> None:
        self.side = side
        self.prefilter = SharedPrefilter()
        self._checked: dict[int, _Checked] = {}
        self._kept: JoinInput | None = None
        self._read_once = side.read_once

    def __reduce__(self) -> tuple[Any, ...]:
        return References, (self.side,)

    def __len__(self) -> int:
        return len(self.side)

    @property
    def is_single(self) -> bool:
        """Whether the rows are one block that is kept."""
        return not self._read_once and len(self) <= self.side.vectors.block_rows

    def take(self, rows: Indices) -> References:
        """Some of the rows (p,), ascending, of which nothing is known."""
        side = self.side.select(rows) if self._read_once else self.side.take(rows)
        taken = References(replace(side, read_once=self._read_once))
        self._read_once = False
        return taken

    def blocks(self) -> Iterator[tuple[Indices, JoinInput]]:
        """All rows in blocks: their numbers (p,), ascending within a block, and an input."""
        if self._read_once:
            # Whoever comes again reads as others do.
            self._read_once = False
            for numbers, rows in self.side.vectors.scan():
                yield numbers, JoinInput.of(rows, "vectors")
            return
        if self._kept is not None:
            yield np.arange(len(self)), self._kept
            return
        for start, rows in self.side.vectors.blocks():
            block = self._input(start, rows)
            if self.is_single and rows.nbytes <= _MAX_KEPT_BYTES:
                self._kept = block
            yield np.arange(start, start + len(rows)), block

    def _input(self, start: int, rows: Floats) -> JoinInput:
        if start not in self._checked:
            block = JoinInput.of(rows, "vectors")
            self._checked[start] = _Checked.of(block)
            return block
        return self._checked[start].input(rows)


class _Checked(NamedTuple):
    """What is known of a block of rows; `unique` is None where no two are equal."""

    squares: Doubles
    deviation: float
    unique: UniqueRows | None

    @classmethod
    def of(cls, block: JoinInput) -> _Checked:
        unique = None if block.has_no_duplicates else block.unique
        return cls(block.unit.squares, block.unit.deviation, unique)

    def input(self, rows: Floats) -> JoinInput:
        """The rows as an input, without another look at them."""
        contiguous = np.ascontiguousarray(rows, dtype=np.float32)
        unit = UnitRows(contiguous, self.squares, self.deviation)
        return JoinInput(unit, self.unique or UniqueRows.distinct(len(rows)))
