"""Lists as spreadsheets, databases and scripts write them."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from imgsim_assets.errors import SourceError
from imgsim_assets_tests.support.sources import read_raw, read_values, validate, write

_ROWS = [{"sku": f"a{n}", "title": f"Schön {n}", "image": f"http://h/{n}.jpg"} for n in range(3)]


def table(delimiter: str = ";") -> str:
    """A list with the columns sku, title and image."""
    lines = [list(_ROWS[0]), *(list(row.values()) for row in _ROWS)]
    return "".join(delimiter.join(line) + "\n" for line in lines)


@pytest.mark.parametrize("first", ["sep=|", '"sep=|"', "SEP=|\r", "\ufeffsep=|", "sep=|||"])
def test_first_line_of_excel_declares_the_delimiter(tmp_path: Path, first: str) -> None:
    write(tmp_path, "a.csv", f"{first}\n{table('|')}")

    raw = read_raw(tmp_path, "a.csv").frame()

    assert raw.select("sku", "title", "image").to_dicts() == _ROWS
    assert raw["__line"].to_list() == [3, 4, 5]


@pytest.mark.parametrize("first", ["sep=\t", "sep=\\t"])
def test_first_line_of_excel_may_declare_a_tab(tmp_path: Path, first: str) -> None:
    write(tmp_path, "a.csv", f"{first}\n{table(chr(9))}")

    assert read_values(tmp_path, "a.csv").to_dicts() == _ROWS


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_delimited_text_may_be_named_txt(tmp_path: Path, end: str) -> None:
    write(tmp_path, "feed.txt", table("\t").replace("\n", end))

    assert read_values(tmp_path, "feed.txt").to_dicts() == _ROWS


def test_header_above_urls_of_a_text_file_is_no_image(tmp_path: Path) -> None:
    write(tmp_path, "urls.txt", "image\nhttp://h/w_1,h_2/a.jpg\nhttp://h/w_1,h_2/b.jpg\n")

    assert read_values(tmp_path, "urls.txt").to_dict(as_series=False) == {
        "image": ["http://h/w_1,h_2/a.jpg", "http://h/w_1,h_2/b.jpg"]
    }


def test_comments_of_a_plain_list_are_left_out_with_a_notice(tmp_path: Path) -> None:
    write(tmp_path, "urls.txt", "# my images\nhttp://h/a.jpg\n#1.jpg\n")

    raw = read_raw(tmp_path, "urls.txt")

    assert raw.frame()["url"].to_list() == ["http://h/a.jpg", "#1.jpg"]
    assert raw.notices == ["urls.txt: comments left out: 1"]


# ---- quotes and escapes -------------------------------------------------------------------


def test_backslash_escapes_of_quotes_are_detected_with_a_notice(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", '"id","title","url"\n"1","a \\"big\\" shoe","u"\n"2","x","v"\n')

    raw = read_raw(tmp_path, "a.csv")

    assert raw.frame()["title"].to_list() == ['a "big" shoe', "x"]
    assert "'escape: \"\"' reads them as text" in raw.notices[0]


def test_backslash_escapes_below_the_sample_are_detected(tmp_path: Path) -> None:
    rows = "".join(f'"{n}","plain","u{n}"\n' for n in range(200))
    write(tmp_path, "a.csv", f'"id","title","url"\n{rows}"x","5\\" heel","u"\n')

    raw = read_raw(tmp_path, "a.csv")

    assert raw.rejects == []
    assert raw.frame()["title"][-1] == '5" heel'


def test_backslashes_without_escaped_quotes_are_text(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", 'id,url\n1,"C:\\new\\a.jpg"\n')

    assert read_values(tmp_path, "a.csv")["url"].to_list() == ["C:\\new\\a.jpg"]


def test_declared_escape_is_used(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", 'id,url\n1,"a~"b"\n')

    assert read_values(tmp_path, "a.csv", escape="~")["url"].to_list() == ['a"b']


def test_nulls_of_database_exports_are_empty(tmp_path: Path) -> None:
    write(tmp_path, "a.tsv", "id\turl\ttitle\n1\tu1\t\\N\n2\t\\N\tx\n")

    assert read_values(tmp_path, "a.tsv").rows() == [("1", "u1", ""), ("2", "", "x")]


def test_single_quotes_around_every_name_are_quotes(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "'id','url'\n'1','a, b.jpg'\n")

    assert read_values(tmp_path, "a.csv").to_dicts() == [{"id": "1", "url": "a, b.jpg"}]


def test_blanks_before_quotes_are_no_part_of_the_field(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", '"id", "url"\n"1", "a, b.jpg"\n')

    assert read_values(tmp_path, "a.csv").to_dicts() == [{"id": "1", "url": "a, b.jpg"}]


# ---- too few and too many fields ----------------------------------------------------------


def test_empty_fields_at_the_end_are_cut_with_a_notice(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id,url\n1,u1,\n2,u2,,\n3,u3\n")

    raw = read_raw(tmp_path, "a.csv")

    assert raw.frame()["url"].to_list() == ["u1", "u2", "u3"]
    assert "2, the first is line 2" in raw.notices[0]


def test_missing_fields_at_the_end_are_empty_with_a_notice(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id,url,size,color\n1,u1,M,red\n2,u2\n")

    raw = read_raw(tmp_path, "a.csv")

    assert raw.frame().row(1)[2:] == ("2", "u2", "", "")
    assert "1, the first is line 3" in raw.notices[0]


def test_extra_fields_are_never_lost(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id,url\n1,http://h/w_1,h_2/a.jpg\n2,u2\n")

    rejected = read_raw(tmp_path, "a.csv")
    padded = read_values(tmp_path, "a.csv", ragged="pad")

    (reject,) = rejected.rejects
    assert (reject.line, reject.reason) == (2, "ragged_line")
    assert "contains the delimiter ',', it must be in quotes" in reject.detail
    assert padded.to_dicts() == [
        {"id": "1", "url": "http://h/w_1", "column_3": "h_2/a.jpg"},
        {"id": "2", "url": "u2", "column_3": ""},
    ]


def test_every_ragged_line_can_be_rejected(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id,url\n1,u1,\n2\n3,u3\n")

    raw = read_raw(tmp_path, "a.csv", ragged="reject")

    assert [reject.line for reject in raw.rejects] == [2, 3]
    assert raw.frame()["id"].to_list() == ["3"]


# ---- text above the table -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("above", "fix"),
    [
        ("Export\nCreated: today\n\n", "'skip_lines: 3'"),
        ("Shop;2026\nStock;1\n", "'skip_lines: 2'"),
        ("# a;b\n# c\n", "'skip_lines: 2', or 'comment: #'"),
        ("-- generated\n", "'skip_lines: 1', or 'comment: --'"),
    ],
)
def test_text_above_the_header_is_an_error_that_names_the_fix(
    tmp_path: Path, above: str, fix: str
) -> None:
    write(tmp_path, "a.csv", above + table())

    with pytest.raises(SourceError) as raised:
        read_raw(tmp_path, "a.csv")

    assert f"{fix}" in str(raised.value)
    assert "(sku;title;image)" in str(raised.value)


def test_skipped_lines_are_counted(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "Export\n\n" + table())

    frame = read_raw(tmp_path, "a.csv", skip_lines=2).frame()

    assert frame.drop("__file", "__line").to_dicts() == _ROWS
    assert frame["__line"].to_list() == [4, 5, 6]


def test_comments_are_skipped_anywhere_between_records(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", '// top\nid,url,note\n1,u1,"x\n// kept"\n// between\n2,u2,y\n')

    frame = read_raw(tmp_path, "a.csv", comment="//").frame()

    assert frame.select("__line", "id", "note").rows() == [(3, "1", "x\n// kept"), (6, "2", "y")]


@pytest.mark.parametrize("name", ["feed.csv", "feed", "feed.txt"])
def test_page_in_place_of_a_list_is_named(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, "\n<!DOCTYPE html>\n<html><body>Please log in</body></html>\n")

    with pytest.raises(SourceError, match="is an HTML page, not a list"):
        read_raw(tmp_path, name)


def test_header_that_a_joined_file_repeats_is_rejected(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id,url\n1,u1\nid,url\n2,u2\n")

    result = validate(tmp_path, "a.csv")

    assert result.rows["id"].to_list() == ["1", "2"]
    assert result.rejects.select("line", "reason").rows() == [(3, "repeated_header")]


# ---- invisible characters -----------------------------------------------------------------


def test_invisible_characters_around_cells_are_removed(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "\ufeffid,\u200burl\n\u200b1\u200d,\ufeff u1 \u200b\n")
    write(tmp_path, "b.txt", "\ufeffhttp://h/1.jpg\n\ufeffhttp://h/2.jpg\n")
    write(tmp_path, "c.csv", '"id","url"\n\ufeff"1","a, b"\n')

    assert validate(tmp_path, "a.csv").rows.to_dicts() == [{"id": "1", "url": "u1"}]
    assert validate(tmp_path, "b.txt").rows["url"].to_list() == ["http://h/1.jpg", "http://h/2.jpg"]
    assert validate(tmp_path, "c.csv").rows.to_dicts() == [{"id": "1", "url": "a, b"}]


def test_rows_of_a_plain_list_are_the_same_with_every_reading(tmp_path: Path) -> None:
    frames = []
    for name, delimiter in (("a.csv", ","), ("b.csv", ";"), ("c.tsv", "\t"), ("d.txt", "|")):
        write(tmp_path, name, table(delimiter))
        frames.append(validate(tmp_path, name).rows)

    assert all(frame.equals(frames[0]) for frame in frames)
    assert isinstance(frames[0], pl.DataFrame)
