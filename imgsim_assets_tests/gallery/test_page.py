"""The page of a gallery as text."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from imgsim_assets.errors import SettingsError
from imgsim_assets.gallery import page
from imgsim_assets.gallery.document import Details, Gallery, ItemColumns, cells
from imgsim_assets.gallery.page import page_with_images, write_gallery
from imgsim_assets.gallery.thumbnails import GivenImages
from imgsim_assets.pages.templates import static_folder
from imgsim_assets_tests.support.gallery_pages import GalleryPage


def _gallery(ids: list[str], title: str = "title") -> Gallery:
    rows = pl.DataFrame({"id": ids}, schema={"id": pl.String})
    keys = {"item": pl.Series(ids, dtype=pl.String)}
    return Gallery(title, "subtitle", "items", rows, keys, GivenImages({}))


def test_every_module_of_the_page_follows_those_that_it_imports_and_names_are_unique() -> None:
    seen: set[str] = set()
    names: Counter[str] = Counter()
    for name in page._SCRIPTS:
        text = (static_folder() / name).read_text()
        assert set(re.findall(r'from "\./(.+?)"', text)) <= seen, name
        declared = r"^(?:export )?(?:async )?(?:function|const|let|class) (\w+)"
        names.update(re.findall(declared, text, re.MULTILINE))
        seen.add(name)

    assert [name for name, count in names.items() if count > 1] == []


def test_text_of_others_ends_no_element_and_passwords_stay_private() -> None:
    hostile = "</script><!--<script>\u2028"
    gallery = _gallery([hostile], title=f"{hostile}\x00 https://me:secret@shop.example/")
    details = Details(pl.DataFrame({"url": ["https://me:secret@shop.example/a"]}), pl.Series([0]))

    text = page_with_images(
        Gallery(
            gallery.title,
            "subtitle",
            "items",
            gallery.rows,
            gallery.keys,
            gallery.images,
            {"item": details},
        )
    )

    assert text.count("<script") == text.count("</script>") == 3
    assert "secret" not in text
    assert "\x00" not in text
    assert GalleryPage(text).rows[0]["id"] == hostile


def test_cells_are_what_json_can_hold() -> None:
    values = pl.Series([1.5, float("nan"), float("inf"), None])

    assert cells(values) == [1.5, "nan", "inf", None]
    assert cells(pl.Series([["a", "b"], None])) == ["a, b", None]
    assert cells(pl.Series([b"x"])) is None
    assert cells(pl.Series(["x" * 5000])) == ["x" * 1999 + "\N{HORIZONTAL ELLIPSIS}"]
    assert cells(pl.Series(["2026-01-02"]).str.to_date()) == ["2026-01-02"]


def test_empty_gallery_has_a_page() -> None:
    written = GalleryPage(page_with_images(_gallery([])))

    assert (written.data["count"], written.images) == (0, [])


def test_page_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"path: .*nowhere/g\.html cannot be written: No such"):
        write_gallery(_gallery(["a"]), tmp_path / "nowhere" / "g.html")
    (tmp_path / "g.html").mkdir()
    with pytest.raises(SettingsError, match=r"path: .*g\.html cannot be written: Is a directory"):
        write_gallery(_gallery(["a"]), tmp_path / "g.html")

    assert [path.name for path in tmp_path.iterdir()] == ["g.html"]


def test_columns_of_items_may_have_the_names_of_the_keys() -> None:
    rows = pl.DataFrame({"id": ["b", "a"], "image": [0, 0]})
    columns = {"image": ["front", "back"], "__id": ["x", "y"]}
    items = ItemColumns(pl.DataFrame({"id": ["a", "b"], "image": [0, 0]}), pl.DataFrame(columns))

    details = Details.of(rows, ["id", "image"], items).json()

    assert details == {
        "columns": {"image": ["back", "front"], "__id": ["y", "x"]},
        "positions": [0, 1],
    }
