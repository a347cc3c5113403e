"""The columns of images and ids are recognized by their cells, never by their position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.catalog.columns import choose_columns
from imgsim_assets.errors import SourceError
from imgsim_assets_tests.support.sources import source_settings, validate, write

_IMAGES = [f"http://h/{n}.jpg" for n in range(4)]
_PAGES = [f"http://h/product/{n}" for n in range(4)]
_SKUS = [f"S-{n}" for n in range(4)]
_PRICES = ["9.99", "10.00", "11.50", "12.00"]


def chosen(columns: Mapping[str, Sequence[object]], **declared: str) -> tuple[str, str]:
    """The id and the url column of a frame."""
    found = choose_columns(pl.DataFrame(columns), source_settings("a.csv", **declared))
    [url] = found.urls
    return found.id, url


@pytest.mark.parametrize("order", list(permutations(["sku", "image_link", "price"])))
def test_columns_are_recognized_in_every_order(order: Sequence[str]) -> None:
    values = {"sku": _SKUS, "image_link": _IMAGES, "price": _PRICES}

    assert chosen({name: values[name] for name in order}) == ("sku", "image_link")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"link": _PAGES, "picture": _IMAGES}, "picture"),
        ({"url": _PAGES, "picture": _IMAGES}, "picture"),
        ({"page": _PAGES, "file": ["a.jpg", "b/c.PNG", "d.webp?x=1", "e.jpeg"]}, "file"),
        ({"name": ["0.jpg", "1.jpg", "2.jpg", "3.jpg"], "path": _IMAGES}, "path"),
        ({"url": _IMAGES, "thumb": _IMAGES}, "url"),
        ({"title": ["a", "b", "c", "d"], "Bild": _PAGES}, "Bild"),
        ({"title": ["a", "b", "c", "d"], "url": ["1", "2", "3", "4"]}, "url"),
        ({"shown": [*_IMAGES[:3], ""], "note": ["", "", "", _IMAGES[0]]}, "shown"),
    ],
)
def test_image_column_is_the_one_with_images(
    columns: Mapping[str, Sequence[str]], expected: str
) -> None:
    assert chosen(columns)[1] == expected


@pytest.mark.parametrize(
    ("columns", "candidates"),
    [
        ({"image": _IMAGES, "back": _IMAGES[::-1]}, "'image', 'back'"),
        ({"url": _PAGES, "image": _PAGES[::-1]}, "'url', 'image'"),
    ],
)
def test_several_image_columns_are_one_question(
    columns: Mapping[str, Sequence[str]], candidates: str
) -> None:
    with pytest.raises(SourceError) as raised:
        chosen(columns)

    assert f"which column holds the images? Set 'url:' to one of {candidates}" in str(raised.value)
    assert chosen(columns, url="image")[1] == "image"


def test_list_without_images_lists_its_columns() -> None:
    with pytest.raises(SourceError, match="Set 'url:' to one of 'sku', 'price'"):
        chosen({"sku": _SKUS, "price": _PRICES})


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"id": ["1", "1", "2", "3"], "sku": _SKUS}, "id"),
        ({"sku": _SKUS, "stock": ["3", "6", "9", "12"]}, "sku"),
        ({"Artikel-Nr": ["1", "2", "3", "4"], "stock": ["3", "6", "9", "12"]}, "Artikel-Nr"),
        ({"productId": ["1", "2", "3", "4"], "name": ["a1", "b2", "c3", "d4"]}, "productId"),
        ({"what": _SKUS, "price": _PRICES, "title": ["a b", "c d", "e f", "g h"]}, "what"),
        ({"what": ["4006381333931", "4006381333948", "4006381333955", "4006381333962"]}, "what"),
        ({"sku": ["a", "a", "b", "c"]}, "image"),
        ({"sku": ["a", "", "b", "c"]}, "image"),
        ({"stock": ["3", "6", "9", "12"]}, "image"),
        ({"color": ["red", "blue", "gray", "teal"], "price": _PRICES}, "image"),
    ],
)
def test_id_column_is_the_one_with_ids(columns: Mapping[str, Sequence[str]], expected: str) -> None:
    assert chosen({**columns, "image": _IMAGES})[0] == expected


def test_several_id_columns_are_one_question() -> None:
    columns = {"sku": _SKUS, "ean": [f"400638133{n}" for n in range(4)], "image": _IMAGES}

    with pytest.raises(SourceError, match=r"which column holds the ids.* 'id:' to one of 'sku'"):
        chosen(columns)
    assert chosen(columns, id="ean") == ("ean", "image")
    assert chosen(columns, id="image") == ("image", "image")


@pytest.mark.parametrize(
    "values",
    [
        [["http://h/1.jpg"], ["http://h/2.jpg", "http://h/3.jpg"]],
        ['["http://h/1.jpg", "http://h/2.jpg"]', '["a.jpg"]'],
        ["['http://h/1.jpg', 'http://h/2.jpg']", "['a.jpg', None]"],
        [[{"src": "http://h/1.jpg"}], [{"src": "a.jpg"}, {"src": "b.jpg"}]],
    ],
)
def test_lists_of_images_are_the_images_where_no_column_has_single_ones(
    values: Sequence[object],
) -> None:
    columns: dict[str, Sequence[object]] = {
        "id": ["1", "2"],
        "tags": [["a.b", "c"], ["d"]],
        "images": values,
    }

    assert chosen(columns) == ("id", "images")
    assert chosen({**columns, "photo": _IMAGES[:2]}) == ("id", "photo")


def test_several_columns_of_lists_are_one_question() -> None:
    columns: dict[str, Sequence[object]] = {
        "front": [["a.jpg"], ["b.jpg"]],
        "back": ['["a.jpg"]', '["b.jpg"]'],
    }

    with pytest.raises(SourceError, match=r"Set 'url:' to one of 'front', 'back'; 'url: \[front, "):
        chosen(columns)
    assert chosen(columns, url="back")[1] == "back"
    assert chosen({"url": columns["front"], **columns})[1] == "url"


@settings(deadline=None, max_examples=40)
@given(order=st.permutations(["id", "image", "page", "title", "price"]), data=st.data())
def test_choice_depends_neither_on_order_nor_on_empty_columns(
    order: list[str], data: st.DataObject
) -> None:
    values = {"id": _SKUS, "image": _IMAGES, "page": _PAGES, "title": ["a", "b", "c", "d"]}
    columns = {name: values.get(name, _PRICES) for name in order}
    position = data.draw(st.integers(0, len(columns)))
    names = list(columns)
    names.insert(position, "empty")

    frame = {name: columns.get(name, [""] * 4) for name in names}

    assert chosen(frame) == ("id", "image")


def test_column_of_ids_that_is_passed_over_is_named(tmp_path: Path) -> None:
    rows = [f"A{n},{n % 2},http://h/{n}.jpg" for n in range(9)]
    write(tmp_path, "a.csv", "\n".join(["sku,code,image", *rows, "A0,1,http://h/9.jpg"]))

    result = validate(tmp_path, "a.csv")

    assert result.id_column == "image"
    [notice] = result.notices
    assert "'sku' is not taken as the ids: 1 of 10 cells are empty or repeated" in notice
    assert validate(tmp_path, "a.csv", id="sku").notices == ()


def test_several_columns_in_one_text_are_told_to_be_a_list() -> None:
    with pytest.raises(SourceError, match=r"several columns are a list: 'url: \[front, back\]'"):
        chosen({"front": _IMAGES, "back": _IMAGES}, url="front, back")


def test_question_about_columns_names_all_that_hold_images() -> None:
    columns = {"front": _IMAGES, "back": _IMAGES[::-1], "detail": ["", "", "", _IMAGES[0]]}

    with pytest.raises(SourceError, match=r"one of 'front', 'back'; 'url: \[front, back, detail\]"):
        chosen(columns)
