"""Reading a source into rows of text and values, with the place each row came from."""

from __future__ import annotations

import itertools
import json
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from imgsim_assets.catalogue import delimited
from imgsim_assets.catalogue.source import Source, SourceFile
from imgsim_assets.errors import SourceError

# Where a row came from; never columns of a catalogue.
FILE = "__file"
LINE = "__line"
_BATCH_ROWS = 50_000


@dataclass(frozen=True)
class Reject:
    """A row that is left out, and why. `line` counts lines of text, else rows, from 1."""

    file: str
    line: int
    reason: str
    detail: str
    text: str


@dataclass
class RawRows:
    """What was read: frames with FILE, LINE and the source's own columns, and the rejects."""

    frames: list[pl.DataFrame] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)

    def frame(self) -> pl.DataFrame:
        """All rows; a column that only some files have is null elsewhere."""
        if not self.frames:
            return pl.DataFrame()
        return pl.concat(self.frames, how="diagonal_relaxed")


def read(source: Source) -> RawRows:
    """Read every file of a source.

    Raises SourceError, naming the file, when a file as a whole cannot be read.
    """
    raw = RawRows()
    if source.format == "images":
        raw.frames.append(_listing(source))
        return raw
    for file in source.files:
        try:
            _READERS[source.format](source, file, raw)
        except SourceError:
            raise
        except (OSError, UnicodeError, pl.exceptions.PolarsError) as error:
            raise SourceError(f"{file.path} cannot be read as {source.format}: {error}") from error
    return raw


def _listing(source: Source) -> pl.DataFrame:
    """A folder's images: the path inside the folder is both id and image."""
    names = [file.name for file in source.files]
    return pl.DataFrame(
        {
            FILE: names,
            LINE: [0] * len(names),
            "id": names,
            "url": names,
            "name": [posixpath.splitext(posixpath.basename(name))[0] for name in names],
            "folder": [posixpath.dirname(name) for name in names],
        },
        schema_overrides={LINE: pl.Int64},
    )


def _read_delimited(source: Source, file: SourceFile, raw: RawRows) -> None:
    settings = source.settings
    with source.open(file) as opened, delimited.open_text(opened, settings.encoding) as text:
        sample = delimited.take_sample(text)
        if source.format == "tsv" and settings.delimiter is None:
            delimiter = "\t"
        else:
            delimiter = settings.delimiter or delimited.find_delimiter(sample, settings.quote)
        dialect = delimited.Dialect(delimiter, settings.quote)
        lines = itertools.chain(sample, text)
        first = next(delimited.records(iter(sample), dialect), None)
        if first is None:
            return
        names = _column_names(source, file, first)
        records = delimited.records(lines, dialect, width=len(names))
        if settings.header:
            records = itertools.dropwhile(lambda record: record.line <= first.line, records)
        _collect_text(file, names, records, raw)


def _column_names(source: Source, file: SourceFile, first: delimited.Record) -> list[str]:
    settings = source.settings
    if first.problem:
        raise SourceError(
            f"{file.path} line {first.line}: the first line cannot be read: {first.problem}; "
            "set 'delimiter', 'quote' or 'encoding' of the source"
        )
    if settings.columns is not None:
        if len(settings.columns) != len(first.fields):
            raise SourceError(
                f"{file.path} line {first.line} has {len(first.fields)} fields, but 'columns' "
                f"names {len(settings.columns)}; name one for each field, in the file's order"
            )
        return list(settings.columns)
    if not settings.header:
        return [f"column_{number}" for number in range(1, len(first.fields) + 1)]
    return _distinct([name.strip() for name in first.fields])


def _distinct(names: Sequence[str]) -> list[str]:
    """Names made unique: an empty one gets its position, a repeated one a number."""
    chosen: list[str] = []
    for position, name in enumerate(names, start=1):
        candidate = name or f"column_{position}"
        number = 2
        while candidate in chosen:
            candidate = f"{name}_{number}"
            number += 1
        chosen.append(candidate)
    return chosen


