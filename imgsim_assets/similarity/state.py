"""What a committed result was computed from, so that the next run can update it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from imgsim_assets.storage.table import Commit, DataFile, Draft, Table

LEFT_ITEMS = "left_items"
RIGHT_ITEMS = "right_items"
LISTS = "lists"
# Lists of another format are not built on: those before 2 could be taken for complete when
# they had been cut off.
_FORMAT = {"lists_format": 2}


@dataclass(frozen=True)
class State:
    """A result table as it stands: its newest commit, and the one that can be built on.

    `base` is the newest commit if the same recipe (settings and encoder) made it, else None.
    """

    table: Table
    properties: Mapping[str, Any]
    newest: Commit | None
    base: Commit | None

    @classmethod
    def of(cls, table: Table, recipe: Mapping[str, Any]) -> State:
        """The state of a table for a recipe."""
        newest = table.latest()
        properties = {**recipe, **_FORMAT}
        same = newest is not None and all(
            newest.properties.get(key) == value for key, value in properties.items()
        )
        return cls(table, properties, newest, newest if same else None)

    def answer(self, role: str) -> Answer | None:
        """The lists kept under a role, with their items; None when there are none to use."""
        if self.base is None:
            return None
        try:
            lists, left, right = (self._read(part) for part in (role, LEFT_ITEMS, RIGHT_ITEMS))
        except CorruptFileError:
            return None
        if COMPLETE not in lists.columns:
            lists = lists.with_columns(pl.lit(value=True).alias(COMPLETE))  # all pairs there are
        return Answer(lists.select(list(LIST_SCHEMA)), left, right)

    def _read(self, role: str) -> pl.DataFrame:
        file = self.base.only(role) if self.base is not None else None
        if file is None:
            raise CorruptFileError(f"table {self.table.name} lists no file of role {role}")
        return self.table.read_file(file)

    def is_current(self, left: Items, right: Items) -> bool:
        """Whether the base was computed from exactly these items."""
        return (
            self.base is not None
            and self.table.is_whole(self.base)
            and self._read(LEFT_ITEMS).equals(left.keys)
            and self._read(RIGHT_ITEMS).equals(right.keys)
        )

    def commit(
        self, files: Sequence[DataFile], left: Items, right: Items, inputs: Mapping[str, int]
    ) -> Commit:
        """Commit a result, unless another run has meanwhile committed one of newer inputs."""
        complete = [
            *files,
            self.table.write_rows(left.keys, role=LEFT_ITEMS),
            self.table.write_rows(right.keys, role=RIGHT_ITEMS),
        ]

        def change(newest: Commit | None) -> Draft | None:
            overtaken = newest is not None and newest != self.newest
            known = newest.inputs if newest is not None and overtaken else {}
            if any(known.get(name, 0) > version for name, version in inputs.items()):
                return None
            return Draft(complete, inputs=inputs, properties=self.properties)

        commit = self.table.commit(change)
        if commit is None:
            raise AssertionError("the first result is always committed")
        return commit


def updated(previous: Answer | None, left: Items, right: Items, question: Question) -> pl.DataFrame:
    """The lists of two sets of items, brought up to date from an earlier answer if any."""
    if previous is None:
        return compute(left, right, question)
    return update(previous, left, right, question)
