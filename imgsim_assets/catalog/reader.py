"""Reads a source's files into raw rows, one function per format."""

from __future__ import annotations

import codecs
import contextlib
import io
import itertools
import lzma
import posixpath
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TextIO

import polars as pl

from imgsim_assets.catalog.columns import as_text
from imgsim_assets.catalog.delimited_reader import read_delimited
from imgsim_assets.catalog.dialect import take_sample
from imgsim_assets.catalog.embedded import KeepImage, extract_images, sha256_of
from imgsim_assets.catalog.formats import format_of_content, format_of_name
from imgsim_assets.catalog.json_lines import object_columns, parse_array, parse_object
from imgsim_assets.catalog.locations import is_location
from imgsim_assets.catalog.raw_rows import FILE, LINE, RawRows, unique_names
from imgsim_assets.catalog.settings import Format, SourceSettings, without_secrets
from imgsim_assets.catalog.source import Source
from imgsim_assets.catalog.source_files import SourceFile
from imgsim_assets.catalog.table import FileName, reject, text_frame
from imgsim_assets.catalog.text import (
    INVALID_TEXT,
    buffered_reader,
    is_valid,
    legacy_encoding,
    open_text,
)
from imgsim_assets.catalog.workbook import read_workbook
from imgsim_assets.errors import SourceError

_HEAD_BYTES = 4096
_HEAD_LINES = 1000
_TEXT_FORMATS = ("csv", "tsv", "lines", "json", "jsonl")
_UTF8 = ("utf-8", "utf-8-sig", "ascii")
# The exceptions of broken compression, encodings and Parquet files.
_UNREADABLE = (
    OSError,
    EOFError,
    UnicodeError,
    zlib.error,
    lzma.LZMAError,
    pl.exceptions.PolarsError,
)


def read_source(source: Source, keep: KeepImage = sha256_of) -> RawRows:
    """Read every file of a source, or the rows of its query.

    Args:
        source: the source.
        keep: keeps the images that the list holds itself.

    Raises:
        SourceError: when a file cannot be read at all; the message names the file.
    """
    raw = RawRows()
    if source.settings.sql is not None:
        raw.extend(_typed_rows(source.query_rows, "sql", source.settings, keep))
    elif source.format == "images":
        _read_image_names(source, raw)
    else:
        for file in source.files:
            raw.extend(_read_file(source, file, keep))
    return raw


def read_column_names(source: Source) -> list[str] | None:
    """The columns of a source of one delimited or Parquet file, without reading all of it.

    Args:
        source: the source; a Parquet file must be local.

    Returns:
        The columns; None for other sources, and where the first lines do not tell them.
    """
    if len(source.files) != 1 or source.format not in ("csv", "tsv", "parquet"):
        return None
    (file,) = source.files
    reading = _FirstLines(source, file, sha256_of, source.format, source.settings.encoding)
    try:
        if source.format == "parquet":
            return unique_names(list(pl.read_parquet_schema(file.path)))
        raw = _read_table(reading)
    except (SourceError, *_UNREADABLE):
        return None  # a run finds another encoding, or says what is wrong
    names = [name for frame in raw.frames for name in frame.columns if name not in (FILE, LINE)]
    return names if names and all(map(is_valid, names)) else None


@dataclass(frozen=True)
class _Reading:
    """A file of a source, and how it is read."""

    source: Source
    file: SourceFile
    keep: KeepImage
    format: Format = "csv"
    encoding: str | None = None
    # Of the text that was opened, for the notice.
    encodings: list[str] = field(default_factory=list)

    @property
    def settings(self) -> SourceSettings:
        return self.source.settings

    @property
    def name(self) -> FileName:
        return FileName(without_secrets(self.file.path), self.file.label)

    @contextlib.contextmanager
    def open_text(self) -> Iterator[TextIO]:
        with (
            self.source.open(self.file) as opened,
            open_text(opened.stream, self.encoding) as text,
        ):
            self.encodings.append(text.encoding)
            yield text


