from __future__ import annotations

import bz2
import csv
import datetime as dt
import gzip
import io
import lzma
import tempfile
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.catalog.raw_rows import FILE, LINE
from imgsim_assets.errors import SourceError
from imgsim_assets_tests.support.sources import ids_or_error, read_raw, read_values, validate, write

# ---- delimited text ----------------------------------------------------------------------


def test_rows_have_file_and_line(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", 'id,url,note\n1,u1,"two\nlines"\n\n2,u2,x\n')

    frame = read_raw(tmp_path, "a.csv").frame()

    assert frame.select(FILE, LINE, "id", "url", "note").rows() == [
        ("a.csv", 2, "1", "u1", "two\nlines"),
        ("a.csv", 5, "2", "u2", "x"),
    ]


def test_values_of_text_files_are_unchanged(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id,price,empty,spaced\n007,1.50,, x \n")

    assert read_values(tmp_path, "a.csv").rows() == [("007", "1.50", "", " x ")]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_default_delimiter_is_detected(tmp_path: Path, delimiter: str) -> None:
    write(tmp_path, "a.csv", f"id{delimiter}url\n1{delimiter}http://x/1.jpg\n")

    assert read_values(tmp_path, "a.csv").to_dicts() == [{"id": "1", "url": "http://x/1.jpg"}]


@pytest.mark.parametrize("delimiter", ["\\t", "\t"])
def test_tab_can_be_declared_in_two_ways(tmp_path: Path, delimiter: str) -> None:
    write(tmp_path, "a.csv", "id\turl\n1\ta,b\n")

    assert read_values(tmp_path, "a.csv", delimiter=delimiter).rows() == [("1", "a,b")]


@pytest.mark.parametrize("delimiter", [":", "^", "~", "\x01", "é"])
def test_any_single_character_can_be_the_delimiter(tmp_path: Path, delimiter: str) -> None:
    write(tmp_path, "a.csv", f"id{delimiter}url\n1{delimiter}a,b\n")

    assert read_values(tmp_path, "a.csv", delimiter=delimiter).rows() == [("1", "a,b")]


def test_tsv_is_split_only_at_tabs(tmp_path: Path) -> None:
    write(tmp_path, "a.tsv", "id,old\turl,new\n1,2\ta,b\n")

    assert read_values(tmp_path, "a.tsv").rows() == [("1,2", "a,b")]
    assert read_values(tmp_path, "a.tsv", delimiter=",").columns == ["id", "old\turl", "new"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_mark_is_not_part_of_a_quoted_header(tmp_path: Path, encoding: str) -> None:
    write(tmp_path, "a.csv", '"id","url"\r\n"1","u1"\r\n'.encode(encoding))

    assert read_values(tmp_path, "a.csv").to_dicts() == [{"id": "1", "url": "u1"}]


def test_declared_encoding_is_used(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id,url\n1,M\xf6bel€.jpg\n".encode("cp1252"))

    assert read_values(tmp_path, "a.csv", encoding="cp1252")["url"].to_list() == ["Möbel€.jpg"]


def test_unclosed_quote_in_the_header_names_file_line_and_fix(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", '\nid,"url\n1,u1\n')

    with pytest.raises(SourceError, match=r"/a\.csv line 2: .*never closed; set .*'quote:'"):
        read_raw(tmp_path, "a.csv")


def test_header_names_are_stripped(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id , url\n1,u1\n")

    assert read_values(tmp_path, "a.csv").columns == ["id", "url"]


def test_empty_and_repeated_header_names_become_unique(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id,,url,size,size,,url\n1,a,u1,s,m,b,u2\n")

    assert read_values(tmp_path, "a.csv").to_dicts() == [
        {
            "id": "1",
            "column_2": "a",
            "url": "u1",
            "size": "s",
            "size_2": "m",
            "column_6": "b",
            "url_2": "u2",
        }
    ]


def test_header_names_are_always_unique(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "column_2,,a,a,a_2,url\n1,2,3,4,5,6\n")

    frame = read_values(tmp_path, "a.csv")

    assert frame.rows() == [("1", "2", "3", "4", "5", "6")]
    assert frame["url"].to_list() == ["6"]


def test_columns_without_a_header_are_numbered(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "1,u1\n2,u2\n")

    frame = read_values(tmp_path, "a.csv", header=False)

    assert frame.columns == ["column_1", "column_2"]
    assert frame.rows() == [("1", "u1"), ("2", "u2")]


def test_columns_without_a_header_can_be_named(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "u1,chair,1\nu2,table,2\n")

    frame = read_values(tmp_path, "a.csv", header=False, columns=["url", "name", "id"])

    assert frame.to_dicts() == [
        {"url": "u1", "name": "chair", "id": "1"},
        {"url": "u2", "name": "table", "id": "2"},
    ]


def test_declared_columns_replace_the_header(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "Nr.,Bild\n1,u1\n")

    rows = read_values(tmp_path, "a.csv", columns=["id", "url"])

    assert rows.to_dicts() == [{"id": "1", "url": "u1"}]


def test_wrong_number_of_columns_reports_both_numbers(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "1,u1,x\n")

    with pytest.raises(SourceError, match=r"/a\.csv line 1 has 3 fields, but 'columns' names 2"):
        read_raw(tmp_path, "a.csv", header=False, columns=["id", "url"])


def test_multiline_header_is_not_a_row(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", 'id,"image\nurl"\n1,u1\n')

    frame = read_raw(tmp_path, "a.csv").frame()

    assert frame.rows() == [("a.csv", 3, "1", "u1")]


@pytest.mark.parametrize("content", ["", "\n\n", "id,url\n", "\ufeffid,url\r\n"])
def test_file_without_rows_has_no_rows(tmp_path: Path, content: str) -> None:
    write(tmp_path, "a.csv", content)

    raw = read_raw(tmp_path, "a.csv")

    assert raw.frame().height == 0
    assert raw.rejects == []


def test_broken_lines_are_rejected_with_file_line_reason_and_text(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", b'id,url\n1,u,x\n2,u2\n3,"u3\n4,u4,x\n5,\xff\n6,\xc3\xa4\n')

    raw = read_raw(tmp_path, "a.csv")

    assert [(r.file, r.line, r.reason, r.text) for r in raw.rejects] == [
        ("a.csv", 2, "ragged_line", "1,u,x"),
        ("a.csv", 4, "unreadable_line", '3,"u3'),
        ("a.csv", 5, "ragged_line", "4,u4,x"),
        ("a.csv", 6, "unreadable_line", "5,?"),
    ]
    assert raw.frame()[LINE].to_list() == [3, 7]


def test_broken_first_line_without_a_header_affects_only_that_line(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", '1,"u1\n2,u2\n')

    raw = read_raw(tmp_path, "a.csv", header=False, columns=["id", "url"])

    assert [reject.line for reject in raw.rejects] == [1]
    assert raw.frame()["id"].to_list() == ["2"]


def test_url_as_header_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "http://x/1.jpg\nhttp://x/2.jpg\n")

    with pytest.raises(
        SourceError,
        match=r"/a\.csv line 1 is read as the header, but holds a URL: http://x/1\.jpg; "
        r"set 'header: false'",
    ):
        read_raw(tmp_path, "a.csv")
    assert validate(tmp_path, "a.csv", header=False).rows["id"].to_list() == [
        "http://x/1.jpg",
        "http://x/2.jpg",
    ]


@pytest.mark.parametrize("name", [FILE, LINE])
def test_column_named_as_an_internal_one_is_carried(tmp_path: Path, name: str) -> None:
    write(tmp_path, "a.csv", f"id,url,{name}\n1,u1,x\n")

    assert validate(tmp_path, "a.csv").rows.to_dicts() == [
        {"id": "1", "url": "u1", f"{name}_2": "x"}
    ]


@pytest.mark.parametrize(
    ("suffix", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.jsonl"])
def test_compressed_files_are_read_by_suffix(
    tmp_path: Path, name: str, suffix: str, compress: Any
) -> None:
    content = {"a.csv": "url\nu1\n", "a.txt": "u1\n", "a.jsonl": '{"url": "u1"}\n'}[name]
    write(tmp_path, name + suffix, compress(content.encode()))

    assert read_values(tmp_path, name + suffix).rows() == [("u1",)]


def test_uncompressed_file_with_a_compression_suffix_is_read(tmp_path: Path) -> None:
    write(tmp_path, "a.csv.gz", "id,url\n1,u1\n")

    assert read_values(tmp_path, "a.csv.gz").rows() == [("1", "u1")]


@pytest.mark.parametrize("name", ["cut.csv.gz", "damaged.csv.gz", "cut.csv.xz", "cut.csv.bz2"])
def test_corrupt_compressed_file_is_named(tmp_path: Path, name: str) -> None:
    body = "id,url\n" + "".join(f"{n},http://x/{n * 7919}.jpg\n" for n in range(5_000))
    compressors: Mapping[str, Callable[[bytes], bytes]] = {
        ".gz": gzip.compress,
        ".xz": lzma.compress,
        ".bz2": bz2.compress,
    }
    packed = bytearray(compressors[Path(name).suffix](body.encode()))
    if name.startswith("cut"):
        del packed[len(packed) // 2 :]
    else:
        packed[len(packed) // 2 :] = bytes(len(packed) - len(packed) // 2)
    write(tmp_path, name, bytes(packed))

    with pytest.raises(SourceError, match=name):
        read_raw(tmp_path, name)


def test_zstd_file_is_read_or_names_the_missing_package(tmp_path: Path) -> None:
    body = b"id,url\n1,u1\n"
    frame = b"\x28\xb5\x2f\xfd\x20" + bytes([len(body)])
    write(tmp_path, "a.csv.zst", frame + (len(body) << 3 | 1).to_bytes(3, "little") + body)

    result = ids_or_error(tmp_path, "a.csv.zst")

    assert result == ["1"] or "'zstandard', or use one of .gz, .bz2, .xz" in result


_TEXTS = "ab ,;\t|\"'~é€中\x0b\x0c\x1c\x85\u2028\n\r"


@st.composite
def written_tables(draw: st.DrawFn) -> tuple[bytes, dict[str, Any], list[tuple[str, ...]]]:
    """A table as csv.writer writes it: the file's bytes, how to declare it, and its rows."""
    delimiter = draw(st.sampled_from(",;\t|~^"))
    quote = draw(st.sampled_from("\"'"))
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    quoting: Any = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]))
    written, declared_as = draw(
        st.sampled_from(
            [
                ("utf-8", "utf-8"),
                ("utf-8-sig", "utf-8"),
                ("utf-8-sig", "cp1252"),
                ("utf-16", "utf-8"),
                ("utf-16", "utf-16"),
                ("utf-16-be", "utf-16-be"),
                ("utf-32", "utf-8"),
                ("cp1252", "cp1252"),
            ]
        )
    )
    # csv.writer quotes only line breaks that equal its line end.
    breaks = "\r\n" if quoting != csv.QUOTE_MINIMAL else end
    alphabet = [
        character
        for character in _TEXTS
        if (character not in "\r\n" or character in breaks) and encodable(character, written)
    ]
    width = draw(st.integers(2, 5))
    rows = draw(
        st.lists(st.tuples(*[st.text(alphabet, max_size=12)] * width), min_size=0, max_size=10)
    )
    body = io.StringIO(newline="")
    writer = csv.writer(
        body, delimiter=delimiter, quotechar=quote, lineterminator=end, quoting=quoting
    )
    writer.writerow([f"name {number}" for number in range(width)])
    writer.writerows(rows)
    settings = {"delimiter": delimiter, "quote": quote, "encoding": declared_as}
    return body.getvalue().encode(written), settings, rows


def encodable(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


@settings(deadline=None, max_examples=150)
@given(table=written_tables())
def test_csv_writer_output_round_trips(
    table: tuple[bytes, dict[str, Any], list[tuple[str, ...]]],
) -> None:
    body, declared, rows = table
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, "a.csv", body)

        raw = read_raw(folder, "a.csv", **declared)

    assert raw.rejects == []
    result = raw.frame()
    assert ([] if result.is_empty() else result.drop(FILE, LINE).rows()) == rows


# ---- text lines --------------------------------------------------------------------------


def test_text_file_has_one_url_per_line(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", "\ufeffhttp://x/1,2.jpg\r\n\r\n  http://x/3.jpg \r\npics/4.jpg")

    assert read_raw(tmp_path, "a.txt").frame().rows() == [
        ("a.txt", 1, "http://x/1,2.jpg"),
        ("a.txt", 3, "http://x/3.jpg"),
        ("a.txt", 4, "pics/4.jpg"),
    ]


def test_csv_of_one_column_has_one_row_per_line(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "image\nhttp://x/1.jpg\nhttp://x/2.jpg\nhttp://x/3.jpg\n")

    assert read_values(tmp_path, "a.csv").to_dict(as_series=False) == {
        "image": ["http://x/1.jpg", "http://x/2.jpg", "http://x/3.jpg"]
    }


def test_line_of_invalid_text_is_rejected(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", b"http://x/1\n\xff\xfe\xfd\nhttp://x/\xc3\xa4\n")

    raw = read_raw(tmp_path, "a.txt")

    assert raw.frame()[LINE].to_list() == [1, 3]
    assert [(reject.line, reject.reason) for reject in raw.rejects] == [(2, "unreadable_line")]


# ---- Parquet -----------------------------------------------------------------------------


def test_parquet_columns_keep_their_types(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "id": ["1", "2"],
            "url": ["u1", "u2"],
            "price": pl.Series([Decimal("1.10"), None], dtype=pl.Decimal(10, 2)),
            "made": [dt.date(2024, 2, 29), None],
            "tags": [["a"], []],
            "size": [{"w": 1.5}, {"w": None}],
            "stock": pl.Series([1, 2], dtype=pl.UInt16),
            "raw": [b"\xff", None],
        }
    )
    frame.write_parquet(tmp_path / "a.parquet")

    result = read_values(tmp_path, "a.parquet")

    assert result.schema == frame.schema
    assert result.equals(frame)


def test_parquet_rows_are_numbered_from_one(tmp_path: Path) -> None:
    pl.DataFrame({"id": ["a", "b"], "url": ["u", ""]}).write_parquet(tmp_path / "a.parquet")

    assert read_raw(tmp_path, "a.parquet").frame()[LINE].to_list() == [1, 2]


def test_invalid_parquet_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", b"PAR1 but not really")

    with pytest.raises(SourceError, match=r"/a\.parquet cannot be read as parquet"):
        read_raw(tmp_path, "a.parquet")


def test_empty_parquet_file_has_no_rows(tmp_path: Path) -> None:
    pl.DataFrame(schema={"id": pl.Int64, "url": pl.String}).write_parquet(tmp_path / "a.parquet")

    result = read_values(tmp_path, "a.parquet")

    assert result.height == 0
    assert result.schema == {"id": pl.String, "url": pl.String}


def test_only_id_and_url_of_parquet_become_text(tmp_path: Path) -> None:
    pl.DataFrame({"sku": [7.0, 12.0], "url": [1, 2], "stock": [3.0, 4.0]}).write_parquet(
        tmp_path / "a.parquet"
    )

    assert read_values(tmp_path, "a.parquet", id="sku").to_dicts() == [
        {"sku": "7", "url": "1", "stock": 3.0},
        {"sku": "12", "url": "2", "stock": 4.0},
    ]


def test_only_id_and_url_of_json_become_text(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", '{"sku": 7.0, "url": 1, "n": 3}\n{"sku": true, "url": "u", "n": 4}')

    assert read_values(tmp_path, "a.jsonl", id="sku").to_dicts() == [
        {"sku": "7", "url": "1", "n": 3},
        {"sku": "true", "url": "u", "n": 4},
    ]


# ---- several files, folders, remote ------------------------------------------------------


def test_files_of_a_glob_may_have_different_columns(tmp_path: Path) -> None:
    write(tmp_path, "b.csv", "url;id;color\nu2;2;red\n")
    write(tmp_path, "a.csv", "id,url,price\n1,u1,5\n")

    frame = read_raw(tmp_path, "*.csv").frame()

    assert frame.to_dicts() == [
        {FILE: "a.csv", LINE: 2, "id": "1", "url": "u1", "price": "5", "color": None},
        {FILE: "b.csv", LINE: 2, "id": "2", "url": "u2", "price": None, "color": "red"},
    ]


def test_files_of_a_glob_may_have_different_types(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", '{"id": 1, "url": "u1", "size": 3}\n')
    write(tmp_path, "b.jsonl", '{"id": "x", "url": "u2", "size": "XL"}\n')

    assert read_values(tmp_path, "*.jsonl").rows() == [("1", "u1", "3"), ("x", "u2", "XL")]


def test_column_without_a_supertype_is_named(tmp_path: Path) -> None:
    pl.DataFrame({"id": ["1"], "url": ["u1"], "tags": [["a"]]}).write_parquet(tmp_path / "a.pq")
    pl.DataFrame({"id": ["2"], "url": ["u2"], "tags": [5]}).write_parquet(tmp_path / "b.pq")

    with pytest.raises(SourceError, match=r"column 'tags': .*; give it the same type in all"):
        validate(tmp_path, "*.pq")


def test_empty_file_of_a_glob_is_valid(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "")
    write(tmp_path, "b.csv", "id,url\n1,u1\n")

    assert read_values(tmp_path, "*.csv").rows() == [("1", "u1")]


def test_image_of_a_folder_has_its_path_as_id(tmp_path: Path) -> None:
    for name in ("b.JPG", "sub/deep/a.tar.png"):
        write(tmp_path / "images", name, b"x")

    assert read_values(tmp_path, "images").to_dicts() == [
        {"id": "b.JPG", "url": "b.JPG", "name": "b", "folder": ""},
        {
            "id": "sub/deep/a.tar.png",
            "url": "sub/deep/a.tar.png",
            "name": "a.tar",
            "folder": "sub/deep",
        },
    ]


def test_remote_files_are_read_as_local_ones(tmp_path: Path, memory: Any) -> None:
    table = io.BytesIO()
    pl.DataFrame({"id": ["3"], "url": ["u3"]}).write_parquet(table)
    for name, body in {
        "a.csv": 'id,url\r\n1,"a,\nb"\r\n'.encode("utf-16"),
        "b.jsonl.gz": gzip.compress(b'{"id": "2", "url": "u2"}'),
        "c.parquet": table.getvalue(),
    }.items():
        memory.pipe(f"/reader/{name}", body)

    result = {
        name: read_values(tmp_path, f"memory://reader/{name}").rows()
        for name in ("a.csv", "b.jsonl.gz", "c.parquet")
    }

    assert result == {
        "a.csv": [("1", "a,\nb")],
        "b.jsonl.gz": [("2", "u2")],
        "c.parquet": [("3", "u3")],
    }
