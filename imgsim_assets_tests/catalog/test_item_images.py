"""Items with several images: columns, lists, JSON and separators."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.catalog.embedded import sha256_of
from imgsim_assets.catalog.image_rows import image_rows
from imgsim_assets.catalog.item_images import can_have_several, collect_images
from imgsim_assets.catalog.raw_rows import REASON
from imgsim_assets.catalog.validation import ValidatedRows
from imgsim_assets.errors import SourceError
from imgsim_assets_tests.support.images import jpeg
from imgsim_assets_tests.support.sources import source_settings, validate, write

_CELLS = (
    [["a.jpg", "b.jpg"], ["c.jpg"], []],
    ['["a.jpg", "b.jpg"]', '["c.jpg"]', "[]"],
    ["['a.jpg', None, 'b.jpg']", "c.jpg", None],
    [[{"src": "a.jpg", "n": 1}, {"src": "b.jpg", "n": 2}], [{"src": "c.jpg", "n": 1}], None],
)


def images(result: ValidatedRows) -> dict[str, list[str]]:
    """The images of every item."""
    rows = image_rows(result.rows).group_by("id", maintain_order=True).agg("url")
    return dict(rows.iter_rows())


def rejects(result: ValidatedRows) -> list[tuple[Any, ...]]:
    return result.rejects.select("line", "rejected", "reason", "text").rows()


def test_columns_give_the_images_in_their_declared_order(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "sku,one,two,three,name\nS1,a.jpg,b.jpg,c.jpg,x\nS2,,d.jpg, ,y\n")

    result = validate(tmp_path, "a.csv", id="sku", url=["two", "three", "one"])

    assert images(result) == {"S1": ["b.jpg", "c.jpg", "a.jpg"], "S2": ["d.jpg"]}
    assert result.rows.columns == ["id", "url", "other_urls", "name"]
    assert (result.url_columns, result.notices) == (("two", "three", "one"), ())


@pytest.mark.parametrize("cells", _CELLS)
@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "json"])
def test_lists_give_the_images_in_every_format(tmp_path: Path, cells: Any, suffix: str) -> None:
    frame = pl.DataFrame({"id": ["1", "2", "3"], "photos": cells})
    frame.write_parquet(tmp_path / "a.parquet")
    frame.write_ndjson(tmp_path / "a.jsonl")
    frame.write_json(tmp_path / "a.json")

    result = validate(tmp_path, f"a.{suffix}")

    assert images(result) == {"1": ["a.jpg", "b.jpg"], "2": ["c.jpg"]}
    assert rejects(result) == [(3, "item", "empty_url", "id=3 url=")]


@pytest.mark.parametrize(
    "more",
    [
        pl.Series(["b.jpg", None], dtype=pl.Categorical),
        pl.Series([["b.jpg"], []], dtype=pl.List(pl.Categorical)),
        pl.Series([["b.jpg"], [" "]], dtype=pl.Array(pl.String, 1)),
        pl.Series([None, None], dtype=pl.List(pl.Null)),
    ],
)
def test_columns_of_other_types_of_text_give_images(tmp_path: Path, more: pl.Series) -> None:
    frame = pl.DataFrame({"id": ["1", "2"], "image": ["a.jpg", "c.jpg"], "more": more})
    frame.write_parquet(tmp_path / "a.parquet")

    found = images(validate(tmp_path, "a.parquet", url=["image", "more"]))

    further = [] if more.null_count() == len(more) else ["b.jpg"]
    assert found == {"1": ["a.jpg", *further], "2": ["c.jpg"]}


def test_long_cells_are_split_as_short_ones(tmp_path: Path) -> None:
    cell = "a.jpg," * 200_000 + "x.jpg"
    frame = pl.DataFrame({"id": ["1", "2", "3"], "image": [cell, "http://h/1,http://h/2", "b.jpg"]})
    frame.write_parquet(tmp_path / "a.parquet")

    result = validate(tmp_path, "a.parquet", url="image")

    expected = {"1": ["a.jpg", "x.jpg"], "2": ["http://h/1", "http://h/2"], "3": ["b.jpg"]}
    assert images(result) == expected


def test_json_list_in_a_cell_of_text(tmp_path: Path) -> None:
    frame = pl.DataFrame({"id": ["1", "2"], "photos": ['["a.jpg", null, "b.jpg"]', '["c.jpg"]']})
    frame.write_csv(tmp_path / "a.csv")

    assert images(validate(tmp_path, "a.csv")) == {"1": ["a.jpg", "b.jpg"], "2": ["c.jpg"]}


def test_structs_without_an_image_are_refused(tmp_path: Path) -> None:
    frame = pl.DataFrame({"id": ["1"], "photos": [[{"width": 1}]]})
    frame.write_parquet(tmp_path / "a.parquet")

    with pytest.raises(SourceError, match=r"column 'photos' holds List\(Struct.* 'url:' to ano"):
        validate(tmp_path, "a.parquet", url="photos")


@pytest.mark.parametrize(
    ("separator", "cell", "expected"),
    [
        ("|", "a.jpg|b.jpg| c.jpg ||", ["a.jpg", "b.jpg", "c.jpg"]),
        ("|", "http://h/a|b.jpg", ["http://h/a", "b.jpg"]),
        (",", "http://h/w_1,h_2/a.jpg, http://h/b,1.jpg,", ["http://h/w_1,h_2/a.jpg", "http://h/b,1.jpg"]),
        (",", "a.jpg,b.jpg", ["a.jpg", "b.jpg"]),
        (" ", "http://h/a   http://h/b", ["http://h/a", "http://h/b"]),
        ("\\n", "http://h/a\nhttp://h/b", ["http://h/a", "http://h/b"]),
        ("||", "a.jpg||b|c.jpg", ["a.jpg", "b|c.jpg"]),
        (" - ", "a-b.jpg - c.jpg", ["a-b.jpg", "c.jpg"]),
        (".", "http://h/a.jpg.http://h/b.jpg", ["http://h/a.jpg", "http://h/b.jpg"]),
    ],
)  # fmt: skip
def test_separator_splits_cells(
    tmp_path: Path, separator: str, cell: str, expected: list[str]
) -> None:
    pl.DataFrame({"id": ["1"], "url": [cell]}).write_csv(tmp_path / "a.csv")

    result = validate(tmp_path, "a.csv", separator=separator)

    assert images(result) == {"1": expected}
    assert (result.notices, result.separator) == ((), None)


@pytest.mark.parametrize("start", ["http://h", "s3://bucket"])
@pytest.mark.parametrize("between", [", ", ",", " | ", "|", ";", "\n", " "])
def test_separator_between_urls_is_detected_and_told(
    tmp_path: Path, between: str, start: str
) -> None:
    urls = [f"{start}/w_{n},h_2/{n}.jpg" for n in range(3)]
    frame = pl.DataFrame({"id": ["1", "2"], "url": [between.join(urls), urls[0]]})
    frame.write_csv(tmp_path / "a.csv")

    result = validate(tmp_path, "a.csv")

    assert images(result) == {"1": urls, "2": urls[:1]}
    separator = between.strip(" ") or " "
    assert result.separator == separator
    [notice] = result.notices
    assert "cells of 'url' with several URLs: 1" in notice
    written = separator.replace("\n", "\\n")
    assert f"'separator: \"{written}\"'" in notice
    assert validate(tmp_path, "a.csv", separator=separator).notices == ()


def test_separator_between_paths_is_detected(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id,url\n1,a.jpg|sub/b.PNG\n2,red; blue.jpg\n")

    found = images(validate(tmp_path, "a.csv"))

    assert found == {"1": ["a.jpg", "sub/b.PNG"], "2": ["red; blue.jpg"]}


def test_cells_that_no_separator_explains_are_rejected_with_the_setting(tmp_path: Path) -> None:
    cell = "http://h/1.jpg and , http://h/2.jpg"
    pl.DataFrame({"id": ["1", "2"], "url": [cell, "a.jpg"]}).write_csv(tmp_path / "a.csv")

    result = validate(tmp_path, "a.csv")

    assert images(result) == {"2": ["a.jpg"]}
    assert rejects(result) == [(2, "item", "several_urls", f"id=1 url={cell}")]
    assert "'separator:'" in result.rejects["detail"][0]


def test_bad_and_repeated_images_leave_the_others_of_an_item(tmp_path: Path) -> None:
    cells = ["a.jpg|ftp://h/b|a.jpg||http:///c|d.jpg|ftp://h/b", "ftp://h/1|http:///2", "|"]
    write(tmp_path, "a.csv", "id,url\n" + "".join(f"{n},{cell}\n" for n, cell in enumerate(cells)))

    result = validate(tmp_path, "a.csv", separator="|")

    assert images(result) == {"0": ["a.jpg", "d.jpg"]}
    assert rejects(result) == [
        (2, "image", "bad_url", "id=0 url=http:///c"),
        (2, "image", "unsupported_scheme", "id=0 url=ftp://h/b"),
        (3, "item", "unsupported_scheme", "id=1 url=ftp://h/1"),
        (3, "image", "bad_url", "id=1 url=http:///2"),
        (4, "item", "empty_url", "id=2 url="),
    ]


def test_bad_images_of_items_that_are_rejected_otherwise_are_not_listed(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id,url\n1,a.jpg|b.jpg\n1,ftp://h/b|c.jpg\n,ftp://h/c|d.jpg\n")

    result = validate(tmp_path, "a.csv", separator="|")

    assert [row[1:3] for row in rejects(result)] == [("item", "duplicate_id"), ("item", "empty_id")]


def test_images_beyond_the_limit_are_counted_by_a_notice(tmp_path: Path) -> None:
    rows = [{"id": str(n), "url": [f"{n}-{k}.jpg" for k in range(n)]} for n in range(1, 5)]
    write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))

    result = validate(tmp_path, "a.jsonl", max_images=2)

    assert [len(urls) for urls in images(result).values()] == [1, 2, 2, 2]
    assert result.notices == ("images beyond 'max_images: 2': 3 of 2 items, which are left out",)
    assert images(validate(tmp_path, "a.jsonl"))["4"] == rows[3]["url"]


def test_item_without_a_column_of_ids_has_the_id_of_its_first_image(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "front,back\na.jpg,b.jpg\n,c.jpg\na.jpg,d.jpg\n")

    result = validate(tmp_path, "a.csv", url=["front", "back"])

    assert images(result) == {
        "a.jpg": ["a.jpg", "b.jpg"],
        "a.jpg#2": ["a.jpg", "d.jpg"],
        "c.jpg": ["c.jpg"],
    }


def test_embedded_images_in_lists_are_kept(tmp_path: Path) -> None:
    pixels = [jpeg(1), jpeg(2), jpeg(3)]
    structs: list[list[object]] = [[{"bytes": each, "path": "a"} for each in pixels], []]
    structs[0].append({"bytes": None, "path": "b.jpg"})
    pl.DataFrame({"id": ["1", "2"], "image": structs}).write_parquet(tmp_path / "structs.parquet")
    pl.DataFrame({"id": ["1"], "image": [pixels]}).write_parquet(tmp_path / "bytes.parquet")
    uris = [f"data:image/jpeg;base64,{base64.b64encode(each).decode()}" for each in pixels]
    write(tmp_path, "uris.jsonl", json.dumps({"id": "1", "image": uris}))
    digests = [f"sha256:{sha256_of(each)}" for each in pixels]

    assert images(validate(tmp_path, "structs.parquet")) == {"1": [*digests, "b.jpg"]}
    assert images(validate(tmp_path, "bytes.parquet")) == {"1": digests}
    assert images(validate(tmp_path, "uris.jsonl")) == {"1": digests}


def test_text_cannot_name_an_image_of_the_store(tmp_path: Path) -> None:
    digest = f"sha256:{'0' * 64}"
    frame = pl.DataFrame({"id": ["1"], "image": [jpeg(1)], "more": [[digest, "a.jpg"]]})
    frame.write_parquet(tmp_path / "a.parquet")

    result = validate(tmp_path, "a.parquet", url=["image", "more"])

    assert images(result) == {"1": [f"sha256:{sha256_of(jpeg(1))}", "a.jpg"]}
    assert [row[1:3] for row in rejects(result)] == [("image", "unsupported_scheme")]


def test_carried_column_named_other_urls_is_renamed(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id,url,other_urls\n1,a.jpg,b.jpg\n")

    assert validate(tmp_path, "a.csv", url="url").rows.columns == ["id", "url", "source_other_urls"]


def test_file_names_of_a_folder_are_no_lists(tmp_path: Path) -> None:
    write(tmp_path, "photos/a.jpg, b.jpg", jpeg(1))

    assert validate(tmp_path, "photos").rows["url"].to_list() == ["a.jpg, b.jpg"]


def test_columns_that_also_hold_images_are_named(tmp_path: Path) -> None:
    lines = ["id,image_1,image_2,page", "1,a.jpg,b.jpg,http://h/1"]
    lines += [f"{n},{n}.jpg,,http://h/{n}" for n in (2, 3)]
    write(tmp_path, "a.csv", "\n".join(lines))

    result = validate(tmp_path, "a.csv")

    assert result.url_columns == ("image_1",)
    [notice] = result.notices
    assert "'image_2'" in notice
    assert "'url: [image_1, image_2]'" in notice
    assert validate(tmp_path, "a.csv", url="image_1").notices == ()


_URLS = st.sampled_from(["a.jpg", "b.jpg", "c.jpg", "", " ", None, "ftp://h/x", "http:///"])
_USABLE = ("a.jpg", "b.jpg", "c.jpg")


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(st.tuples(st.lists(_URLS, max_size=4), _URLS), min_size=1, max_size=6),
    limit=st.integers(1, 3),
)
def test_images_are_the_distinct_usable_ones_in_order(
    rows: list[tuple[list[str | None], str | None]], limit: int
) -> None:
    cells = pl.DataFrame(
        {"one": [row[0] for row in rows], "two": [row[1] for row in rows]},
        schema={"one": pl.List(pl.String), "two": pl.String},
    )
    limited = source_settings("a.csv", max_images=limit)
    assert can_have_several(cells, limited)

    found = collect_images(cells, limited, sha256_of, set())

    for row, (first, others, reason) in zip(
        rows, found.rows.select("url", "other_urls", REASON).iter_rows(), strict=True
    ):
        every = [url for url in (*row[0], row[1]) if url and url.strip()]
        usable = list(dict.fromkeys(url for url in every if url in _USABLE))
        if usable:
            assert [first, *others] == usable[:limit]
            assert reason is None
        else:
            assert first == (every[0] if every else None)
            assert reason is not None
