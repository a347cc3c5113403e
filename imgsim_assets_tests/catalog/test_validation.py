from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.catalog.raw_rows import FILE, LINE, RawRows, Reject
from imgsim_assets.catalog.url_checks import MAX_URL_LENGTH
from imgsim_assets.catalog.validation import ValidatedRows, validate_rows
from imgsim_assets.errors import SourceError
from imgsim_assets_tests.support.sources import find_source, validate, write

# ---- columns -----------------------------------------------------------------------------


def test_id_and_url_are_found_by_name(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "name,url,size,id\nchair,u1,XL,1\n")

    result = validate(tmp_path, "a.csv")

    assert result.rows.to_dicts() == [{"id": "1", "url": "u1", "name": "chair", "size": "XL"}]
    assert (result.id_column, result.url_columns) == ("id", ("url",))


def test_id_and_url_can_be_declared(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "image,name,sku\nu1,chair,S-1\n")

    result = validate(tmp_path, "a.csv", id="sku", url="image")

    assert result.rows.to_dicts() == [{"id": "S-1", "url": "u1", "name": "chair"}]
    assert (result.id_column, result.url_columns) == ("sku", ("image",))


def test_carried_columns_keep_order_and_values(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", 'z,id,b,url,a\n"1,5",2,,u,"x\ny"\n')

    result = validate(tmp_path, "a.csv").rows

    assert result.columns == ["id", "url", "z", "b", "a"]
    assert result.row(0) == ("2", "u", "1,5", "", "x\ny")


def test_carried_column_named_id_is_renamed(
    tmp_path: Path,
) -> None:
    write(tmp_path, "a.csv", "id,sku,url,image,source_id\n7,S-1,page,u1,old\n")

    result = validate(tmp_path, "a.csv", id="sku", url="image").rows

    assert result.to_dicts() == [
        {
            "id": "S-1",
            "url": "u1",
            "source_source_id": "7",
            "source_url": "page",
            "source_id": "old",
        }
    ]


def test_url_column_may_be_named_id(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id,sku\nu1,S-1\n")

    assert validate(tmp_path, "a.csv", id="sku", url="id").rows.to_dicts() == [
        {"id": "S-1", "url": "u1"}
    ]


def test_default_id_is_the_url(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "url,name\nu1,chair\n")

    assert validate(tmp_path, "a.csv").rows.to_dicts() == [
        {"id": "u1", "url": "u1", "name": "chair"}
    ]


def test_only_column_is_the_url(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "Bild\nu1\nu2\n")
    write(tmp_path, "b.txt", "u1\nu2\n")

    for name in ("a.csv", "b.txt"):
        assert validate(tmp_path, name).rows.rows() == [("u1", "u1"), ("u2", "u2")]


def test_missing_url_column_names_the_setting_and_the_columns(tmp_path: Path) -> None:
    write(tmp_path, "shop.csv", "sku,image_url\n1,u1\n")

    with pytest.raises(
        SourceError, match=r"shop\.csv: no column holds URLs .*Set 'url:' to .*'sku', 'image_url'"
    ):
        validate(tmp_path, "shop.csv")


@pytest.mark.parametrize("key", ["id", "url"])
def test_missing_declared_column_is_named_with_its_setting(tmp_path: Path, key: str) -> None:
    write(tmp_path, "shop.csv", "id,url\n1,u1\n")

    with pytest.raises(
        SourceError, match=rf"shop\.csv: there is no column 'sku'; set '{key}:' .*'id', 'url'"
    ):
        validate(tmp_path, "shop.csv", **{key: "sku"})


@pytest.mark.parametrize("name", ["reason", "detail"])
def test_carried_columns_with_conflicting_names_are_kept(tmp_path: Path, name: str) -> None:
    write(tmp_path, "a.csv", f"id,url,{name}\n1,u1,x\n")

    assert validate(tmp_path, "a.csv").rows.to_dicts() == [{"id": "1", "url": "u1", name: "x"}]


@pytest.mark.parametrize("name", ["file", "line", "text", "first", "literal", "index", "count"])
def test_carried_columns_may_have_names_of_the_rejects_table(tmp_path: Path, name: str) -> None:
    write(tmp_path, "a.csv", f"id,url,{name}\n1,u1,x\n2,,lost\n")

    result = validate(tmp_path, "a.csv")

    assert result.rows.to_dicts() == [{"id": "1", "url": "u1", name: "x"}]
    assert result.rejects.select("file", "line", "text").row(0) == (
        "a.csv",
        3,
        f"id=2 url= {name}=lost",
    )


def test_objects_without_keys_are_rejected(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", "{}\n{}\n")

    assert validate(tmp_path, "a.jsonl").rows.height == 0


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

    result = validate(tmp_path, "a.parquet").rows

    assert result.schema["id"] == pl.String
    assert sorted(result["id"]) == sorted(expected)


@pytest.mark.parametrize("ids", [[["a"], ["b"]], [b"\xff", b"b"]], ids=["lists", "bytes"])
def test_ids_that_cannot_become_text_are_named(tmp_path: Path, ids: list[Any]) -> None:
    pl.DataFrame({"key": ids, "url": ["u1", "u2"]}).write_parquet(tmp_path / "a.parquet")

    with pytest.raises(SourceError, match=r"a\.parquet.*'key'"):
        validate(tmp_path, "a.parquet", id="key")


# ---- rows --------------------------------------------------------------------------------


def test_rows_are_sorted_by_id(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id,url\nb,1\nB,2\n10,3\n9,4\né,5\na,6\n")

    assert validate(tmp_path, "a.csv").rows["id"].to_list() == ["10", "9", "B", "a", "b", "é"]


@pytest.mark.parametrize(
    "url",
    [
        "http://x/1.jpg",
        "https://x:8080/1.jpg?a=b&c=d#e",
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
def test_urls_and_paths_are_valid(tmp_path: Path, url: str) -> None:
    write(tmp_path, "a.csv", f"id,url\n1,{url}\n")

    result = validate(tmp_path, "a.csv")

    assert result.rows["url"].to_list() == [url]
    assert result.rejects.height == 0


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x/1.jpg",
        "memory://box/1.jpg",
        "javascript://x",
    ],
)
def test_unsupported_schemes_are_rejected(tmp_path: Path, url: str) -> None:
    write(tmp_path, "a.csv", f"id,url\n1,{url}\n2,ok\n")

    result = validate(tmp_path, "a.csv")

    assert result.rows["id"].to_list() == ["2"]
    assert result.rejects.rows() == [
        (
            "a.csv",
            2,
            "item",
            "unsupported_scheme",
            "only http, https, file and object store URLs, data URIs and paths can be fetched",
            f"id=1 url={url}",
        )
    ]


def test_scheme_is_case_insensitive(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id,url\n1,FTP://x/1.png\n")

    assert validate(tmp_path, "a.csv").rejects["reason"].to_list() == ["unsupported_scheme"]


@pytest.mark.parametrize(
    "url",
    ["http://", "https:///x.jpg", "http://?q", "http:// x/1.jpg", "http://x/\x00", "a\tb\x1b.jpg"],
)
def test_invalid_urls_are_rejected(tmp_path: Path, url: str) -> None:
    write(tmp_path, "a.csv", f"id,url\n1,{url}\n")

    result = validate(tmp_path, "a.csv")

    assert result.rejects.select("line", "reason").rows() == [(2, "bad_url")]
    assert "no host" in result.rejects["detail"][0]


def test_url_with_a_line_break_is_rejected(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", 'id,url\n1,"http://x/\n1.jpg"\n2,ok\n')

    assert validate(tmp_path, "a.csv").rejects["reason"].to_list() == ["bad_url"]


def test_url_length_is_counted_in_bytes(tmp_path: Path) -> None:
    longest = "http://x/" + "é" * ((MAX_URL_LENGTH - 9) // 2)
    write(tmp_path, "a.csv", f"id,url\n1,{longest}\n2,{longest}éé\n")

    result = validate(tmp_path, "a.csv")

    assert result.rows["id"].to_list() == ["1"]
    assert result.rejects.select("line", "reason").rows() == [(3, "bad_url")]


def test_url_is_stripped(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", 'id,url\n1," http://x/1.jpg\t"\n')

    assert validate(tmp_path, "a.csv").rows["url"].to_list() == ["http://x/1.jpg"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [(",u1", "empty_id"), ("  ,u1", "empty_id"), ("1,", "empty_url"), ("1,  ", "empty_url")],
)
def test_empty_id_or_url_is_rejected(tmp_path: Path, line: str, reason: str) -> None:
    write(tmp_path, "a.csv", f"id,url\n{line}\n")

    assert validate(tmp_path, "a.csv").rejects.select("line", "reason").rows() == [(2, reason)]


def test_null_id_or_url_is_rejected(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", '{"id": null, "url": "u1"}\n{"id": "2"}\n{"id": "3", "url": "u"}\n')

    result = validate(tmp_path, "a.jsonl")

    assert result.rows["id"].to_list() == ["3"]
    assert result.rejects.select("line", "reason", "text").rows() == [
        (1, "empty_id", "id= url=u1"),
        (2, "empty_url", "id=2 url="),
    ]


def test_ids_are_case_and_space_sensitive(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id,url\na,1\nA,2\na ,3\n")

    assert validate(tmp_path, "a.csv").rows.height == 3


def test_duplicate_id_keeps_the_first_row_and_names_it(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", 'id,url,n\n1,u1,"x\ny"\n2,u2,\n1,u3,\n1,u1,\n')

    result = validate(tmp_path, "a.csv")

    assert result.rows["url"].to_list() == ["u1", "u2"]
    assert result.rejects.rows() == [
        (
            "a.csv",
            5,
            "item",
            "duplicate_id",
            "the id is already used in a.csv line 2",
            "id=1 url=u3",
        ),
        (
            "a.csv",
            6,
            "item",
            "duplicate_id",
            "the id is already used in a.csv line 2",
            "id=1 url=u1",
        ),
    ]


def test_duplicate_id_is_found_across_files(tmp_path: Path) -> None:
    write(tmp_path, "b.csv", "id,url\n2,u2\n1,late\n")
    write(tmp_path, "a.csv", "id,url\n0,u0\n1,early\n")

    result = validate(tmp_path, "*.csv")

    assert result.rows["url"].to_list() == ["u0", "early", "u2"]
    assert result.rejects.select("file", "line", "detail").rows() == [
        ("b.csv", 3, "the id is already used in a.csv line 3")
    ]


def test_rejected_row_does_not_use_up_its_id(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id,url\n1,ftp://x\n1,\n1,good\n1,late\n")

    result = validate(tmp_path, "a.csv")

    assert result.rows["url"].to_list() == ["good"]
    assert result.rejects.select("line", "reason").rows() == [
        (2, "unsupported_scheme"),
        (3, "empty_url"),
        (5, "duplicate_id"),
    ]
    assert result.rejects["detail"][2] == "the id is already used in a.csv line 4"


def test_images_of_a_folder_have_no_rejects(tmp_path: Path) -> None:
    for name in ("b:1.jpg", "sub/a.png", "http.jpg"):
        write(tmp_path / "images", name, b"x")

    result = validate(tmp_path, "images")

    assert result.rows["id"].to_list() == ["b:1.jpg", "http.jpg", "sub/a.png"]
    assert result.rejects.height == 0


def test_rejects_of_reading_and_validation_are_sorted_by_file_and_line(tmp_path: Path) -> None:
    write(tmp_path, "b.csv", "id,url\n,x\n")
    write(tmp_path, "a.csv", 'id,url\n1,\n2,u\n3,u,x\n4,"u\n5,ftp://x\n2,v\n')

    result = validate(tmp_path, "*.csv")

    assert result.rejects.select("file", "line", "reason").rows() == [
        ("a.csv", 2, "empty_url"),
        ("a.csv", 4, "ragged_line"),
        ("a.csv", 5, "unreadable_line"),
        ("a.csv", 6, "unsupported_scheme"),
        ("a.csv", 7, "duplicate_id"),
        ("b.csv", 2, "empty_id"),
    ]


def test_text_of_a_reject_is_short_and_printable(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", f"id,url\n1,u\x07\x1b[31m{'x' * 2_000}\n2,\x00,{'y' * 2_000}\n")

    texts = validate(tmp_path, "a.csv").rejects["text"].to_list()

    assert all(len(text) <= 500 for text in texts)
    assert all(text.isprintable() for text in texts)
    assert texts[0].startswith("id=1 url=u�")


def test_source_of_only_rejects_has_no_rows(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id,url\n1\n2\n")

    result = validate(tmp_path, "a.csv")

    assert result.rows.columns == ["id", "url"]
    assert result.rows.height == 0
    assert result.rejects["line"].to_list() == [2, 3]


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
def test_every_row_is_valid_once_or_rejected_once(rows: list[tuple[str, str]]) -> None:
    result = validate_pairs(rows)

    ids = result.rows["id"].to_list()
    usable = [key for key, url in rows if key.strip() and url in ("u1", "u2", "http://x/1")]
    lines = result.rejects["line"].to_list()
    assert ids == sorted(set(usable))
    assert len(ids) + len(lines) == len(rows)
    assert len(lines) == len(set(lines))
    for key, url in result.rows.rows():
        assert next(u for k, u in rows if k == key and u in ("u1", "u2", "http://x/1")) == url


def test_rejects_of_reading_are_kept(tmp_path: Path) -> None:
    unreadable = Reject("a.csv", 3, "unreadable_line", "why", "text")

    result = validate_pairs([("1", "u1")], [unreadable])

    assert result.rejects.rows() == [("a.csv", 3, "item", "unreadable_line", "why", "text")]


def validate_pairs(
    rows: list[tuple[str, str]], unreadable: list[Reject] | None = None
) -> ValidatedRows:
    frame = pl.DataFrame(
        [("a.csv", number, key, url) for number, (key, url) in enumerate(rows, 2)],
        schema={FILE: pl.String, LINE: pl.Int64, "id": pl.String, "url": pl.String},
        orient="row",
    )
    raw = RawRows([frame], list(unreadable or []))
    return validate_rows(raw, find_source(Path(__file__).parent, Path(__file__).name, format="csv"))
