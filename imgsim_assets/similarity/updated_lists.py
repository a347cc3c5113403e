"""Neighbor lists of a result table: updated and stored, a block of left ids at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Generic, NamedTuple, TypeVar

import polars as pl

from imgsim_assets.similarity.approximate.recall import RecallMeter
from imgsim_assets.similarity.approximate.search import CENTROIDS, ListSearch
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.join_spec import JoinSpec
from imgsim_assets.similarity.materialized import MaterializedResult
from imgsim_assets.similarity.neighbor_lists import (
    CachedNeighborLists,
    ListBlock,
    map_list_blocks,
)
from imgsim_assets.storage.commit import DataFile

R = TypeVar("R")


class UpdatedLists(NamedTuple, Generic[R]):
    """What came of neighbor lists.

    Attributes:
        files: the files of the lists.
        results: what the work returned for each block.
        incremental: whether cached lists were used.
    """

    files: list[DataFile]
    results: list[R]
    incremental: bool


def updated_lists(
    result: MaterializedResult,
    left: Items,
    right: Items,
    spec: JoinSpec,
    work: Callable[[ListBlock], R],
    *,
    role: str | None,
    cached: CachedNeighborLists | None,
    centroids: str = CENTROIDS,
) -> UpdatedLists[R]:
    """Update the neighbor lists of a role, store them, and do some work on each block of them.

    Args:
        result: the result table.
        left: the rows that get a list each.
        right: the rows that are searched.
        spec: which pairs the lists hold.
        work: what else is made of a block of lists; they are not kept.
        role: of the files; None where the lists are not stored.
        cached: lists of the role that can be reused.
        centroids: role of the file of centroids, for an approximate result.
    """
    search = ListSearch.of(result, left, right, spec, cached, centroids)
    stored = partial(_stored, result, role, work, search.meter)
    blocks = map_list_blocks(stored, left, right, spec, search.cached, search.assigned)
    return _collected(blocks, search)


class _OfBlock(NamedTuple, Generic[R]):
    """The file of a block of lists, what the work returned, and sampled pairs that were found."""

    file: DataFile | None
    result: R
    found: pl.DataFrame | None
    is_cached: bool


def _stored(
    result: MaterializedResult,
    role: str | None,
    work: Callable[[ListBlock], R],
    meter: RecallMeter | None,
    lists: ListBlock,
) -> _OfBlock[R]:
    file = None
    if role is not None:
        file = result.file_of(role, lists.block) if lists.is_unchanged else None
        file = file or result.write_block(lists.lists, role, lists.block)
    found = meter.found_in(lists.lists) if meter is not None else None
    return _OfBlock(file, work(lists), found, lists.is_cached)


def _collected(blocks: Iterable[_OfBlock[R]], search: ListSearch) -> UpdatedLists[R]:
    files, results, found, incremental = [], [], [], False
    for block in blocks:
        files += [block.file] if block.file is not None else []
        found += [block.found] if block.found is not None else []
        results.append(block.result)
        incremental |= block.is_cached
    return UpdatedLists([*files, *search.files(found)], results, incremental)
