"""What a committed result was computed from, so that the next run can update it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

import polars as pl

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.similarity.items import Items, recorded_rows
from imgsim_assets.similarity.neighbor_lists import CachedNeighborLists
from imgsim_assets.similarity.reusable_lists import COMPLETE, LIST_SCHEMA
from imgsim_assets.storage.commit import ROWS, Commit, DataFile, PendingCommit
from imgsim_assets.storage.id_blocks import ALL_IDS, IdBlock, id_blocks
from imgsim_assets.storage.row_blocks import RowBlocks, ids_ascend, matched_blocks
from imgsim_assets.storage.table import Table

LEFT_ITEMS = "left_items"
RIGHT_ITEMS = "right_items"
NEIGHBOR_LISTS = "neighbor_lists"
# Property of a result whose left images were compared in all orientations: true, else null.
ORIENTATIONS_PROPERTY = "orientations"
# Lists of another format are not reused: lists before 2 did not say whether they were truncated.
_FORMAT = {"neighbor_lists_format": 2}


# Metadata of a file: the first id of its block, and the first id of the next one, or None.
_BLOCK = "block"


class Computed(NamedTuple):
    """The files of a result, its rows among them; `incremental`: earlier results were reused."""

    files: Sequence[DataFile]
    incremental: bool


@dataclass(frozen=True)
class ResultUpdate:
    """A commit of a table that is up to date; `incremental`: earlier results were reused."""

    table: Table
    commit: Commit
    incremental: bool

    @cached_property
    def rows(self) -> pl.DataFrame:
        """All rows at once, for results of few."""
        return self.table.read(self.commit)


class _Intact(NamedTuple):
    """The rows of the intact files of a role, None without any, and the ranges of the others.

    `files` are the intact ones by range, with the number of their first row.
    """

    rows: RowBlocks | None
    lost: Sequence[IdBlock]
    files: Mapping[tuple[str, str | None], tuple[DataFile, int]]

    def file_with(self, recorded: RowBlocks, block: IdBlock) -> DataFile | None:
        """The file of a block, if it has exactly the rows of the block."""
        file, first = self.files.get((block.first, block.after), (None, 0))
        if file is None or self.rows is None or self.rows.is_same(recorded):
            return file
        stored = self.rows.read(first, first + (file.rows or 0))
        rows = recorded.read(block.start, block.stop)
        return file if stored.schema == rows.schema and stored.equals(rows) else None


def role_rows(table: Table, commit: Commit, role: str) -> RowBlocks | None:
    """The rows of all files of a role, in commit order; None without such a file.

    Raises:
        CorruptFileError: a file is missing or damaged.
    """
    files = commit.files_with_role(role)
    return RowBlocks.collect(map(table.read_file, files)) if files else None


def read_role(table: Table, commit: Commit, role: str) -> pl.DataFrame | None:
    """`role_rows` at once."""
    rows = role_rows(table, commit, role)
    return rows.all() if rows is not None else None


@dataclass(frozen=True)
class ListFiles:
    """Neighbor lists in files, one for each block of left ids."""

    table: Table
    files: Sequence[DataFile]

    def of_block(self, block: IdBlock) -> pl.DataFrame | None:
        """The lists of the left rows of a block, see LIST_SCHEMA; None if a file is damaged."""
        parts = [pl.DataFrame(schema=LIST_SCHEMA)]
        for file in files_of_block(self.files, block):
            try:
                lists = self.table.read_file(file)
            except CorruptFileError:
                return None
            if COMPLETE not in lists.columns:
                lists = lists.with_columns(pl.lit(value=True).alias(COMPLETE))  # all pairs
            if _range(file) != (block.first, block.after):
                lists = block.rows_of(lists)
            parts.append(lists.select(list(LIST_SCHEMA)))
        return pl.concat(parts)


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
    # What `_intact` has read of each role.
    _read: dict[str, _Intact] = field(default_factory=dict, init=False, compare=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the rows that were read, which another process may not need.
        of = self.table, self.properties, self.latest, self.current, self.reusable
        return MaterializedResult, of

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

    def cached_lists(
        self, role: str = NEIGHBOR_LISTS, *, left: str = LEFT_ITEMS
    ) -> CachedNeighborLists | None:
        """The neighbor lists in the files of a role; None when none can be reused.

        `left` is the role of the items that got a list each.
        """
        files = self.reusable.files_with_role(role) if self.reusable is not None else ()
        of_left, of_right = self._intact(left), self._intact(RIGHT_ITEMS)
        if not files or of_left.rows is None or of_right.rows is None:
            return None
        turned = bool(self.properties.get(ORIENTATIONS_PROPERTY))
        return CachedNeighborLists(
            ListFiles(self.table, files),
            recorded_rows(of_left.rows, turned=turned),
            recorded_rows(of_right.rows),
            of_left.lost,
            of_right.lost,
        )

    def _intact(self, role: str) -> _Intact:
        """What the latest commit records of its input, as far as its files are intact."""
        if role not in self._read:
            self._read[role] = self._read_intact(role)
        return self._read[role]

    def _read_intact(self, role: str) -> _Intact:
        files = self.latest.files_with_role(role) if self.latest is not None else ()
        lost, found = [], {}

        def intact() -> Iterator[pl.DataFrame]:
            start = 0
            for file in files:
                first, after = _range(file)
                try:
                    rows = self.table.read_file(file)
                except CorruptFileError:
                    lost.append(ALL_IDS._replace(first=first, after=after))
                    continue
                found[first, after] = file, start
                start += rows.height
                yield rows

        parts = intact()
        first_part = next(parts, None)
        if first_part is None:
            return _Intact(None, lost, found)
        return _Intact(RowBlocks.collect(chain([first_part], parts)), lost, found)

    def write_block(
        self, rows: pl.DataFrame, role: str = ROWS, block: IdBlock = ALL_IDS
    ) -> DataFile:
        """Store the rows of a block, unless the latest commit has a file with the same bytes."""
        existing = self.latest.files_with_role(role) if self.latest is not None else ()
        file = self.table.write_rows(rows, role=role, existing=existing)
        return file.with_metadata(**{_BLOCK: [block.first, block.after]})

    def file_of(self, role: str, block: IdBlock) -> DataFile | None:
        """The file of a block in the commit whose lists can be reused, if it is intact."""
        files = self.reusable.files_with_role(role) if self.reusable is not None else ()
        found = (file for file in files if _range(file) == (block.first, block.after))
        return next(filter(self.table.is_intact, found), None)

    def keeps_rows(self, left: Items, right: Items, *, are_means: bool) -> bool:
        """Whether rows of unchanged neighbor lists are as the current commit has them.

        They name images by their numbers, which may have changed though the images have not. Means
        also depend on images of the right items that are in no list.
        """
        if self.current is None:
            return False
        # Lists of rows that are lost, or with such rows, are not unchanged.
        before, after = self._intact(RIGHT_ITEMS).rows, right.recorded
        if are_means and (before is None or not before.equals(after)):
            return False
        return not (
            _is_renumbered(before, after)
            or _is_renumbered(self._intact(LEFT_ITEMS).rows, left.recorded)
        )

    def update(
        self,
        left: Items,
        right: Items,
        inputs: Mapping[str, int],
        compute: Callable[[], Computed],
    ) -> ResultUpdate | None:
        """Compute and commit the result, unless the current commit is up to date.

        Args:
            left: the left items.
            right: the right items.
            inputs: versions of the input tables, by name.
            compute: writes the files of the result.

        Returns:
            The commit; None if another run has committed a result of newer inputs. Then the inputs
            must be read again.
        """
        if self.current is not None and self.is_up_to_date(left, right):
            return ResultUpdate(self.table, self.current, incremental=True)
        files, incremental = compute()
        commit = self.commit(files, left, right, inputs)
        return None if commit is None else ResultUpdate(self.table, commit, incremental)

    def is_up_to_date(self, left: Items, right: Items) -> bool:
        """Whether the current commit was computed from exactly these items."""
        return (
            self.current is not None
            and self.table.verify_checksums(self.current)
            and all([self._recorded(LEFT_ITEMS, left), self._recorded(RIGHT_ITEMS, right)])
        )

    def _recorded(self, role: str, items: Items) -> bool:
        """Whether the latest commit was computed from these items."""
        recorded = self._intact(role)
        if recorded.rows is None:
            raise CorruptFileError(f"table {self.table.name} lists no file of role {role}")
        is_same = recorded.rows.equals(items.recorded)
        if is_same:
            # Rows that are known to be the same are not compared again.
            self._read[role] = recorded._replace(rows=items.recorded)
        return is_same

    def commit(
        self, files: Sequence[DataFile], left: Items, right: Items, inputs: Mapping[str, int]
    ) -> Commit | None:
        """Commit a result with the items that it was computed from; None as of `update`."""
        files = [
            *files,
            *self._write_items(left, LEFT_ITEMS),
            *self._write_items(right, RIGHT_ITEMS),
        ]
        pending = PendingCommit(files, inputs=inputs, properties=self.properties)
        is_superseded = False

        def change(newest: Commit | None) -> PendingCommit | None:
            nonlocal is_superseded
            committed = newest.inputs if newest is not None and newest != self.latest else {}
            is_superseded = any(
                committed.get(name, 0) > version for name, version in inputs.items()
            )
            return None if is_superseded or pending.is_repeated(newest, self.latest) else pending

        commit = self.table.commit(change)
        return None if is_superseded else commit

    def _write_items(self, items: Items, role: str) -> list[DataFile]:
        """What a result records of its input, by blocks."""
        before = self._intact(role)
        files = []
        for block in id_blocks(items.recorded):
            file = before.file_with(items.recorded, block)
            if file is None:
                rows = items.recorded.read(block.start, block.stop)
                file = self.write_block(rows, role, block)
            files.append(file)
        return files


def files_of_block(files: Iterable[DataFile], block: IdBlock) -> list[DataFile]:
    """Those of the files of a role that can have rows of a block."""
    return [
        file
        for file in files
        for first, after in [_range(file)]
        if (block.after is None or first < block.after) and (after is None or after > block.first)
    ]


def _is_renumbered(before: RowBlocks | None, now: RowBlocks) -> bool:
    """Whether an image of both has other numbers within its item, of which it can have several."""
    if before is None or "image" not in now.columns:
        return True
    if before.equals(now):
        return False
    one_each = ids_ascend(before) and ids_ascend(now)
    return any(
        _has_renumbered(*sides, one_each=one_each) for sides in matched_blocks(before, now, "id")
    )


def _has_renumbered(before: pl.DataFrame, now: pl.DataFrame, *, one_each: bool) -> bool:
    """`_is_renumbered` of all images of some items; `one_each`: these have one image each."""
    image, number = ["id", "sha256"], "image"
    if one_each and all(before[name].equals(now[name]) for name in ("id", number)):
        return False
    return any(
        rows.join(others, on=[*image, number], how="anti").join(others, on=image, how="semi").height
        for rows, others in ((before, now), (now, before))
    )


def _range(file: DataFile) -> tuple[str, str | None]:
    """The ids of a file: the first, and the first behind them."""
    first, after = file.metadata.get(_BLOCK, [ALL_IDS.first, ALL_IDS.after])
    return first, after