class _FirstLines(_Reading):
    @contextlib.contextmanager
    def open_text(self) -> Iterator[TextIO]:
        with super().open_text() as text:
            yield io.StringIO("".join(itertools.islice(text, _HEAD_LINES)))


def _read_file(source: Source, file: SourceFile, keep: KeepImage) -> RawRows:
    reading = _Reading(source, file, keep, encoding=source.settings.encoding)
    try:
        reading = replace(reading, format=source.format or _detect_format(reading))
        if reading.format not in _TEXT_FORMATS:
            return _READERS[reading.format](reading)
        return _read_text(reading)
    except _UNREADABLE as error:
        message = f"{file.path} cannot be read as {reading.format}: {error}"
        raise SourceError(source.settings.masked(message)) from error


def _detect_format(reading: _Reading) -> Format:
    """The format of a file whose name does not tell it, or of the only one in an archive."""
    with reading.source.open(reading.file) as opened:
        by_name = format_of_name(opened.name)
        if by_name is not None:
            return by_name
        stream = buffered_reader(opened.stream)
        head = stream.peek(_HEAD_BYTES)
        with open_text(stream, reading.encoding) as text:
            return format_of_content(head, take_sample(text), reading.name.path)


def _read_text(reading: _Reading) -> RawRows:
    """Read text; a file that is not UTF-8 is read again in the encoding that it seems to have."""
    error: SourceError | None = None
    raw = RawRows()
    try:
        raw = _READERS[reading.format](reading)
    except SourceError as raised:
        error = raised
    is_broken = error is not None or any(each.detail == INVALID_TEXT for each in raw.rejects)
    detected = None
    if is_broken and reading.settings.encoding is None:
        with reading.source.open(reading.file) as opened:
            detected = legacy_encoding(opened.stream)
    if detected is not None:
        raw = _READERS[reading.format](replace(reading, encoding=detected))
    elif error is not None:
        raise error
    raw.notices += _encoding_notices(reading, detected)
    return raw


def _encoding_notices(reading: _Reading, detected: str | None) -> list[str]:
    label, declared = reading.name.label, reading.settings.encoding
    used = detected or next(iter(reading.encodings), "utf-8")
    if declared is not None and not _is_same(declared, used):
        return [f"{label}: its byte order mark of {used} overrules 'encoding: {declared}'"]
    if declared is None and used not in _UTF8:
        return [f"{label}: read as {used}; if letters are wrong, name another with 'encoding:'"]
    return []


def _is_same(declared: str, used: str) -> bool:
    """Whether an encoding is the declared one, with or without its byte order."""
    names = [codecs.lookup(name).name for name in (declared, used)]
    return names[0].startswith(names[1].removesuffix("-sig"))


def _read_image_names(source: Source, raw: RawRows) -> None:
    """A folder's images as rows: the path inside the folder is both id and url."""
    names = []
    raw.notices += source.notices
    for file in source.files:
        if is_valid(file.name):
            names.append(file.name)
        else:
            detail = "the file name is not valid text"
            raw.rejects.append(reject(file.label, 0, "bad_name", detail, file.name))
    columns: Mapping[str, Sequence[Any]] = {
        FILE: names,
        LINE: [0] * len(names),
        "id": names,
        "url": names,
        "name": [posixpath.splitext(posixpath.basename(name))[0] for name in names],
        "folder": [posixpath.dirname(name) for name in names],
    }
    raw.frames.append(text_frame(columns, list(columns)[2:]))


def _read_table(reading: _Reading) -> RawRows:
    settings = reading.settings
    delimiter = settings.delimiter or ("\t" if reading.format == "tsv" else None)
    return read_delimited(settings, reading.name, reading.open_text, delimiter)


def _read_lines(reading: _Reading) -> RawRows:
    raw = RawRows()
    comments = 0
    rows = []
    with reading.open_text() as text:
        for number, line in _valid_lines(reading, text, raw):
            if line.startswith("#") and not is_location(line.strip()):
                comments += 1
            else:
                rows.append((reading.file.label, number, line.strip()))
    if comments:
        raw.notices.append(f"{reading.file.label}: comments left out: {comments}")
    raw.frames.append(text_frame(rows, ["url"]))
    return raw


