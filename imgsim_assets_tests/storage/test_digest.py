from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsim_assets.storage.digest import RowsDigest, rows_digest

ROWS = st.lists(st.tuples(st.text(max_size=4), st.text(max_size=4)), max_size=4)


def test_a_data_version_is_the_same_in_every_release() -> None:
    rows = _rows([("a", "ü-字"), ("", "1:b")])

    assert rows_digest(rows) == "c6c3f62506b228631164d3ff19ad41105d0e832974d32f21bafa7a825cd1eefd"
    assert (
        rows_digest(rows, "encoder")
        == "f327aad6ff14263d23bf88069a92c245e06b282259c2f9f4d77c143a5e21745c"
    )


@given(one=ROWS, other=ROWS)
def test_digests_are_equal_only_for_equal_rows_in_equal_order(
    one: list[tuple[str, str]], other: list[tuple[str, str]]
) -> None:
    assert (rows_digest(_rows(one)) == rows_digest(_rows(other))) == (one == other)


@given(one=st.text(), other=st.text(), rows=ROWS)
def test_a_different_context_gives_a_different_digest(
    one: str, other: str, rows: list[tuple[str, str]]
) -> None:
    same = rows_digest(_rows(rows), one) == rows_digest(_rows(rows), other)

    assert same == (one == other)


@pytest.mark.parametrize(
    ("one", "other"), [([("ab", "c")], [("a", "bc")]), ([("1:a", "")], [("", "1:a")])]
)
def test_adjacent_values_are_not_ambiguous(
    one: list[tuple[str, str]], other: list[tuple[str, str]]
) -> None:
    assert rows_digest(_rows(one)) != rows_digest(_rows(other))


def test_rows_of_different_width_have_different_digests() -> None:
    two = _rows([("a", "b"), ("c", "d")])
    four = pl.DataFrame([("a", "b", "c", "d")], schema=["1", "2", "3", "4"], orient="row")

    assert rows_digest(two) != rows_digest(four)


def test_contexts_and_rows_are_not_ambiguous() -> None:
    rows = _rows([("c", "d")])
    digests = [
        rows_digest(_rows([("a", "b"), ("c", "d")])),
        rows_digest(rows, "a", "b"),
        rows_digest(rows, "ab"),
        rows_digest(rows, "a", "b", ""),
        rows_digest(rows),
    ]

    assert len(set(digests)) == len(digests)


def test_column_names_do_not_affect_the_digest() -> None:
    rows = _rows([("a", "b")])

    assert rows_digest(rows) == rows_digest(rows.rename({"id": "item"}))


@given(rows=ROWS, cut=st.integers(0, 4))
def test_chunked_updates_give_the_digest_of_all_rows(rows: list[tuple[str, str]], cut: int) -> None:
    digest = RowsDigest(2, "encoder")
    for piece in (rows[:cut], rows[cut:]):
        digest.update(_rows(piece))

    assert digest.hexdigest() == rows_digest(_rows(rows), "encoder")


def test_null_values_raise() -> None:
    with pytest.raises(ValueError, match="null"):
        rows_digest(pl.DataFrame({"id": ["a", None]}))


def _rows(rows: list[tuple[str, str]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"id": pl.String, "sha256": pl.String}, orient="row")
