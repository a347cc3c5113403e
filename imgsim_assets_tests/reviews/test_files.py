from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from imgsim_assets.errors import SourceError
from imgsim_assets.reviews.files import ROW, read_verdicts
from imgsim_assets.reviews.table import SCHEMA


def _read(tmp_path: Path, text: str, name: str = "verdicts.csv") -> pl.DataFrame:
    path = tmp_path / name
    path.write_text(text)
    return read_verdicts(path, reviewer="ann")


def test_three_columns_are_enough(tmp_path: Path) -> None:
    rows = _read(tmp_path, "left_id,right_id,verdict\n 1 ,007,Different\n")

    assert rows.columns == [ROW, *SCHEMA]
    assert rows.row(0) == (
        *(1, "1", "007", None, None, "different", "ann", None, None),
        "verdicts.csv",
    )


def test_an_export_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = _read(tmp_path, "left_id,right_id,verdict,reviewer,note\na,b,match,bob,same shoe\n")
    rows.write_parquet(tmp_path / "out.parquet")
    rows.write_csv(tmp_path / "out.csv")

    for name in ("out.parquet", "out.csv"):
        found = read_verdicts(tmp_path / name)
        assert found["source"].to_list() == [name]
        assert found.drop("source").equals(rows.drop("source"))


@pytest.mark.parametrize(
    ("text", "utc_hour"),
    [("2026-01-02T10:00:00Z", 10), ("2026-01-02 10:00", 10), ("2026-01-02T10:00:00+02:00", 8)],
)
def test_times_are_utc_unless_they_name_a_zone(tmp_path: Path, text: str, utc_hour: int) -> None:
    rows = _read(tmp_path, f"left_id,right_id,verdict,decided_at\na,b,match,{text}\n")

    assert rows["decided_at"].item().hour == utc_hour


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("left_id,verdict\na,match\n", "has no column right_id; it has left_id, verdict"),
        (
            "left_id,right_id,verdict\na,b,match\na,c,yes\n",
            r"verdict is not one of .* in row 2 \('yes'\)",
        ),
        (
            "left_id,right_id,verdict\na,b,match\na,c,match\na,b,different\n",
            "rows 1 and 3 contradict each other",
        ),
        ("left_id,right_id,verdict\n,b,match\n", "left_id is empty in row 1"),
        (
            "left_id,right_id,verdict,left_sha256\na,b,match,12\n",
            r"left_sha256 .* in row 1 \('12'\)",
        ),
        ("left_id,right_id,verdict,decided_at\na,b,match,soon\n", "row 1: decided_at 'soon'"),
        ("left_id,right_id,verdict,decided_at\na,b,match,2026\n", "row 1: decided_at '2026'"),
        ("", "cannot be read"),
    ],
)
def test_what_is_no_decision_is_one_message(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SourceError, match=message) as error:
        _read(tmp_path, text)

    assert str(tmp_path / "verdicts.csv") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named_with_the_line_of_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.csv"

    with pytest.raises(SourceError) as error:
        read_verdicts(path)

    line = "left_id,right_id,verdict"
    assert (
        str(error.value)
        == f"there is no file '{path}'; without decisions yet, write the line {line}"
    )
    path.write_text(line + "\n")
    assert not read_verdicts(path).height


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"is not one of .csv, .tsv, .parquet"):
        _read(tmp_path, "", "verdicts.xlsx")


def test_rows_that_nobody_has_judged_yet_are_passed_over(tmp_path: Path) -> None:
    rows = _read(tmp_path, "left_id,right_id,verdict\na,b,\na,c,match\n")

    assert rows.select(ROW, "right_id").rows() == [(2, "c")]


def test_the_delimiter_of_a_spreadsheet_is_recognized(tmp_path: Path) -> None:
    rows = _read(tmp_path, "left_id;right_id;verdict;note\na;b;match;one, two\n")

    assert rows["note"].to_list() == ["one, two"]
