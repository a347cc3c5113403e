"""Items as one row per image."""

import polars as pl

from imgsim_assets.catalog.image_rows import image_rows

_SCHEMA = {"id": pl.String, "image": pl.Int32, "url": pl.String}


def test_item_with_one_image_is_one_row() -> None:
    items = pl.DataFrame({"id": ["a", "b"], "url": ["a.jpg", "b.jpg"], "title": ["A", "B"]})
    rows = image_rows(items)
    assert rows.schema == _SCHEMA
    assert rows.rows() == [("a", 0, "a.jpg"), ("b", 0, "b.jpg")]


def test_images_are_numbered_within_their_item() -> None:
    items = pl.DataFrame(
        {
            "id": ["a", "b", "c"],
            "url": ["a.jpg", "b.jpg", "c.jpg"],
            "other_urls": [["z.jpg", "y.jpg"], [], ["c2.jpg"]],
        },
        schema_overrides={"other_urls": pl.List(pl.String)},
    )
    rows = image_rows(items)
    assert rows.schema == _SCHEMA
    assert rows.rows() == [
        ("a", 0, "a.jpg"),
        ("a", 1, "z.jpg"),
        ("a", 2, "y.jpg"),
        ("b", 0, "b.jpg"),
        ("c", 0, "c.jpg"),
        ("c", 1, "c2.jpg"),
    ]


def test_no_items_give_no_rows() -> None:
    items = pl.DataFrame(schema={"id": pl.String, "url": pl.String})
    assert image_rows(items).schema == _SCHEMA
    several = items.with_columns(other_urls=pl.lit(None, pl.List(pl.String)))
    assert image_rows(several).schema == _SCHEMA
    assert not image_rows(several).height
