from __future__ import annotations

import json
import random
import shlex
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
    rewrite_with_same_mtime,
    set_age,
    source_settings,
    write,
    write_invalid_name,
)

NAME = "shop"


def test_run_commits_items_and_returns_a_report(tmp_path: Path, store: Store) -> None:
    write(tmp_path, "a.csv", "name,id,url\nchair,2,u2\ntable,1,u1\nsofa,3,\nlamp,1,u4\n")

    report = run(store, tmp_path, "a.csv", shards=2)

    assert stored_items(store).to_dicts() == [
        {"id": "1", "url": "u1", "name": "table"},
        {"id": "2", "url": "u2", "name": "chair"},
    ]
    assert report == ItemsReport(
        version=1,
        rows=2,
        images=2,
        max_images_per_item=1,
        rejects={"duplicate_id": 1, "empty_url": 1},
        columns=["id", "url", "name"],
        changed=True,
        data_version=data_version(latest(store)),
        changed_shards=["000", "001"],
    )


def test_rows_are_in_the_shard_of_their_id(tmp_path: Path, store: Store) -> None:
    ids = [f"item-{number}" for number in range(40)] + ["é", "中", " "]
    write(tmp_path, "a.csv", table(ids))

    run(store, tmp_path, "a.csv", shards=5)

    commit = latest(store)
    for index in range(5):
        rows = items_table(store, NAME).read(commit, shard=Shard(index, 5))
        assert sorted(rows["id"]) == sorted(
            key for key in ids if key.strip() and zlib.crc32(key.encode()) % 5 == index
        )
        assert rows["id"].is_sorted()


def test_unchanged_source_commits_no_version(tmp_path: Path, store: Store) -> None:
    write(tmp_path, "a.csv", table("abc") + "d,\n")
    first = run(store, tmp_path, "a.csv")

    second = run(store, tmp_path, "a.csv")

    assert (second.version, second.changed, list(second.changed_shards)) == (1, False, [])
    assert second.data_version == first.data_version
    assert second.rejects == first.rejects == {"empty_url": 1}
    assert rejects_table(store, NAME).versions() == [1]


def test_unchanged_source_is_not_read_again(tmp_path: Path, store: Store) -> None:
    file = write(tmp_path, "a.csv", "id,url\n1,u1\n")
    set_age(file)
    run(store, tmp_path, "a.csv")

    rewrite_with_same_mtime(file, "id,url\n1,u2\n")
    run(store, tmp_path, "a.csv")

    assert stored_items(store)["url"].to_list() == ["u1"]


@pytest.mark.parametrize("change", ["order", "settings"])
def test_change_without_effect_is_read_once(tmp_path: Path, store: Store, change: str) -> None:
    file = write(tmp_path, "a.csv", "id,url\n1,u1\n2,u2\n")
    set_age(file, 7200)
    run(store, tmp_path, "a.csv")
    later: dict[str, Any] = {}
    if change == "order":
        write(tmp_path, "a.csv", "id,url\n2,u2\n1,u1\n")
        set_age(file)
    else:
        later = {"delimiter": ","}
    before = latest(store).files
    second = run(store, tmp_path, "a.csv", **later)
    assert (second.version, second.changed, list(second.changed_shards)) == (2, True, [])
    assert latest(store).files == before

    rewrite_with_same_mtime(file, file.read_text().replace("u2", "u9"))
    again = run(store, tmp_path, "a.csv", **later)

    assert (again.version, again.changed) == (2, False)
    assert stored_items(store)["url"].to_list() == ["u1", "u2"]


def test_changed_row_changes_only_its_shard(tmp_path: Path, store: Store) -> None:
    ids = [f"item-{number}" for number in range(30)]
    write(tmp_path, "a.csv", table(ids))
    first = run(store, tmp_path, "a.csv", shards=4)
    before = {file.shard: file.path for file in latest(store).files}

    write(tmp_path, "a.csv", table(ids).replace("item-7,http://x/item-7", "item-7,http://x/new"))
    second = run(store, tmp_path, "a.csv", shards=4)

    after = {file.shard: file.path for file in latest(store).files}
    changed_shard = zlib.crc32(b"item-7") % 4
    assert second.version == 2
    assert list(second.changed_shards) == [f"{changed_shard:03d}"]
    assert {shard for shard in range(4) if before[shard] != after[shard]} == {changed_shard}
    assert second.data_version != first.data_version


