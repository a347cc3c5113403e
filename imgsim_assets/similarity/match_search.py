"""The search for matches: neighbor lists by blocks of left ids, and the matches they imply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from imgsim_assets.similarity.approximate.search import RIGHT_CENTROIDS
from imgsim_assets.similarity.decided import NOTHING_DECIDED, DecidedPairs
from imgsim_assets.similarity.item_pairs import item_pairs
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.join_spec import JoinSpec
from imgsim_assets.similarity.match_modes import best_of_both, max_matches, of_mode
from imgsim_assets.similarity.match_rows import MatchWriter, WrittenMatches
from imgsim_assets.similarity.materialized import NEIGHBOR_LISTS, Computed
from imgsim_assets.similarity.mean_best import mean_best
from imgsim_assets.similarity.neighbor_lists import ListBlock
from imgsim_assets.similarity.settings import MatchSettings
from imgsim_assets.similarity.updated_lists import updated_lists
from imgsim_assets.storage.commit import ROWS, DataFile

# The files of all pairs of rows above the threshold.
_ROW_PAIRS = "row_pairs"
# Files of the neighbor lists of mode mutual: those of the left items, and of the right ones.
_LEFT_LISTS = "left_neighbor_lists"
_RIGHT_LISTS = "right_neighbor_lists"


@dataclass(frozen=True)
class MatchSearch:
    """Finds the matches of two sides, and writes them.

    Attributes:
        left: the left rows.
        right: the right rows.
        settings: which pairs are matches.
        threshold: the minimum similarity.
        writer: of the matches.
    """

    left: Items
    right: Items
    settings: MatchSettings
    threshold: float
    writer: MatchWriter

    def write(self) -> Computed:
        """Write the matches, and what the next run needs."""
        if self.settings.mode == "mutual" and not self._is_mean:
            return self._write_mutual()
        if self._is_mean or max_matches(self.settings) is None:
            return self._write_of_all_pairs()
        return self._write_of_lists()

    def pairs(self, lists: ListBlock, depth: int | None) -> pl.DataFrame:
        """The pairs of items that a block of lists implies, at most `depth` of each left item."""
        part = self.left.slice(lists.block.start, lists.block.stop)
        pairs = item_pairs(lists.lists, part, lists.right, depth)
        return mean_best(pairs, part, lists.right, self.threshold) if self._is_mean else pairs

    @property
    def _is_mean(self) -> bool:
        return self.settings.compare == "mean_best"

    @property
    def _decided(self) -> DecidedPairs:
        return self.writer.decided

    @property
    def _keeps_rows(self) -> bool:
        """Whether unchanged lists imply the matches of the current commit."""
        return self._decided.is_empty and self.writer.result.keeps_rows(
            self.left, self.right, are_means=self._is_mean
        )

    def _write_of_lists(self) -> Computed:
        """Of lists of the nearest items, enough of them that decisions may remove some."""
        depth = (max_matches(self.settings) or 0) + self._decided.max_different
        result = self.writer.result
        lists = updated_lists(
            result,
            self.left,
            self.right,
            JoinSpec(self.threshold, depth),
            _OfBlock(self, depth, self._keeps_rows),
            role=NEIGHBOR_LISTS,
            cached=result.cached_lists(),
        )
        return self._computed(lists.results, lists.files, incremental=lists.incremental)

    def _write_of_all_pairs(self) -> Computed:
        """Of every pair of items whose best images reach the threshold."""
        result, mode = self.writer.result, self.settings.mode
        # In mode all the rows are the pairs of rows, if each item has one and nothing was decided.
        were_rows = mode == "all" and not result.has_file(_ROW_PAIRS)
        one_each = self.left.max_images == self.right.max_images == 1
        are_rows = mode == "all" and one_each and self._decided.is_empty
        needs_all = mode in ("mutual", "one_to_one")
        sides = self.left, self.right, JoinSpec(self.threshold)
        role = None if are_rows else _ROW_PAIRS
        cached = result.cached_lists(ROWS if were_rows else _ROW_PAIRS)
        if not needs_all:
            write = _OfBlock(self, None, self._keeps_rows)
            written = updated_lists(result, *sides, write, role=role, cached=cached)
            return self._computed(written.results, written.files, incremental=written.incremental)
        found = updated_lists(result, *sides, _Pairs(self, None), role=role, cached=cached)
        pairs, nothing = pl.concat(found.results), NOTHING_DECIDED
        before = None if self._decided.is_empty else of_mode(self.settings, pairs, nothing)
        matches = self.writer.write(of_mode(self.settings, pairs, self._decided), before)
        return self._computed([matches], found.files, incremental=found.incremental)

    def _write_mutual(self) -> Computed:
        """Of pairs whose members are each other's best."""
        result, depth = self.writer.result, 1 + self._decided.max_different
        spec = JoinSpec(self.threshold, depth)
        turned_round = MatchSearch(
            self.right, self.left, self.settings, self.threshold, self.writer
        )
        cached = result.cached_lists(_RIGHT_LISTS)
        of_right = updated_lists(
            result,
            self.right,
            self.left,
            spec,
            _Pairs(turned_round, depth),
            role=_RIGHT_LISTS,
            centroids=RIGHT_CENTROIDS,
            cached=cached.swapped() if cached is not None else None,
        )
        pairs = pl.concat(of_right.results)
        best = self._decided.swapped().applied(pairs, k=1)
        before = NOTHING_DECIDED.applied(pairs, k=1)
        of_left = updated_lists(
            result,
            self.left,
            self.right,
            spec,
            _OfBoth(self, depth, best, before),
            role=_LEFT_LISTS,
            cached=result.cached_lists(_LEFT_LISTS),
        )
        files = [*of_left.files, *of_right.files]
        incremental = of_left.incremental and of_right.incremental
        return self._computed(of_left.results, files, incremental=incremental)

    def _computed(
        self, written: list[WrittenMatches], lists: Sequence[DataFile], *, incremental: bool
    ) -> Computed:
        return Computed([*self.writer.files(written), *lists], incremental)


