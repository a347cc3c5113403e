"""Reads delimited text into rows: detects the dialect, and falls back to another one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TextIO

from imgsim_assets.catalog.delimited import Dialect, Record, Shape, records
from imgsim_assets.catalog.dialect import (
    declared_delimiter,
    detect_delimiter,
    find_preamble,
    fits_header,
    has_single_quotes,
    has_spaced_quotes,
    needs_escape,
    take_sample,
)
from imgsim_assets.catalog.formats import refuse_markup
from imgsim_assets.catalog.raw_rows import RawRows
from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.catalog.table import FileName, append_records, column_names
from imgsim_assets.errors import SourceError

OpenText = Callable[[], AbstractContextManager[TextIO]]


@dataclass(frozen=True)
class _Layout:
    """How a file is read: its dialect, and the lines before the table."""

    dialect: Dialect
    skip_lines: int


def read_delimited(
    settings: SourceSettings, file: FileName, open_text: OpenText, delimiter: str | None
) -> RawRows:
    """The rows of a file; its `delimiter` is detected if None.

    Backslashes that escape quotes may begin behind the sample: where lines are broken by quotes,
    the file is read again with escapes, and the reading with fewer rejects is taken.

    Raises:
        SourceError: the first line is not the header that it should be.
    """
    with open_text() as text:
        lines = itertools.islice(text, settings.skip_lines, None)
        sample = take_sample(lines)
        layout = _detect_layout(settings, file, sample, delimiter)
        raw = _read(settings, file, layout, itertools.chain(sample, lines))
    if settings.escape is None and layout.dialect.quote and _has_escaped_quotes(raw, layout):
        layout = replace(layout, dialect=replace(layout.dialect, escape="\\"))
        with open_text() as text:
            lines = itertools.islice(text, settings.skip_lines, None)
            escaped = _read(settings, file, layout, lines)
        if len(escaped.rejects) < len(raw.rejects):
            raw = escaped
        else:
            layout = replace(layout, dialect=replace(layout.dialect, escape=""))
    if layout.dialect.escape and settings.escape is None:
        raw.notices.append(
            f"{file.label}: backslashes are read as escapes ('escape: \"\"' reads them as text)"
        )
    return raw


def _has_escaped_quotes(raw: RawRows, layout: _Layout) -> bool:
    escaped = f"\\{layout.dialect.quote}"
    return not layout.dialect.escape and any(escaped in reject.text for reject in raw.rejects)


def _detect_layout(
    settings: SourceSettings, file: FileName, sample: Sequence[str], delimiter: str | None
) -> _Layout:
    skip_lines = settings.skip_lines
    table = [
        line for line in sample if settings.comment is None or not line.startswith(settings.comment)
    ]
    declared = declared_delimiter(table)
    if declared is not None:
        skip_lines += sample.index(table[0]) + 1
        table = table[1:]
    refuse_markup(table, file.path)
    quote = settings.quote
    delimiter = delimiter or declared or detect_delimiter(table, quote)
    if "quote" not in settings.model_fields_set and has_single_quotes(table, delimiter):
        quote = "'"
    dialect = Dialect(delimiter, quote, settings.escape or "")
    if has_spaced_quotes(table, dialect):
        dialect = replace(dialect, skips_space=True)
    if settings.escape is None and needs_escape(table, dialect):
        dialect = replace(dialect, escape="\\")
    if settings.header and declared is None:
        _refuse_preamble(settings, file, table, dialect)
    return _Layout(dialect, skip_lines)


def _refuse_preamble(
    settings: SourceSettings, file: FileName, sample: Sequence[str], dialect: Dialect
) -> None:
    """Raise an error when the first line is a title or a comment above the header."""
    if not sample or fits_header(sample, dialect):
        return
    preamble = find_preamble(sample, settings.quote)
    if preamble is None:
        return
    lines = settings.skip_lines + preamble.lines
    fix = f"'skip_lines: {lines}'"
    if preamble.comment is not None:
        fix += f", or 'comment: {preamble.comment}'"
    header = sample[preamble.lines].strip()[:100]
    raise SourceError(
        f"{file.path}: the table begins in line {lines + 1} ({header}), below other text "
        f"({sample[0].strip()[:60]}); set {fix}"
    )


def _read(
    settings: SourceSettings, file: FileName, layout: _Layout, lines: Iterator[str]
) -> RawRows:
    """Read the lines behind `skip_lines` of the settings."""
    raw = RawRows()
    skip = layout.skip_lines - settings.skip_lines  # the line that declares the delimiter
    lines = itertools.islice(lines, skip, None)
    head = take_sample(lines)
    first_line = layout.skip_lines + 1

    def parse(lines: Iterator[str], shape: Shape | None = None) -> Iterator[Record]:
        return records(
            lines, layout.dialect, shape, comment=settings.comment, first_line=first_line
        )

    first = _first_record(settings, file, parse(iter(head)))
    if first is None:
        return raw
    names = column_names(settings, file, first)
    rows = parse(itertools.chain(head, lines), Shape(len(names), settings.ragged))
    if settings.header:
        rows = itertools.dropwhile(lambda record: record.line <= first.line, rows)
    append_records(rows, names, file, raw)
    return raw


def _first_record(
    settings: SourceSettings, file: FileName, parsed: Iterator[Record]
) -> Record | None:
    """The record that determines the columns: the header, else the first valid record."""
    broken = None
    for record in parsed:
        if record.problem is None:
            return record
        broken = broken or record
        if settings.header:
            break
    if broken is not None:
        raise SourceError(
            f"{file.path} line {broken.line}: the first line cannot be read: {broken.problem}; "
            "set 'delimiter:', 'quote:' or 'encoding:'"
        )
    return None