def test_changed_carried_value_is_a_change(tmp_path: Path, store: Store) -> None:
    write(tmp_path, "a.csv", "id,url,price\n1,u1,5\n")
    run(store, tmp_path, "a.csv", shards=1)
    write(tmp_path, "a.csv", "id,url,price\n1,u1,6\n")

    assert run(store, tmp_path, "a.csv", shards=1).changed
    assert stored_items(store)["price"].to_list() == ["6"]


def test_new_column_is_added_to_every_shard(tmp_path: Path, store: Store) -> None:
    write(tmp_path, "a.csv", table("abcdef"))
    run(store, tmp_path, "a.csv", shards=3)
    write(tmp_path, "a.csv", table("abcdef").replace("\n", ",x\n"))

    report = run(store, tmp_path, "a.csv", shards=3)

    assert list(report.changed_shards) == ["000", "001", "002"]
    assert report.columns == ["id", "url", "x"]
    assert stored_items(store)["x"].to_list() == ["x"] * 6


def test_added_and_removed_rows_are_applied(tmp_path: Path, store: Store) -> None:
    write(tmp_path, "a.csv", table("abc"))
    run(store, tmp_path, "a.csv")
    write(tmp_path, "a.csv", table("bcd"))

    assert run(store, tmp_path, "a.csv").rows == 3
    assert stored_items(store)["id"].to_list() == ["b", "c", "d"]


def test_earlier_rows_have_the_earlier_data_version(tmp_path: Path, store: Store) -> None:
    versions = []
    for ids in ("abc", "abcd", "abc"):
        write(tmp_path, "a.csv", table(ids))
        versions.append(run(store, tmp_path, "a.csv").data_version)

    assert versions[0] == versions[2] != versions[1]


def test_previous_version_can_be_read(tmp_path: Path, store: Store) -> None:
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
    generator=st.randoms(use_true_random=False),
)
def test_order_of_the_source_does_not_matter(
    ids: list[str], shards: int, generator: random.Random
) -> None:
    shuffled = list(ids)
    generator.shuffle(shuffled)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = Store.open(folder / "store")
        write(folder, "a.csv", table(ids))
        first = run(store, folder, "a.csv", shards=shards)
        before = latest(store).files
        write(folder, "a.csv", table(shuffled))
        second = run(store, folder, "a.csv", shards=shards)

        assert second.changed == (shuffled != ids)
        assert list(second.changed_shards) == []
        assert latest(store).files == before
        assert second.data_version == first.data_version
        assert stored_items(store)["id"].to_list() == sorted(ids)


@settings(deadline=None, max_examples=25)
@given(
    ids=st.lists(st.text("abcé0", min_size=1, max_size=4), unique=True, min_size=2, max_size=12),
    shards=st.integers(2, 5),
    data=st.data(),
)
def test_added_or_removed_row_changes_only_its_shard(
    ids: list[str], shards: int, data: st.DataObject
) -> None:
    removed = data.draw(st.sampled_from(ids))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = Store.open(folder / "store")
        write(folder, "a.csv", table(ids))
        full = run(store, folder, "a.csv", shards=shards)
        write(folder, "a.csv", table([key for key in ids if key != removed]))
        without = run(store, folder, "a.csv", shards=shards)
        write(folder, "a.csv", table(ids))
        again = run(store, folder, "a.csv", shards=shards)

    changed_shard = [f"{zlib.crc32(removed.encode()) % shards:03d}"]
    assert list(without.changed_shards) == list(again.changed_shards) == changed_shard
    assert again.data_version == full.data_version


@pytest.mark.parametrize(("before", "after"), [(4, 2), (2, 5), (3, 1)])
def test_new_shard_count_keeps_every_row(
    tmp_path: Path, store: Store, before: int, after: int
) -> None:
    ids = [f"item-{number}" for number in range(25)]
    write(tmp_path, "a.csv", table(ids))
    run(store, tmp_path, "a.csv", shards=before)

    report = run(store, tmp_path, "a.csv", shards=after)

    commit = latest(store)
    assert report.rows == 25
    assert stored_items(store)["id"].to_list() == sorted(ids)
    assert [(file.shard, file.shard_count) for file in commit.files] == [
        (index, after) for index in range(after)
    ]


def test_more_shards_than_rows_leaves_some_empty(tmp_path: Path, store: Store) -> None:
    write(tmp_path, "a.csv", table("ab"))

    run(store, tmp_path, "a.csv", shards=6)

    read = [items_table(store, NAME).read(latest(store), shard=Shard(i, 6)) for i in range(6)]
    assert sorted(rows.height for rows in read) == [0, 0, 0, 0, 1, 1]
    assert {tuple(rows.columns) for rows in read} == {("id", "url")}


