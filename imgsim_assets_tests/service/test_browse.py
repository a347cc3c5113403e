"""Pages of a catalog: conditions, cursors, statuses, shared images."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.errors import SettingsError
from imgsim_assets.service.browse import Condition, browse, find_words
from imgsim_assets.service.catalog_rows import CatalogRows, overview_of, shared_images

_IDS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=4
)


def catalog_of(
    items: Sequence[tuple[str, float | None]],
    images: Sequence[tuple[str, int, str, str | None]] = (),
) -> CatalogRows:
    """A catalog of (id, price) and of (id, image, status, sha256)."""
    rows = pl.DataFrame(items, schema={"id": pl.String, "price": pl.Float64}, orient="row")
    with_url = rows.select("id", (pl.lit("http://x/") + pl.col("id")).alias("url"), "price")
    ledger = {"id": pl.String, "image": pl.Int32, "status": pl.String, "sha256": pl.String}
    return rows_of(
        with_url.sort("id"), pl.DataFrame(images, schema=ledger, orient="row").sort("id", "image")
    )


def rows_of(items: pl.DataFrame, images: pl.DataFrame) -> CatalogRows:
    return CatalogRows("products", items, images, overview_of(items, images))


@settings(deadline=None)
@given(
    ids=st.lists(_IDS, unique=True, max_size=30),
    limit=st.integers(1, 7),
    threshold=st.floats(0, 30),
)
def test_cursors_visit_every_matching_item_once_in_both_directions(
    ids: list[str], limit: int, threshold: float
) -> None:
    catalog = catalog_of([(item, float(number)) for number, item in enumerate(ids)])
    conditions = [Condition("price", "at_least", str(threshold))]
    expected = catalog.items.filter(pl.col("price") >= threshold)["id"].to_list()

    seen: list[str] = []
    cursors = [""]
    while True:
        page = browse(catalog, conditions, after=cursors[-1], limit=limit)
        assert (page.total, page.offset) == (len(expected), len(seen))
        assert page.previous_cursor == (cursors[-2] if len(cursors) > 1 else None)
        seen += page.rows["id"].to_list()
        if page.next_cursor is None:
            break
        cursors.append(page.next_cursor)

    assert seen == expected


def test_a_cursor_whose_item_is_gone_continues_after_its_place() -> None:
    catalog = catalog_of([("a", 1), ("c", 2), ("d", 3)])

    assert browse(catalog, after="b").rows["id"].to_list() == ["c", "d"]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (Condition("price", "at_least", "2"), ["b", "c"]),
        (Condition("price", "at_most", "2"), ["a", "b"]),
        (Condition("price", "equals", "2"), ["b"]),
        (Condition("price", "contains", "1"), ["a"]),
        (Condition("price", "empty", ""), ["d"]),
        (Condition("url", "contains", "X/B"), ["b"]),
        (Condition("url", "contains", "."), []),
        (Condition("id", "equals", "c"), ["c"]),
        (Condition("id", "at_least", "c"), ["c", "d"]),
    ],
)
def test_conditions_compare_numbers_as_numbers_and_texts_literally(
    condition: Condition, expected: list[str]
) -> None:
    catalog = catalog_of([("a", 1.0), ("b", 2.0), ("c", 3.0), ("d", None)])

    assert browse(catalog, [condition]).rows["id"].to_list() == expected


def test_numbers_in_a_column_of_text_are_compared_as_numbers() -> None:
    rows = pl.DataFrame(
        {"id": ["a", "b", "c"], "url": ["u", "v", "w"], "price": ["9", "10", "cheap"]}
    )
    catalog = rows_of(rows, catalog_of([]).images)

    def found(*condition: str) -> list[str]:
        return browse(catalog, [Condition(*condition)]).rows["id"].to_list()

    assert found("price", "at_least", "10") == ["b"]
    assert found("price", "at_most", "1e1") == ["a", "b"]
    assert found("price", "at_least", "a") == ["c"]
    assert found("price", "equals", "10") == ["b"]


@settings(deadline=None)
@given(ids=st.lists(_IDS, unique=True, max_size=20), words=_IDS, limit=st.integers(1, 5))
def test_words_find_the_exact_id_first_and_every_item_that_contains_them(
    ids: list[str], words: str, limit: int
) -> None:
    catalog = catalog_of([(item, None) for item in ids])
    found, total = find_words(catalog, words, limit)
    # Letters may also be equal without case.
    expected = {item for item in ids if words in item}

    assert expected <= set(find_words(catalog, words, len(ids) + 1)[0]["id"])
    assert found.height == min(limit, total)
    if words in ids:
        assert found["id"][0] == words


def test_values_of_other_types_are_compared_as_text() -> None:
    rows = pl.DataFrame(
        {"id": ["a", "b"], "url": ["u", "v"], "tags": [["red", "big"], None], "new": [True, False]}
    )
    catalog = rows_of(rows, catalog_of([]).images)

    def found(*condition: str) -> list[str]:
        return browse(catalog, [Condition(*condition)]).rows["id"].to_list()

    assert found("tags", "contains", "BIG") == ["a"]
    assert found("tags", "empty", "") == ["b"]
    assert found("new", "equals", "true") == ["a"]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (
            Condition("prise", "equals", "2"),
            "products has no column 'prise'; it has id, url, price",
        ),
        (Condition("price", "like", "2"), "'like' is not one of contains, equals"),
        (Condition("price", "at_least", "two"), "price has numbers, and 'two' is none"),
        (Condition("price", "at_least", "nan"), "price has numbers, and 'nan' is none"),
    ],
)
def test_bad_conditions_name_the_fix(condition: Condition, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        browse(catalog_of([("a", 1.0)]), [condition])


def test_an_item_is_ok_when_one_of_its_images_is() -> None:
    catalog = catalog_of(
        [("a", 1), ("b", 2), ("c", 3)],
        [
            ("a", 0, "http_404", None),
            ("a", 1, "ok", "aa"),
            ("b", 0, "timeout", None),
            ("b", 1, "blank", "bb"),
        ],
    )

    assert catalog.overview.rows() == [
        ("a", "ok", 2, "aa"),
        ("b", "timeout", 2, "bb"),
        ("c", "pending", 0, None),
    ]
    assert catalog.status_counts == {"ok": 1, "pending": 1, "timeout": 1}
    assert browse(catalog, status="timeout").rows["id"].to_list() == ["b"]
    assert catalog.images_of("b")["image"].to_list() == [0, 1]
    assert (catalog.position("b"), catalog.position("bb"), catalog.position("z")) == (1, None, None)


def test_shared_images_count_each_item_once() -> None:
    catalog = catalog_of(
        [("a", 1), ("b", 2), ("c", 3)],
        [
            ("a", 0, "ok", "aa"),
            ("a", 1, "ok", "aa"),
            ("b", 0, "ok", "bb"),
            ("b", 1, "ok", "aa"),
            ("c", 0, "ok", "bb"),
            ("c", 1, "ok", "aa"),
        ],
    )

    assert shared_images(catalog.images).rows() == [("aa", 3, "a", 0), ("bb", 2, "b", 0)]
    assert browse(catalog, sha256="bb").rows["id"].to_list() == ["b", "c"]


def test_carried_columns_may_have_the_names_of_the_overview() -> None:
    items = pl.DataFrame({"id": ["a"], "url": ["u"], "status": ["sold"], "images": ["3"]})
    catalog = rows_of(items, catalog_of([], [("a", 0, "ok", "00")]).images)

    assert browse(catalog).rows["status"].to_list() == ["ok"]
    assert find_words(catalog, "sold", 5)[0]["images"].to_list() == [1]
