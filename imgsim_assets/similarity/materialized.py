"""What a committed result was computed from, so that the next run can update it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import polars as pl

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.similarity.items import Items, recorded_rows
from imgsim_assets.similarity.neighbor_lists import CachedNeighborLists
from imgsim_assets.similarity.reusable_lists import COMPLETE, LIST_SCHEMA
from imgsim_assets.storage.commit import Commit, DataFile, PendingCommit
from imgsim_assets.storage.table import Table

LEFT_ITEMS = "left_items"
RIGHT_ITEMS = "right_items"
NEIGHBOR_LISTS = "neighbor_lists"
# Property of a result whose left images were compared in all orientations: true, else null.
ORIENTATIONS_PROPERTY = "orientations"
# Lists of another format are not reused: lists before 2 did not say whether they were truncated.
_FORMAT = {"neighbor_lists_format": 2}


class ResultUpdate(NamedTuple):
    """A commit that is up to date with its rows; `incremental`: earlier results were reused."""

    commit: Commit
    rows: pl.DataFrame
    incremental: bool


@dataclass(frozen=True)
class MaterializedResult:
    """A result table: its latest commit, and what of it can be reused.

    `current` is the latest commit if the same recipe (settings and encoder) made it, else None;
    `reusable` is the latest commit if the recipe of its neighbor lists is the same, else None.
    """

    table: Table
    properties: Mapping[str, Any]
    latest: Commit | None
    current: Commit | None
    reusable: Commit | None

    @classmethod
    def for_recipe(
        cls,
        table: Table,
        latest: Commit | None,
        recipe: Mapping[str, Any],
        list_keys: Collection[str] | None = None,
    ) -> MaterializedResult:
        """What a table holds for a recipe.

        Args:
            table: the result table.
            latest: what `table.latest()` was before the inputs were read; a later commit may
                be of newer inputs.
            recipe: the settings and the encoder fingerprint of the result.
            list_keys: the keys of the recipe that the neighbor lists depend on; None for all.
        """
        properties = {**recipe, **_FORMAT}
        differing = {
            name
            for name, value in properties.items()
            if latest is None or latest.properties.get(name) != value
        }
        list_keys = recipe.keys() if list_keys is None else list_keys
        reusable = None if differing & {*list_keys, *_FORMAT} else latest
        return cls(table, properties, latest, None if differing else latest, reusable)

    def has_file(self, role: str) -> bool:
        """Whether the commit whose lists can be reused has a file of a role."""
        return self.reusable is not None and self.reusable.file_with_role(role) is not None

    def read_file(self, role: str) -> pl.DataFrame | None:
        """The rows of the latest commit's file of a role; None without one, or if it is damaged."""
        if self.latest is None:
            return None
        try:
            return self._read(self.latest, role)
        except CorruptFileError:
            return None

    def cached_lists(self, role: str = NEIGHBOR_LISTS) -> CachedNeighborLists | None:
        """The neighbor lists in the files of a role; None when none can be reused."""
        if self.reusable is None:
            return None
        try:
            lists, left, right = (
                self._read(self.reusable, part) for part in (role, LEFT_ITEMS, RIGHT_ITEMS)
            )
        except CorruptFileError:
            return None
        if COMPLETE not in lists.columns:
            lists = lists.with_columns(pl.lit(value=True).alias(COMPLETE))  # rows of all pairs
        turned = bool(self.properties.get(ORIENTATIONS_PROPERTY))
        rows = recorded_rows(left, turned=turned), recorded_rows(right)
        return CachedNeighborLists(lists.select(list(LIST_SCHEMA)), *rows)

    def update(
        self,
        left: Items,
        right: Items,
        inputs: Mapping[str, int],
        compute: Callable[[], tuple[pl.DataFrame, list[DataFile], bool]],
    ) -> ResultUpdate | None:
        """Compute and commit the result, unless the current commit is up to date.

        Args:
            left: the left items.
            right: the right items.
            inputs: versions of the input tables, by name.
            compute: returns the rows, the files that are committed beside them, and whether
                cached lists were used.

        Returns:
            The commit and its rows; None if another run has committed a result of newer inputs.
            Then the inputs must be read again.
        """
        if self.current is not None and self.is_up_to_date(left, right):
            return ResultUpdate(self.current, self.table.read(self.current), incremental=True)
        rows, files, incremental = compute()
        commit = self.commit([self.table.write_rows(rows), *files], left, right, inputs)
        return None if commit is None else ResultUpdate(commit, rows, incremental)

    def _has_same_content(self, newest: Commit | None, files: Sequence[DataFile]) -> bool:
        """Whether another run has committed the same rows of the same items meanwhile."""
        if newest is None or newest == self.latest:
            return False
        return newest.properties == self.properties and _contents(newest.files) == _contents(files)

    def is_up_to_date(self, left: Items, right: Items) -> bool:
        """Whether the current commit was computed from exactly these items."""
        return (
            self.current is not None
            and self.table.verify_checksums(self.current)
            and self._read(self.current, LEFT_ITEMS).equals(left.recorded)
            and self._read(self.current, RIGHT_ITEMS).equals(right.recorded)
        )

    def _read(self, commit: Commit, role: str) -> pl.DataFrame:
        file = commit.file_with_role(role)
        if file is None:
            raise CorruptFileError(f"table {self.table.name} lists no file of role {role}")
        return self.table.read_file(file)

    def commit(
        self, files: Sequence[DataFile], left: Items, right: Items, inputs: Mapping[str, int]
    ) -> Commit | None:
        """Commit a result with the items that it was computed from; None as of `update`."""
        files = [
            *files,
            self.table.write_rows(left.recorded, role=LEFT_ITEMS),
            self.table.write_rows(right.recorded, role=RIGHT_ITEMS),
        ]
        is_superseded = False

        def change(newest: Commit | None) -> PendingCommit | None:
            nonlocal is_superseded
            committed = newest.inputs if newest is not None and newest != self.latest else {}
            is_superseded = any(
                committed.get(name, 0) > version for name, version in inputs.items()
            )
            if is_superseded or self._has_same_content(newest, files):
                return None
            return PendingCommit(files, inputs=inputs, properties=self.properties)

        commit = self.table.commit(change)
        return None if is_superseded else commit


def _contents(files: Sequence[DataFile]) -> list[tuple[str, str]]:
    return sorted((file.role, file.sha256) for file in files)
