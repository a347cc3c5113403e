from __future__ import annotations

import random
import tempfile
import zlib
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.catalog.stage import (
    ItemsReport,
    ItemsStage,
    data_version,
    items_table,
    rejects_table,
)
from imgsim_assets.errors import SourceError
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.sources import (
    age,
    declared,
    rewrite_unnoticed,
    write,
    write_odd_name,
)

NAME = "shop"


def test_a_source_becomes_a_catalog_and_a_report(tmp_path: Path, store: Store) -> None:
    write(tmp_path, "a.csv", "name,id,url\nchair,2,u2\ntable,1,u1\nsofa,3,\nlamp,1,u4\n")

    report = run(store, tmp_path, "a.csv", shards=2)

    assert stored(store).to_dicts() == [
        {"id": "1", "url": "u1", "name": "table"},
        {"id": "2", "url": "u2", "name": "chair"},
    ]
    assert report == ItemsReport(
        version=1,
        rows=2,
        rejects={"duplicate_id": 1, "empty_url": 1},
        columns=["id", "url", "name"],
        changed=True,
        data_version=data_version(newest(store)),
        changed_shards=["000", "001"],
    )


def test_every_row_lies_in_the_shard_of_its_id(tmp_path: Path, store: Store) -> None:
    ids = [f"item-{number}" for number in range(40)] + ["é", "中", " "]
    write(tmp_path, "a.csv", table(ids))

    run(store, tmp_path, "a.csv", shards=5)

    commit = newest(store)
    for index in range(5):
        rows = items_table(store, NAME).read(commit, shard=Shard(index, 5))
        assert sorted(rows["id"]) == sorted(
            key for key in ids if key.strip() and zlib.crc32(key.encode()) % 5 == index
        )
        assert rows["id"].is_sorted()


def test_an_unchanged_source_makes_no_version(tmp_path: Path, store: Store) -> None:
    write(tmp_path, "a.csv", table("abc") + "d,\n")
    first = run(store, tmp_path, "a.csv")

    second = run(store, tmp_path, "a.csv")

    assert (second.version, second.changed, list(second.changed_shards)) == (1, False, [])
    assert second.data_version == first.data_version
    assert second.rejects == first.rejects == {"empty_url": 1}
    assert rejects_table(store, NAME).versions() == [1]


def test_an_unchanged_source_is_not_read_again(tmp_path: Path, store: Store) -> None:
    file = write(tmp_path, "a.csv", "id,url\n1,u1\n")
    age(file)
    run(store, tmp_path, "a.csv")

    rewrite_unnoticed(file, "id,url\n1,u2\n")
    run(store, tmp_path, "a.csv")

    assert stored(store)["url"].to_list() == ["u1"]


@pytest.mark.parametrize("change", ["order", "settings"])
def test_a_change_without_effect_is_looked_at_once(
    tmp_path: Path, store: Store, change: str
) -> None:
    file = write(tmp_path, "a.csv", "id,url\n1,u1\n2,u2\n")
    age(file, 7200)
    run(store, tmp_path, "a.csv")
    later: dict[str, Any] = {}
    if change == "order":
        write(tmp_path, "a.csv", "id,url\n2,u2\n1,u1\n")
        age(file)
    else:
        later = {"delimiter": ","}
    before = newest(store).files
    looked = run(store, tmp_path, "a.csv", **later)
    assert (looked.version, looked.changed, list(looked.changed_shards)) == (2, True, [])
    assert newest(store).files == before

    rewrite_unnoticed(file, file.read_text().replace("u2", "u9"))
    again = run(store, tmp_path, "a.csv", **later)

    assert (again.version, again.changed) == (2, False)
    assert stored(store)["url"].to_list() == ["u1", "u2"]