@dataclass(frozen=True)
class _Pairs:
    """The pairs of items that a block of lists implies."""

    search: MatchSearch
    depth: int | None

    def __call__(self, lists: ListBlock) -> pl.DataFrame:
        return self.search.pairs(lists, self.depth)


@dataclass(frozen=True)
class _OfBlock:
    """Writes the matches of a block of lists, where they do not depend on other blocks."""

    search: MatchSearch
    depth: int | None
    keeps_rows: bool

    def __call__(self, lists: ListBlock) -> WrittenMatches:
        writer, block = self.search.writer, lists.block
        if lists.is_unchanged and self.keeps_rows:
            file = writer.result.file_of(ROWS, block)
            if file is not None:
                return WrittenMatches(file, None)
        pairs, settings = self.search.pairs(lists, self.depth), self.search.settings
        matches = of_mode(settings, pairs, writer.decided.of_block(block))
        is_decided = not writer.decided.is_empty
        before = of_mode(settings, pairs, NOTHING_DECIDED) if is_decided else None
        return writer.write(matches, before, block)


@dataclass(frozen=True)
class _OfBoth:
    """Writes the pairs of a block of lists whose members are each other's best.

    `best` and `before` are the best pairs of the right items, with decisions and without.
    """

    search: MatchSearch
    depth: int
    best: pl.DataFrame
    before: pl.DataFrame

    def __call__(self, lists: ListBlock) -> WrittenMatches:
        pairs = self.search.pairs(lists, self.depth)
        decided = self.search.writer.decided
        of_block = decided.of_block(lists.block).applied(pairs, k=1)
        before = None
        if not decided.is_empty:
            before = best_of_both(NOTHING_DECIDED.applied(pairs, k=1), self.before)
        return self.search.writer.write(best_of_both(of_block, self.best), before, lists.block)
