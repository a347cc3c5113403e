"""Rows as a source's files hold them, each with its file and line, and the rejected ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from imgsim_assets.errors import SourceError

# The file and line of a row; never columns of a catalog.
FILE = "__file"
LINE = "__line"
# Why validation rejects a row; null for a valid one.
REASON = "__reason"
DETAIL = "__detail"


@dataclass(frozen=True)
class Reject:
    """A rejected row and the reason. `line` counts lines of text, else rows, from 1."""

    file: str
    line: int
    reason: str
    detail: str
    text: str


@dataclass
class RawRows:
    """Frames with FILE, LINE and the source's columns, and the rows that could not be read.

    `notices` say what was detected or adjusted in the files. `embedded` are the columns whose
    images were read with the list.
    """

    frames: list[pl.DataFrame] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    embedded: set[str] = field(default_factory=set)

    def extend(self, other: RawRows) -> None:
        """Add the rows of another file."""
        self.frames += other.frames
        self.rejects += other.rejects
        self.notices += other.notices
        self.embedded |= other.embedded

    def frame(self) -> pl.DataFrame:
        """All rows in one frame; a column that a file lacks is null in its rows.

        Raises:
            SourceError: when a column has types in different files that have no supertype.
        """
        if not self.frames:
            return pl.DataFrame()
        try:
            return pl.concat(self.frames, how="diagonal_relaxed")
        except pl.exceptions.PolarsError as error:
            raise SourceError(
                "the files of the source cannot be combined: column "
                f"{self._column_without_supertype()!r}: {error}; give it the same type in all "
                "files"
            ) from error

    def _column_without_supertype(self) -> str:
        for name in dict.fromkeys(name for frame in self.frames for name in frame.columns):
            columns = [frame.select(name) for frame in self.frames if name in frame.columns]
            try:
                pl.concat(columns, how="vertical_relaxed")
            except pl.exceptions.PolarsError:
                return name
        raise AssertionError("every column has a supertype")


def unique_names(names: Sequence[str]) -> list[str]:
    """Column names made unique: an empty one gets its position, a repeated one a number."""
    unique: list[str] = []
    for position, name in enumerate(names, start=1):
        candidate = name or f"column_{position}"
        number = 2
        while candidate in (*unique, FILE, LINE, REASON, DETAIL):
            candidate = f"{name}_{number}"
            number += 1
        unique.append(candidate)
    return unique
