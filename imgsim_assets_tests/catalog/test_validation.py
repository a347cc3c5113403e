from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.catalog.raw_rows import FILE, LINE, RawRows, Reject
from imgsim_assets.catalog.validation import MAX_URL_LENGTH, ValidatedRows, validate_rows
from imgsim_assets.errors import SourceError
from imgsim_assets_tests.support.sources import source, validated, write

# ---- which columns -----------------------------------------------------------------------


def test_id_and_url_are_found_by_their_names_in_any_position(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "name,url,size,id\nchair,u1,XL,1\n")

    found = validated(tmp_path, "a.csv")

    assert found.rows.to_dicts() == [{"id": "1", "url": "u1", "name": "chair", "size": "XL"}]
    assert (found.id_column, found.url_column) == ("id", "url")


def test_id_and_url_can_be_declared(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "image,name,sku\nu1,chair,S-1\n")

    found = validated(tmp_path, "a.csv", id="sku", url="image")

    assert found.rows.to_dicts() == [{"id": "S-1", "url": "u1", "name": "chair"}]
    assert (found.id_column, found.url_column) == ("sku", "image")


def test_carried_columns_keep_their_order_and_values(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", 'z,id,b,url,a\n"1,5",2,,u,"x\ny"\n')

    found = validated(tmp_path, "a.csv").rows

    assert found.columns == ["id", "url", "z", "b", "a"]
    assert found.row(0) == ("2", "u", "1,5", "", "x\ny")


def test_a_column_called_id_that_is_not_the_id_is_carried_under_another_name(
    tmp_path: Path,
) -> None:
    write(tmp_path, "a.csv", "id,sku,url,image,source_id\n7,S-1,page,u1,old\n")

    found = validated(tmp_path, "a.csv", id="sku", url="image").rows

    assert found.to_dicts() == [
        {
            "id": "S-1",
            "url": "u1",
            "source_source_id": "7",
            "source_url": "page",
            "source_id": "old",
        }
    ]


def test_the_image_can_stand_in_a_column_called_id(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id,sku\nu1,S-1\n")

    assert validated(tmp_path, "a.csv", id="sku", url="id").rows.to_dicts() == [
        {"id": "S-1", "url": "u1"}
    ]


def test_without_an_id_column_the_image_is_the_id(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "url,name\nu1,chair\n")

    assert validated(tmp_path, "a.csv").rows.to_dicts() == [
        {"id": "u1", "url": "u1", "name": "chair"}
    ]


def test_the_only_column_is_the_image_whatever_its_name(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "Bild\nu1\nu2\n")
    write(tmp_path, "b.txt", "u1\nu2\n")

    for name in ("a.csv", "b.txt"):
        assert validated(tmp_path, name).rows.rows() == [("u1", "u1"), ("u2", "u2")]


def test_no_column_for_the_image_tells_the_setting_and_the_columns(tmp_path: Path) -> None:
    write(tmp_path, "shop.csv", "sku,image_url\n1,u1\n")

    with pytest.raises(
        SourceError, match=r"shop\.csv: no column is named 'url'; set 'url:' .*'sku', 'image_url'"
    ):
        validated(tmp_path, "shop.csv")


@pytest.mark.parametrize("key", ["id", "url"])
def test_a_declared_column_that_is_missing_is_named_with_its_setting(
    tmp_path: Path, key: str
) -> None:
    write(tmp_path, "shop.csv", "id,url\n1,u1\n")

    with pytest.raises(
        SourceError, match=rf"shop\.csv: there is no column 'sku'; set '{key}:' .*'id', 'url'"
    ):
        validated(tmp_path, "shop.csv", **{key: "sku"})


@pytest.mark.parametrize("name", ["reason", "detail"])
def test_no_carried_column_is_lost_for_its_name(tmp_path: Path, name: str) -> None:
    write(tmp_path, "a.csv", f"id,url,{name}\n1,u1,kept\n")

    assert validated(tmp_path, "a.csv").rows.to_dicts() == [{"id": "1", "url": "u1", name: "kept"}]


@pytest.mark.parametrize("name", ["file", "line", "text", "first", "literal", "index", "count"])
def test_carried_columns_may_have_names_of_the_rejects_table(tmp_path: Path, name: str) -> None:
    write(tmp_path, "a.csv", f"id,url,{name}\n1,u1,kept\n2,,lost\n")

    found = validated(tmp_path, "a.csv")

    assert found.rows.to_dicts() == [{"id": "1", "url": "u1", name: "kept"}]
    assert found.rejects.select("file", "line", "text").row(0) == ("a.csv", 3, "id=2 url=")


def test_objects_without_keys_are_no_usable_rows(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", "{}\n{}\n")

    assert validated(tmp_path, "a.jsonl").rows.height == 0


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([12, 7], ["12", "7"]),
        ([12345678901234567890, 7], ["12345678901234567890", "7"]),
        ([True, False], ["true", "false"]),
        ([dt.date(2024, 2, 29), dt.date(2024, 3, 1)], ["2024-02-29", "2024-03-01"]),
    ],
)
def test_ids_of_other_types_become_text(
    tmp_path: Path, ids: list[Any], expected: list[str]
) -> None:
    pl.DataFrame({"id": ids, "url": ["u1", "u2"]}).write_parquet(tmp_path / "a.parquet")

    found = validated(tmp_path, "a.parquet").rows

    assert found.schema["id"] == pl.String
    assert sorted(found["id"]) == sorted(expected)


@pytest.mark.parametrize("ids", [[["a"], ["b"]], [b"\xff", b"b"]], ids=["lists", "bytes"])
def test_ids_that_cannot_become_text_are_named(tmp_path: Path, ids: list[Any]) -> None:
    pl.DataFrame({"key": ids, "url": ["u1", "u2"]}).write_parquet(tmp_path / "a.parquet")

    with pytest.raises(SourceError, match=r"a\.parquet.*'key'"):
        validated(tmp_path, "a.parquet", id="key")


# ---- which rows --------------------------------------------------------------------------


def test_rows_are_sorted_by_id(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id,url\nb,1\nB,2\n10,3\n9,4\né,5\na,6\n")

    assert validated(tmp_path, "a.csv").rows["id"].to_list() == ["10", "9", "B", "a", "b", "é"]


@pytest.mark.parametrize(
    "url",
    [
        "http://x/1.jpg",
        "https://user@x:8080/1.jpg?a=b&c=d#e",
        "HTTPS://X/1.JPG",
        "http://bücher.example/ü.jpg",
        "http://x/a b.jpg",
        "file:///images/1.jpg",
        "images/1.jpg",
        "/images/1.jpg",
        "./1.jpg",
        "1.jpg",
        r"c:\images\1.jpg",
        "shelf:4/1.jpg",
        "12:30.jpg",
        "http/1.jpg",
    ],
)
def test_web_addresses_and_paths_are_usable(tmp_path: Path, url: str) -> None:
    write(tmp_path, "a.csv", f"id,url\n1,{url}\n")

    found = validated(tmp_path, "a.csv")

    assert found.rows["url"].to_list() == [url]
    assert found.rejects.height == 0


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x/1.jpg",
        "memory://box/1.jpg",
        "javascript://x",
        "//cdn.x/1.jpg",
        "data:image/png;base64",
    ],
)
def test_what_is_never_fetched_is_rejected_by_its_scheme(tmp_path: Path, url: str) -> None:
    write(tmp_path, "a.csv", f"id,url\n1,{url}\n2,ok\n")

    found = validated(tmp_path, "a.csv")

    assert found.rows["id"].to_list() == ["2"]
    assert found.rejects.rows() == [
        (
            "a.csv",
            2,
            "unsupported_scheme",
            "only http, https, file and object store URLs and paths can be fetched",
            f"id=1 url={url}",
        )
    ]


