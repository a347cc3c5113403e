"""Neighbor lists: similar pairs of rows, computed in full or updated incrementally.

A row is an image of an item (`items.py`), and its id is its key. A frame of pairs has the columns
left_id, right_id and similarity (float64 cosine), sorted by left_id, falling similarity and
right_id.

The k best items of a left row are among its k * m best rows, where m is the largest number of rows
of a right item: every row that precedes a row of the k-th item belongs to one of k items. Lists
are longer than that: when right rows are removed, the extra pairs take their place. A list that was
truncated holds every pair that is better than its last one, and none that is worse; the column
`complete` is true for a list that was not truncated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.compute.memory import pairs_in_memory, return_freed_memory
from imgsim_assets.compute.tasks import logged, run_tasks, runs_here, task_ranges
from imgsim_assets.similarity import vector_blocks
from imgsim_assets.similarity.approximate.assigned import AssignedSides
from imgsim_assets.similarity.approximate.list_join import join_in_lists
from imgsim_assets.similarity.approximate.listed_rows import ListedRows
from imgsim_assets.similarity.block_join import Lists, NumberedLists, join
from imgsim_assets.similarity.cosine import Doubles, Indices
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.join_side import JoinSide
from imgsim_assets.similarity.join_spec import JoinSpec
from imgsim_assets.similarity.listed_images import ListedImages
from imgsim_assets.similarity.references import References
from imgsim_assets.similarity.reusable_lists import SCHEMA, ReusableLists
from imgsim_assets.storage.id_blocks import IdBlock
from imgsim_assets.storage.row_blocks import RowBlocks, matched_blocks

R = TypeVar("R")

# What a task needs: two blocks of vectors, the working memory of a join, and the libraries.
_TASK_BYTES = 2 * 2**30
# In lines of progress.
_LABEL, _UNIT = "join", "blocks of rows"


class StoredLists(Protocol):
    """Neighbor lists of earlier rows, of which some can be read."""

    def of_block(self, block: IdBlock) -> pl.DataFrame | None:
        """The lists of the left rows of a block, see LIST_SCHEMA; None if they are damaged."""


@dataclass(frozen=True)
class CachedNeighborLists:
    """Neighbor lists, with the left and right rows (`Items.row_blocks`) they were computed from.

    The rows of the ranges `lost_left` and `lost_right` are not known, as their files are damaged.
    """

    lists: pl.DataFrame | StoredLists
    left: RowBlocks
    right: RowBlocks
    lost_left: Sequence[IdBlock] = ()
    lost_right: Sequence[IdBlock] = ()

    def swapped(self) -> CachedNeighborLists:
        """The same lists for a join with left and right exchanged."""
        return CachedNeighborLists(
            self.lists, self.right, self.left, self.lost_right, self.lost_left
        )

    def of_block(self, block: IdBlock) -> pl.DataFrame | None:
        """As of `StoredLists`."""
        if isinstance(self.lists, pl.DataFrame):
            return block.rows_of(self.lists)
        return self.lists.of_block(block)

    def unknown(self, right_ids: pl.Series) -> pl.Series:
        """Those of the keys of right rows that are in lost ranges."""
        ids = right_ids.unique() if self.lost_right else right_ids.clear()
        return pl.concat(
            [ids.clear(), *(ids.filter(pl.Series(each.holds(ids))) for each in self.lost_right)]
        )


class ListBlock(NamedTuple):
    """The neighbor lists of a block of left rows, see LIST_SCHEMA.

    `is_cached` says whether there are cached lists of the block, `is_unchanged` whether these are
    the ones. `right` are the right rows that these lists name, and those of other blocks.
    """

    block: IdBlock
    lists: pl.DataFrame
    is_cached: bool
    is_unchanged: bool
    right: ListedImages


def neighbor_lists(
    left: Items,
    right: Items,
    spec: JoinSpec,
    cached: CachedNeighborLists | None = None,
    assigned: AssignedSides | None = None,
) -> pl.DataFrame:
    """The neighbor lists of all left rows.

    With cached lists only these are compared: changed and added left rows with all right rows,
    other left rows with changed and added right rows, and left rows whose truncated list is too
    short by now. The items that follow from the result are the same.

    Args:
        left: the rows that get a list each.
        right: the rows that are searched for neighbors.
        spec: threshold, k and whether an item is its own neighbor.
        cached: lists by the same spec, of earlier rows.
        assigned: inverted lists, if only pairs of near ones are compared.

    Returns:
        The lists, see LIST_SCHEMA.
    """
    return pl.concat(map_list_blocks(_lists_of, left, right, spec, cached, assigned))


def map_list_blocks(
    work: Callable[[ListBlock], R],
    left: Items,
    right: Items,
    spec: JoinSpec,
    cached: CachedNeighborLists | None = None,
    assigned: AssignedSides | None = None,
) -> Iterator[R]:
    """The results of `work` on the `neighbor_lists` of each block of left ids, in their order.

    In memory are one batch and one block of vectors, and the lists of some blocks.
    """
    update = _Update.of(left, right, spec, cached, assigned)
    blocks = left.id_blocks
    if runs_here():
        lists = update.lists_of(blocks)
        yield from map(work, logged(lists, len(blocks), _LABEL, unit=_UNIT))
        return
    tasks = [
        blocks[part.start : part.stop]
        for part in task_ranges(len(blocks), smallest=1, largest=len(blocks))
    ]
    task = partial(_task, update, work)
    results = run_tasks(task, tasks, _LABEL, unit=_UNIT, memory=_TASK_BYTES, uses_gpu=True)
    for of_blocks in results:
        yield from of_blocks


def _task(update: _Update, work: Callable[[ListBlock], R], blocks: Sequence[IdBlock]) -> list[R]:
    """The task that compares the rows of some blocks."""
    return list(map(work, update.lists_of(blocks)))


def _lists_of(block: ListBlock) -> pl.DataFrame:
    return block.lists


def top_pairs(lists: pl.DataFrame, spec: JoinSpec) -> pl.DataFrame:
    """The pairs that the spec asks for, if every row is an item: the k best of each, or all."""
    pairs = lists.select(list(SCHEMA))
    return pairs if spec.k is None else pairs.filter(position_in_list() < spec.k)


def with_rank(pairs: pl.DataFrame) -> pl.DataFrame:
    """The pairs with `rank`, Int32 from 1 within each left id."""
    return pairs.with_columns((position_in_list() + 1).cast(pl.Int32).alias("rank"))


def position_in_list() -> pl.Expr:
    """The position of each pair among those of its left id, from 0; pairs are in order."""
    row = pl.int_range(pl.len())
    begins = pl.col("left_id") != pl.col("left_id").shift()
    return row - pl.when(begins.fill_null(value=True)).then(row).forward_fill()


@dataclass(frozen=True)
class _Update:
    """A join of which cached lists are a part.

    `stays` (n,) are the left rows that cached lists may be of; of the right rows, those with the
    keys `gone` have left, and the rows `new_right` are in no list.
    """

    left: Items
    right: Items
    spec: JoinSpec
    cached: CachedNeighborLists | None
    assigned: AssignedSides | None
    stays: NDArray[np.bool_]
    gone: pl.Series
    new_right: Indices

    @classmethod
    def of(
        cls,
        left: Items,
        right: Items,
        spec: JoinSpec,
        cached: CachedNeighborLists | None,
        assigned: AssignedSides | None,
    ) -> _Update:
        if cached is None:
            stays = np.zeros(len(left), dtype=bool)
            gone = pl.Series(dtype=pl.String)
            return cls(left, right, spec, None, assigned, stays, gone, np.empty(0, np.int64))
        stays = among(left.row_blocks, cached.left)
        has_left = np.flatnonzero(~among(cached.right, right.row_blocks))
        gone = cached.right.gather(has_left, ["id"])["id"]
        new_right = np.flatnonzero(~among(right.row_blocks, cached.right))
        return cls(left, right, spec, cached, assigned, stays, gone, new_right)

    def lists_of(self, blocks: Sequence[IdBlock]) -> Iterator[ListBlock]:
        """The lists of successive blocks; changed rows of many blocks are compared together."""
        for group in self._groups(blocks):
            of_changed = self._of_changed(group[0].start, group[-1].stop)
            some: list[tuple[IdBlock, ReusableLists]] = []
            pairs = 0
            for block in group:
                reusable = self.reusable(block)
                some.append((block, reusable))
                pairs += reusable.pairs.height
                if pairs >= pairs_in_memory():
                    yield from self.completed(some, of_changed)
                    some, pairs = [], 0
            if some:
                yield from self.completed(some, of_changed)

    def _groups(self, blocks: Sequence[IdBlock]) -> Iterator[Sequence[IdBlock]]:
        """The blocks in groups of about as many changed rows as a block of vectors has."""
        first = changed = 0
        for number, block in enumerate(blocks):
            changed += len(self._changed(block.start, block.stop))
            if changed >= vector_blocks.MAX_BLOCK_ROWS or number + 1 == len(blocks):
                yield blocks[first : number + 1]
                first, changed = number + 1, 0

    def _changed(self, start: int, stop: int) -> Indices:
        """The left rows in a range that cached lists cannot be of."""
        return start + np.flatnonzero(~self.stays[start:stop])

    def reusable(self, block: IdBlock) -> ReusableLists:
        """What can be reused for the rows of a block."""
        ids = self.left.row_blocks.read(block.start, block.stop, ["id"])["id"]
        pairs = self.cached.of_block(block) if self.cached is not None else None
        if self.cached is None or pairs is None:
            return ReusableLists.none(ids)
        stays = self.stays[block.start : block.stop]
        min_length = self.spec.min_length(self.right.max_images)
        # Unknown rows may have changed, so they are compared as new ones.
        gone = pl.concat([self.gone, self.cached.unknown(pairs["right_id"])])
        return ReusableLists.of(ids, pairs, stays, gone, min_length)

    @cached_property
    def _changed_side(self) -> JoinSide:
        """The left rows that cached lists cannot be of."""
        side = JoinSide.of(self.left)
        return side.select(self._changed(0, len(side))) if self.stays.any() else side

    @cached_property
    def _references(self) -> References | ListedRows:
        """The right rows, in the form that is searched."""
        changed = self._changed_side
        read_once = len(changed) <= changed.vectors.block_rows
        side = JoinSide.of(self.right)
        if self.assigned is None:
            return References(replace(side, read_once=read_once))
        return ListedRows.of(side, self.assigned, read_once=read_once)

    @cached_property
    def _new_references(self) -> References | ListedRows:
        side = JoinSide.of(self.right).select(self.new_right)
        if self.assigned is None:
            return References(side)
        return ListedRows.of(side, self.assigned.take_right(self.new_right))

    def _searched(
        self, left: JoinSide, rows: Indices, references: References | ListedRows, minimum: Doubles
    ) -> Lists:
        """The lists of left rows with some numbers."""
        if isinstance(references, References):
            found = join(left, references, self.spec, minimum)
        else:
            lists = references.assigned.left
            found = join_in_lists(left, references, self.spec, minimum, lists, rows)
        return_freed_memory()
        return found

    def _of_changed(self, start: int, stop: int) -> NumberedLists:
        """The lists of the changed left rows in a range."""
        rows = self._changed(start, stop)
        first = int(np.count_nonzero(~self.stays[:start]))
        return self._compared(self._changed_side.slice(first, first + len(rows)), rows)

    def _compared(self, left: JoinSide, rows: Indices) -> NumberedLists:
        """The lists of left rows that are compared with all right rows."""
        lists = Lists.none(0)
        if len(rows):
            threshold = np.full(len(rows), self.spec.threshold)
            lists = self._searched(left, rows, self._references, threshold)
        return lists.of_rows(rows)

    def completed(
        self, group: Sequence[tuple[IdBlock, ReusableLists]], of_changed: NumberedLists
    ) -> Iterator[ListBlock]:
        """The lists of successive blocks, whose rows are compared together.

        Args:
            group: the blocks, with the cached lists that can be reused.
            of_changed: the lists of changed rows, of these and other blocks.
        """
        first = group[0][0].start
        recompute = np.concatenate([each.recompute for _, each in group])
        stays = self.stays[first : first + len(recompute)]
        # Rows whose lists have become too short, or are damaged.
        lost, others = (first + np.flatnonzero(mask) for mask in (recompute & stays, ~recompute))
        left = JoinSide.of(self.left)
        found = [of_changed, self._compared(left.take(lost), lost)]
        if len(others) and len(self.new_right):
            cutoffs = np.concatenate([each.cutoffs(self.spec.threshold) for _, each in group])
            side = replace(left.take(others), read_once=True)
            of_others = self._searched(side, others, self._new_references, cutoffs[~recompute])
            found.append(of_others.of_rows(others, self.new_right))
        depth = self.spec.depth(self.right.max_images)
        right_rows = np.unique(np.concatenate([lists.j for lists in found]))
        right_ids = self.right.row_blocks.gather(right_rows, ["id"])["id"]
        listed = [*(each.pairs["right_id"] for _, each in group), right_ids]
        images = ListedImages(self.right, listed)
        for block, reusable in group:
            added = Lists.of_block(found, block.start, block.stop)
            is_unchanged = reusable.is_unchanged and not len(added.i)
            added_ids = right_ids.gather(np.searchsorted(right_rows, added.j))
            lists = reusable.cached if is_unchanged else reusable.merged(added, depth, added_ids)
            yield ListBlock(block, lists, reusable.is_cached, is_unchanged, images)


def among(rows: RowBlocks, others: RowBlocks) -> NDArray[np.bool_]:
    """Which rows are among others: of the same key and image, (n,); both by key."""
    if rows.is_same(others):
        return np.ones(len(rows), dtype=bool)
    mask = np.zeros(len(rows), dtype=bool)
    start = 0
    for some, of_others in matched_blocks(rows, others, "id"):
        mask[start : start + some.height] = _among(some, of_others)
        start += some.height
    return mask


def _among(rows: pl.DataFrame, others: pl.DataFrame) -> NDArray[np.bool_]:
    if rows["id"].equals(others["id"]):
        # Keys differ, so a row can be equal to the one in its place only.
        same = (pl.col(name).eq_missing(others[name]) for name in rows.columns)
        return rows.select(pl.all_horizontal(same)).to_series().to_numpy()
    found = rows.with_row_index("row").join(others, on=rows.columns, how="semi")["row"]
    mask = np.zeros(rows.height, dtype=bool)
    mask[found.to_numpy()] = True
    return mask