def test_new_settings_apply_to_an_unchanged_file(tmp_path: Path, store: Store) -> None:
    file = write(tmp_path, "a.csv", "id,url,image\n1,page,u1\n")
    set_age(file)
    run(store, tmp_path, "a.csv")

    report = run(store, tmp_path, "a.csv", url="image")

    assert (report.version, report.changed) == (2, True)
    assert stored_items(store).to_dicts() == [{"id": "1", "url": "u1", "source_url": "page"}]


def test_new_root_commits_a_version_of_the_same_files(tmp_path: Path, store: Store) -> None:
    write(tmp_path, "a.csv", table("abc"))
    first = run(store, tmp_path, "a.csv")
    before = latest(store)

    second = run(store, tmp_path, "a.csv", root="images")

    after = latest(store)
    assert (second.version, second.changed, list(second.changed_shards)) == (2, True, [])
    assert after.files == before.files
    assert second.data_version == first.data_version
    assert (before.properties["root"], after.properties["root"]) == (
        str(tmp_path),
        str(tmp_path / "images"),
    )


# ---- rejects -----------------------------------------------------------------------------


def test_rejects_follow_the_source(tmp_path: Path, store: Store) -> None:
    write(tmp_path, "a.csv", "id,url\n1,u1\n2,u2,x\n3,ftp://x\n1,u3\n")
    run(store, tmp_path, "a.csv")

    assert stored_rejects(store).rows() == [
        (
            "a.csv",
            3,
            "item",
            "ragged_line",
            "3 fields where 2 are expected; to keep the extra fields set 'ragged: pad'",
            "2,u2,x",
        ),
        (
            "a.csv",
            4,
            "item",
            "unsupported_scheme",
            "only http, https, file and object store URLs, data URIs and paths can be fetched",
            "id=3 url=ftp://x",
        ),
        (
            "a.csv",
            5,
            "item",
            "duplicate_id",
            "the id is already used in a.csv line 2",
            "id=1 url=u3",
        ),
    ]

    before = latest(store).files
    write(tmp_path, "a.csv", "id,url\n1,u1\n3,ftp://x\n")
    report = run(store, tmp_path, "a.csv")

    assert report.rejects == {"unsupported_scheme": 1}
    assert list(report.changed_shards) == []
    assert latest(store).files == before
    assert stored_rejects(store)["line"].to_list() == [3]


def test_source_without_rejects_empties_the_rejects_table(tmp_path: Path, store: Store) -> None:
    write(tmp_path, "a.csv", "id,url\n1,u1\n2\n")
    run(store, tmp_path, "a.csv")
    write(tmp_path, "a.csv", "id,url\n1,u1\n2,u2\n")

    assert run(store, tmp_path, "a.csv").rejects == {}
    assert stored_rejects(store).height == 0


# ---- refused sources ---------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", "id,url\n", "id,url\n1\n2,ftp://x\n"])
def test_empty_source_is_refused_and_keeps_the_last_version(
    tmp_path: Path, store: Store, content: str
) -> None:
    write(tmp_path, "a.csv", table("abc"))
    run(store, tmp_path, "a.csv")
    write(tmp_path, "a.csv", content)

    with pytest.raises(SourceError) as refused:
        run(store, tmp_path, "a.csv")

    message = str(refused.value)
    assert message.startswith("a.csv holds no usable row")
    assert "the last version is kept, with 3 items" in message
    assert "set 'allow_empty: true'" in message
    assert latest(store).version == 1
    assert stored_items(store)["id"].to_list() == ["a", "b", "c"]


def test_source_of_only_rejects_names_the_first(tmp_path: Path, store: Store) -> None:
    write(tmp_path, "a.csv", "id,url\n1,ftp://x\n2\n")

    with pytest.raises(
        SourceError,
        match=r"a\.csv holds no usable row: 2 rejected: a\.csv line 2: only .* line 3: .*'url:'",
    ):
        run(store, tmp_path, "a.csv")
    assert items_table(store, NAME).latest() is None


