"""The k nearest rows: candidates from score tiles, decided by their float64 cosines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imgsim_assets.similarity.cosine import Doubles, Floats, Indices
from imgsim_assets.similarity.join_input import InputPair, JoinInput
from imgsim_assets.similarity.prefilter import Prefilter, choose_for_knn
from imgsim_assets.similarity.scan import or_on_cpu, scan
from imgsim_assets.similarity.shared_prefilter import SharedPrefilter
from imgsim_assets.similarity.tiles import (
    MAX_ROWS,
    MEMORY_BUDGET,
    RowBlock,
    max_candidates,
    rounded_down,
)
from imgsim_assets.similarity.unique_rows import UniqueRows, expand_duplicates

# With more candidates than this for each entry of the k nearest, a better cutoff comes first.
_MAX_CANDIDATES_PER_ENTRY = 2


def nearest(
    inputs: InputPair,
    k: int,
    min_similarity: Doubles,
    *,
    memory_budget: int = MEMORY_BUDGET,
    shared: SharedPrefilter | None = None,
) -> tuple[Indices, Doubles]:
    """`top_k` of validated inputs, with the minimum cosine (n,) of each query.

    Rows that the left input leaves out have no neighbors. `shared` is the prefilter of several
    joins.
    """
    minimum = inputs.left.unique.minimum(min_similarity)
    max_pairs = max_candidates(memory_budget)
    neighbors = or_on_cpu(lambda: _nearest_unique(inputs, k, minimum, memory_budget, shared))
    return neighbors.expand(inputs.left, inputs.right.unique, min_similarity, max_pairs)


def _nearest_unique(
    inputs: InputPair,
    k: int,
    min_similarity: Doubles,
    memory_budget: int,
    shared: SharedPrefilter | None,
) -> Nearest:
    """The nearest unique rows of the unique queries, with the minimum (u,) of each."""
    neighbors = Nearest.none(k, min_similarity)
    max_pairs = max_candidates(memory_budget)

    def search(block: RowBlock) -> None:
        buffer = CandidateBuffer(inputs, neighbors, block.rows, max_pairs)
        for tile in block.tiles:
            cutoffs = buffer.cutoffs
            # Before any candidate, the k best of a tile make a better cutoff than a low one.
            budget = _MAX_CANDIDATES_PER_ENTRY * k * tile.shape[0]
            if tile.column == 0 and tile.count_at_least(cutoffs) > budget:
                cutoffs = np.maximum(cutoffs, tile.kth_lower_bound(k))
            for candidates in tile.candidates(cutoffs, max_pairs):
                buffer.push(*candidates)
        buffer.flush()

    def choose() -> Prefilter:
        if shared is not None:
            return shared.for_knn(inputs, k, min_similarity)
        return choose_for_knn(inputs, k, min_similarity)

    for _ in scan(inputs, choose, memory_budget, search):
        pass
    return neighbors


class CandidateBuffer:
    """Candidates by their float32 products, until those worth a float64 cosine are known.

    Most early candidates are beaten by later ones. Only those that may still be among the k
    nearest when all columns have been seen are scored in float64.
    """

    def __init__(
        self,
        inputs: InputPair,
        neighbors: Nearest,
        rows: slice,
        max_pairs: int,
        numbers: Indices | None = None,
    ) -> None:
        """Candidates of some rows, which are inserted into the neighbors in the end.

        `numbers` (m,) are those that the neighbors name the right rows by; default: their own.
        """
        self._inputs, self._rows, self._max_pairs = inputs, rows, max_pairs
        self._numbers = numbers
        self._neighbors = neighbors.rows(rows)
        self._pending: list[tuple[Indices, Indices, Floats]] = []
        self._count = 0
        # The cosine that a candidate of each row needs, (r,).
        self.cutoffs = self._neighbors.cutoffs
        # The k greatest products of each row so far.
        self._products: Floats = np.full(self._neighbors.index.shape, -np.inf, dtype=np.float32)

    def push(self, i: Indices, j: Indices, products: Floats) -> None:
        """Add pairs that were not added before."""
        if not len(i):
            return
        self._pending.append((i, j, products))
        self._count += len(i)
        self._raise_cutoffs(i - self._rows.start, products)
        if self._count > self._max_pairs:
            self._prune()
            if 2 * self._count > self._max_pairs:
                self._score()

    def flush(self) -> None:
        """Score the candidates that may still be among the nearest."""
        self._prune()
        self._score()

    def _raise_cutoffs(self, i: Indices, products: Floats) -> None:
        """If k products reach a value, k cosines reach that value less the error."""
        k = self._products.shape[1]
        order = np.lexsort((-products, i))
        i, products = i[order], products[order]
        first = np.flatnonzero(np.diff(i, prepend=-1))
        touched, counts = i[first], np.diff(first, append=len(i))
        rank = np.arange(len(i)) - np.repeat(first, counts)
        added = np.full((len(touched), k), -np.inf, dtype=np.float32)
        row = np.repeat(np.arange(len(touched)), counts)
        added[row[rank < k], rank[rank < k]] = products[rank < k]
        both = np.concatenate([self._products[touched], added], axis=1)
        greatest = np.partition(both, k, axis=1)[:, k:]
        self._products[touched] = greatest
        kth = greatest.min(axis=1).astype(np.float64) - self._inputs.error
        self.cutoffs[touched] = np.maximum(self.cutoffs[touched], kth)

    def _prune(self) -> None:
        remaining = []
        for i, j, products in self._pending:
            cutoffs = rounded_down(self.cutoffs[i - self._rows.start] - self._inputs.error)
            passed = products >= cutoffs
            remaining.append((i[passed], j[passed], products[passed]))
        self._pending = remaining
        self._count = sum(len(i) for i, _, _ in remaining)

    def _score(self) -> None:
        if self._count:
            i, j, _ = (np.concatenate(parts) for parts in zip(*self._pending, strict=True))
            numbers = j if self._numbers is None else self._numbers[j]
            self._neighbors.insert(i - self._rows.start, numbers, self._inputs.cosines(i, j))
            self.cutoffs = np.maximum(self.cutoffs, self._neighbors.cutoffs)
        self._pending, self._count = [], 0


@dataclass(frozen=True)
class Nearest:
    """The k nearest references so far, in order; -1 and -inf where there are fewer.

    `index` and `similarity` are (n, k); `min_similarity` (n,) is the minimum of each query.
    """

    index: Indices
    similarity: Doubles
    min_similarity: Doubles

    @classmethod
    def none(cls, k: int, min_similarity: Doubles) -> Nearest:
        """No references yet."""
        shape = (len(min_similarity), k)
        return cls(np.full(shape, -1, dtype=np.int64), np.full(shape, -np.inf), min_similarity)

    def rows(self, rows: slice) -> Nearest:
        """A view of some queries; what is inserted into it is inserted here."""
        return Nearest(self.index[rows], self.similarity[rows], self.min_similarity[rows])

    @property
    def cutoffs(self) -> Doubles:
        """The cosine that a reference needs to be among a query's k, (n,)."""
        return np.maximum(self.similarity[:, -1], self.min_similarity)

    def insert(self, i: Indices, j: Indices, cosines: Doubles) -> None:
        """Insert pairs that were not inserted before, in any order."""
        k = self.index.shape[1]
        passed = cosines >= self.cutoffs[i]
        touched, row = np.unique(i[passed], return_inverse=True)
        rows = np.concatenate([np.repeat(np.arange(len(touched)), k), row])
        columns = np.concatenate([self.index[touched].ravel(), j[passed]])
        scores = np.concatenate([self.similarity[touched].ravel(), cosines[passed]])
        order = np.lexsort((columns, -scores, rows))
        first = np.searchsorted(rows[order], np.arange(len(touched)))
        rank = np.arange(len(rows)) - first[rows[order]]
        best = order[rank < k]
        self.index[touched] = columns[best].reshape(-1, k)
        self.similarity[touched] = scores[best].reshape(-1, k)

    def expand(
        self, queries: JoinInput, references: UniqueRows, min_similarity: Doubles, max_pairs: int
    ) -> tuple[Indices, Doubles]:
        """The k nearest (n, k) of all rows, from those of the unique rows; -1 and NaN.

        Duplicates are inserted about `max_pairs` pairs at a time.
        """
        every = self
        if references.has_duplicates:
            every = self._expand_references(references, max_pairs)
        unique = queries.unique
        source = np.repeat(np.arange(len(unique.first)), unique.counts)
        index = np.full((len(queries.unit.rows), self.index.shape[1]), -1, dtype=np.int64)
        similarity = np.full(index.shape, np.nan)
        index[unique.rows], similarity[unique.rows] = every.index[source], every.similarity[source]
        # A duplicate of a query may have a higher minimum.
        below = (index < 0) | (similarity < min_similarity[:, None])
        index[below], similarity[below] = -1, np.nan
        if not references.has_duplicates and len(references.first):
            index[~below] = references.first[index[~below]]
        return index, similarity

    def _expand_references(self, references: UniqueRows, max_pairs: int) -> Nearest:
        """The k nearest rows, from the k nearest unique rows, which cover them all."""
        k = self.index.shape[1]
        expanded = Nearest.none(k, self.min_similarity)
        # No more than k duplicates of a row can be among the k nearest.
        capped = references.at_most(k)
        queries = UniqueRows.distinct(len(self.index))
        height = max(1, min(MAX_ROWS, max_pairs // (2 * k)))
        for start in range(0, len(self.index), height):
            i, rank = self._entries_with_duplicates(slice(start, start + height), capped.counts)
            i += start
            # Among equals every duplicate may be needed, so one row can have very many pairs.
            batch = np.cumsum(capped.counts[self.index[i, rank]]) // max_pairs
            for part in np.split(np.arange(len(i)), np.flatnonzero(np.diff(batch)) + 1):
                entry = (i[part], rank[part])
                pairs = (entry[0], self.index[entry], self.similarity[entry])
                expanded.insert(*expand_duplicates(*pairs, queries, capped))
        return expanded

    def _entries_with_duplicates(self, block: slice, counts: Indices) -> tuple[Indices, Indices]:
        """Row, from the block's first, and rank of entries with a duplicate among the k nearest.

        `counts` (u,) are the duplicates of the references. An entry is out when k duplicates
        have a greater cosine; among equal cosines the row numbers decide.
        """
        index, similarity = self.index[block], self.similarity[block]
        present = index >= 0
        duplicates = np.where(present, counts[index], 0)
        better = np.cumsum(duplicates, axis=1) - duplicates
        better[:, 1:][similarity[:, 1:] == similarity[:, :-1]] = 0
        better = np.maximum.accumulate(better, axis=1)
        i, rank = np.nonzero(present & (better < index.shape[1]))
        return i, rank