def test_one_changed_row_changes_its_shard_alone(tmp_path: Path, store: Store) -> None:
    ids = [f"item-{number}" for number in range(30)]
    write(tmp_path, "a.csv", table(ids))
    first = run(store, tmp_path, "a.csv", shards=4)
    before = {file.shard: file.path for file in newest(store).files}

    write(tmp_path, "a.csv", table(ids).replace("item-7,http://x/item-7", "item-7,http://x/new"))
    second = run(store, tmp_path, "a.csv", shards=4)

    after = {file.shard: file.path for file in newest(store).files}
    own = zlib.crc32(b"item-7") % 4
    assert second.version == 2
    assert list(second.changed_shards) == [f"{own:03d}"]
    assert {shard for shard in range(4) if before[shard] != after[shard]} == {own}
    assert second.data_version != first.data_version


def test_a_changed_carried_value_is_a_change(tmp_path: Path, store: Store) -> None:
    write(tmp_path, "a.csv", "id,url,price\n1,u1,5\n")
    run(store, tmp_path, "a.csv", shards=1)
    write(tmp_path, "a.csv", "id,url,price\n1,u1,6\n")

    assert run(store, tmp_path, "a.csv", shards=1).changed
    assert stored(store)["price"].to_list() == ["6"]


def test_a_new_column_reaches_every_shard(tmp_path: Path, store: Store) -> None:
    write(tmp_path, "a.csv", table("abcdef"))
    run(store, tmp_path, "a.csv", shards=3)
    write(tmp_path, "a.csv", table("abcdef").replace("\n", ",x\n"))

    report = run(store, tmp_path, "a.csv", shards=3)

    assert list(report.changed_shards) == ["000", "001", "002"]
    assert report.columns == ["id", "url", "x"]
    assert stored(store)["x"].to_list() == ["x"] * 6


def test_added_and_removed_rows_are_added_and_removed(tmp_path: Path, store: Store) -> None:
    write(tmp_path, "a.csv", table("abc"))
    run(store, tmp_path, "a.csv")
    write(tmp_path, "a.csv", table("bcd"))

    assert run(store, tmp_path, "a.csv").rows == 3
    assert stored(store)["id"].to_list() == ["b", "c", "d"]


def test_going_back_to_earlier_rows_gives_the_earlier_data_version(
    tmp_path: Path, store: Store
) -> None:
    versions = []
    for ids in ("abc", "abcd", "abc"):
        write(tmp_path, "a.csv", table(ids))
        versions.append(run(store, tmp_path, "a.csv").data_version)

    assert versions[0] == versions[2] != versions[1]


def test_the_version_before_can_still_be_read(tmp_path: Path, store: Store) -> None:
    write(tmp_path, "a.csv", table("abc"))
    run(store, tmp_path, "a.csv")
    write(tmp_path, "a.csv", table("xyz"))
    run(store, tmp_path, "a.csv")

    catalog = items_table(store, NAME)
    assert sorted(catalog.read(catalog.at(1))["id"]) == ["a", "b", "c"]


@settings(deadline=None, max_examples=25)
@given(
    ids=st.lists(
        st.text("abcé0 ", min_size=1, max_size=4).filter(str.strip),
        unique=True,
        min_size=1,
        max_size=12,
    ),
    shards=st.integers(1, 5),
    chance=st.randoms(use_true_random=False),
)
def test_the_order_of_the_source_does_not_matter(
    ids: list[str], shards: int, chance: random.Random
) -> None:
    shuffled = list(ids)
    chance.shuffle(shuffled)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = Store.open(folder / "store")
        write(folder, "a.csv", table(ids))
        first = run(store, folder, "a.csv", shards=shards)
        before = newest(store).files
        write(folder, "a.csv", table(shuffled))
        second = run(store, folder, "a.csv", shards=shards)

        assert second.changed == (shuffled != ids)
        assert list(second.changed_shards) == []
        assert newest(store).files == before
        assert second.data_version == first.data_version
        assert stored(store)["id"].to_list() == sorted(ids)


