"""Which images are those of most items."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.selection import common_images, compared, describe_common_images
from imgsim_assets.similarity.settings import ComparisonSettings


def _items(*of_items: str) -> Items:
    """Items named a, b, ...; each letter of a text is an image."""
    rows = [
        (chr(ord("a") + number), image, sha256)
        for number, images in enumerate(of_items)
        for image, sha256 in enumerate(images)
    ]
    schema = {"id": pl.String, "image": pl.Int32, "sha256": pl.String}
    keys = pl.DataFrame(rows, schema=schema, orient="row")
    return Items(keys, np.ones((len(rows), 1), dtype=np.float32))


@pytest.mark.parametrize(
    ("of_items", "found"),
    [
        (("1X", "2X", "3"), []),  # fewer than four items
        (("1X", "2X", "3", "4"), []),  # half of them
        (("1X", "X2", "3X", "4"), [("X", "a", 1, 3, 4)]),
        (("1XX", "2XX", "3", "4"), []),  # an item counts once
        (("X1Y", "XY", "XY", "X"), [("X", "a", 0, 4, 4), ("Y", "a", 2, 3, 4)]),
    ],
)
def test_more_than_half_of_at_least_four_items(
    of_items: tuple[str, ...], found: list[tuple[str, str, int, int, int]]
) -> None:
    common = common_images({"shop": compared(_items(*of_items), ComparisonSettings())})

    assert common.drop("catalog").rows() == found


def test_images_that_are_left_out_are_not_common() -> None:
    items = compared(_items("1X", "2X", "3X", "4X"), ComparisonSettings(max_shared=3))

    assert common_images({"shop": items}).is_empty()
    assert describe_common_images(common_images({"shop": items}), "max_shared:") == []


def test_proposed_limit_leaves_out_every_named_image() -> None:
    items = {"shop": _items("XY", "XY", "XY", "X"), "other": _items("Z", "Z", "Z", "Z", "Z")}

    *named, fix = describe_common_images(common_images(items), "max_shared:", shown=2)

    assert named[0].startswith("image 0 of item 'a' is an image of 5 of 5 items of other")
    assert named[2] == "1 more images of more than half of the items"
    assert fix.endswith("set max_shared: 2")


def test_items_that_share_no_image_are_compared_as_they_are() -> None:
    items = _items("1", "2", "3")

    assert compared(items, ComparisonSettings(max_shared=1)) is items
    assert compared(_items("1X", "2X"), ComparisonSettings(max_shared=1)).images.all().height == 2
