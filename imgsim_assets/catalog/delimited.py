"""Delimited text, read record by record, so that a bad line affects no other line.

The csv module parses the records. This module adds line numbers, comments, lines with too few or
too many fields, and recovery from a quote that is opened and never closed, which would otherwise
consume every line up to the next quote.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from imgsim_assets.catalog.locations import is_location
from imgsim_assets.catalog.text import INVALID_TEXT, is_valid

# A longer record is treated as a quote that was never closed.
MAX_RECORD_LINES = 200
_BYTE_ORDER_MARK = "\ufeff"
_TOO_LONG = "field larger than field limit"


@dataclass(frozen=True)
class Dialect:
    r"""How fields are separated.

    Attributes:
        delimiter: one character.
        quote: one character; empty if no field is quoted.
        skips_space: whether blanks behind a delimiter are no part of the field, so that a quote
            may follow them.
        escape: the character before a quote inside a field; empty if quotes are doubled. With a
            backslash, the field `\N` is empty, as in the exports of MySQL.
    """

    delimiter: str
    quote: str = '"'
    escape: str = ""
    skips_space: bool = False


@dataclass(frozen=True)
class Shape:
    """The fields that every record must have.

    Attributes:
        width: the number of fields.
        ragged: "pad" keeps extra fields, "reject" refuses every other number; None cuts extra
            fields that are empty. Missing fields are empty, except with "reject".
    """

    width: int
    ragged: Literal["pad", "reject"] | None = None

    def fit(self, fields: list[str], delimiter: str) -> str | None:
        """Adjust the fields in place; returns the problem if they do not fit."""
        missing = self.width - len(fields)
        if self.ragged != "reject":
            if missing > 0:
                fields.extend([""] * missing)
                return None
            if not any(fields[self.width :]):
                del fields[self.width :]
                return None
            if self.ragged == "pad":
                return None
        problem = f"{len(fields)} fields where {self.width} are expected"
        if missing > 0:
            return problem
        if any(map(is_location, fields)) and delimiter in ",;":
            return (
                f"{problem}; if a URL or text contains the delimiter {delimiter!r}, it must be in "
                "quotes; otherwise set 'ragged: pad'"
            )
        return f"{problem}; to keep the extra fields set 'ragged: pad'"


class Record(NamedTuple):
    """The fields of a record that starts at `line` (from 1), or why it cannot be read.

    `is_adjusted`: fields were added or removed to fit the expected number.
    """

    line: int
    fields: list[str]
    problem: str | None = None
    text: str = ""
    is_adjusted: bool = False


def records(
    lines: Iterator[str],
    dialect: Dialect,
    shape: Shape | None = None,
    *,
    comment: str | None = None,
    first_line: int = 1,
) -> Iterator[Record]:
    """Parse lines into records, skipping blank lines and comments.

    A record that is broken (an unclosed quote, text after a closing quote, fields that do not fit
    the `shape`) is reported with its first line only; parsing continues with the next line.
    """
    pending = _Lines(lines, dialect, comment, first_line)
    reader = csv.reader(
        pending,
        delimiter=dialect.delimiter,
        quotechar=dialect.quote or None,
        escapechar=dialect.escape or None,
        skipinitialspace=dialect.skips_space,
        quoting=csv.QUOTE_MINIMAL if dialect.quote else csv.QUOTE_NONE,
        strict=True,
    )
    width = shape.width if shape is not None else None
    while True:
        pending.start_record()
        problem = None
        is_adjusted = False
        fields: list[str] = []
        try:
            fields = next(reader)
        except StopIteration:
            if not pending.taken:
                return
            problem = "a quote is opened and never closed"
        except csv.Error as error:
            problem = _explain(error, dialect)
        if fields and shape is not None and len(fields) != width and problem is None:
            is_adjusted = True
            problem = shape.fit(fields, dialect.delimiter)
        if problem is not None:
            pending.return_all_but_first()
        if problem is None and not is_valid("".join(pending.taken)):
            problem = INVALID_TEXT
        if problem is not None:
            yield Record(
                pending.first_line, fields, problem, pending.taken[0].rstrip("\r\n"), is_adjusted
            )
        elif fields:
            yield Record(pending.first_line, fields, None, "", is_adjusted)


def _explain(error: csv.Error, dialect: Dialect) -> str:
    text = str(error)
    if "unexpected end of data" in text:
        return "a quote is opened and never closed"
    if "expected after" in text:
        return f"text after a closing quote {dialect.quote} (a quote inside must be doubled)"
    if text.startswith(_TOO_LONG):
        return (
            f"a field is longer than {csv.field_size_limit()} characters; keep large images in "
            "files of their own, or in JSON lines or Parquet"
        )
    return text


class _Lines:
    """An iterator of lines that can be returned, with the line number of the current record."""

    def __init__(
        self, lines: Iterator[str], dialect: Dialect, comment: str | None, first_line: int
    ) -> None:
        if dialect.escape == "\\":
            lines = map(_null_remover(dialect.delimiter), lines)
        self._lines = lines
        self._comment = comment
        self._returned: deque[str] = deque()
        self.taken: list[str] = []
        self.first_line = first_line

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if len(self.taken) >= MAX_RECORD_LINES:
            raise StopIteration
        line = self._returned.popleft() if self._returned else next(self._lines)
        if line[0] == _BYTE_ORDER_MARK:
            # Of files that were joined; in front of a quote it would become part of the field.
            line = line.lstrip(_BYTE_ORDER_MARK) or "\n"
        if self._comment is not None and not self.taken and line.startswith(self._comment):
            line = "\n"
        self.taken.append(line)
        return line

    def start_record(self) -> None:
        self.first_line += len(self.taken)
        self.taken = []

    def return_all_but_first(self) -> None:
        self._returned.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]


def null_field(delimiter: str) -> re.Pattern[str]:
    r"""Finds the fields `\N` of a line, by which MySQL and Hive write nulls."""
    separator = re.escape(delimiter)
    return re.compile(rf"(?:^|(?<={separator}))\\N(?={separator}|[\r\n]|$)")


def _null_remover(delimiter: str) -> Callable[[str], str]:
    r"""A function that empties the fields `\N` of a line, which the csv module would read as N."""
    null = null_field(delimiter)
    return lambda line: null.sub("", line) if "\\N" in line else line