@settings(deadline=None, max_examples=25)
@given(
    ids=st.lists(st.text("abcé0", min_size=1, max_size=4), unique=True, min_size=2, max_size=12),
    shards=st.integers(2, 5),
    data=st.data(),
)
def test_a_row_that_comes_or_goes_touches_its_own_shard_alone(
    ids: list[str], shards: int, data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(ids))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = Store.open(folder / "store")
        write(folder, "a.csv", table(ids))
        full = run(store, folder, "a.csv", shards=shards)
        write(folder, "a.csv", table([key for key in ids if key != gone]))
        less = run(store, folder, "a.csv", shards=shards)
        write(folder, "a.csv", table(ids))
        again = run(store, folder, "a.csv", shards=shards)

    own = [f"{zlib.crc32(gone.encode()) % shards:03d}"]
    assert list(less.changed_shards) == list(again.changed_shards) == own
    assert again.data_version == full.data_version


@pytest.mark.parametrize(("before", "after"), [(4, 2), (2, 5), (3, 1)])
def test_another_number_of_shards_keeps_every_row(
    tmp_path: Path, store: Store, before: int, after: int
) -> None:
    ids = [f"item-{number}" for number in range(25)]
    write(tmp_path, "a.csv", table(ids))
    run(store, tmp_path, "a.csv", shards=before)

    report = run(store, tmp_path, "a.csv", shards=after)

    commit = newest(store)
    assert report.rows == 25
    assert stored(store)["id"].to_list() == sorted(ids)
    assert [(file.shard, file.shard_count) for file in commit.files] == [
        (index, after) for index in range(after)
    ]


def test_more_shards_than_rows_leaves_some_empty(tmp_path: Path, store: Store) -> None:
    write(tmp_path, "a.csv", table("ab"))

    run(store, tmp_path, "a.csv", shards=6)

    read = [items_table(store, NAME).read(newest(store), shard=Shard(i, 6)) for i in range(6)]
    assert sorted(rows.height for rows in read) == [0, 0, 0, 0, 1, 1]
    assert {tuple(rows.columns) for rows in read} == {("id", "url")}


def test_other_settings_are_applied_to_an_unchanged_file(tmp_path: Path, store: Store) -> None:
    file = write(tmp_path, "a.csv", "id,url,image\n1,page,u1\n")
    age(file)
    run(store, tmp_path, "a.csv")

    report = run(store, tmp_path, "a.csv", url="image")

    assert (report.version, report.changed) == (2, True)
    assert stored(store).to_dicts() == [{"id": "1", "url": "u1", "source_url": "page"}]


def test_another_root_is_a_new_version_of_the_same_files(tmp_path: Path, store: Store) -> None:
    write(tmp_path, "a.csv", table("abc"))
    first = run(store, tmp_path, "a.csv")
    before = newest(store)

    second = run(store, tmp_path, "a.csv", root="images")

    after = newest(store)
    assert (second.version, second.changed, list(second.changed_shards)) == (2, True, [])
    assert after.files == before.files
    assert second.data_version == first.data_version
    assert (before.properties["root"], after.properties["root"]) == (
        str(tmp_path),
        str(tmp_path / "images"),
    )


# ---- rejects -----------------------------------------------------------------------------


def test_rejects_are_a_table_that_follows_the_source(tmp_path: Path, store: Store) -> None:
    write(tmp_path, "a.csv", "id,url\n1,u1\n2\n3,ftp://x\n1,u3\n")
    run(store, tmp_path, "a.csv")

    assert rejected(store).rows() == [
        ("a.csv", 3, "ragged_line", "1 fields where 2 are expected", "2"),
        (
            "a.csv",
            4,
            "unsupported_scheme",
            "only http, https, file and object store URLs and paths can be fetched",
            "id=3 url=ftp://x",
        ),
        ("a.csv", 5, "duplicate_id", "the id is already used in a.csv line 2", "id=1 url=u3"),
    ]

    before = newest(store).files
    write(tmp_path, "a.csv", "id,url\n1,u1\n3,ftp://x\n")
    report = run(store, tmp_path, "a.csv")

    assert report.rejects == {"unsupported_scheme": 1}
    assert list(report.changed_shards) == []
    assert newest(store).files == before
    assert rejected(store)["line"].to_list() == [3]


