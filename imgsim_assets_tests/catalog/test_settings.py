from __future__ import annotations

from collections.abc import Mapping

import pytest
from pydantic import ValidationError

from imgsim_assets_tests.support.sources import (
    source_settings,
)

# ---- settings ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "meant"),
    [("delimeter", "delimiter"), ("colums", "columns"), ("encodng", "encoding"), ("ur", "url")],
)
def test_misspelled_key_suggests_the_right_one(key: str, meant: str) -> None:
    with pytest.raises(ValidationError, match=f"unknown key '{key}': did you mean '{meant}'"):
        source_settings("a.csv", **{key: ","})


@pytest.mark.parametrize("delimiter", ["", "ab", "tab", '"', "\n", "\r"])
def test_invalid_delimiter_is_refused_with_an_example(delimiter: str) -> None:
    with pytest.raises(ValidationError, match="is not a delimiter: give one character, like ','"):
        source_settings("a.csv", delimiter=delimiter)


def test_backslash_t_is_a_tab() -> None:
    assert source_settings("a.csv", delimiter="\\t").delimiter == "\t"
    assert source_settings("a.csv", delimiter="\t").delimiter == "\t"


def test_quote_of_two_characters_is_refused() -> None:
    with pytest.raises(ValidationError, match="\"''\" is not a quote: give one character, or ''"):
        source_settings("a.csv", quote="''")


@pytest.mark.parametrize("settings", [{"quote": "\n"}, {"quote": ";", "delimiter": ";"}])
def test_invalid_quote_is_refused(settings: Mapping[str, str]) -> None:
    with pytest.raises(ValidationError, match="quote"):
        source_settings("a.csv", **settings)


@pytest.mark.parametrize("encoding", ["utf8x", "base64", "rot13", ""])
def test_invalid_encoding_is_refused_with_examples(encoding: str) -> None:
    with pytest.raises(
        ValidationError, match=f"unknown encoding '{encoding}'; try utf-8, utf-16 or cp1252"
    ):
        source_settings("a.csv", encoding=encoding)


def test_column_names_must_be_unique() -> None:
    with pytest.raises(ValidationError, match="columns: a name is listed twice; list it once"):
        source_settings("a.csv", columns=["id", "url", "id"])


def test_unknown_format_is_refused_with_a_list() -> None:
    with pytest.raises(
        ValidationError, match="'csv', 'tsv', 'lines', 'json', 'jsonl', 'xlsx', 'parquet' or"
    ):
        source_settings("a.csv", format="docx")


def test_source_without_a_path_is_refused() -> None:
    with pytest.raises(ValidationError, match="path"):
        source_settings("")


def test_url_may_be_several_columns() -> None:
    assert source_settings("a.csv").url_columns == ()
    assert source_settings("a.csv", url="a, b").url_columns == ("a, b",)
    assert source_settings("a.csv", url=["a", "b"]).url_columns == ("a", "b")


@pytest.mark.parametrize("url", [[], ["a", "a"]])
def test_url_without_columns_or_with_one_twice_is_refused(url: list[str]) -> None:
    with pytest.raises(ValidationError, match="name at least one column, and each only once"):
        source_settings("a.csv", url=url)


@pytest.mark.parametrize("url", [5, ["a", 5], {"a": "b"}])
def test_url_that_is_no_text_is_refused_with_one_message(url: object) -> None:
    with pytest.raises(ValidationError, match="give a name or a list of names") as raised:
        source_settings("a.csv", url=url)

    assert raised.value.error_count() == 1


def test_separator_may_be_an_escape() -> None:
    assert source_settings("a.csv", separator="\\n").separator == "\n"
    assert source_settings("a.csv", separator="|").separator == "|"


@pytest.mark.parametrize("limit", [0, 1001])
def test_limit_of_images_has_bounds(limit: int) -> None:
    with pytest.raises(ValidationError, match="max_images"):
        source_settings("a.csv", max_images=limit)
