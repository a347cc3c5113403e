"""Reads a source's files into raw rows, one function per format."""

from __future__ import annotations

import contextlib
import itertools
import lzma
import posixpath
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO

import polars as pl

from imgsim_assets.catalog import delimited
from imgsim_assets.catalog.json_lines import object_columns, parse_object
from imgsim_assets.catalog.raw_rows import FILE, LINE, RawRows, Reject, unique_names
from imgsim_assets.catalog.source import Source
from imgsim_assets.catalog.source_files import SourceFile
from imgsim_assets.errors import SourceError

_BATCH_ROWS = 50_000
# The exceptions of broken compression, encodings and Parquet files.
_UNREADABLE = (
    OSError,
    EOFError,
    UnicodeError,
    zlib.error,
    lzma.LZMAError,
    pl.exceptions.PolarsError,
)


def read_source(source: Source) -> RawRows:
    """Read every file of a source.

    Raises:
        SourceError: when a file cannot be read at all; the message names the file.
    """
    raw = RawRows()
    if source.format == "images":
        _read_image_names(source, raw)
        return raw
    for file in source.files:
        try:
            _READERS[source.format](source, file, raw)
        except _UNREADABLE as error:
            raise SourceError(f"{file.path} cannot be read as {source.format}: {error}") from error
    return raw


def _read_image_names(source: Source, raw: RawRows) -> None:
    """A folder's images as rows: the path inside the folder is both id and url."""
    names = []
    for file in source.files:
        if delimited.is_valid(file.name):
            names.append(file.name)
        else:
            detail = "the file name is not valid text"
            raw.rejects.append(_reject(file, 0, "bad_name", detail, file.name))
    columns: Mapping[str, Sequence[Any]] = {
        FILE: names,
        LINE: [0] * len(names),
        "id": names,
        "url": names,
        "name": [posixpath.splitext(posixpath.basename(name))[0] for name in names],
        "folder": [posixpath.dirname(name) for name in names],
    }
    raw.frames.append(_text_frame(columns, list(columns)[2:]))


def _read_delimited(source: Source, file: SourceFile, raw: RawRows) -> None:
    settings = source.settings
    with _open_text(source, file) as text:
        sample = delimited.take_sample(text)
        if source.format == "tsv" and settings.delimiter is None:
            delimiter = "\t"
        else:
            delimiter = settings.delimiter or delimited.detect_delimiter(sample, settings.quote)
        dialect = delimited.Dialect(delimiter, settings.quote)
        first = _first_record(source, file, sample, dialect)
        if first is None:
            return
        names = _column_names(source, file, first)
        records = delimited.records(itertools.chain(sample, text), dialect, width=len(names))
        if settings.header:
            records = itertools.dropwhile(lambda record: record.line <= first.line, records)
        valid_records = _reject_broken_records(file, records, raw)
        while batch := list(itertools.islice(valid_records, _BATCH_ROWS)):
            rows = [(file.label, record.line, *record.fields) for record in batch]
            raw.frames.append(_text_frame(rows, names))


def _first_record(
    source: Source, file: SourceFile, sample: Sequence[str], dialect: delimited.Dialect
) -> delimited.Record | None:
    """The record that determines the columns: the header, else the first valid record."""
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
    return unique_names([name.strip() for name in first.fields])


def _reject_broken_records(
    file: SourceFile, records: Iterable[delimited.Record], raw: RawRows
) -> Iterator[delimited.Record]:
    for record in records:
        if record.problem is None:
            yield record
        else:
            reason = "ragged_line" if "fields where" in record.problem else "unreadable_line"
            raw.rejects.append(_reject(file, record.line, reason, record.problem, record.text))


def _read_lines(source: Source, file: SourceFile, raw: RawRows) -> None:
    with _open_text(source, file) as text:
        rows = [
            (file.label, number, line.strip()) for number, line in _valid_lines(file, text, raw)
        ]
    raw.frames.append(_text_frame(rows, ["url"]))


def _read_json_lines(source: Source, file: SourceFile, raw: RawRows) -> None:
    numbers: list[int] = []
    documents: list[Mapping[str, Any]] = []
    with _open_text(source, file) as text:
        for number, line in _valid_lines(file, text, raw):
            try:
                documents.append(parse_object(line))
                numbers.append(number)
            except ValueError as error:
                raw.rejects.append(_reject(file, number, "unreadable_line", str(error), line))
    if documents:
        columns = {
            FILE: [file.label] * len(numbers),
            LINE: numbers,
            **object_columns(documents, _text_columns(source)),
        }
        raw.frames.append(pl.DataFrame(columns, strict=False))


def _read_parquet(source: Source, file: SourceFile, raw: RawRows) -> None:
    with source.open(file) as opened:
        rows = pl.read_parquet(opened.read())
    rows = rows.rename(dict(zip(rows.columns, unique_names(rows.columns), strict=True)))
    text_columns = [name for name in rows.columns if name in _text_columns(source)]
    raw.frames.append(
        rows.with_columns([_as_text(file, rows[name]) for name in text_columns])
        .with_row_index(LINE, offset=1)
        .select(pl.lit(file.label).alias(FILE), pl.col(LINE).cast(pl.Int64), pl.exclude(LINE))
    )


def _as_text(file: SourceFile, values: pl.Series) -> pl.Series:
    """An id or url column as text; integers that are stored as floats lose the decimal point."""
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


@contextlib.contextmanager
def _open_text(source: Source, file: SourceFile) -> Iterator[TextIO]:
    encoding = source.settings.encoding
    with source.open(file) as opened, delimited.open_text(opened, encoding) as text:
        yield text


def _valid_lines(file: SourceFile, text: Iterable[str], raw: RawRows) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers; lines that are not valid text are rejected."""
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        if delimited.is_valid(line):
            yield number, line
        else:
            reject = _reject(file, number, "unreadable_line", delimited.INVALID_TEXT, line)
            raw.rejects.append(reject)


def _reject(file: SourceFile, line: int, reason: str, detail: str, text: str) -> Reject:
    printable = text.rstrip("\r\n").encode(errors="replace").decode()
    return Reject(file.label, line, reason, detail, printable)


def _text_frame(rows: Any, names: Sequence[str]) -> pl.DataFrame:
    """Rows of file, line and text columns as a frame."""
    schema = {FILE: pl.String, LINE: pl.Int64, **dict.fromkeys(names, pl.String)}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _text_columns(source: Source) -> set[str | None]:
    """The columns that may be the id or the url, whose values are read as text."""
    return {"id", "url", source.settings.id, source.settings.url}