def test_a_source_without_rejects_empties_their_table(tmp_path: Path, store: Store) -> None:
    write(tmp_path, "a.csv", "id,url\n1,u1\n2\n")
    run(store, tmp_path, "a.csv")
    write(tmp_path, "a.csv", "id,url\n1,u1\n2,u2\n")

    assert run(store, tmp_path, "a.csv").rejects == {}
    assert rejected(store).height == 0


# ---- sources that cannot count -----------------------------------------------------------


@pytest.mark.parametrize("content", ["", "id,url\n", "id,url\n1\n2,ftp://x\n"])
def test_an_emptied_source_is_refused_and_the_last_version_kept(
    tmp_path: Path, store: Store, content: str
) -> None:
    write(tmp_path, "a.csv", table("abc"))
    run(store, tmp_path, "a.csv")
    write(tmp_path, "a.csv", content)

    with pytest.raises(SourceError) as refused:
        run(store, tmp_path, "a.csv")

    message = str(refused.value)
    assert message.startswith("a.csv holds no usable row")
    assert "the 3 items of the last version are kept" in message
    assert "set 'allow_empty: true'" in message
    assert newest(store).version == 1
    assert stored(store)["id"].to_list() == ["a", "b", "c"]


def test_a_source_of_rejects_alone_tells_the_first_of_them(tmp_path: Path, store: Store) -> None:
    write(tmp_path, "a.csv", "id,url\n1,ftp://x\n2\n")

    with pytest.raises(
        SourceError,
        match=r"a\.csv holds no usable row: all 2 are rejected, the first in a\.csv line 2: only",
    ):
        run(store, tmp_path, "a.csv")
    assert items_table(store, NAME).latest() is None


@pytest.mark.parametrize("content", ["", "id,url\n", "id,url\n1\n"])
def test_a_source_that_may_be_empty_empties_the_catalog(
    tmp_path: Path, store: Store, content: str
) -> None:
    write(tmp_path, "a.csv", table("abc"))
    run(store, tmp_path, "a.csv", allow_empty=True)
    write(tmp_path, "a.csv", content)

    report = run(store, tmp_path, "a.csv", allow_empty=True, max_removed_fraction=0.5)

    assert (report.version, report.rows, report.changed) == (2, 0, True)
    assert stored(store).columns[:2] == ["id", "url"]
    assert not run(store, tmp_path, "a.csv", allow_empty=True).changed


def test_a_source_that_lost_too_much_keeps_the_last_version(tmp_path: Path, store: Store) -> None:
    write(tmp_path, "a.csv", table("abcdefghij"))
    run(store, tmp_path, "a.csv")
    for gone, left in ((5, "abcde"), (0, "abcdefghij")):
        write(tmp_path, "a.csv", table(left))
        report = run(store, tmp_path, "a.csv", max_removed_fraction=0.5)
        assert report.rows == 10 - gone
    write(tmp_path, "a.csv", table("abcd"))

    with pytest.raises(SourceError) as refused:
        run(store, tmp_path, "a.csv", max_removed_fraction=0.5)

    message = str(refused.value)
    assert message.startswith("a.csv has 4 usable rows and had 10: 60% of the items are gone")
    assert "run config 'allow_removals: true'" in message
    assert newest(store).version == 3
    assert run(store, tmp_path, "a.csv", max_removed_fraction=1.0).rows == 4


def test_a_source_that_lost_its_items_to_broken_rows_tells_the_first_of_them(
    tmp_path: Path, store: Store
) -> None:
    write(tmp_path, "a.csv", table("abcd"))
    run(store, tmp_path, "a.csv")
    write(tmp_path, "a.csv", table("a") + "b\nc\nd\n")

    with pytest.raises(SourceError, match=r"rows 3 are rejected, the first in a\.csv line 3: "):
        run(store, tmp_path, "a.csv", max_removed_fraction=0.5)

    assert rejected(store)["reason"].to_list() == ["ragged_line"] * 3
    write(tmp_path, "a.csv", table("abcd"))
    report = run(store, tmp_path, "a.csv", max_removed_fraction=0.5)
    assert dict(report.rejects) == {}
    assert rejected(store).is_empty()


