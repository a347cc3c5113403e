"""Ids that occur more than once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.catalog.ids import number_repeats
from imgsim_assets.catalog.raw_rows import REASON
from imgsim_assets_tests.support.sources import validate, write


def numbered(images: list[str]) -> list[str]:
    """The ids of valid rows with these images."""
    frame = pl.DataFrame(
        {"id": images, REASON: [None] * len(images)}, schema_overrides={REASON: pl.String}
    )
    return number_repeats(frame)["id"].to_list()


def test_repeated_images_get_a_number(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "image,name\na.jpg,x\nb.jpg,y\na.jpg,z\na.jpg,x\n")

    result = validate(tmp_path, "a.csv")

    assert result.rows["id"].to_list() == ["a.jpg", "a.jpg#2", "a.jpg#3", "b.jpg"]
    assert result.rejects.is_empty()


_IMAGE = st.sampled_from(["a", "b", "a#2", "a#2#2", "c"])


@settings(deadline=None)
@given(images=st.lists(_IMAGE, max_size=12))
def test_ids_of_images_are_unique_and_start_with_the_image(images: list[str]) -> None:
    ids = numbered(images)

    assert len(set(ids)) == len(images)
    assert all(id_.startswith(image) for id_, image in zip(ids, images, strict=True))


@settings(deadline=None)
@given(images=st.lists(st.sampled_from("abc"), max_size=12), data=st.data())
def test_inserted_row_renames_no_other_image(images: list[str], data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(images)))
    more = [*images[:position], "new", *images[position:]]

    after = Counter(numbered(more))

    assert after - Counter(numbered(images)) == Counter(["new"])


_FEEDS = {
    "day1.csv": "id,url\na,1\nb,2\n",
    "day2.csv": "id,url\nb,3\nc,4\nc,5\n",
}


@pytest.mark.parametrize(
    ("policy", "urls", "rejected"),
    [("first", "1 2 4", 2), ("last", "1 3 5", 0), ("reject", "1", 4)],
)
def test_policy_decides_which_row_of_an_id_is_taken(
    tmp_path: Path, policy: str, urls: str, rejected: int
) -> None:
    for name, content in _FEEDS.items():
        write(tmp_path, name, content)

    result = validate(tmp_path, "*.csv", on_duplicate=policy)

    assert result.rows["url"].to_list() == urls.split()
    assert result.rejects.height == rejected
    assert set(result.rejects["reason"]) <= {"duplicate_id"}
    assert [notice for notice in result.notices if "replaced by later rows" in notice] == (
        ["rows replaced by later rows with the same id: 2 ('on_duplicate: last')"]
        if policy == "last"
        else []
    )


def test_invalid_row_replaces_no_valid_one(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id,url\na,good\na,\na,ftp://x\n")

    result = validate(tmp_path, "a.csv", on_duplicate="last")

    assert result.rows["url"].to_list() == ["good"]
    assert result.rejects["reason"].to_list() == ["empty_url", "unsupported_scheme"]


def test_ids_that_differ_by_blanks_are_a_notice(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id,url\na,1\na ,2\n b,3\n")

    result = validate(tmp_path, "a.csv")

    assert result.rows.height == 3
    assert "blanks around them: 1, such as 'a'" in result.notices[0]
