"""Groups of equal rows, so that a thousand copies of a placeholder are joined once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imgsim_assets.similarity.cosine import Doubles, Floats, Indices, rows_per_slice
from imgsim_assets.similarity.threads import parallel_slices

if TYPE_CHECKING:
    from imgsim_assets.similarity.vector_blocks import VectorBlocks

# Rows of equal hashes whose bytes are compared at once.
_ROWS_COMPARED = 4096
# Numbers of a row that are hashed first.
_FIRST_NUMBERS = 32


class UniqueRows(NamedTuple):
    """The first row of every group of equal rows, and all rows of each group.

    `first` (u,) are the row numbers of the unique rows, ascending. The duplicates of the row
    `first[i]`, itself among them, are `rows[start[i] : start[i + 1]]`, ascending.
    """

    first: Indices
    rows: Indices
    start: Indices

    @classmethod
    def distinct(cls, count: int) -> UniqueRows:
        """So many rows of which no two are equal, or count as equal."""
        numbers = np.arange(count)
        return cls(numbers, numbers, np.arange(count + 1))

    @property
    def has_duplicates(self) -> bool:
        """Whether any two rows are equal."""
        return len(self.first) < len(self.rows)

    @property
    def counts(self) -> Indices:
        """How many rows each unique row stands for, (u,)."""
        counts: Indices = np.diff(self.start)
        return counts

    def where(self, mask: NDArray[np.bool_]) -> UniqueRows:
        """The groups of the rows of a mask (n,); row numbers do not change."""
        if mask.all():
            return self
        chosen = mask[self.rows]
        rows, group = self.rows[chosen], np.repeat(np.arange(len(self.first)), self.counts)[chosen]
        if self.has_duplicates:
            # The first of a group may be out, and the next may follow those of other groups.
            lowest = np.full(len(self.first), len(mask))
            np.minimum.at(lowest, group, rows)
            order = np.lexsort((rows, lowest[group]))
            rows, group = rows[order], group[order]
        start = np.append(np.flatnonzero(np.diff(group, prepend=-1)), len(rows))
        return UniqueRows(rows[start[:-1]], rows, start)

    def at_most(self, count: int) -> UniqueRows:
        """The same groups with at most `count` rows each."""
        within = np.arange(len(self.rows)) - np.repeat(self.start[:-1], self.counts)
        counts = np.minimum(self.counts, count)
        return UniqueRows(self.first, self.rows[within < count], np.append(0, np.cumsum(counts)))

    def minimum(self, values: Doubles) -> Doubles:
        """The minimum of the values (n,) over each group, (u,)."""
        if not len(self.first):
            return values[:0]
        minimum: Doubles = np.minimum.reduceat(values[self.rows], self.start[:-1])
        return minimum


def find_unique_rows(rows: Floats) -> UniqueRows:
    """Group rows (n, d) of the same bytes.

    Rows are compared by a hash first. Where hashes agree the bytes decide; a row whose hash
    agrees with that of a different row counts as unique.
    """
    return _groups(_keys(rows), lambda numbers: rows[numbers])


def find_unique_in_blocks(rows: VectorBlocks) -> UniqueRows:
    """`find_unique_rows` of rows of which a block is in memory at a time."""
    hashes = np.empty(len(rows), dtype=np.int64)
    size = rows.block_rows
    for start in range(0, len(rows), size):
        hashes[start : start + size] = _hashes(rows.read(start, start + size))
    return _groups(hashes, rows.rows)


def _groups(hashes: Indices, rows: Callable[[Indices], Floats]) -> UniqueRows:
    """The groups of rows with these hashes (n,); `rows` reads some of them."""
    _, first_of_key, key_of_row = np.unique(hashes, return_index=True, return_inverse=True)
    leader = first_of_key[key_of_row].astype(np.int64)
    number = np.arange(len(hashes))
    duplicates = np.flatnonzero(leader != number)
    for at in range(0, len(duplicates), _ROWS_COMPARED):
        some = duplicates[at : at + _ROWS_COMPARED]
        ends = rows(some), rows(leader[some])
        differs = (ends[0].view(np.uint32) != ends[1].view(np.uint32)).any(axis=1)
        leader[some[differs]] = some[differs]
    first = np.flatnonzero(leader == number)
    order = np.argsort(leader, kind="stable")
    start = np.append(np.searchsorted(leader[order], first), len(hashes))
    return UniqueRows(first, order, start)


def expand_duplicates(
    i: Indices, j: Indices, similarity: Doubles, left: UniqueRows, right: UniqueRows
) -> tuple[Indices, Indices, Doubles]:
    """Pairs of unique rows as pairs of all the rows they stand for."""
    pair, i = _duplicates_of(i, left)
    j, similarity = j[pair], similarity[pair]
    pair, j = _duplicates_of(j, right)
    return i[pair], j, similarity[pair]


def _duplicates_of(index: Indices, unique: UniqueRows) -> tuple[Indices, Indices]:
    """For every duplicate of every indexed row: its position in the index, and its row number."""
    counts = unique.counts[index]
    positions = np.repeat(np.arange(len(index)), counts)
    ends = np.cumsum(counts)
    within = np.arange(len(positions)) - np.repeat(ends - counts, counts)
    return positions, unique.rows[unique.start[index[positions]] + within]


def _keys(rows: Floats) -> Indices:
    """A number for each row, which equal rows share, and few others.

    The first numbers of a row tell most rows apart, so the others are seldom read.
    """
    keys = _hashes(rows[:, :_FIRST_NUMBERS])
    _, key_of_row, counts = np.unique(keys, return_inverse=True, return_counts=True)
    shared = np.flatnonzero(counts[key_of_row] > 1)
    if len(shared):
        few = len(shared) <= _ROWS_COMPARED
        keys[shared] = (1 << 32) + (_hashes(rows[shared]) if few else _hashes(rows)[shared])
    return keys


def _hashes(rows: Floats) -> Indices:
    """A 32-bit multilinear hash of each row's bytes, independent of the row's position."""
    odd = np.random.default_rng(0).integers(0, 1 << 31, rows.shape[1], dtype=np.uint32) * 2 + 1
    hashes = np.empty(len(rows), dtype=np.uint32)
    words = rows.view(np.uint32)

    def fill(part: slice) -> None:
        # The low bits of a product ignore the high bits of its factors, where floats differ most.
        mixed = words[part] >> np.uint32(15)
        mixed ^= words[part]
        mixed *= odd
        mixed ^= mixed >> np.uint32(13)
        hashes[part] = mixed.sum(axis=1, dtype=np.uint32)

    parallel_slices(len(rows), rows_per_slice(rows.shape[1]), fill)
    return hashes.astype(np.int64)
