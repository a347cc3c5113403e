"""Reading a source into rows of text and values, with the place each row came from."""

from __future__ import annotations

import itertools
import json
import lzma
import posixpath
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from imgsim_assets.catalog import delimited
from imgsim_assets.catalog.source import Source, SourceFile
from imgsim_assets.errors import SourceError

# Where a row came from; never columns of a catalog.
FILE = "__file"
LINE = "__line"
# Why a row does not count, found later.
REASON = "__reason"
DETAIL = "__detail"
_BATCH_ROWS = 50_000
# What broken compression, encodings and Parquet files raise.
_UNREADABLE = (
    OSError,
    EOFError,
    UnicodeError,
    zlib.error,
    lzma.LZMAError,
    pl.exceptions.PolarsError,
)
_GREATEST_INT = 2**63 - 1


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
        """All rows; a column that only some files have is null elsewhere.

        Raises SourceError when a column's types in different files have nothing in common.
        """
        if not self.frames:
            return pl.DataFrame()
        try:
            return pl.concat(self.frames, how="diagonal_relaxed")
        except pl.exceptions.PolarsError as error:
            raise SourceError(
                "the files of the source cannot be put together: column "
                f"{self._without_a_common_type()!r}: {error}; give it the same type in all of them"
            ) from error

    def _without_a_common_type(self) -> str:
        """The first column whose types in different files have nothing in common."""
        for name in dict.fromkeys(itertools.chain(*(frame.columns for frame in self.frames))):
            own = [frame.select(name) for frame in self.frames if name in frame.columns]
            try:
                pl.concat(own, how="vertical_relaxed")
            except pl.exceptions.PolarsError:
                return name
        raise AssertionError("every column of the files can be put together")


def read_source(source: Source) -> RawRows:
    """Read every file of a source.

    Raises SourceError, naming the file, when a file as a whole cannot be read.
    """
    raw = RawRows()
    if source.format == "images":
        raw.frames.append(_listing(source, raw))
        return raw
    for file in source.files:
        try:
            _READERS[source.format](source, file, raw)
        except SourceError:
            raise
        except _UNREADABLE as error:
            raise SourceError(f"{file.path} cannot be read as {source.format}: {error}") from error
    return raw


