from __future__ import annotations

import polars as pl
import pytest

from imgsim_assets.errors import StoreError
from imgsim_assets.index.entries import NO_ENTRIES, update_entries
from imgsim_assets.storage.row_blocks import RowBlocks
from imgsim_assets_tests.support.index_files import Content, images_of


def _images(content: Content) -> RowBlocks:
    return RowBlocks.of(images_of(content))


def test_numbers_are_never_reused() -> None:
    first = update_entries(NO_ENTRIES, 0, _images({("a", 0): 0, ("b", 0): 1}))
    emptied = update_entries(first.entries, first.next_number, _images({}))

    again = update_entries(
        emptied.entries, emptied.next_number, _images({("a", 0): 0, ("c", 0): 2})
    )

    assert first.entries.all()["number"].to_list() == [0, 1]
    assert again.entries.all()["number"].to_list() == [2, 3]
    assert (emptied.removed, again.next_number) == (2, 4)


@pytest.mark.parametrize("before", [{}, {("a", 0): 0, ("b", 1): 1}])
def test_image_that_occurs_twice_is_an_error(before: Content) -> None:
    first = update_entries(NO_ENTRIES, 0, _images(before))
    images = images_of({("b", 1): 2, ("x", 0): 3})
    twice = RowBlocks.of(pl.concat([images, images]).sort("id", "image"))

    with pytest.raises(StoreError, match="an image is added to the index twice"):
        update_entries(first.entries, first.next_number, twice)


def test_kept_vectors_belong_to_the_images_that_they_are_kept_as() -> None:
    first = update_entries(NO_ENTRIES, 0, _images({("a", 0): 7, ("a", 1): 8, ("a", 2): 9}))

    changes = update_entries(
        first.entries, first.next_number, _images({("a", 0): 9, ("a", 2): 7, ("b", 0): 1})
    )

    assert changes.entries.all().select("id", "image", "number").rows() == [
        ("a", 0, 2),
        ("a", 2, 0),
        ("b", 0, 3),
    ]
    assert (changes.removed, changes.moved, len(changes.added)) == (1, 2, 1)