def test_as_many_rows_under_other_ids_have_lost_the_old_ones(tmp_path: Path, store: Store) -> None:
    write(tmp_path, "a.csv", table("abcd"))
    run(store, tmp_path, "a.csv")
    write(tmp_path, "a.csv", table("abcd").replace("id,", "sku,", 1))

    with pytest.raises(SourceError, match=r"100% of the items.* 'id' and now come from 'url'"):
        run(store, tmp_path, "a.csv", max_removed_fraction=0.5)

    assert newest(store).version == 1


def test_a_damaged_version_does_not_keep_the_next_one_from_being_made(
    tmp_path: Path, store: Store
) -> None:
    write(tmp_path, "a.csv", table("abcd"))
    run(store, tmp_path, "a.csv")
    for file in newest(store).files:
        (Path(store.url) / NAME / "items" / file.path).write_bytes(b"")
    write(tmp_path, "a.csv", table("abce"))

    assert run(store, tmp_path, "a.csv", max_removed_fraction=0.5).rows == 4


def test_an_emptied_folder_of_images_keeps_the_last_version(tmp_path: Path, store: Store) -> None:
    image = write(tmp_path, "images/a.jpg", b"x")
    run(store, tmp_path, "images")
    image.unlink()

    with pytest.raises(SourceError) as refused:
        run(store, tmp_path, "images")

    message = str(refused.value)
    assert message.startswith("images holds no images (.avif .bmp ")
    assert "the 1 items of the last version are kept" in message
    assert "set 'allow_empty: true'" in message
    assert newest(store).version == 1
    assert stored(store)["id"].to_list() == ["a.jpg"]


def test_a_folder_of_lists_is_said_to_need_a_pattern(tmp_path: Path, store: Store) -> None:
    write(tmp_path, "lists/a.csv", "id,url\n1,x.jpg\n")

    with pytest.raises(SourceError, match=r"^lists holds no images .*; lists .* such as \*\.csv"):
        run(store, tmp_path, "lists")


def test_a_folder_of_unreadable_names_alone_tells_the_first_of_them(
    tmp_path: Path, store: Store
) -> None:
    write_odd_name(tmp_path / "images", b"caf\xe9.jpg")

    with pytest.raises(SourceError, match=r"all 1 are rejected, the first in caf\?\.jpg"):
        run(store, tmp_path, "images")


def test_a_folder_of_images_that_may_be_empty_empties_the_catalog(
    tmp_path: Path, store: Store
) -> None:
    image = write(tmp_path, "images/a.jpg", b"x")
    run(store, tmp_path, "images", allow_empty=True)
    image.unlink()

    report = run(store, tmp_path, "images", allow_empty=True)

    assert (report.version, report.rows, report.changed) == (2, 0, True)
    assert list(report.columns) == ["id", "url", "name", "folder"]
    assert not run(store, tmp_path, "images", allow_empty=True).changed
    write(tmp_path, "images/b.jpg", b"x")
    run(store, tmp_path, "images", allow_empty=True)
    assert stored(store)["id"].to_list() == ["b.jpg"]


@pytest.mark.parametrize(
    ("content", "settings"),
    [("sku,link\n1,u1\n", {}), ("id,url\n1,u1\n", {"id": "sku"}), ('"id,url\n1,u1\n', {})],
)
def test_a_source_that_cannot_be_read_changes_nothing(
    tmp_path: Path, store: Store, content: str, settings: dict[str, Any]
) -> None:
    write(tmp_path, "a.csv", table("abc") + "bad\n")
    run(store, tmp_path, "a.csv")
    write(tmp_path, "a.csv", content)

    with pytest.raises(SourceError, match=r"a\.csv"):
        run(store, tmp_path, "a.csv", **settings)

    assert stored(store)["id"].to_list() == ["a", "b", "c"]
    assert rejected(store)["reason"].to_list() == ["ragged_line"]


