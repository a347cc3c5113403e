"""Sheets of workbooks (xlsx, xls, xlsb, ods) as records of text, by fastexcel."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import IO, Any

from imgsim_assets.catalog.delimited import Record
from imgsim_assets.catalog.locations import is_location
from imgsim_assets.catalog.raw_rows import RawRows
from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.catalog.table import FileName, append_records, column_names
from imgsim_assets.errors import SourceError

# A date without a time of day, as the reader writes it.
_MIDNIGHT = re.compile(r"(\d{4}-\d\d-\d\d) 00:00:00")
_MAX_PREAMBLE = 20


def read_workbook(settings: SourceSettings, file: FileName, stream: IO[bytes]) -> RawRows:
    """The rows of a sheet; a line is a row of the sheet, and numbers become text.

    Raises:
        SourceError: the reader is missing, the file is no workbook, or several sheets have rows.
    """
    try:
        import fastexcel
    except ImportError as error:
        raise SourceError(
            f"{file.path}: the reader of workbooks is missing; install imgsim_assets[xlsx], or "
            "save the list as csv"
        ) from error
    try:
        sheet = _choose_sheet(settings, file, fastexcel.read_excel(stream.read()))
    except fastexcel.FastExcelError as error:
        raise SourceError(f"{file.path} cannot be read as a workbook: {error}") from error
    raw = RawRows()
    rows = list(_records(sheet, settings.skip_lines))
    if not rows:
        return raw
    if settings.header and len(_trimmed(rows[0].fields)) == 1:
        _refuse_preamble(file, rows)
    first = rows[0]._replace(fields=_trimmed(rows[0].fields))
    width = len(first.fields) if settings.header else max(len(_trimmed(r.fields)) for r in rows)
    names = column_names(settings, file, first._replace(fields=_cells(first.fields, width)))
    records = (_fitted(row, width) for row in rows[int(settings.header) :])
    append_records(records, names, file, raw)
    return raw


def _choose_sheet(settings: SourceSettings, file: FileName, workbook: Any) -> Any:
    """The declared sheet, else the only visible one with rows."""
    names = workbook.sheet_names
    if settings.sheet is not None:
        if settings.sheet not in names:
            raise SourceError(
                f"{file.path} has no sheet {settings.sheet!r}; it has {_quoted(names)}"
            )
        return _load(workbook, settings.sheet)
    loaded = [_load(workbook, name) for name in names]
    sheets = [sheet for sheet in loaded if sheet.visible == "visible" and sheet.height]
    if len(sheets) > 1:
        found = _quoted([sheet.name for sheet in sheets])
        raise SourceError(f"{file.path}: which sheet is the list? Set 'sheet:' to one of {found}")
    return sheets[0] if sheets else loaded[0]


def _load(workbook: Any, name: str) -> Any:
    return workbook.load_sheet(name, header_row=None, dtypes="string")


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


def _records(sheet: Any, skip_lines: int) -> Iterator[Record]:
    """The rows of a sheet that are not blank."""
    for number, row in enumerate(sheet.to_polars().iter_rows(), 1):
        if number > skip_lines and any(row):
            yield Record(number, [_MIDNIGHT.sub(r"\1", cell or "") for cell in row])


def _trimmed(fields: Sequence[str]) -> list[str]:
    """The fields without the empty ones at the end."""
    count = len(fields)
    while count and not fields[count - 1].strip():
        count -= 1
    return list(fields[:count])


def _cells(fields: Sequence[str], width: int) -> list[str]:
    return [*fields[:width], *[""] * (width - len(fields))]


def _fitted(row: Record, width: int) -> Record:
    if any(row.fields[width:]):
        problem = f"{len(_trimmed(row.fields))} cells where the header has {width}"
        return row._replace(problem=problem, is_adjusted=True, text="\t".join(row.fields))
    return row._replace(fields=_cells(row.fields, width))


def _refuse_preamble(file: FileName, rows: Sequence[Record]) -> None:
    """Raise an error when the first row is a title above the header."""
    for row in itertools.islice(rows, 1, _MAX_PREAMBLE):
        cells = _trimmed(row.fields)
        if len(cells) > 1 and not any(map(is_location, cells)):
            raise SourceError(
                f"{file.path}: the table begins in row {row.line} ({', '.join(cells)[:100]}), "
                f"below other text ({''.join(rows[0].fields)[:60]}); set 'skip_lines: "
                f"{row.line - 1}'"
            )
