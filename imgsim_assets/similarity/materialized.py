"""What a committed result was computed from, so that the next run can update it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.similarity.pairs import (
    COMPLETE,
    LIST_SCHEMA,
    Answer,
    Items,
    Question,
    compute,
    update,
)
from imgsim_assets.storage.commit import Commit, DataFile, PendingCommit
from imgsim_assets.storage.table import Table

LEFT_ITEMS = "left_items"
RIGHT_ITEMS = "right_items"
LISTS = "lists"
# Lists of another format are not built on: those before 2 could be taken for complete when
# they had been cut off.
_FORMAT = {"lists_format": 2}


@dataclass(frozen=True)
class State:
    """A result table as it stands: its newest commit, and what of it can be used.

    `base` is the newest commit if the same recipe (settings and encoder) made it, else None;
    `known` is the newest commit if its lists are of the same recipe, else None.
    """

    table: Table
    properties: Mapping[str, Any]
    newest: Commit | None
    base: Commit | None
    known: Commit | None

    @classmethod
    def of(
        cls,
        table: Table,
        newest: Commit | None,
        recipe: Mapping[str, Any],
        of_lists: Collection[str] | None = None,
    ) -> State:
        """The state of a table for a recipe.

        `newest` is what `table.latest()` was before the inputs were read: a later commit may be
        of newer ones. `of_lists` are the names in the recipe that the lists depend on; None for
        all.
        """
        properties = {**recipe, **_FORMAT}
        differing = {
            name
            for name, value in properties.items()
            if newest is None or newest.properties.get(name) != value
        }
        decisive = recipe.keys() if of_lists is None else of_lists
        known = None if differing & {*decisive, *_FORMAT} else newest
        return cls(table, properties, newest, None if differing else newest, known)

    def answer(self, role: str) -> Answer | None:
        """The lists kept under a role, with their items; None when there are none to use."""
        if self.known is None:
            return None
        try:
            lists, left, right = (
                self._read(self.known, part) for part in (role, LEFT_ITEMS, RIGHT_ITEMS)
            )
        except CorruptFileError:
            return None
        if COMPLETE not in lists.columns:
            lists = lists.with_columns(pl.lit(value=True).alias(COMPLETE))  # all pairs there are
        return Answer(lists.select(list(LIST_SCHEMA)), left, right)

    def _read(self, commit: Commit, role: str) -> pl.DataFrame:
        file = commit.file_with_role(role)
        if file is None:
            raise CorruptFileError(f"table {self.table.name} lists no file of role {role}")
        return self.table.read_file(file)

    def is_current(self, left: Items, right: Items) -> bool:
        """Whether the base was computed from exactly these items."""
        return (
            self.base is not None
            and self.table.verify_checksums(self.base)
            and self._read(self.base, LEFT_ITEMS).equals(left.keys)
            and self._read(self.base, RIGHT_ITEMS).equals(right.keys)
        )

    def commit(
        self, files: Sequence[DataFile], left: Items, right: Items, inputs: Mapping[str, int]
    ) -> Commit | None:
        """Commit a result; None if another run has meanwhile committed one of newer inputs.

        Then neither result need be of the newest inputs, so they are to be read again.
        """
        complete = [
            *files,
            self.table.write_rows(left.keys, role=LEFT_ITEMS),
            self.table.write_rows(right.keys, role=RIGHT_ITEMS),
        ]

        overtaken = False

        def change(newest: Commit | None) -> PendingCommit | None:
            nonlocal overtaken
            other = newest if newest != self.newest else None
            known = other.inputs if other is not None else {}
            overtaken = any(known.get(name, 0) > version for name, version in inputs.items())
            return (
                None
                if overtaken
                else PendingCommit(complete, inputs=inputs, properties=self.properties)
            )

        commit = self.table.commit(change)
        return None if overtaken else commit


def updated(previous: Answer | None, left: Items, right: Items, question: Question) -> pl.DataFrame:
    """The lists of two sets of items, brought up to date from an earlier answer if any."""
    if previous is None:
        return compute(left, right, question)
    return update(previous, left, right, question)