def _listing(source: Source, raw: RawRows) -> pl.DataFrame:
    """A folder's images: the path inside the folder is both id and image."""
    names = []
    for file in source.files:
        if delimited.is_valid(file.name):
            names.append(file.name)
        else:
            raw.rejects.append(_reject(file, 0, "bad_name", "the name is no valid text", file.name))
    return pl.DataFrame(
        {
            FILE: names,
            LINE: [0] * len(names),
            "id": names,
            "url": names,
            "name": [posixpath.splitext(posixpath.basename(name))[0] for name in names],
            "folder": [posixpath.dirname(name) for name in names],
        },
        schema=dict.fromkeys((FILE, LINE, "id", "url", "name", "folder"), pl.String)
        | {LINE: pl.Int64},
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
        first = _first_record(source, file, sample, dialect)
        if first is None:
            return
        names = _column_names(source, file, first)
        records = delimited.records(itertools.chain(sample, text), dialect, width=len(names))
        if settings.header:
            records = itertools.dropwhile(lambda record: record.line <= first.line, records)
        _collect_text(file, names, records, raw)


def _first_record(
    source: Source, file: SourceFile, sample: Sequence[str], dialect: delimited.Dialect
) -> delimited.Record | None:
    """The record that tells the columns: the header, else the first that can be read."""
    broken = None
    for record in delimited.records(iter(sample), dialect):
        if record.problem is None:
            return record
        broken = broken or record
        if source.settings.header:
            break
    if broken is not None:
        raise SourceError(
            f"{file.path} line {broken.line}: the first line cannot be read: {broken.problem}; "
            "set 'delimiter', 'quote' or 'encoding' of the source"
        )
    return None


def _column_names(source: Source, file: SourceFile, first: delimited.Record) -> list[str]:
    settings = source.settings
    if settings.columns is not None:
        if len(settings.columns) != len(first.fields):
            raise SourceError(
                f"{file.path} line {first.line} has {len(first.fields)} fields, but 'columns' "
                f"names {len(settings.columns)}; name one for each field, in the file's order"
            )
        return list(settings.columns)
    if not settings.header:
        return [f"column_{number}" for number in range(1, len(first.fields) + 1)]
    if any("://" in name for name in first.fields):
        raise SourceError(
            f"{file.path} line {first.line} is read as the header, but holds a URL: "
            f"{', '.join(first.fields)[:200]}; add 'header: false' to the source"
        )
    return _distinct([name.strip() for name in first.fields])


def _distinct(names: Sequence[str]) -> list[str]:
    """Names made unique: an empty one gets its position, a repeated one a number."""
    chosen: list[str] = []
    for position, name in enumerate(names, start=1):
        candidate = name or f"column_{position}"
        number = 2
        while candidate in (*chosen, FILE, LINE, REASON, DETAIL):
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
        rows = [(file.label, record.line, *record.fields) for record in batch]
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
    return Reject(file.label, line, reason, detail, printable)


def _read_lines(source: Source, file: SourceFile, raw: RawRows) -> None:
    with (
        source.open(file) as opened,
        delimited.open_text(opened, source.settings.encoding) as text,
    ):
        numbered = list(_valid_lines(file, text, raw))
    schema = {FILE: pl.String, LINE: pl.Int64, "url": pl.String}
    rows = [(file.label, number, line.strip()) for number, line in numbered]
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
            document, problem = _parsed(line)
            if document is not None:
                parsed.append((number, document))
            else:
                raw.rejects.append(_reject(file, number, "unreadable_line", problem, line))
    if parsed:
        raw.frames.append(_frame_of_objects(source, file, parsed))


def _parsed(line: str) -> tuple[Mapping[str, Any] | None, str]:
    """A line's JSON object, or None and why there is none."""
    try:
        document = json.loads(line)
        if "\\u" in line:
            # An escape may stand for half a character, which no text can hold.
            json.dumps(document, ensure_ascii=False).encode()
    except UnicodeError:
        return None, "an escape that stands for no character"
    except (ValueError, RecursionError) as error:
        return None, f"not JSON: {error}"
    if not isinstance(document, dict):
        return None, "not a JSON object"
    return document, ""


def _frame_of_objects(
    source: Source, file: SourceFile, parsed: Sequence[tuple[int, Mapping[str, Any]]]
) -> pl.DataFrame:
    names = list(dict.fromkeys(name for _, document in parsed for name in document))
    columns: dict[str, Any] = {
        FILE: [file.label] * len(parsed),
        LINE: [number for number, _ in parsed],
    }
    for name, column in zip(names, _distinct(names), strict=True):
        values = [document.get(name) for _, document in parsed]
        columns[column] = (
            [_text(value) for value in values] if _is_key(source, name) else _one_type(values)
        )
    return pl.DataFrame(columns, strict=False)


def _is_key(source: Source, name: str) -> bool:
    """Whether a column may be the id or the image, whose values count as text."""
    settings = source.settings
    return name in ("id", "url", settings.id, settings.url)


def _text(value: Any) -> str | None:
    """A JSON value as text, whatever the other values of its column are."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, sort_keys=True)


def _one_type(values: Sequence[Any]) -> Sequence[Any]:
    """JSON values as they are when all are of one scalar type, else as text."""
    kinds = {type(value) for value in values if value is not None}
    small = all(abs(value) <= _GREATEST_INT for value in values if type(value) is int)
    if len(kinds) <= 1 and kinds <= {str, bool, int, float} and small:
        return values
    if kinds == {int, float} and small:
        return [None if value is None else float(value) for value in values]
    return [
        value if value is None or isinstance(value, str) else json.dumps(value, sort_keys=True)
        for value in values
    ]


def _read_parquet(source: Source, file: SourceFile, raw: RawRows) -> None:
    with source.open(file) as opened:
        rows = pl.read_parquet(opened.read())
    rows = rows.rename(dict(zip(rows.columns, _distinct(rows.columns), strict=True)))
    texts = [_key_as_text(file, rows[name]) for name in rows.columns if _is_key(source, name)]
    raw.frames.append(
        rows.with_columns(texts)
        .with_row_index(LINE, offset=1)
        .select(pl.lit(file.label).alias(FILE), pl.col(LINE).cast(pl.Int64), pl.exclude(LINE))
    )


def _key_as_text(file: SourceFile, values: pl.Series) -> pl.Series:
    """An id or image column as text; whole numbers that are stored as floats lose the point."""
    if values.dtype.is_nested() or values.dtype == pl.Binary:
        raise SourceError(
            f"{file.path}: column {values.name!r} holds {values.dtype}, which is neither an id "
            "nor a URL; choose another column with 'id:' and 'url:'"
        )
    if values.dtype.is_float() and values.is_finite().all() and (values == values.floor()).all():
        values = values.cast(pl.Int64)
    return values.cast(pl.String)


_READERS = {
    "csv": _read_delimited,
    "tsv": _read_delimited,
    "lines": _read_lines,
    "jsonl": _read_json_lines,
    "parquet": _read_parquet,
}