def test_a_source_that_is_gone_changes_nothing(tmp_path: Path, store: Store) -> None:
    file = write(tmp_path, "a.csv", table("abc"))
    run(store, tmp_path, "a.csv")
    file.unlink()

    with pytest.raises(SourceError, match=r"there is no .*/a\.csv"):
        run(store, tmp_path, "a.csv")
    assert newest(store).version == 1


# ---- a damaged store ---------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped"])
@pytest.mark.parametrize("ids", ["abc", "abd"], ids=["same source", "new source"])
def test_a_damaged_catalog_is_rebuilt_by_the_next_run(
    tmp_path: Path, store: Store, ids: str, damage: str
) -> None:
    assert_rebuilt(tmp_path, store, ids, "items", damage)


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped"])
def test_damaged_rejects_are_rebuilt_with_a_new_source(
    tmp_path: Path, store: Store, damage: str
) -> None:
    assert_rebuilt(tmp_path, store, "abd", "rejects", damage)


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped"])
def test_damaged_rejects_are_rebuilt_with_the_same_source(
    tmp_path: Path, store: Store, damage: str
) -> None:
    assert_rebuilt(tmp_path, store, "abc", "rejects", damage)


def assert_rebuilt(folder: Path, store: Store, ids: str, part: str, damage: str) -> None:
    """Damage the only file of a table; the next run, of these ids, leaves all as it should be."""
    write(folder, "a.csv", table("abc") + "bad\n")
    run(store, folder, "a.csv", shards=1)
    (file,) = (folder / "store" / NAME / part / "data").iterdir()
    body = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(body[:-40])
    else:
        body[len(body) // 2] ^= 0xFF
        file.write_bytes(body)

    write(folder, "a.csv", table(ids) + "bad\n")
    run(store, folder, "a.csv", shards=1)

    assert stored(store)["id"].to_list() == list(ids)
    assert rejected(store).height == 1


# ---- types -------------------------------------------------------------------------------


def test_types_are_stored_and_compared_as_they_are(tmp_path: Path, store: Store) -> None:
    frame = pl.DataFrame(
        {
            "id": ["1", "2", "3"],
            "url": ["u1", "u2", "u3"],
            "price": pl.Series(["1.10", None, "2"]).cast(pl.Decimal(10, 2)),
            "rating": [float("nan"), None, 4.5],
            "kind": pl.Series(["a", "b", None], dtype=pl.Categorical),
            "tags": [["x"], [], None],
            "none": [None, None, None],
        }
    )
    frame.write_parquet(tmp_path / "a.parquet")
    run(store, tmp_path, "a.parquet", shards=2)
    before = newest(store).files
    frame.reverse().write_parquet(tmp_path / "a.parquet")

    report = run(store, tmp_path, "a.parquet", shards=2)

    assert list(report.changed_shards) == []
    assert newest(store).files == before
    assert stored(store).equals(frame)
    assert stored(store).schema == frame.schema


def run(
    store: Store,
    folder: Path,
    path: str,
    *,
    shards: int = 3,
    max_removed_fraction: float = 1.0,
    **settings: Any,
) -> ItemsReport:
    stage = ItemsStage(
        store,
        NAME,
        declared(path, **settings),
        shards=shards,
        project_root=folder,
        max_removed_fraction=max_removed_fraction,
    )
    return stage.run()


def newest(store: Store) -> Commit:
    commit = items_table(store, NAME).latest()
    assert commit is not None
    return commit


def stored(store: Store) -> pl.DataFrame:
    return items_table(store, NAME).read(newest(store)).sort("id")


def rejected(store: Store) -> pl.DataFrame:
    commit = rejects_table(store, NAME).latest()
    assert commit is not None
    return rejects_table(store, NAME).read(commit)


def table(ids: Any) -> str:
    return "id,url\n" + "".join(f"{key},http://x/{key.strip()}\n" for key in ids)
