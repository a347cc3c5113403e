"""Neighbor lists of a result table: updated and stored, a block of left ids at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Generic, NamedTuple, TypeVar

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
    """
    stored = partial(_stored, result, role, work)
    return _collected(map_list_blocks(stored, left, right, spec, cached))


def _stored(
    result: MaterializedResult, role: str | None, work: Callable[[ListBlock], R], lists: ListBlock
) -> tuple[DataFile | None, R, bool]:
    """The file of a block of lists, what the work returns for it, and whether it was cached."""
    file = None
    if role is not None:
        file = result.file_of(role, lists.block) if lists.is_unchanged else None
        file = file or result.write_block(lists.lists, role, lists.block)
    return file, work(lists), lists.is_cached


def _collected(blocks: Iterable[tuple[DataFile | None, R, bool]]) -> UpdatedLists[R]:
    files, results, incremental = [], [], False
    for file, of_block, is_cached in blocks:
        files += [file] if file is not None else []
        results.append(of_block)
        incremental |= is_cached
    return UpdatedLists(files, results, incremental)
