from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from imgsim_assets.catalog.raw_rows import FILE, LINE
from imgsim_assets_tests.support.sources import read_raw, read_values, validate, write

# ---- delimited text ----------------------------------------------------------------------


def test_json_values_keep_their_types(tmp_path: Path) -> None:
    rows = [
        {"id": "1", "url": "u1", "price": 1.5, "stock": 3, "sold": True},
        {"id": "2", "url": "u2", "price": 2, "stock": None, "sold": False},
    ]
    write(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    frame = read_values(tmp_path, "a.jsonl")

    assert frame.to_dicts() == rows
    assert frame.schema == {
        "id": pl.String,
        "url": pl.String,
        "price": pl.Float64,
        "stock": pl.Int64,
        "sold": pl.Boolean,
    }


def test_mixed_or_nested_json_values_become_text(tmp_path: Path) -> None:
    write(
        tmp_path,
        "a.jsonl",
        '{"url": "u1", "size": 3, "tags": ["b", "a"], "made": {"y": 1, "x": "é"}}\n'
        '{"url": "u2", "size": "XL", "tags": null}\n',
    )

    assert read_values(tmp_path, "a.jsonl").rows() == [
        ("u1", "3", '["b", "a"]', '{"x": "\\u00e9", "y": 1}'),
        ("u2", "XL", None, None),
    ]


def test_json_objects_may_have_different_keys(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", '{"url": "u1"}\n\n{"name": "x", "url": "u2"}\n')

    assert read_raw(tmp_path, "a.jsonl").frame().to_dicts() == [
        {FILE: "a.jsonl", LINE: 1, "url": "u1", "name": None},
        {FILE: "a.jsonl", LINE: 3, "url": "u2", "name": "x"},
    ]


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        ('{"url": "u"', "not JSON"),
        ("[1, 2]", "not a JSON object"),
        ("null", "not a JSON object"),
        ("{'url': 'u'}", "not JSON"),
        ('{"n": ' + "1" * 5000 + "}", "not JSON"),
    ],
)
def test_line_that_is_not_a_json_object_is_rejected(tmp_path: Path, line: str, detail: str) -> None:
    write(tmp_path, "a.jsonl", f'{{"url": "u1"}}\n{line}\n{{"url": "u3"}}\n')

    raw = read_raw(tmp_path, "a.jsonl")

    assert raw.frame()["url"].to_list() == ["u1", "u3"]
    assert [(reject.line, reject.reason) for reject in raw.rejects] == [(2, "unreadable_line")]
    assert raw.rejects[0].detail.startswith(detail)


@pytest.mark.parametrize(
    "line",
    [
        '{"url": "u\\ud800"}',
        '{"\\udc00": 1, "url": "u2"}',
        "[" * 100_000,
    ],
    ids=["unpaired surrogate", "unpaired surrogate in a name", "deep nesting"],
)
def test_json_with_invalid_characters_or_nesting_is_rejected(tmp_path: Path, line: str) -> None:
    write(tmp_path, "a.jsonl", f'{{"url": "u1", "price": 0.5}}\n{line}\n{{"url": "u3"}}\n')

    raw = read_raw(tmp_path, "a.jsonl")

    assert raw.frame()["url"].to_list() == ["u1", "u3"]
    assert [reject.line for reject in raw.rejects] == [2]


@pytest.mark.parametrize("number", [2**63, -(2**64), 10**400])
def test_integers_beyond_int64_become_text(tmp_path: Path, number: int) -> None:
    write(tmp_path, "a.jsonl", f'{{"url": "u1", "n": 0.5}}\n{{"url": "u2", "n": {number}}}\n')

    raw = read_raw(tmp_path, "a.jsonl")

    assert raw.rejects == []
    assert raw.frame()["n"].to_list() == ["0.5", str(number)]


def test_json_key_named_as_an_internal_column_is_renamed(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", f'{{"id": "1", "url": "", "{LINE}": 77}}\n')

    raw = read_raw(tmp_path, "a.jsonl")

    assert raw.frame().drop(FILE).to_dicts() == [{LINE: 1, "id": "1", "url": "", f"{LINE}_2": 77}]


def test_json_id_does_not_depend_on_other_rows(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", '{"id": 1, "url": "u1"}\n')
    before = validate(tmp_path, "a.jsonl").rows["id"].to_list()
    write(tmp_path, "a.jsonl", '{"id": 1, "url": "u1"}\n{"id": 2.5, "url": "u2"}\n')

    assert before == ["1"]
    assert validate(tmp_path, "a.jsonl").rows["id"].to_list() == ["1", "2.5"]
