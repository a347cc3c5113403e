"""Rows that are copies of an earlier one, so that a thousand placeholders are joined once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imgsim_assets.similarity.cosine import Doubles, Floats, Indices, piece_rows
from imgsim_assets.similarity.threads import in_pieces


class Distinct(NamedTuple):
    """Which rows are the first of their kind, and the copies of each.

    `first` (u,) are their row numbers, ascending. The copies of the row `first[i]`, itself
    among them, are `rows[start[i] : start[i + 1]]`, ascending.
    """

    first: Indices
    rows: Indices
    start: Indices

    @property
    def has_copies(self) -> bool:
        """Whether any row is a copy of another."""
        return len(self.first) < len(self.rows)

    @property
    def counts(self) -> Indices:
        """How many rows each distinct row stands for, (u,)."""
        counts: Indices = np.diff(self.start)
        return counts

    def where(self, mask: NDArray[np.bool_]) -> Distinct:
        """The rows of a mask (n,), grouped; row numbers stay what they are."""
        if mask.all():
            return self
        kept = mask[self.rows]
        rows, group = self.rows[kept], np.repeat(np.arange(len(self.first)), self.counts)[kept]
        if self.has_copies:
            # The first of a group may be gone, and the next stand behind those of other groups.
            least = np.full(len(self.first), len(mask))
            np.minimum.at(least, group, rows)
            order = np.lexsort((rows, least[group]))
            rows, group = rows[order], group[order]
        start = np.append(np.flatnonzero(np.diff(group, prepend=-1)), len(rows))
        return Distinct(rows[start[:-1]], rows, start)

    def at_most(self, copies: int) -> Distinct:
        """The same with no more than so many copies of each."""
        within = np.arange(len(self.rows)) - np.repeat(self.start[:-1], self.counts)
        counts = np.minimum(self.counts, copies)
        return Distinct(self.first, self.rows[within < copies], np.append(0, np.cumsum(counts)))

    def least(self, values: Doubles) -> Doubles:
        """The least of the values (n,) of every distinct row's copies, (u,)."""
        if not len(self.first):
            return values[:0]
        smallest: Doubles = np.minimum.reduceat(values[self.rows], self.start[:-1])
        return smallest


def distinct(rows: Floats) -> Distinct:
    """Group rows (n, d) whose bytes are the same.

    Rows are told apart by a hash first; where hashes agree the bytes decide, and a row whose
    hash agrees with that of a different row counts as distinct.
    """
    _, first_of_key, key_of_row = np.unique(_hashes(rows), return_index=True, return_inverse=True)
    leader = first_of_key[key_of_row].astype(np.int64)
    copies = np.flatnonzero(leader != np.arange(len(rows)))
    for row in copies:
        if not np.array_equal(rows[row].view(np.uint32), rows[leader[row]].view(np.uint32)):
            leader[row] = row
    first = np.flatnonzero(leader == np.arange(len(rows)))
    grouped = np.argsort(leader, kind="stable")
    start = np.append(np.searchsorted(leader[grouped], first), len(rows))
    return Distinct(first, grouped, start)


def expanded(
    i: Indices, j: Indices, similarity: Doubles, left: Distinct, right: Distinct
) -> tuple[Indices, Indices, Doubles]:
    """Pairs of distinct rows as pairs of all the rows they stand for."""
    pairs, i = _copies_of(i, left)
    j, similarity = j[pairs], similarity[pairs]
    pairs, j = _copies_of(j, right)
    return i[pairs], j, similarity[pairs]


def _copies_of(index: Indices, of: Distinct) -> tuple[Indices, Indices]:
    """For every copy of every indexed row: its place in the index, and its row number."""
    counts = of.counts[index]
    places = np.repeat(np.arange(len(index)), counts)
    ends = np.cumsum(counts)
    within = np.arange(len(places)) - np.repeat(ends - counts, counts)
    return places, of.rows[of.start[index[places]] + within]


def _hashes(rows: Floats) -> Indices:
    """A 32-bit multilinear hash of each row's bytes, the same wherever the row stands."""
    odd = np.random.default_rng(0).integers(0, 1 << 31, rows.shape[1], dtype=np.uint32) * 2 + 1
    hashes = np.empty(len(rows), dtype=np.uint32)
    words = rows.view(np.uint32)

    def fill(piece: slice) -> None:
        # A product's low bits know nothing of a number's high ones, where floats differ most.
        mixed = words[piece] >> np.uint32(15)
        mixed ^= words[piece]
        mixed *= odd
        mixed ^= mixed >> np.uint32(13)
        hashes[piece] = mixed.sum(axis=1, dtype=np.uint32)

    in_pieces(len(rows), piece_rows(rows.shape[1]), fill)
    return hashes.astype(np.int64)
