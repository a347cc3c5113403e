"""Exact pairs of a sample of left items, to choose the probes by and to measure the recall on.

Items are drawn by their sha256, so a sample hardly changes when items come and go. The exact
neighbor lists of the sample that the recall is measured on are kept and updated like others.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import polars as pl

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.similarity.approximate.recall import RecallMeter
from imgsim_assets.similarity.block_join import join
from imgsim_assets.similarity.cosine import Doubles, Indices
from imgsim_assets.similarity.item_pairs import best_of_each, item_pairs
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.join_side import JoinSide
from imgsim_assets.similarity.join_spec import MIN_COSINE, JoinSpec
from imgsim_assets.similarity.materialized import MaterializedResult, read_role
from imgsim_assets.similarity.neighbor_lists import CachedNeighborLists, neighbor_lists
from imgsim_assets.similarity.threads import single_threaded
from imgsim_assets.storage.commit import DataFile
from imgsim_assets.storage.row_blocks import RowBlocks

# Rows that the recall is measured on, and further ones that the probes are chosen by.
_MEASURED_ROWS = 1000
_CHOOSING_ROWS = 2000
# Where fewer pairs reach a threshold, the most similar ones below it count as well.
_MIN_PAIRS = 1000
_NEIGHBORS_BELOW = 10


@dataclass(frozen=True)
class PairsOf:
    """Which pairs of items a join asks for.

    Attributes:
        left: the rows that get a list each.
        right: the rows that are searched.
        spec: threshold, k, and whether an item is its own neighbor.
        one_catalog: both are items of one catalog. Pairs of an item with itself, which are always
            found, do not count.
    """

    left: Items
    right: Items
    spec: JoinSpec
    one_catalog: bool = False

    @property
    def leaves_out_itself(self) -> bool:
        """Whether pairs of an item with itself do not count."""
        return self.one_catalog or self.spec.exclude_self


class RowPairs(NamedTuple):
    """Pairs of numbers of left rows (p,) and right rows (p,)."""

    i: Indices
    j: Indices


def recall_meter(
    pairs: PairsOf, result: MaterializedResult, role: str, cached: CachedNeighborLists | None
) -> tuple[RecallMeter, list[DataFile]]:
    """What looks for the exact pairs of sampled items in neighbor lists.

    Args:
        pairs: what an exact join finds.
        result: the result table.
        role: of the files of the sample, which is stored for the next run.
        cached: lists of the same right rows as those of the sample that can be reused; None to
            compute all of them.

    Returns:
        The meter, and the files of the sample.
    """
    sample = _taken(pairs.left, _sampled(pairs.left, 0, _MEASURED_ROWS))
    rows_role, lists_role = f"{role}_sample", f"{role}_sample_neighbors"
    rows, exact_lists = (_stored(result, each) for each in (rows_role, lists_role))
    if cached is not None and rows is not None and exact_lists is not None:
        cached = replace(cached, lists=exact_lists, left=RowBlocks.of(rows), lost_left=())
    else:
        cached = None
    searched = _with_itself(pairs.spec)
    # A few changed rows are not worth several threads.
    with single_threaded() if cached is not None else nullcontext():
        lists = neighbor_lists(sample, pairs.right, searched, cached)
    exact = item_pairs(lists, sample, pairs.right, searched.k)
    if pairs.leaves_out_itself:
        exact = best_of_each(exact.filter(pl.col("left_id") != pl.col("right_id")), pairs.spec.k)
    # Of links either direction is enough.
    either_way = pairs.spec.k is None and pairs.spec.exclude_self
    meter = RecallMeter.of(
        exact, pairs.left, pairs.right, len(sample.upright), either_way=either_way
    )
    files = [
        result.write_block(frame, each)
        for frame, each in ((sample.rows, rows_role), (lists, lists_role))
    ]
    return meter, files


def pairs_to_choose_by(pairs: PairsOf) -> RowPairs:
    """Pairs of rows of other items, by which the probes are chosen; enough of them, if there are.

    Of two items it is the pair of rows that decides their similarity.
    """
    numbers = _sampled(pairs.left, _MEASURED_ROWS, _CHOOSING_ROWS)
    sampled = replace(pairs, left=_taken(pairs.left, numbers))
    i, j, _ = _exact_pairs(sampled)
    spec = pairs.spec
    if len(i) < _MIN_PAIRS and spec.threshold > MIN_COSINE:
        nearest = JoinSpec(MIN_COSINE, spec.k or _NEIGHBORS_BELOW, spec.exclude_self)
        i, j, cosines = _exact_pairs(replace(sampled, spec=nearest))
        order = np.argsort(-cosines, kind="stable")[:_MIN_PAIRS]
        i, j = i[order], j[order]
    return RowPairs(numbers[i], j)


def _stored(result: MaterializedResult, role: str) -> pl.DataFrame | None:
    """The rows of a role in the commit that can be reused; None without one, or if damaged."""
    try:
        return (
            read_role(result.table, result.reusable, role) if result.reusable is not None else None
        )
    except CorruptFileError:
        return None


def _taken(items: Items, rows: Indices) -> Items:
    """Some rows, which are all rows of their items."""
    return Items(items.images.gather(rows), items.blocks.take(rows))


def _sampled(items: Items, skip: int, count: int) -> Indices:
    """Row numbers (s,), ascending: all rows of items, about `count` behind the first `skip`.

    Of few rows all are sampled, whatever is skipped.
    """
    if len(items) <= skip + count:
        return np.arange(len(items))
    first = pl.DataFrame(schema={"row": pl.Int64, "sha256": pl.String, "id": pl.String})
    for start, block in items.row_blocks.blocks(["id", "sha256"]):
        numbers = pl.int_range(start, start + block.height, dtype=pl.Int64, eager=True)
        rows = block.select(numbers.alias("row"), "sha256", "id")
        first = pl.concat([first, rows]).bottom_k(skip + count, by=["sha256", "id"])
    order = first.sort("sha256", "id")["row"].to_numpy()
    of_items = pl.Series(items.numbers[order]).unique(maintain_order=True).to_numpy()
    before = np.cumsum(np.append(0, np.bincount(items.numbers)[of_items]))[:-1]
    chosen = of_items[(before >= skip) & (before < skip + count)]
    return np.flatnonzero(np.isin(items.numbers, chosen))


def _exact_pairs(pairs: PairsOf) -> tuple[Indices, Indices, Doubles]:
    """The pairs of rows that decide the pairs of items, by left item and falling similarity."""
    left, right, searched = pairs.left, pairs.right, _with_itself(pairs.spec)
    minimum = np.full(len(left), searched.threshold)
    i, j, cosines, _ = join(JoinSide.of(left), JoinSide.of(right), searched, minimum)
    order = np.lexsort((j, -cosines, left.numbers[i]))
    of_items = np.stack([left.numbers[i[order]], right.numbers[j[order]]], axis=1)
    _, first = np.unique(of_items, axis=0, return_index=True)
    best = _first_of_each(order[np.sort(first)], left.numbers[i], searched.k)
    if pairs.leaves_out_itself:
        ids = left.images.gather(i[best], ["id"])["id"], right.images.gather(j[best], ["id"])["id"]
        best = best[(ids[0] != ids[1]).to_numpy()]
        best = _first_of_each(best, left.numbers[i], pairs.spec.k)
    return i[best], j[best], cosines[best]


def _with_itself(spec: JoinSpec) -> JoinSpec:
    """The join of a sample that has the pairs of a spec, and those of an item with itself.

    Items have other numbers in a sample, so a join with all rows cannot tell which are the same.
    """
    if not spec.exclude_self:
        return spec
    return replace(spec, k=None if spec.k is None else spec.k + 1, exclude_self=False)


def _first_of_each(pairs: Indices, left: Indices, k: int | None) -> Indices:
    """Of numbers of pairs, by left item, the first k of each; `left` has the item of each pair."""
    if k is None:
        return pairs
    of_pairs = left[pairs]
    return pairs[np.arange(len(pairs)) - np.searchsorted(of_pairs, of_pairs) < k]