@pytest.mark.parametrize("content", ["", "id,url\n", "id,url\n1\n"])
def test_allow_empty_empties_the_catalog(tmp_path: Path, store: Store, content: str) -> None:
    write(tmp_path, "a.csv", table("abc"))
    run(store, tmp_path, "a.csv", allow_empty=True)
    write(tmp_path, "a.csv", content)

    report = run(store, tmp_path, "a.csv", allow_empty=True, max_removed_fraction=0.5)

    assert (report.version, report.rows, report.changed) == (2, 0, True)
    assert stored_items(store).columns[:2] == ["id", "url"]
    assert not run(store, tmp_path, "a.csv", allow_empty=True).changed


def test_too_many_removed_items_keep_the_last_version(tmp_path: Path, store: Store) -> None:
    write(tmp_path, "a.csv", table("abcdefghij"))
    run(store, tmp_path, "a.csv")
    for removed, remaining in ((5, "abcde"), (0, "abcdefghij")):
        write(tmp_path, "a.csv", table(remaining))
        report = run(store, tmp_path, "a.csv", max_removed_fraction=0.5)
        assert report.rows == 10 - removed
    write(tmp_path, "a.csv", table("abcd"))

    with pytest.raises(SourceError) as refused:
        run(store, tmp_path, "a.csv", max_removed_fraction=0.5)

    message = str(refused.value)
    assert message.startswith("a.csv has 4 usable rows and had 10: 60% of the items are gone")
    command = message.split("run config 'allow_removals: true': ")[1]
    *_, assets, _, config = shlex.split(command)
    assert assets == f"{NAME}/items"
    assert json.loads(config) == {"ops": {f"{NAME}__items": {"config": {"allow_removals": True}}}}
    assert latest(store).version == 3
    assert run(store, tmp_path, "a.csv", max_removed_fraction=1.0).rows == 4


def test_items_removed_by_broken_rows_name_the_first_reject(tmp_path: Path, store: Store) -> None:
    write(tmp_path, "a.csv", table("abcd"))
    run(store, tmp_path, "a.csv")
    write(tmp_path, "a.csv", table("a") + "b,u,x\nc,u,x\nd,u,x\n")

    with pytest.raises(SourceError, match=r"rows, 3 rejected: a\.csv line 3: "):
        run(store, tmp_path, "a.csv", max_removed_fraction=0.5)

    assert stored_rejects(store)["reason"].to_list() == ["ragged_line"] * 3
    write(tmp_path, "a.csv", table("abcd"))
    report = run(store, tmp_path, "a.csv", max_removed_fraction=0.5)
    assert dict(report.rejects) == {}
    assert stored_rejects(store).is_empty()


def test_rows_under_other_ids_count_as_removed(tmp_path: Path, store: Store) -> None:
    write(tmp_path, "a.csv", table("abcd"))
    run(store, tmp_path, "a.csv")
    write(tmp_path, "a.csv", table("abcd").replace("id,", "title,", 1))

    with pytest.raises(SourceError, match=r"100% of the items.* 'id' and now come from 'url'"):
        run(store, tmp_path, "a.csv", max_removed_fraction=0.5)

    assert latest(store).version == 1


def test_corrupt_version_does_not_block_the_next_one(tmp_path: Path, store: Store) -> None:
    write(tmp_path, "a.csv", table("abcd"))
    run(store, tmp_path, "a.csv")
    for file in latest(store).files:
        (Path(store.url) / NAME / "items" / file.path).write_bytes(b"")
    write(tmp_path, "a.csv", table("abce"))

    assert run(store, tmp_path, "a.csv", max_removed_fraction=0.5).rows == 4


def test_emptied_folder_of_images_keeps_the_last_version(tmp_path: Path, store: Store) -> None:
    image = write(tmp_path, "images/a.jpg", b"x")
    run(store, tmp_path, "images")
    image.unlink()

    with pytest.raises(SourceError) as refused:
        run(store, tmp_path, "images")

    message = str(refused.value)
    assert message.startswith("images holds no images (.avif .bmp ")
    assert message.count("the last version is kept, with 1 item.") == 1
    assert "set 'allow_empty: true'" in message
    assert latest(store).version == 1
    assert stored_items(store)["id"].to_list() == ["a.jpg"]


def test_folder_of_lists_requires_a_pattern(tmp_path: Path, store: Store) -> None:
    write(tmp_path, "lists/a.csv", "id,url\n1,x.jpg\n")

    with pytest.raises(SourceError, match=r"^lists holds no images .*; lists .* such as \*\.csv"):
        run(store, tmp_path, "lists")


