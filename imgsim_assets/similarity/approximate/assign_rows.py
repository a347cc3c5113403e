"""The inverted lists of the rows of a side, kept in the commits of a result.

There is one file for each block of ids, as of neighbor lists. Two rows and the centroids decide
which lists a row is in and which it probes, so an update assigns new rows only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.compute.tasks import run_tasks, task_ranges
from imgsim_assets.errors import CorruptFileError
from imgsim_assets.similarity.approximate.lists import InvertedLists, Numbers, RowLists
from imgsim_assets.similarity.cosine import Indices, unit_rows
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.materialized import MaterializedResult, files_of_block
from imgsim_assets.similarity.neighbor_lists import among
from imgsim_assets.storage.commit import DataFile
from imgsim_assets.storage.id_blocks import IdBlock
from imgsim_assets.storage.row_blocks import RowBlocks
from imgsim_assets.storage.table import Table

# Columns: the key of a row, its list, and the differences of the lists that it probes, ascending.
_ID, _OWN, _STEPS = "id", "list", "steps"
_TASK_BYTES = 2**30


@dataclass(frozen=True)
class StoredLists:
    """The lists of the rows of a side, in the files of their blocks."""

    table: Table
    blocks: Sequence[IdBlock]
    files: Sequence[DataFile]
    nprobe: int

    def take(self, rows: Indices) -> RowLists:
        """The lists of some rows (p,), ascending."""
        own = np.empty(len(rows), np.uint16)
        probed = np.empty((len(rows), self.nprobe), np.uint16)
        for block, file in zip(self.blocks, self.files, strict=True):
            first, last = np.searchsorted(rows, [block.start, block.stop])
            if first < last:
                numbers = rows[first:last] - block.start
                lists = self.table.read_file(file)
                own[first:last] = lists[_OWN].to_numpy()[numbers]
                steps = lists[_STEPS].to_numpy()[numbers]
                np.cumsum(steps, axis=1, dtype=np.uint16, out=probed[first:last])
        return RowLists(own, probed)


class AssignedItems(NamedTuple):
    """What rows are assigned to; `own` is the list of each of them, (n,)."""

    lists: StoredLists
    own: Numbers


def assign_rows(
    result: MaterializedResult,
    items: Items,
    lists: InvertedLists,
    role: str,
    before: RowBlocks | None,
) -> AssignedItems:
    """Assign the rows of items to lists, and store the assignment.

    Args:
        result: the result table.
        items: the rows.
        lists: the lists; without probes, only the list of each row is found.
        role: of the files.
        before: the rows (`Items.row_blocks`) of the commit that can be reused, if its lists are the
            same; else None.
    """
    blocks, stays = items.id_blocks, np.zeros(len(items), dtype=bool)
    if before is not None:
        stays = among(items.row_blocks, before)
    assignment = _Assignment(result, items, lists, role, stays, reuses=before is not None)
    tasks = [
        blocks[part.start : part.stop]
        for part in task_ranges(len(blocks), smallest=1, largest=len(blocks))
    ]
    task = partial(_task, assignment)
    found = run_tasks(task, tasks, "assign", unit="blocks of rows", memory=_TASK_BYTES)
    files, own = zip(*(block for of_task in found for block in of_task), strict=True)
    stored = StoredLists(result.table, blocks, files, lists.nprobe)
    return AssignedItems(stored, np.concatenate(own))


def _task(assignment: _Assignment, blocks: Sequence[IdBlock]) -> list[tuple[DataFile, Numbers]]:
    return [assignment.of_block(block) for block in blocks]


@dataclass(frozen=True)
class _Assignment:
    """Assigns the rows of a side, of which those of `stays` (n,) may have been assigned before.

    `reuses` says whether the lists are those of the commit that can be reused.
    """

    result: MaterializedResult
    items: Items
    lists: InvertedLists
    role: str
    stays: NDArray[np.bool_]
    reuses: bool

    def of_block(self, block: IdBlock) -> tuple[DataFile, Numbers]:
        """The file of a block, and the list of each of its rows."""
        known = self._known(block)
        if known is not None and (file := self._unchanged(block, known)) is not None:
            return file, known[_OWN].to_numpy()
        ids = self.items.row_blocks.read(block.start, block.stop, ["id"])["id"]
        position = np.full(len(ids), -1, dtype=np.int64)
        if known is not None:
            position = _positions(ids, known[_ID])
            position[~self.stays[block.start : block.stop]] = -1
        frame = self._completed(block, position, known)
        return self.result.write_block(frame.insert_column(0, ids), self.role, block), frame[
            _OWN
        ].to_numpy()

    def _known(self, block: IdBlock) -> pl.DataFrame | None:
        """The rows of a block that have been assigned; None if there are none or a damaged file."""
        if not self.reuses or self.result.reusable is None:
            return None
        files = self.result.reusable.files_with_role(self.role)
        try:
            parts = [self.result.table.read_file(file) for file in files_of_block(files, block)]
        except CorruptFileError:
            return None
        return block.rows_of(pl.concat(parts), _ID) if parts else None

    def _unchanged(self, block: IdBlock, known: pl.DataFrame) -> DataFile | None:
        """The file of a block, if it has exactly the rows that there are now."""
        is_same = known.height == block.stop - block.start
        if not is_same or not self.stays[block.start : block.stop].all():
            return None
        return self.result.file_of(self.role, block)

    def _completed(
        self, block: IdBlock, position: Indices, known: pl.DataFrame | None
    ) -> pl.DataFrame:
        """The lists of the rows of a block, of which some have a position among known ones."""
        count, nprobe = len(position), self.lists.nprobe
        own, steps = np.empty(count, np.uint16), np.empty((count, nprobe), np.uint16)
        is_known = position >= 0
        if known is not None:
            own[is_known] = known[_OWN].to_numpy()[position[is_known]]
            if nprobe:
                steps[is_known] = known[_STEPS].to_numpy()[position[is_known]]
        new = np.flatnonzero(~is_known)
        if len(new):
            rows = unit_rows(self.items.blocks.rows(block.start + new), "vectors")
            own[new], probed = self.lists.assign(rows)
            steps[new] = np.diff(probed, axis=1, prepend=np.uint16(0))
        frame = pl.DataFrame({_OWN: own})
        if nprobe:
            dtype = pl.Array(pl.UInt16, nprobe)
            frame = frame.with_columns(pl.Series(_STEPS, steps, dtype=dtype))
        return frame


def _positions(ids: pl.Series, known: pl.Series) -> Indices:
    """The position of each id (n,) among known ones; -1 for others."""
    rows = pl.DataFrame({_ID: known, "row": np.arange(len(known))})
    joined = ids.alias(_ID).to_frame().join(rows, on=_ID, how="left", maintain_order="left")
    positions: Indices = joined["row"].fill_null(-1).to_numpy().copy()
    return positions
