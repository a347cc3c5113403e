"""The join of `block_join.py` over candidate pairs only, decided by the same float64 cosines.

Left rows are taken in batches, and these in groups of near lists. What a group has to compare with
one list is one matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imgsim_assets.compute.memory import join_budget, return_freed_memory
from imgsim_assets.similarity.approximate.assigned import AssignedRows
from imgsim_assets.similarity.approximate.listed_rows import ListChunk, ListedRows, ListNumbers
from imgsim_assets.similarity.approximate.lists import RowLists
from imgsim_assets.similarity.block_join import Lists, kept_lists
from imgsim_assets.similarity.cosine import Doubles, Floats, Indices, UnitRows, unit_rows
from imgsim_assets.similarity.join_input import InputPair, JoinInput
from imgsim_assets.similarity.join_side import JoinSide
from imgsim_assets.similarity.join_spec import JoinSpec
from imgsim_assets.similarity.knn import CandidateBuffer, Nearest
from imgsim_assets.similarity.row_pairs import Pairs
from imgsim_assets.similarity.threads import parallel_map, worker_count
from imgsim_assets.similarity.tiles import max_candidates, rounded_down
from imgsim_assets.similarity.unique_rows import UniqueRows

# Rows of a group: the more, the larger the products; the fewer, the more of it stays in the cache.
# Where lists have few rows, as those that changed, products are small.
_ROWS_PER_GROUP = 1 << 14
_MAX_GROUP_ROWS = 1 << 16
_FEW_ROWS = 8
_MIN_GROUP_ROWS = 512
_MAX_TILE_ROWS = 2048
_MAX_TILE_COLUMNS = 512
# Rows of a tile that are partitioned at once, to stay in the cache.
_ROWS_PER_PARTITION = 64
# Candidates of small tiles that are added together.
_MIN_ADDED = 1024
# With more candidates than this for each entry of the k nearest, a better cutoff comes first.
_MAX_CANDIDATES_PER_ENTRY = 2
# Bytes of a list that a row probes, and of a neighbor that is found, with its copies.
_PROBE_BYTES, _NEIGHBOR_BYTES = 4, 64
# Bytes of a probed list while those of a group are sorted.
_SORTED_BYTES = 24
# Of the working memory of a join, what the probes and neighbors of a batch may take.
_BATCH_SHARE = 0.5
# Rows, columns and products of pairs.
_Hits = tuple[Indices, Indices, Floats]


def join_in_lists(
    left: JoinSide,
    right: ListedRows,
    spec: JoinSpec,
    minimum: Doubles,
    lists: AssignedRows,
    numbers: Indices,
) -> Lists:
    """The lists of the left rows, of candidate pairs at or above a minimum.

    Args:
        left: the rows that get a list each.
        right: the rows that are searched.
        spec: k, and whether an item is its own neighbor.
        minimum: (n,) the minimum cosine of each left row; without k it is the same for all.
        lists: the inverted lists of the left rows, and those that they probe.
        numbers: (n,) the numbers of the left rows there, ascending.
    """
    if not len(left):
        return Lists.none(0)
    size = _batch_rows(left, right, spec)
    parts = []
    for start in range(0, len(left), size):
        stop = min(start + size, len(left))
        batch = left.slice(start, stop)
        of_batch = _of_batch(
            batch, right, spec, minimum[start:stop], lists.take(numbers[start:stop])
        )
        parts.append((np.arange(start, stop), of_batch))
    return Lists.of_batches(parts)


def _batch_rows(left: JoinSide, right: ListedRows, spec: JoinSpec) -> int:
    """How many left rows are searched for at once: by their vectors, probes and neighbors."""
    k = spec.search_depth(right.side.max_images) or 0
    row_bytes = _PROBE_BYTES * right.assigned.lists.nprobe + _NEIGHBOR_BYTES * k
    by_lists = int(join_budget() * _BATCH_SHARE) // row_bytes
    return max(1, min(left.vectors.block_rows, by_lists))


def _of_batch(
    left: JoinSide,
    right: ListedRows,
    spec: JoinSpec,
    minimum: Doubles,
    lists: RowLists,
) -> Lists:
    """The lists of a batch."""
    k = spec.search_depth(right.side.max_images)
    # The vectors of rows that probe none of the lists are not read.
    rows = np.flatnonzero(right.are_probed(left, lists))
    if len(rows) < len(left):
        found = _searched(left.take(rows), right, k, minimum[rows], lists.take(rows))
        i, j, similarity = _pairs_of(found, len(rows), k)
        pairs = rows[i], j, similarity
    else:
        pairs = _pairs_of(_searched(left, right, k, minimum, lists), len(left), k)
    return kept_lists(pairs, left, right.side, spec)


def _searched(
    left: JoinSide, right: ListedRows, k: int | None, minimum: Doubles, lists: RowLists
) -> list[_Found]:
    """What the groups of a batch have found."""
    if not len(left):
        return []
    # Copying the rows in the order of their lists takes a block, as the groups do.
    right.open()
    return_freed_memory()
    groups = _groups(left, right, k, minimum, lists)
    probed = np.unique(np.concatenate([group.lists for group in groups]))
    search = partial(_search_chunk, groups, max_candidates(join_budget()))
    # A chunk is freed before the next one is read.
    for _ in map(search, right.chunks(probed)):
        pass
    return [_Found(group.positions, group.nearest, group.above) for group in groups]


def _search_chunk(groups: list[_Group], candidates: int, chunk: ListChunk) -> None:
    # Products are too small for several threads.
    for _ in parallel_map(partial(_search, chunk=chunk, candidates=candidates), groups):
        pass


class _Found(NamedTuple):
    """What was found for some rows of a batch, as of `_Group`."""

    positions: Indices
    nearest: Nearest | None
    above: list[Pairs]


class _Tile(NamedTuple):
    """Products (r, c) of rows (r,) of a group with rows (c,) of a chunk, which are of one list."""

    rows: Indices
    columns: Indices
    products: Floats

    def hits(self, cutoffs: np.float32 | Floats) -> _Hits:
        """Rows, columns and products of the pairs that reach a cutoff."""
        i, j = np.nonzero(self.products >= cutoffs)
        return self.rows[i], self.columns[j], self.products[i, j]

    def kth(self, k: int) -> Doubles:
        """For each row the k-th greatest product, (r,)."""
        width = self.products.shape[1]
        starts = range(0, len(self.products), _ROWS_PER_PARTITION)
        parts = [self.products[start : start + _ROWS_PER_PARTITION] for start in starts]
        kth = [np.partition(part, width - k, axis=1)[:, width - k] for part in parts]
        return np.concatenate(kth).astype(np.float64)


@dataclass
class _Group:
    """Some rows of a batch, and what has been found for them.

    Attributes:
        positions: (g,) their numbers in the batch.
        rows: the rows as an input, numbered from 0.
        lists: (p,) the lists that any of them probes, ascending.
        start: (p + 1,) where the rows of each list begin in `probing`.
        probing: the rows that probe each list, by list.
        nearest: the k nearest so far; without k, `above` has all pairs at or above `minimum`.
    """

    positions: Indices
    rows: JoinInput
    lists: ListNumbers
    start: Indices
    probing: NDArray[np.uint16]
    minimum: Doubles
    nearest: Nearest | None
    above: list[Pairs]

    def tiles(self, chunk: ListChunk) -> Iterator[_Tile]:
        """The products of the rows with those of the chunk."""
        _, of_chunk, own = np.intersect1d(
            chunk.lists, self.lists, assume_unique=True, return_indices=True
        )
        for at, number in zip(of_chunk.tolist(), own.tolist(), strict=True):
            rows = self.probing[self.start[number] : self.start[number + 1]].astype(np.int64)
            for first in range(chunk.start[at], chunk.start[at + 1], _MAX_TILE_COLUMNS):
                columns = np.arange(first, min(first + _MAX_TILE_COLUMNS, chunk.start[at + 1]))
                references = chunk.unit.rows[columns[0] : columns[-1] + 1]
                for begin in range(0, len(rows), _MAX_TILE_ROWS):
                    some = rows[begin : begin + _MAX_TILE_ROWS]
                    yield _Tile(some, columns, self.rows.unit.rows[some] @ references.T)


def _groups(
    left: JoinSide, right: ListedRows, k: int | None, minimum: Doubles, lists: RowLists
) -> list[_Group]:
    """The rows of a batch in groups, those of one list together."""
    order = np.argsort(right.own_lists(left, lists), kind="stable")
    height = _group_rows(len(order), right)
    groups = []
    for begin in range(0, len(order), height):
        positions = order[begin : begin + height]
        part = unit_rows(left.vectors.rows(positions), "vectors")
        probed = right.probed_lists(left, lists, positions)
        of_group, start, probing = _by_list(probed)
        groups.append(
            _Group(
                positions,
                _without_duplicates(part),
                of_group,
                start,
                probing,
                minimum[positions],
                None if k is None else Nearest.none(k, minimum[positions]),
                [],
            )
        )
    return groups


def _group_rows(count: int, right: ListedRows) -> int:
    """How many of the rows of a batch make a group."""
    most = _ROWS_PER_GROUP if right.mean_length >= _FEW_ROWS else _MAX_GROUP_ROWS
    by_lists = max(1, join_budget() // 8 // (_SORTED_BYTES * right.assigned.lists.nprobe))
    of_worker = max(_MIN_GROUP_ROWS, -(-count // worker_count()))
    return min(most, of_worker, by_lists)


def _by_list(probed: ListNumbers) -> tuple[ListNumbers, Indices, NDArray[np.uint16]]:
    """The rows (g, nprobe) of a group by the lists that they probe.

    Returns:
        The lists, ascending, where the rows of each begin, and the rows.
    """
    # One number for a list and a row is sorted faster, and in place.
    keys = probed.astype(np.int64)
    keys *= _MAX_GROUP_ROWS
    keys += np.arange(len(probed))[:, None]
    keys = keys.ravel()
    keys.sort()
    rows = (keys % _MAX_GROUP_ROWS).astype(np.uint16)
    keys //= _MAX_GROUP_ROWS
    start = np.flatnonzero(np.diff(keys, prepend=keys[0] - 1))
    return keys[start], np.append(start, len(keys)), rows


def _search(group: _Group, chunk: ListChunk, candidates: int) -> None:
    """Compare the rows of a group with those of a chunk; so many candidates may wait."""
    inputs = InputPair.of(group.rows, _without_duplicates(chunk.unit))
    if group.nearest is None:
        threshold = float(group.minimum[0])
        for tile in group.tiles(chunk):
            i, j, _ = tile.hits(np.float32(threshold - inputs.error))
            cosines = inputs.cosines(i, j)
            within = cosines >= threshold
            group.above.append((i[within], chunk.numbers[j[within]], cosines[within]))
        return
    count, k = group.nearest.index.shape
    max_pairs = max(candidates, _MAX_CANDIDATES_PER_ENTRY * count * k)
    buffer = CandidateBuffer(inputs, group.nearest, slice(0, count), max_pairs, chunk.numbers)
    waiting, total = [], 0
    for tile in group.tiles(chunk):
        cutoffs = buffer.cutoffs[tile.rows]
        hits = tile.hits(rounded_down(cutoffs - inputs.error)[:, None])
        # The k best of a tile make a better cutoff than a low one.
        if len(hits[0]) > _MAX_CANDIDATES_PER_ENTRY * k * len(tile.rows):
            cutoffs = np.maximum(cutoffs, tile.kth(k) - inputs.error)
            hits = tile.hits(rounded_down(cutoffs - inputs.error)[:, None])
        waiting.append(hits)
        total += len(hits[0])
        if total >= _MIN_ADDED:
            buffer.push(*_joined(waiting))
            waiting, total = [], 0
    if waiting:
        buffer.push(*_joined(waiting))
    buffer.flush()


def _joined(hits: list[_Hits]) -> _Hits:
    i, j, products = (np.concatenate(arrays) for arrays in zip(*hits, strict=True))
    return i, j, products


def _pairs_of(found: list[_Found], count: int, k: int | None) -> Pairs:
    """What was found for a batch of `count` rows, by row, falling cosine and right row."""
    if k is not None:
        every = Nearest.none(k, np.empty(count))
        for positions, nearest, _ in found:
            if nearest is not None:
                every.index[positions] = nearest.index
                every.similarity[positions] = nearest.similarity
        is_found = every.index >= 0
        i = np.repeat(np.arange(count), np.count_nonzero(is_found, axis=1))
        return i, every.index[is_found], every.similarity[is_found]
    parts = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    for positions, _, above in found:
        parts += [(positions[i], j, cosines) for i, j, cosines in above]
    i, j, cosines = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.lexsort((j, -cosines, i))
    return i[order], j[order], cosines[order]


def _without_duplicates(rows: UnitRows) -> JoinInput:
    """An input whose rows are not searched for equal ones."""
    return JoinInput(rows, UniqueRows.distinct(len(rows.rows)))