def test_folder_of_only_invalid_names_names_the_first(tmp_path: Path, store: Store) -> None:
    write_invalid_name(tmp_path / "images", b"caf\xe9.jpg")

    with pytest.raises(SourceError, match=r"1 rejected: caf\?\.jpg: the file name"):
        run(store, tmp_path, "images")


def test_allow_empty_of_a_folder_empties_the_catalog(tmp_path: Path, store: Store) -> None:
    image = write(tmp_path, "images/a.jpg", b"x")
    run(store, tmp_path, "images", allow_empty=True)
    image.unlink()

    report = run(store, tmp_path, "images", allow_empty=True)

    assert (report.version, report.rows, report.changed) == (2, 0, True)
    assert list(report.columns) == ["id", "url", "name", "folder"]
    assert not run(store, tmp_path, "images", allow_empty=True).changed
    write(tmp_path, "images/b.jpg", b"x")
    run(store, tmp_path, "images", allow_empty=True)
    assert stored_items(store)["id"].to_list() == ["b.jpg"]


@pytest.mark.parametrize(
    ("content", "settings"),
    [("sku,link\n1,u1\n", {}), ("id,url\n1,u1\n", {"id": "sku"}), ('"id,url\n1,u1\n', {})],
)
def test_unreadable_source_changes_nothing(
    tmp_path: Path, store: Store, content: str, settings: dict[str, Any]
) -> None:
    write(tmp_path, "a.csv", table("abc") + "bad,u,x\n")
    run(store, tmp_path, "a.csv")
    write(tmp_path, "a.csv", content)

    with pytest.raises(SourceError, match=r"a\.csv"):
        run(store, tmp_path, "a.csv", **settings)

    assert stored_items(store)["id"].to_list() == ["a", "b", "c"]
    assert stored_rejects(store)["reason"].to_list() == ["ragged_line"]


def test_missing_source_changes_nothing(tmp_path: Path, store: Store) -> None:
    file = write(tmp_path, "a.csv", table("abc"))
    run(store, tmp_path, "a.csv")
    file.unlink()

    with pytest.raises(SourceError, match=r"there is no .*/a\.csv"):
        run(store, tmp_path, "a.csv")
    assert latest(store).version == 1


# ---- corruption --------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped"])
@pytest.mark.parametrize("ids", ["abc", "abd"], ids=["same source", "new source"])
def test_corrupt_items_are_rebuilt_by_the_next_run(
    tmp_path: Path, store: Store, ids: str, damage: str
) -> None:
    assert_rebuilt(tmp_path, store, ids, "items", damage)


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped"])
def test_corrupt_rejects_are_rebuilt_with_a_new_source(
    tmp_path: Path, store: Store, damage: str
) -> None:
    assert_rebuilt(tmp_path, store, "abd", "rejects", damage)


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped"])
def test_corrupt_rejects_are_rebuilt_with_the_same_source(
    tmp_path: Path, store: Store, damage: str
) -> None:
    assert_rebuilt(tmp_path, store, "abc", "rejects", damage)


def assert_rebuilt(folder: Path, store: Store, ids: str, part: str, damage: str) -> None:
    """Corrupt the only file of a table; the next run with these ids must restore the tables."""
    write(folder, "a.csv", table("abc") + "bad,u,x\n")
    run(store, folder, "a.csv", shards=1)
    (file,) = (folder / "store" / NAME / part / "data").iterdir()
    body = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(body[:-40])
    else:
        body[len(body) // 2] ^= 0xFF
        file.write_bytes(body)

    write(folder, "a.csv", table(ids) + "bad\n")
    run(store, folder, "a.csv", shards=1)

    assert stored_items(store)["id"].to_list() == list(ids)
    assert stored_rejects(store).height == 1


# ---- types -------------------------------------------------------------------------------


def test_types_are_stored_and_compared_exactly(tmp_path: Path, store: Store) -> None:
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
    before = latest(store).files
    frame.reverse().write_parquet(tmp_path / "a.parquet")

    report = run(store, tmp_path, "a.parquet", shards=2)

    assert list(report.changed_shards) == []
    assert latest(store).files == before
    assert stored_items(store).equals(frame)
    assert stored_items(store).schema == frame.schema


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
        source_settings(path, **settings),
        shards=shards,
        project_root=folder,
        max_removed_fraction=max_removed_fraction,
    )
    return stage.run()


def latest(store: Store) -> Commit:
    commit = items_table(store, NAME).latest()
    assert commit is not None
    return commit