def _collect_text(
    file: SourceFile, names: Sequence[str], records: Iterable[delimited.Record], raw: RawRows
) -> None:
    schema = {FILE: pl.String, LINE: pl.Int64, **dict.fromkeys(names, pl.String)}
    good = _without_rejects(file, records, raw)
    while batch := list(itertools.islice(good, _BATCH_ROWS)):
        rows = [(file.name, record.line, *record.fields) for record in batch]
        raw.frames.append(pl.DataFrame(rows, schema=schema, orient="row"))


def _without_rejects(
    file: SourceFile, records: Iterable[delimited.Record], raw: RawRows
) -> Iterator[delimited.Record]:
    for record in records:
        if record.problem is None:
            yield record
        else:
            reason = "ragged_line" if "fields where" in record.problem else "unreadable_line"
            raw.rejects.append(_reject(file, record.line, reason, record.problem, record.text))


def _reject(file: SourceFile, line: int, reason: str, detail: str, text: str) -> Reject:
    printable = text.rstrip("\r\n").encode(errors="replace").decode()
    return Reject(file.name, line, reason, detail, printable)


def _read_lines(source: Source, file: SourceFile, raw: RawRows) -> None:
    with (
        source.open(file) as opened,
        delimited.open_text(opened, source.settings.encoding) as text,
    ):
        numbered = list(_valid_lines(file, text, raw))
    schema = {FILE: pl.String, LINE: pl.Int64, "url": pl.String}
    rows = [(file.name, number, line.strip()) for number, line in numbered]
    raw.frames.append(pl.DataFrame(rows, schema=schema, orient="row"))


def _valid_lines(file: SourceFile, text: Iterable[str], raw: RawRows) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers; those that are no text are rejected."""
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        if delimited.is_valid(line):
            yield number, line
        else:
            raw.rejects.append(
                _reject(file, number, "unreadable_line", delimited.INVALID_TEXT, line)
            )


def _read_json_lines(source: Source, file: SourceFile, raw: RawRows) -> None:
    parsed: list[tuple[int, Mapping[str, Any]]] = []
    with (
        source.open(file) as opened,
        delimited.open_text(opened, source.settings.encoding) as text,
    ):
        for number, line in _valid_lines(file, text, raw):
            try:
                document = json.loads(line)
                problem = None if isinstance(document, dict) else "not a JSON object"
            except ValueError as error:
                problem = f"not JSON: {error}"
            if problem is None:
                parsed.append((number, document))
            else:
                raw.rejects.append(_reject(file, number, "unreadable_line", problem, line))
    if parsed:
        raw.frames.append(_frame_of_objects(file, parsed))


def _frame_of_objects(
    file: SourceFile, parsed: Sequence[tuple[int, Mapping[str, Any]]]
) -> pl.DataFrame:
    names = list(dict.fromkeys(name for _, document in parsed for name in document))
    columns: dict[str, Any] = {
        FILE: [file.name] * len(parsed),
        LINE: [number for number, _ in parsed],
    }
    for name in names:
        columns[name] = _one_type([document.get(name) for _, document in parsed])
    return pl.DataFrame(columns, strict=False)


def _one_type(values: Sequence[Any]) -> Sequence[Any]:
    """JSON values as they are when all are of one scalar type, else as text."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1 and kinds <= {str, bool, int, float}:
        return values
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in values]
    return [
        value if value is None or isinstance(value, str) else json.dumps(value, sort_keys=True)
        for value in values
    ]


def _read_parquet(source: Source, file: SourceFile, raw: RawRows) -> None:
    with source.open(file) as opened:
        rows = pl.read_parquet(opened.read())
    raw.frames.append(
        rows.with_row_index(LINE, offset=1).select(
            pl.lit(file.name).alias(FILE), pl.col(LINE).cast(pl.Int64), pl.exclude(LINE)
        )
    )


_READERS = {
    "csv": _read_delimited,
    "tsv": _read_delimited,
    "lines": _read_lines,
    "jsonl": _read_json_lines,
    "parquet": _read_parquet,
}
