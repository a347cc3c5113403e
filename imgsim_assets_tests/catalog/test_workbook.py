"""Workbooks, as XlsxWriter writes them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import xlsxwriter

from imgsim_assets.errors import SourceError
from imgsim_assets_tests.support.sources import read_raw, read_values, validate

_ROWS: list[list[Any]] = [["Nr", "Bild"], [123, "http://h/1.jpg"], ["007", "http://h/2.jpg"]]


def write_workbook(
    path: Path, sheets: Mapping[str, Sequence[Sequence[Any]]], hidden: Sequence[str] = ()
) -> None:
    """Write a workbook whose hidden sheets are named."""
    book = xlsxwriter.Workbook(str(path))
    day = book.add_format({"num_format": "yyyy-mm-dd"})
    for name, rows in sheets.items():
        sheet = book.add_worksheet(name)
        for number, row in enumerate(rows):
            for column, value in enumerate(row):
                if isinstance(value, dt.date):
                    sheet.write_datetime(number, column, value, day)
                elif value is not None:
                    sheet.write(number, column, value)
        if name in hidden:
            sheet.hide()
    book.close()


def test_numbers_are_ids_without_decimals_and_zeros_are_kept(tmp_path: Path) -> None:
    rows = [*_ROWS, [dt.date(2026, 1, 2), "http://h/3.jpg"], [10**12 + 1, "http://h/4.jpg"]]
    write_workbook(tmp_path / "a.xlsx", {"Data": rows})

    result = validate(tmp_path, "a.xlsx")

    assert result.rows["id"].to_list() == ["007", "1000000000001", "123", "2026-01-02"]
    assert (result.id_column, result.url_columns) == ("Nr", ("Bild",))


def test_only_visible_sheet_with_rows_is_read(tmp_path: Path) -> None:
    sheets: dict[str, list[list[Any]]] = {"Data": _ROWS, "Notes": [["x"]], "Empty": []}
    write_workbook(tmp_path / "a.xlsx", sheets, hidden=["Notes"])

    assert read_raw(tmp_path, "a.xlsx").frame()["__line"].to_list() == [2, 3]
    assert read_raw(tmp_path, "a.xlsx", sheet="Notes").frames == []


def test_several_visible_sheets_are_a_question(tmp_path: Path) -> None:
    write_workbook(tmp_path / "a.xlsx", {"New": _ROWS, "Old": _ROWS})

    with pytest.raises(SourceError, match="'sheet:' to one of 'New', 'Old'"):
        read_raw(tmp_path, "a.xlsx")
    with pytest.raises(SourceError, match="has no sheet 'Older'; it has 'New', 'Old'"):
        read_raw(tmp_path, "a.xlsx", sheet="Older")
    assert read_values(tmp_path, "a.xlsx", sheet="Old").height == 2


def test_title_above_the_header_names_the_rows_to_skip(tmp_path: Path) -> None:
    write_workbook(tmp_path / "a.xlsx", {"Data": [["Export"], [], *_ROWS]})

    with pytest.raises(SourceError, match=r"begins in row 3 \(Nr, Bild\).*'skip_lines: 2'"):
        read_raw(tmp_path, "a.xlsx")
    assert read_values(tmp_path, "a.xlsx", skip_lines=2).columns == ["Nr", "Bild"]


def test_cells_beyond_the_header_reject_their_row(tmp_path: Path) -> None:
    write_workbook(tmp_path / "a.xlsx", {"Data": [*_ROWS, [5, "http://h/5.jpg", "note"]]})

    raw = read_raw(tmp_path, "a.xlsx")

    assert [(reject.line, reject.reason) for reject in raw.rejects] == [(4, "ragged_line")]


def test_file_that_is_no_workbook_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"id,url\n")

    with pytest.raises(SourceError, match=r"a\.xlsx cannot be read as a workbook"):
        read_raw(tmp_path, "a.xlsx")
