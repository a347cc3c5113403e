"""Records of fields to rows: names the columns, and counts what was adjusted.

Delimited text and sheets of workbooks share this.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from imgsim_assets.catalog.delimited import Record
from imgsim_assets.catalog.locations import is_location
from imgsim_assets.catalog.raw_rows import FILE, LINE, RawRows, Reject, unique_names
from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.catalog.text import ZERO_WIDTH
from imgsim_assets.errors import SourceError

_BATCH_ROWS = 50_000


@dataclass(frozen=True)
class FileName:
    """A file as messages name it by its path, and rows and notices by its label."""

    path: str
    label: str


def column_names(settings: SourceSettings, file: FileName, first: Record) -> list[str]:
    """The names of the columns, from the first record or the settings.

    Raises:
        SourceError: the first record is no header, or has another number of fields than declared.
    """
    if settings.columns is not None:
        if len(settings.columns) != len(first.fields):
            raise SourceError(
                f"{file.path} line {first.line} has {len(first.fields)} fields, but 'columns' "
                f"names {len(settings.columns)}; name one for each field, in the file's order"
            )
        return list(settings.columns)
    if not settings.header:
        return [f"column_{number}" for number in range(1, len(first.fields) + 1)]
    if any(is_location(name) for name in first.fields):
        raise SourceError(
            f"{file.path} line {first.line} is read as the header, but holds a URL: "
            f"{', '.join(first.fields)[:200]}; set 'header: false' if it is data"
        )
    return unique_names([name.strip(ZERO_WIDTH).strip() for name in first.fields])


def append_records(
    records: Iterable[Record], names: Sequence[str], file: FileName, raw: RawRows
) -> None:
    """Add records as rows and rejects; a notice counts those whose fields were adjusted."""
    adjusted: list[int] = []
    valid = _valid_records(records, file.label, raw, adjusted)
    while batch := list(itertools.islice(valid, _BATCH_ROWS)):
        columns = list(names)
        if adjusted:  # extra fields that are kept
            widest = max(len(record.fields) for record in batch)
            columns += [f"column_{number}" for number in range(len(names) + 1, widest + 1)]
            for record in batch:
                record.fields.extend([""] * (widest - len(record.fields)))
        rows = [(file.label, record.line, *record.fields) for record in batch]
        raw.frames.append(text_frame(rows, columns))
    if adjusted:
        raw.notices.append(
            f"{file.label}: lines with too few or too many fields: {len(adjusted)}, the first is "
            f"line {adjusted[0]}; missing fields are empty ('ragged: reject' refuses such lines)"
        )


def _valid_records(
    records: Iterable[Record], file: str, raw: RawRows, adjusted: list[int]
) -> Iterable[Record]:
    for record in records:
        if record.problem is None:
            if record.is_adjusted:
                adjusted.append(record.line)
            yield record
        else:
            reason = "ragged_line" if record.is_adjusted else "unreadable_line"
            raw.rejects.append(reject(file, record.line, reason, record.problem, record.text))


def reject(file: str, line: int, reason: str, detail: str, text: str) -> Reject:
    """A rejected line whose text a table can hold."""
    printable = text.rstrip("\r\n").encode(errors="replace").decode()
    return Reject(file, line, reason, detail, printable)


def text_frame(rows: Any, names: Sequence[str]) -> pl.DataFrame:
    """Rows of file, line and text columns as a frame."""
    schema = {FILE: pl.String, LINE: pl.Int64, **dict.fromkeys(names, pl.String)}
    return pl.DataFrame(rows, schema=schema, orient="row")