def test_the_case_of_a_scheme_does_not_matter(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id,url\n1,DATA:image/png;base64\n")

    assert validated(tmp_path, "a.csv").rejects["reason"].to_list() == ["unsupported_scheme"]


@pytest.mark.parametrize(
    "url",
    ["http://", "https:///x.jpg", "http://?q", "http:// x/1.jpg", "http://x/\x00", "a\tb\x1b.jpg"],
)
def test_what_is_no_address_is_rejected(tmp_path: Path, url: str) -> None:
    write(tmp_path, "a.csv", f"id,url\n1,{url}\n")

    found = validated(tmp_path, "a.csv")

    assert found.rejects.select("line", "reason").rows() == [(2, "bad_url")]
    assert "no host" in found.rejects["detail"][0]


def test_a_line_break_inside_an_address_is_rejected(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", 'id,url\n1,"http://x/\n1.jpg"\n2,ok\n')

    assert validated(tmp_path, "a.csv").rejects["reason"].to_list() == ["bad_url"]


def test_addresses_are_counted_in_bytes(tmp_path: Path) -> None:
    longest = "http://x/" + "é" * ((MAX_URL_LENGTH - 9) // 2)
    write(tmp_path, "a.csv", f"id,url\n1,{longest}\n2,{longest}éé\n")

    found = validated(tmp_path, "a.csv")

    assert found.rows["id"].to_list() == ["1"]
    assert found.rejects.select("line", "reason").rows() == [(3, "bad_url")]


def test_spaces_around_an_address_are_no_part_of_it(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", 'id,url\n1," http://x/1.jpg\t"\n')

    assert validated(tmp_path, "a.csv").rows["url"].to_list() == ["http://x/1.jpg"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [(",u1", "empty_id"), ("  ,u1", "empty_id"), ("1,", "empty_url"), ("1,  ", "empty_url")],
)
def test_an_empty_id_or_address_is_rejected(tmp_path: Path, line: str, reason: str) -> None:
    write(tmp_path, "a.csv", f"id,url\n{line}\n")

    assert validated(tmp_path, "a.csv").rejects.select("line", "reason").rows() == [(2, reason)]


def test_a_missing_id_or_address_is_rejected(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", '{"id": null, "url": "u1"}\n{"id": "2"}\n{"id": "3", "url": "u"}\n')

    found = validated(tmp_path, "a.jsonl")

    assert found.rows["id"].to_list() == ["3"]
    assert found.rejects.select("line", "reason", "text").rows() == [
        (1, "empty_id", "id= url=u1"),
        (2, "empty_url", "id=2 url="),
    ]


def test_ids_that_differ_in_case_or_spaces_are_different(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id,url\na,1\nA,2\na ,3\n")

    assert validated(tmp_path, "a.csv").rows.height == 3


def test_of_rows_with_one_id_the_first_counts_and_is_named(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", 'id,url,n\n1,u1,"x\ny"\n2,u2,\n1,u3,\n1,u1,\n')

    found = validated(tmp_path, "a.csv")

    assert found.rows["url"].to_list() == ["u1", "u2"]
    assert found.rejects.rows() == [
        ("a.csv", 5, "duplicate_id", "the id is already used in a.csv line 2", "id=1 url=u3"),
        ("a.csv", 6, "duplicate_id", "the id is already used in a.csv line 2", "id=1 url=u1"),
    ]


def test_the_first_of_one_id_is_found_over_several_files(tmp_path: Path) -> None:
    write(tmp_path, "b.csv", "id,url\n2,u2\n1,late\n")
    write(tmp_path, "a.csv", "id,url\n0,u0\n1,early\n")

    found = validated(tmp_path, "*.csv")

    assert found.rows["url"].to_list() == ["u0", "early", "u2"]
    assert found.rejects.select("file", "line", "detail").rows() == [
        ("b.csv", 3, "the id is already used in a.csv line 3")
    ]


def test_an_unusable_row_does_not_take_the_id_of_a_usable_one(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id,url\n1,ftp://x\n1,\n1,good\n1,late\n")

    found = validated(tmp_path, "a.csv")

    assert found.rows["url"].to_list() == ["good"]
    assert found.rejects.select("line", "reason").rows() == [
        (2, "unsupported_scheme"),
        (3, "empty_url"),
        (5, "duplicate_id"),
    ]
    assert found.rejects["detail"][2] == "the id is already used in a.csv line 4"


def test_images_of_a_folder_are_rows_without_rejects(tmp_path: Path) -> None:
    for name in ("b:1.jpg", "sub/a.png", "http.jpg"):
        write(tmp_path / "images", name, b"x")

    found = validated(tmp_path, "images")

    assert found.rows["id"].to_list() == ["b:1.jpg", "http.jpg", "sub/a.png"]
    assert found.rejects.height == 0


def test_rejects_of_reading_and_judging_stand_together_by_file_and_line(tmp_path: Path) -> None:
    write(tmp_path, "b.csv", "id,url\n,x\n")
    write(tmp_path, "a.csv", 'id,url\n1,\n2,u\n3\n4,"u\n5,ftp://x\n2,v\n')

    found = validated(tmp_path, "*.csv")

    assert found.rejects.select("file", "line", "reason").rows() == [
        ("a.csv", 2, "empty_url"),
        ("a.csv", 4, "ragged_line"),
        ("a.csv", 5, "unreadable_line"),
        ("a.csv", 6, "unsupported_scheme"),
        ("a.csv", 7, "duplicate_id"),
        ("b.csv", 2, "empty_id"),
    ]


def test_the_text_of_a_reject_is_short_and_printable(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", f"id,url\n1,u\x07\x1b[31m{'x' * 2_000}\n2,\x00,{'y' * 2_000}\n")

    texts = validated(tmp_path, "a.csv").rejects["text"].to_list()

    assert all(len(text) <= 500 for text in texts)
    assert all(text.isprintable() for text in texts)
    assert texts[0].startswith("id=1 url=u�")


def test_a_source_of_rejects_alone_has_no_rows(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id,url\n1\n2\n")

    found = validated(tmp_path, "a.csv")

    assert found.rows.columns == ["id", "url"]
    assert found.rows.height == 0
    assert found.rejects["line"].to_list() == [2, 3]


@settings(deadline=None, max_examples=100)
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["", "a", "b", "c", "é", " "]),
            st.sampled_from(["", "u1", "u2", "ftp://x", "http://", "http://x/1"]),
        ),
        max_size=12,
    )
)
def test_every_row_counts_once_or_is_rejected_once(rows: list[tuple[str, str]]) -> None:
    found = judged(rows)

    kept = found.rows["id"].to_list()
    usable = [key for key, url in rows if key.strip() and url in ("u1", "u2", "http://x/1")]
    lines = found.rejects["line"].to_list()
    assert kept == sorted(set(usable))
    assert len(kept) + len(lines) == len(rows)
    assert len(lines) == len(set(lines))
    for key, url in found.rows.rows():
        assert next(u for k, u in rows if k == key and u in ("u1", "u2", "http://x/1")) == url


def test_what_was_rejected_while_reading_is_kept(tmp_path: Path) -> None:
    unread = Reject("a.csv", 3, "unreadable_line", "why", "text")

    found = judged([("1", "u1")], [unread])

    assert found.rejects.rows() == [("a.csv", 3, "unreadable_line", "why", "text")]


def judged(rows: list[tuple[str, str]], unread: list[Reject] | None = None) -> ValidatedRows:
    frame = pl.DataFrame(
        [("a.csv", number, key, url) for number, (key, url) in enumerate(rows, 2)],
        schema={FILE: pl.String, LINE: pl.Int64, "id": pl.String, "url": pl.String},
        orient="row",
    )
    raw = RawRows([frame], list(unread or []))
    return validate_rows(raw, source(Path(__file__).parent, Path(__file__).name, format="csv"))