def stored_items(store: Store) -> pl.DataFrame:
    return items_table(store, NAME).read(latest(store)).sort("id")


def stored_rejects(store: Store) -> pl.DataFrame:
    commit = rejects_table(store, NAME).latest()
    assert commit is not None
    return rejects_table(store, NAME).read(commit)


def table(ids: Any) -> str:
    return "id,url\n" + "".join(f"{key},http://x/{key.strip()}\n" for key in ids)


def test_last_row_of_an_id_is_the_item_after_every_daily_file(tmp_path: Path, store: Store) -> None:
    for day, content in enumerate(["id,url\na,1\nb,1\n", "id,url\nb,2\nc,2\n", "id,url\na,3\n"]):
        write(tmp_path, f"feed/{day}.csv", content)
        report = run(store, tmp_path, "feed/*.csv", on_duplicate="last", shards=4)
    rebuilt = Store.open(tmp_path / "rebuilt")
    run(rebuilt, tmp_path, "feed/*.csv", on_duplicate="last", shards=4)

    assert dict(stored_items(store).iter_rows()) == {"a": "3", "b": "2", "c": "2"}
    assert stored_items(store).equals(stored_items(rebuilt))
    assert len(report.changed_shards) == 1
    assert (report.rejects, len(report.notices)) == ({}, 1)


def test_report_and_its_repetition_name_columns_and_notices(tmp_path: Path, store: Store) -> None:
    write(tmp_path, "a.csv", "sku;größe;image\nS-1;1;a.jpg\nS-2;2;\n".encode("cp1252"))

    reports = [run(store, tmp_path, "a.csv") for _ in range(2)]

    assert [report.changed for report in reports] == [True, False]
    for report in reports:
        assert (report.id_column, report.url_columns) == ("sku", ("image",))
        assert "read as cp1252" in report.notices[0]


def test_images_of_items_are_counted_and_unchanged_ones_are_not_read_again(
    tmp_path: Path, store: Store
) -> None:
    write(tmp_path, "a.csv", "id,url\n1,a.jpg|b.jpg|ftp://x\n2,c.jpg\n3,d.jpg|e.jpg|f.jpg\n4,\n")

    reports = [run(store, tmp_path, "a.csv", separator="|") for _ in range(2)]

    assert [report.changed for report in reports] == [True, False]
    for report in reports:
        assert (report.rows, report.images, report.max_images_per_item) == (3, 6, 3)
        assert report.rejects == {"empty_url": 1, "unsupported_scheme": 1}
        assert report.rejected_images == 1


def test_every_shard_has_other_urls_and_their_order_is_content(
    tmp_path: Path, store: Store
) -> None:
    write(tmp_path, "a.csv", "id,one,two\n1,a.jpg,b.jpg\n2,c.jpg,\n3,d.jpg,\n")
    first = run(store, tmp_path, "a.csv", url=["one", "two"], shards=3)
    files = [items_table(store, NAME).read_file(file) for file in latest(store).files]

    reordered = run(store, tmp_path, "a.csv", url=["two", "one"], shards=3)

    assert {tuple(file.columns) for file in files} == {("id", "url", "other_urls")}
    assert len(reordered.changed_shards) == 1
    assert reordered.data_version != first.data_version
    assert stored_items(store).rows()[0] == ("1", "b.jpg", ["a.jpg"])


_CELL = st.lists(st.sampled_from(["a.jpg", "b.jpg", "", "ftp://x", "http:///"]), max_size=3)
_VERSION = st.tuples(st.lists(_CELL, min_size=1, max_size=5), st.sampled_from([1, 2, 10]))


@settings(deadline=None, max_examples=10)
@given(history=st.lists(_VERSION, min_size=2, max_size=4))
def test_history_of_several_images_ends_as_a_rebuild(
    history: list[tuple[list[list[str]], int]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        store, rebuilt = Store.open(root / "store"), Store.open(root / "rebuilt")
        for cells, limit in history:
            lines = [f"{number},{'|'.join(cell)}\n" for number, cell in enumerate(cells)]
            write(root, "a.csv", "id,url\n" + "".join(lines))
            options: dict[str, Any] = {"separator": "|", "max_images": limit, "shards": 2}
            run(store, root, "a.csv", **options, allow_empty=True)
        run(rebuilt, root, "a.csv", **options, allow_empty=True)

        assert stored_items(store).equals(stored_items(rebuilt))
        assert stored_rejects(store).equals(stored_rejects(rebuilt))