def _read_json_lines(reading: _Reading) -> RawRows:
    raw = RawRows()
    numbers: list[int] = []
    documents: list[Mapping[str, Any]] = []
    with reading.open_text() as text:
        for number, line in _valid_lines(reading, text, raw):
            try:
                documents.append(parse_object(line.lstrip("\ufeff")))
                numbers.append(number)
            except ValueError as error:
                raw.rejects.append(
                    reject(reading.file.label, number, "unreadable_line", str(error), line)
                )
    _append_objects(reading, raw, numbers, documents)
    return raw


def _read_json(reading: _Reading) -> RawRows:
    """The objects of a document; a line is the position of an object in its array."""
    raw = RawRows()
    with reading.open_text() as text:
        content = text.read().lstrip("\ufeff")
    if not is_valid(content):
        raise SourceError(f"{reading.name.path}: {INVALID_TEXT}; set 'encoding:'")
    if not content.strip():
        return raw
    try:
        rows = parse_array(content)
    except ValueError as error:
        raise SourceError(f"{reading.name.path} cannot be read as json: {error}") from error
    numbers = [number for number, row in enumerate(rows, 1) if isinstance(row, dict)]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raw.rejects.append(
                reject(reading.file.label, number, "unreadable_line", "not a JSON object", str(row))
            )
    _append_objects(reading, raw, numbers, [row for row in rows if isinstance(row, dict)])
    return raw


def _append_objects(
    reading: _Reading,
    raw: RawRows,
    numbers: Sequence[int],
    documents: Sequence[Mapping[str, Any]],
) -> None:
    if documents:
        columns = {
            FILE: [reading.file.label] * len(numbers),
            LINE: numbers,
            **object_columns(documents, _text_columns(reading.settings)),
        }
        raw.frames.append(pl.DataFrame(columns, strict=False))


def _read_parquet(reading: _Reading) -> RawRows:
    with reading.source.open(reading.file) as opened:
        rows = pl.read_parquet(opened.stream.read())
    return _typed_rows(rows, reading.file.label, reading.settings, reading.keep)


def _typed_rows(
    rows: pl.DataFrame, label: str, settings: SourceSettings, keep: KeepImage
) -> RawRows:
    """Rows that have types already, with their numbers; id and url columns become text."""
    rows = rows.rename(dict(zip(rows.columns, unique_names(rows.columns), strict=True)))
    rows, embedded = extract_images(rows, keep)
    text_columns = [name for name in rows.columns if name in _text_columns(settings)]
    frame = (
        rows.with_columns([as_text(rows[name]) for name in text_columns])
        .with_row_index(LINE, offset=1)
        .select(pl.lit(label).alias(FILE), pl.col(LINE).cast(pl.Int64), pl.exclude(LINE))
    )
    return RawRows([frame], embedded=embedded)


def _read_workbook(reading: _Reading) -> RawRows:
    with reading.source.open(reading.file) as opened:
        return read_workbook(reading.settings, reading.name, opened.stream)


_READERS: Mapping[str, Callable[[_Reading], RawRows]] = {
    "csv": _read_table,
    "tsv": _read_table,
    "lines": _read_lines,
    "json": _read_json,
    "jsonl": _read_json_lines,
    "xlsx": _read_workbook,
    "parquet": _read_parquet,
}


def _valid_lines(reading: _Reading, text: Iterable[str], raw: RawRows) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers; lines that are not valid text are rejected."""
    settings = reading.settings
    numbered = itertools.islice(enumerate(text, 1), settings.skip_lines, None)
    for number, line in numbered:
        if not line.strip() or (settings.comment and line.startswith(settings.comment)):
            continue
        if is_valid(line):
            yield number, line
        else:
            raw.rejects.append(
                reject(reading.file.label, number, "unreadable_line", INVALID_TEXT, line)
            )


def _text_columns(settings: SourceSettings) -> set[str | None]:
    """The columns that may be the id or the images, whose values are read as text."""
    return {"id", "url", settings.id, *settings.url_columns}
